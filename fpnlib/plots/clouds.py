"""Point clouds as pictures in which depth and form read well (Figure 13), and as pages.

Each point that is not hidden is a small dot. Between the dots lies a paler surface: wide discs
close the gaps between the points, and what they add around the outline is taken off again (a
morphological closing). All is lit from the viewer's upper left, and what lies far fades.
"""

import html
import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from fpnlib import checks
from fpnlib.plots.given import Array, checked

MOST = 4096  # points that are drawn
LIGHT = np.array([-0.45, 0.8, 0.4])  # to the left, up, and towards the viewer
AMBIENT, DIFFUSE = 0.5, 0.6  # brightness without light, and what the light adds
COLORMAP, COLORS = "viridis", (0.22, 0.88)  # by height
AROUND = 12  # neighbours that tell how a surface lies
DOT = 0.28  # radius of a dot, in radii of the discs that close the surface
SURFACE = 0.75  # opacity of the surface between the dots
HIDDEN = 1.6  # discs' radii behind the surface from which on a point is hidden
FOG = 0.4  # transparency of what lies farthest
FINER = 3  # pictures are drawn so many times as large and averaged, which smooths edges
PAGE = Path(__file__).with_name("turntable.html")  # asks nothing of the network


def render(
    points: Array,
    *,
    azimuth: float = 35.0,
    elevation: float = 20.0,
    size: int = 100,
    paper: float = 1.0,
) -> np.ndarray:
    """Draw one cloud (n, 3) with y up: a picture (size, size, 3) in [0, 1], in parallel projection.

    The cloud is centred and scaled to fill the picture; a few points far astray are left out. Of
    more than 4,096 points so many are drawn.

    Args:
        points: of the cloud.
        azimuth: degrees by which the cloud is turned about its upright axis.
        elevation: degrees by which the viewer stands above it.
        size: pixels of the picture's side.
        paper: grey level of the background; 0.1 suits a dark page.

    >>> render(np.random.default_rng(0).normal(size=(200, 3)), size=50).shape
    (50, 50, 3)
    """
    points, normals, colors, radius = _prepared(points)
    pixels, dot = FINER * checks.positive("size", size), max(DOT * radius, 1 / size)
    view = Rotation.from_euler("yx", [azimuth, elevation], degrees=True).as_matrix().T
    seen, normals = (1 - dot) * points @ view, normals @ view
    order = np.lexsort([seen[:, 2]])  # from far to near
    order = order[np.abs(seen[order, :2]).max(1) <= 1 - dot]
    seen, colors = seen[order], colors[order]
    toward = np.where(normals[order, 2:] < 0, -1, 1) * normals[order]  # the viewer
    shades = colors * (AMBIENT + DIFFUSE * (toward @ LIGHT).clip(0)[:, None])
    opacity = 1 - FOG * (1 - seen[:, 2]) / 2

    surface = _nearest(seen, radius * pixels / 2, pixels)
    edge = distance_transform_edt(np.pad(surface >= 0, 1))[1:-1, 1:-1]
    column, row = _places(seen, pixels).T
    visible = seen[:, 2] > seen[surface[row, column], 2] - HIDDEN * radius
    dots = _nearest(seen[visible], dot * pixels / 2, pixels)
    picture = np.full((pixels, pixels, 3), float(paper))
    closed = edge > (radius - dot) * pixels / 2
    owners = surface[closed], np.flatnonzero(visible)[dots[dots >= 0]]
    for place, owner, share in zip((closed, dots >= 0), owners, (SURFACE, 1.0)):
        opaque = share * opacity[owner, None]
        picture[place] = opaque * shades[owner] + (1 - opaque) * paper
    return picture.reshape(size, FINER, size, FINER, 3).mean((1, 3)).clip(0, 1)


def turntable(points: Array, title: str = "point cloud", size: int = 420) -> str:
    """HTML in which a cloud (n, 3) with y up turns once, or follows the mouse; the wheel zooms.

    It is an inline frame for a notebook's output or an ``ipywidgets.HTML``, drawn as :func:`render`
    draws. Its background is transparent, so that it suits a dark theme too. Its page asks nothing
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
    points, normals, colors, radius = _prepared(points)
    values: dict[str, object] = {
        "TITLE": html.escape(title),
        "SIZE": size,
        "RADIUS": round(radius, 4),
        "POINTS": points.round(3).tolist(),
        "NORMALS": normals.round(2).tolist(),
        "COLORS": (255 * colors).round().astype(int).tolist(),
        "LIGHT": LIGHT.tolist(),
        "AMBIENT": AMBIENT,
        "DIFFUSE": DIFFUSE,
        "FOG": FOG,
        "DOT": DOT,
        "HIDDEN": HIDDEN,
        "SURFACE": SURFACE,
    }
    page = PAGE.read_text(encoding="utf-8").strip()
    for name, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        page = page.replace(f"__{name}__", text)
    return (
        f'<iframe srcdoc="{html.escape(page)}" width="{size}" height="{size}" '
        'style="border:0;max-width:100%;color-scheme:light" sandbox="allow-scripts"></iframe>'
    )


def _prepared(points: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Points in the unit sphere, their normals and colours, each (n, 3), and the discs' radius."""
    given = checked(points, "points", "n", 3).astype(np.float64)
    first = np.sort(np.unique(given, axis=0, return_index=True)[1])  # of points that repeat
    given = given[first[np.linspace(0, len(first) - 1, min(len(first), MOST)).astype(int)]]
    framed = _framed(given)
    low, high = np.percentile(given[:, 1], [1, 99])
    height = np.interp(given[:, 1], [low, max(high, low + 1e-9)], COLORS)
    neighbors = range(1, 1 + min(AROUND, len(framed)))
    distance, near = cKDTree(framed).query(framed, neighbors)
    # Discs close a surface if they reach a little farther than to most points' fifth neighbour.
    radius = float(np.clip(1.2 * np.median(distance[:, :6].max(1)), 0.02, 0.09))
    return framed, _normals(framed, near), mpl.colormaps[COLORMAP](height)[:, :3], radius


def _framed(points: np.ndarray) -> np.ndarray:
    """Points (n, 3) in the unit sphere; a few that are far astray stay outside."""
    low, high = np.percentile(points, [0.5, 99.5], axis=0)
    points = points - (low + high) / 2
    away = np.linalg.norm(points, axis=1)
    return points / max(away[away <= 1.15 * np.percentile(away, 99)].max(), 1e-9)


def _normals(points: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Unit normals (n, 3), of either sign, of the surface through points (n, 3).

    ``near`` (n, k) are the indices of each point's neighbours, nearest first.
    """
    patches = points[near] - points[near].mean(1, keepdims=True)
    flattest = np.linalg.eigh(patches.mT @ patches)[1][:, :, 0]
    # The mean of the neighbours' normals, whatever their signs: edges are less noisy so.
    products = flattest[:, :, None] * flattest[:, None, :]
    return np.linalg.eigh(products[near[:, :6]].mean(1))[1][:, :, -1]


def _places(seen: np.ndarray, pixels: int) -> np.ndarray:
    """Columns and rows (n, 2) of points (n, 3) in [-1, 1]."""
    places = np.round((seen[:, :2] * [1, -1] + 1) / 2 * (pixels - 1)).astype(int)
    return places.clip(0, pixels - 1)


def _nearest(seen: np.ndarray, radius: float, pixels: int) -> np.ndarray:
    """Which point's disc is seen in each pixel (pixels, pixels); -1: none.

    The points (n, 3) come from far to near, and of several at one place the last stays.
    """
    reach = int(np.ceil(radius))
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1)
    inside = dx**2 + dy**2 <= radius**2
    middles = _places(seen, pixels)
    column, row = middles[:, :1] + dx[inside], middles[:, 1:] + dy[inside]
    fits = (column >= 0) & (column < pixels) & (row >= 0) & (row < pixels)
    owner = np.full((pixels, pixels), -1)
    owner[row[fits], column[fits]] = np.nonzero(fits)[0]
    return owner
