"""A point cloud to turn with the mouse: a page of its own, without network or library, to stand in a notebook's frame."""

from __future__ import annotations

import html
import json

import matplotlib as mpl
import numpy as np

from fpnlib.plots.look import checked
from fpnlib.plots.point_clouds import COLORMAP, framed, rank, spacing

LEVELS = 24  # of colour, by height
PAGE = """<!doctype html><meta charset="utf-8"><title>__TITLE__</title>
<style>body{margin:0;font:13px sans-serif;color:#444}canvas{display:block;cursor:grab;touch-action:none}</style>
<canvas role="img" aria-label="__TITLE__" style="width:__SIZE__px;height:__SIZE__px"></canvas>
<script>
const points = __POINTS__, levels = __LEVELS__, colors = __COLORS__;
const canvas = document.querySelector("canvas"), pen = canvas.getContext("2d");
canvas.width = canvas.height = __SIZE__ * (window.devicePixelRatio || 1);
const half = canvas.width / 2;
let azimuth = 0.6, elevation = 0.35, zoom = 1, held = null, idle = true;
function draw() {
  const ca = Math.cos(azimuth), sa = Math.sin(azimuth), ce = Math.cos(elevation), se = Math.sin(elevation);
  const seen = points.map(([x, y, z], k) => {
    const across = x * ca + z * sa, away = z * ca - x * sa;
    return [across, y * ce - away * se, y * se + away * ce, levels[k]];
  }).sort((a, b) => a[2] - b[2]);
  pen.fillStyle = "white";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  for (const [x, y, near, level] of seen) {
    const size = zoom * half * __RADIUS__ * (1 + 0.3 * near);
    pen.beginPath();
    pen.arc(half + x * zoom * half, half - y * zoom * half, Math.max(size, 1), 0, 7);
    const fog = 0.35 * (1 - near) / 2;
    const [r, g, b] = colors[level].map(c => Math.round(c * (1 - fog) + 245 * fog));
    pen.fillStyle = `rgb(${r},${g},${b})`;
    pen.strokeStyle = `rgb(${r * 0.6 | 0},${g * 0.6 | 0},${b * 0.6 | 0})`;
    pen.fill();
    pen.stroke();
  }
}
const start = azimuth;
function spin() {  // once round, a few pictures a second: what turns for ever takes a core from all else
  if (!idle || azimuth > start + 2 * Math.PI) return;
  azimuth += 0.06;
  draw();
  setTimeout(() => requestAnimationFrame(spin), 100);
}
canvas.onpointerdown = e => { idle = false; held = [e.clientX, e.clientY]; canvas.setPointerCapture(e.pointerId); };
canvas.onpointerup = canvas.onpointercancel = () => { held = null; };
canvas.onpointermove = e => {
  if (!held) return;
  azimuth += (e.clientX - held[0]) * 0.01;
  elevation = Math.max(-1.57, Math.min(1.57, elevation + (e.clientY - held[1]) * 0.01));
  held = [e.clientX, e.clientY];
  idle = false;
  draw();
};
canvas.onwheel = e => {
  e.preventDefault();
  zoom = Math.max(0.3, Math.min(5, zoom * Math.exp(-e.deltaY * 0.001)));
  idle = false;
  draw();
};
draw();
spin();
</script>"""


def turntable(points, title: str = "point cloud", size: int = 420) -> str:
    """HTML in which a cloud (n, 3) with y up turns once by itself, or until it is dragged; the wheel zooms.

    It is an inline frame, for a notebook's output or an ``ipywidgets.HTML``; its page asks nothing of the network.

    Args:
        title: what it shows, for those who can't see it.
        size: pixels of its side.

    Raises:
        ValueError: points of another shape, or with NaN.
    """
    points = checked(points, "points", "n", 3).astype(np.float64)
    levels = (rank(points[:, 1]) * (LEVELS - 1)).round().astype(int)
    colors = 255 * mpl.colormaps[COLORMAP](np.linspace(0.1, 0.85, LEVELS))[:, :3]
    page = PAGE
    for name, value in {
        "TITLE": html.escape(title),
        "SIZE": str(size),
        "RADIUS": f"{spacing(framed(points)):.3f}",
        "POINTS": json.dumps(framed(points).round(3).tolist(), separators=(",", ":")),
        "LEVELS": json.dumps(levels.tolist(), separators=(",", ":")),
        "COLORS": json.dumps(colors.round().astype(int).tolist(), separators=(",", ":")),
    }.items():
        page = page.replace(f"__{name}__", value)
    return f'<iframe srcdoc="{html.escape(page)}" width="{size}" height="{size}" style="border:0" sandbox="allow-scripts"></iframe>'
