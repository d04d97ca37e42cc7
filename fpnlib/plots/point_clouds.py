"""Point clouds as pictures in which depth and form read well (Figure 13).

Each point is a small ball, lit from the viewer's upper left as the surface around it is, or where there is none as a ball
is; what lies behind something near it is darkened (eye-dome lighting: C. Boucheny 2009, PhD thesis, Université de
Grenoble), and what lies far fades.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from scipy.spatial import cKDTree

from fpnlib import checks
from fpnlib.plots.look import checked, new_figure, styled

LIGHT = np.array([-0.35, 0.6, 0.72])  # to the left, up, and towards the viewer
COLORMAP = "viridis"  # by height
AROUND = 12  # neighbours that tell how a surface lies
FINER = 2  # drawn so many times as large and averaged: smooth edges


def render(
    points, *, azimuth: float = 35.0, elevation: float = 20.0, size: int = 100
) -> np.ndarray:
    """A picture (size, size, 3) in [0, 1] of one cloud (n, 3) with y up, in parallel projection.

    The cloud is centred and scaled to fill the picture; what went far astray is left out.

    Args:
        azimuth: degrees by which the cloud is turned about its upright axis.
        elevation: degrees by which the viewer stands above it.
    """
    points = checked(points, "points", "n", 3).astype(np.float64)
    pixels = FINER * checks.positive("size", size)
    seen = framed(points)
    radius = spacing(seen)
    seen = (1 - radius) * seen @ _view(azimuth, elevation).T
    order = np.lexsort([seen[:, 2]])  # from far to near
    order = order[np.abs(seen[order, :2]).max(1) <= 1 - radius]
    seen, heights = seen[order], points[order, 1]
    depth, light, of = _balls(seen, _surface(seen), pixels, radius * pixels / 2)
    picture = np.ones((pixels, pixels, 3))
    hit = of >= 0
    colors = mpl.colormaps[COLORMAP](0.1 + 0.75 * rank(heights))[:, :3]
    fog = 0.3 * ((1 - depth[hit, None]) / 2).clip(0, 1)
    shade = light[hit, None] * _behind(depth, pixels)[hit, None]
    picture[hit] = (1 - fog) * shade * colors[of[hit]] + fog * 0.95
    return picture.reshape(size, FINER, size, FINER, 3).mean((1, 3)).clip(0, 1)


@styled
def cloud_grid(
    clouds: Sequence,
    row_labels: Sequence | None = None,
    column_labels: Sequence | None = None,
    title: str | None = None,
    *,
    row_title: str | None = None,
    azimuth: float = 35.0,
    elevation: float = 20.0,
    size: int = 100,
) -> Figure:
    """Clouds in rows and columns, drawn by :func:`render`: Figure 13 (a row a requested category).

    Args:
        clouds: (rows, columns, n, 3), or a list of rows, each (columns, n, 3); where rows have different numbers of
            clouds, what a row has too few of stays paper.
        row_labels, column_labels: one a row on the left; one a column on top.
        row_title: what the row labels are, e.g. "requested category".
        azimuth, elevation: degrees, of all.
        size: pixels of a picture's side, which is an inch on paper.
    """
    rows = [
        checked(row, f"clouds[{k}]", "columns", "n", 3) if len(row) else []
        for k, row in enumerate(clouds)
    ]
    if not any(map(len, rows)):
        raise ValueError("clouds must have a cloud in some row")
    down, across = len(rows), max(map(len, rows))
    for labels, count, name in ((row_labels, down, "row"), (column_labels, across, "column")):
        if labels is not None and len(labels) != count:
            raise ValueError(f"{name}_labels must name {count} {name}s, got {len(labels)}")
    canvas = np.ones((down * size, across * size, 3))  # paper
    for i, row in enumerate(rows):
        for j, cloud in enumerate(row):
            picture = render(cloud, azimuth=azimuth, elevation=elevation, size=size)
            canvas[i * size :, j * size :][:size, :size] = picture
    left = (
        0.08 * max((len(str(label)) for label in row_labels or ()), default=0)
        + 0.3 * bool(row_title)
        + 0.1
    )
    top = 0.25 * bool(column_labels) + 0.3 * bool(title) + 0.05
    figure, axes = new_figure(left + across + 0.05, top + down + 0.05)
    figure.set_layout_engine("none")  # the pictures stand where they have a dot for every pixel
    figure.set_dpi(size)
    ax, (width, height) = axes[0, 0], figure.get_size_inches()
    ax.set_position([left / width, 0.05 / height, across / width, down / height])
    ax.imshow(canvas, interpolation="nearest", aspect="auto")
    ax.xaxis.tick_top()
    for axis, labels in ((ax.yaxis, row_labels), (ax.xaxis, column_labels)):
        axis.set_ticks(
            [(k + 0.5) * size for k in range(len(labels or ()))],
            [str(label) for label in labels or ()],
        )
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(title or "")
    figure.supylabel(row_title or "", x=0.05 / width, ha="left", fontsize=9)
    return figure


def _view(azimuth: float, elevation: float) -> np.ndarray:
    """Rotation to right, up and towards the viewer."""
    a, e = np.deg2rad([azimuth, elevation])
    turn = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    tilt = np.array([[1, 0, 0], [0, np.cos(e), -np.sin(e)], [0, np.sin(e), np.cos(e)]])
    return tilt @ turn


def framed(points: np.ndarray) -> np.ndarray:
    """Points (n, 3) in the unit sphere; a few that went astray don't shrink the rest and stay outside."""
    low, high = np.percentile(points, [0.5, 99.5], axis=0)
    points = points - (low + high) / 2
    away = np.linalg.norm(points, axis=1)
    return points / max(away[away <= 1.15 * np.percentile(away, 99)].max(), 1e-9)


def spacing(points: np.ndarray) -> float:
    """Radius of balls that close a surface: what is usual to the fifth neighbour."""
    neighbors = min(6, len(points))
    distance, _ = cKDTree(points).query(points, neighbors)
    return float(np.clip(0.8 * np.median(distance.reshape(len(points), -1)[:, -1]), 0.02, 0.09))


def _surface(points: np.ndarray) -> np.ndarray:
    """How bright the surface through each point (n, 3) is, and how flat the cloud is there (0: not at all), (n, 2)."""
    if len(points) <= AROUND:
        return np.zeros((len(points), 2))
    _, near = cKDTree(points).query(points, AROUND)
    patches = points[near] - points[near].mean(1, keepdims=True)
    spread, axes = np.linalg.eigh(patches.transpose(0, 2, 1) @ patches)
    normal = axes[:, :, 0] * np.where(axes[:, 2:, 0] < 0, -1, 1)  # towards the viewer
    flat = 1 - spread[:, 0] / np.maximum(spread[:, 1], 1e-12)
    return np.stack([(normal @ LIGHT).clip(0), flat**2], 1)


def rank(heights: np.ndarray) -> np.ndarray:
    """Heights (n,) brought to [0, 1]."""
    low, high = np.percentile(heights, [1, 99])
    return ((heights - low) / max(high - low, 1e-9)).clip(0, 1)


def _balls(
    seen: np.ndarray, surface: np.ndarray, pixels: int, radius: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth towards the viewer, brightness, and whose ball it is (-1 where there is none), each (pixels, pixels).

    The points come from far to near.
    """
    reach = int(np.ceil(radius))
    dx, dy = (d.ravel() for d in np.meshgrid(*2 * [np.arange(-reach, reach + 1)]))
    inside = dx**2 + dy**2 <= radius**2
    dx, dy = dx[inside], dy[inside]
    bulge = np.sqrt(np.maximum(radius**2 - dx**2 - dy**2, 0))
    ball = (np.stack([dx, dy, bulge], 1) @ LIGHT / radius).clip(0)
    bright, flat = surface[:, :1], 0.85 * surface[:, 1:]
    lit = 0.45 + 0.6 * (flat * bright + (1 - flat) * ball)

    column, row = (
        np.round((seen[:, k, None] + 1) / 2 * (pixels - 1)).astype(int) + d
        for k, d in ((0, dx), (1, dy))
    )
    depth = seen[:, 2, None] + 2 * bulge / pixels
    fits = (column >= 0) & (column < pixels) & (row >= 0) & (row < pixels)
    place = ((pixels - 1 - row) * pixels + column)[fits]
    picture = np.full((3, pixels**2), [[-np.inf], [0], [-1]])
    for layer, values in zip(picture, (depth, lit, np.arange(len(seen))[:, None])):
        layer[place] = np.broadcast_to(values, fits.shape)[
            fits
        ]  # of several at one place the last stays: the nearest
    depth, brightness, of = picture.reshape(3, pixels, pixels)
    return depth, brightness, of.astype(int)


def _behind(depth: np.ndarray, pixels: int) -> np.ndarray:
    """Shade in (0, 1] of what has something nearer beside it."""
    far = np.where(np.isfinite(depth), depth, -1.5)
    nearer = np.zeros_like(far)
    steps = [max(1, round(pixels * part)) for part in (0.012, 0.03)]
    offsets = [
        (i * step, j * step) for step in steps for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j
    ]
    for offset in offsets:
        nearer += (np.roll(far, offset, (0, 1)) - far - 0.03).clip(0, 0.5)
    return np.exp(-2.5 * nearer / len(offsets))
