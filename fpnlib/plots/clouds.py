"""Point clouds as pictures in which depth and form read well (Figure 13), and as pages.

Each point is a small ball. It is lit from the viewer's upper left as the surface around it lies, or
as a ball if there is no surface. What lies behind something near is darkened (eye-dome lighting:
C. Boucheny 2009, PhD thesis, Université de Grenoble), and what lies far fades.
"""

from __future__ import annotations

import html
import itertools
import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
from scipy.spatial import cKDTree

from fpnlib import checks
from fpnlib.plots.look import Array, checked

LIGHT = np.array([-0.35, 0.6, 0.72])  # to the left, up, and towards the viewer
COLORMAP = "viridis"  # by height
LEVELS = 24  # of colour, on the page
AROUND = 12  # neighbours that tell how a surface lies
FINER = 2  # pictures are drawn so many times as large and averaged, which smooths edges
PAGE = Path(__file__).with_name("turntable.html")  # asks nothing of the network


def render(
    points: Array, *, azimuth: float = 35.0, elevation: float = 20.0, size: int = 100
) -> np.ndarray:
    """Draw one cloud (n, 3) with y up: a picture (size, size, 3) in [0, 1], in parallel projection.

    The cloud is centred and scaled to fill the picture; a few points far astray are left out.

    Args:
        points: of the cloud.
        azimuth: degrees by which the cloud is turned about its upright axis.
        elevation: degrees by which the viewer stands above it.
        size: pixels of the picture's side.

    >>> render(np.random.default_rng(0).normal(size=(200, 3)), size=50).shape
    (50, 50, 3)
    """
    points = checked(points, "points", "n", 3).astype(np.float64)
    pixels = FINER * checks.positive("size", size)
    seen = _framed(points)
    radius = _spacing(seen)
    seen = (1 - radius) * seen @ _view(azimuth, elevation).T
    order = np.lexsort([seen[:, 2]])  # from far to near
    order = order[np.abs(seen[order, :2]).max(1) <= 1 - radius]
    seen, heights = seen[order], points[order, 1]
    depth, light, owner = _balls(seen, _surface(seen), pixels, radius * pixels / 2)
    picture = np.ones((pixels, pixels, 3))
    hit = owner >= 0
    colors = mpl.colormaps[COLORMAP](0.1 + 0.75 * _rank(heights))[:, :3]
    fog = 0.3 * ((1 - depth[hit, None]) / 2).clip(0, 1)
    shade = light[hit, None] * _behind(depth, pixels)[hit, None]
    picture[hit] = (1 - fog) * shade * colors[owner[hit]] + fog * 0.95
    return picture.reshape(size, FINER, size, FINER, 3).mean((1, 3)).clip(0, 1)


def turntable(points: Array, title: str = "point cloud", size: int = 420) -> str:
    """HTML in which a cloud (n, 3) with y up turns once, or follows the mouse; the wheel zooms.

    It is an inline frame for a notebook's output or an ``ipywidgets.HTML``. Its page asks nothing
    of the network.

    Args:
        points: of the cloud.
        title: what it shows, for those who cannot see it.
        size: pixels of its side.

    Raises:
        ValueError: points of another shape, or with NaN.

    >>> turntable(np.random.default_rng(0).normal(size=(200, 3)))[:7]
    '<iframe'
    """
    points = checked(points, "points", "n", 3).astype(np.float64)
    framed = _framed(points)
    levels = (_rank(points[:, 1]) * (LEVELS - 1)).round().astype(int)
    colors = 255 * mpl.colormaps[COLORMAP](np.linspace(0.1, 0.85, LEVELS))[:, :3]
    values = {
        "TITLE": html.escape(title),
        "SIZE": str(size),
        "RADIUS": f"{_spacing(framed):.3f}",
        "POINTS": json.dumps(framed.round(3).tolist(), separators=(",", ":")),
        "LEVELS": json.dumps(levels.tolist(), separators=(",", ":")),
        "COLORS": json.dumps(colors.round().astype(int).tolist(), separators=(",", ":")),
    }
    page = PAGE.read_text(encoding="utf-8").strip()
    for name, value in values.items():
        page = page.replace(f"__{name}__", value)
    return (
        f'<iframe srcdoc="{html.escape(page)}" width="{size}" height="{size}" '
        'style="border:0" sandbox="allow-scripts"></iframe>'
    )


def _view(azimuth: float, elevation: float) -> np.ndarray:
    """Rotation to right, up and towards the viewer."""
    a, e = np.deg2rad([azimuth, elevation])
    turn = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    tilt = np.array([[1, 0, 0], [0, np.cos(e), -np.sin(e)], [0, np.sin(e), np.cos(e)]])
    return tilt @ turn


def _framed(points: np.ndarray) -> np.ndarray:
    """Points (n, 3) in the unit sphere; a few that are far astray stay outside."""
    low, high = np.percentile(points, [0.5, 99.5], axis=0)
    points = points - (low + high) / 2
    away = np.linalg.norm(points, axis=1)
    return points / max(away[away <= 1.15 * np.percentile(away, 99)].max(), 1e-9)


def _spacing(points: np.ndarray) -> float:
    """Radius of balls that close a surface: the usual distance to the fifth neighbour."""
    neighbors = min(6, len(points))
    distance, _ = cKDTree(points).query(points, neighbors)
    return float(np.clip(0.8 * np.median(distance.reshape(len(points), -1)[:, -1]), 0.02, 0.09))


def _surface(points: np.ndarray) -> np.ndarray:
    """Brightness of the surface through each point (n, 3), and how flat it is: (n, 2), 0 to 1."""
    if len(points) <= AROUND:
        return np.zeros((len(points), 2))
    _, near = cKDTree(points).query(points, AROUND)
    patches = points[near] - points[near].mean(1, keepdims=True)
    spread, axes = np.linalg.eigh(patches.transpose(0, 2, 1) @ patches)
    normal = axes[:, :, 0] * np.where(axes[:, 2:, 0] < 0, -1, 1)  # towards the viewer
    flat = 1 - spread[:, 0] / np.maximum(spread[:, 1], 1e-12)
    return np.stack([(normal @ LIGHT).clip(0), flat**2], 1)


def _rank(heights: np.ndarray) -> np.ndarray:
    """Heights (n,) brought to [0, 1]."""
    low, high = np.percentile(heights, [1, 99])
    return ((heights - low) / max(high - low, 1e-9)).clip(0, 1)


def _balls(
    seen: np.ndarray, surface: np.ndarray, pixels: int, radius: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth, brightness and owner (-1: none) of each pixel, each (pixels, pixels).

    The points (n, 3) come from far to near; ``surface`` (n, 2) is what :func:`_surface` gives.
    """
    reach = int(np.ceil(radius))
    dx, dy = (d.ravel() for d in np.meshgrid(*2 * [np.arange(-reach, reach + 1)]))
    inside = dx**2 + dy**2 <= radius**2
    dx, dy = dx[inside], dy[inside]
    bulge = np.sqrt(np.maximum(radius**2 - dx**2 - dy**2, 0))
    ball = (np.stack([dx, dy, bulge], 1) @ LIGHT / radius).clip(0)
    bright, flat = surface[:, :1], 0.85 * surface[:, 1:]
    lit = 0.45 + 0.6 * (flat * bright + (1 - flat) * ball)

    middles = np.round((seen[:, :2, None] + 1) / 2 * (pixels - 1)).astype(int)
    column, row = middles[:, 0] + dx, middles[:, 1] + dy
    depth = seen[:, 2, None] + 2 * bulge / pixels
    fits = (column >= 0) & (column < pixels) & (row >= 0) & (row < pixels)
    place = ((pixels - 1 - row) * pixels + column)[fits]
    picture = np.full((3, pixels**2), [[-np.inf], [0], [-1]])
    for layer, values in zip(picture, (depth, lit, np.arange(len(seen))[:, None])):
        # Of several values at one place the last stays: the nearest.
        layer[place] = np.broadcast_to(values, fits.shape)[fits]
    depth, brightness, owner = picture.reshape(3, pixels, pixels)
    return depth, brightness, owner.astype(int)


def _behind(depth: np.ndarray, pixels: int) -> np.ndarray:
    """Shade in (0, 1] of pixels that have something nearer beside them."""
    far = np.where(np.isfinite(depth), depth, -1.5)
    nearer = np.zeros_like(far)
    offsets = set(itertools.product((-1, 0, 1), repeat=2)) - {(0, 0)}
    for part in (0.012, 0.03):
        step = max(1, round(pixels * part))
        for i, j in sorted(offsets):
            nearer += (np.roll(far, (i * step, j * step), (0, 1)) - far - 0.03).clip(0, 0.5)
    return np.exp(-2.5 * nearer / (2 * len(offsets)))
