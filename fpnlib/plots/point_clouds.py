"""Point clouds as pictures in which depth and form read well (Figure 13).

Each point is a small ball, lit from the viewer's upper left; what lies behind something near it is darkened (eye-dome
lighting: C. Boucheny 2009, PhD thesis, Université de Grenoble), and what lies far fades.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from scipy.spatial import cKDTree

from fpnlib import checks
from fpnlib.plots.images import image_grid
from fpnlib.plots.look import checked

LIGHT = np.array([-0.35, 0.6, 0.72])  # to the left, up, and towards the viewer
COLORMAP = "viridis"  # by height
FINER = 2  # drawn so many times as large and averaged: smooth edges


def render(points, *, azimuth: float = 35.0, elevation: float = 20.0, size: int = 140) -> np.ndarray:
    """A picture (size, size, 3) in [0, 1] of one cloud (n, 3) with y up, in parallel projection.

    The cloud is centred and scaled to fill the picture, a hundredth of its points, the farthest, left out of account.

    Args:
        azimuth: degrees by which the cloud is turned about its upright axis.
        elevation: degrees by which the viewer stands above it.
    """
    points = checked(points, "points", "n", 3).astype(np.float64)
    pixels = FINER * checks.positive("size", size)
    seen = framed(points) @ _view(azimuth, elevation).T
    order = seen[:, 2].argsort()  # from far to near
    seen, heights = seen[order], points[order, 1]
    depth, light, of = _balls(seen, pixels, _spacing(seen) * pixels / 2)
    picture = np.ones((pixels, pixels, 3))
    hit = of >= 0
    colors = mpl.colormaps[COLORMAP](0.1 + 0.75 * rank(heights))[:, :3]
    fog = 0.3 * ((1 - depth[hit, None]) / 2).clip(0, 1)
    shade = light[hit, None] * _behind(depth, pixels)[hit, None]
    picture[hit] = (1 - fog) * shade * colors[of[hit]] + fog * 0.95
    return picture.reshape(size, FINER, size, FINER, 3).mean((1, 3)).clip(0, 1)


def cloud_grid(
    clouds,
    row_labels: Sequence | None = None,
    column_labels: Sequence | None = None,
    title: str | None = None,
    *,
    columns: int = 10,
    row_title: str | None = None,
    azimuth: float = 35.0,
    elevation: float = 20.0,
    size: int = 140,
) -> Figure:
    """Clouds in rows and columns, drawn by :func:`render`: Figure 13 (a row a requested category).

    Args:
        clouds: (rows, columns, n, 3), or (m, n, 3), then laid out ``columns`` to a row; y up.
        row_labels, column_labels, title, row_title: as in :func:`image_grid`.
        azimuth, elevation: degrees, of all.
    """
    shape = np.shape(clouds)
    if len(shape) not in (3, 4) or shape[-1] != 3:
        raise ValueError(f"clouds must have shape (m, n, 3) or (rows, columns, n, 3), got {shape}")
    flat = checked(clouds, "clouds", *shape).reshape(-1, *shape[-2:])
    pictures = np.stack([render(cloud, azimuth=azimuth, elevation=elevation, size=size) for cloud in flat])
    if len(shape) == 3:  # image_grid fills up with zeros, which are black
        blanks = np.ones((-len(flat) % min(columns, len(flat)), *pictures.shape[1:]))
        pictures = np.concatenate([pictures, blanks]).reshape(-1, min(columns, len(flat)), *pictures.shape[1:])
    else:
        pictures = pictures.reshape(*shape[:2], *pictures.shape[1:])
    return image_grid(np.moveaxis(pictures, -1, -3), row_labels, column_labels, title, row_title=row_title, scale=1.9)


def _view(azimuth: float, elevation: float) -> np.ndarray:
    """Rotation to right, up and towards the viewer."""
    a, e = np.deg2rad([azimuth, elevation])
    turn = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    tilt = np.array([[1, 0, 0], [0, np.cos(e), -np.sin(e)], [0, np.sin(e), np.cos(e)]])
    return tilt @ turn


def framed(points: np.ndarray) -> np.ndarray:
    """Points (n, 3) in the unit sphere, but for a hundredth of them: a few that went astray don't shrink the rest."""
    low, high = np.percentile(points, [0.5, 99.5], axis=0)
    points = points - (low + high) / 2
    return 0.95 * points / max(np.percentile(np.linalg.norm(points, axis=1), 99), 1e-9)


def _spacing(points: np.ndarray) -> float:
    """Radius of balls that close a surface: what is usual to the fifth neighbour."""
    neighbors = min(6, len(points))
    distance, _ = cKDTree(points).query(points, neighbors)
    return float(np.clip(0.7 * np.median(distance.reshape(len(points), -1)[:, -1]), 0.02, 0.09))


def rank(heights: np.ndarray) -> np.ndarray:
    """Heights (n,) brought to [0, 1]."""
    low, high = np.percentile(heights, [1, 99])
    return ((heights - low) / max(high - low, 1e-9)).clip(0, 1)


def _balls(seen: np.ndarray, pixels: int, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth towards the viewer, brightness, and whose ball it is (-1 where there is none), each (pixels, pixels).

    The points come from far to near.
    """
    reach = int(np.ceil(radius))
    dx, dy = (d.ravel() for d in np.meshgrid(*2 * [np.arange(-reach, reach + 1)]))
    inside = dx**2 + dy**2 <= radius**2
    dx, dy = dx[inside], dy[inside]
    bulge = np.sqrt(np.maximum(radius**2 - dx**2 - dy**2, 0))
    lit = 0.45 + 0.55 * (np.stack([dx, dy, bulge], 1) @ LIGHT / radius).clip(0)

    column, row = (np.round((seen[:, k, None] + 1) / 2 * (pixels - 1)).astype(int) + d for k, d in ((0, dx), (1, dy)))
    depth = seen[:, 2, None] + 2 * bulge / pixels
    fits = (column >= 0) & (column < pixels) & (row >= 0) & (row < pixels)
    place = ((pixels - 1 - row) * pixels + column)[fits]
    picture = np.full((3, pixels**2), [[-np.inf], [0], [-1]])
    for layer, values in zip(picture, (seen[:, 2, None] + 2 * bulge / pixels, lit, np.arange(len(seen))[:, None])):
        layer[place] = np.broadcast_to(values, fits.shape)[fits]  # of several at one place the last stays: the nearest
    depth, brightness, of = picture.reshape(3, pixels, pixels)
    return depth, brightness, of.astype(int)


def _behind(depth: np.ndarray, pixels: int) -> np.ndarray:
    """Shade in (0, 1] of what has something nearer beside it."""
    far = np.where(np.isfinite(depth), depth, -1.5)
    nearer = np.zeros_like(far)
    steps = [max(1, round(pixels * part)) for part in (0.012, 0.03)]
    offsets = [(i * step, j * step) for step in steps for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
    for offset in offsets:
        nearer += (np.roll(far, offset, (0, 1)) - far - 0.03).clip(0, 0.5)
    return np.exp(-2.5 * nearer / len(offsets))
