"""Images, faces and point clouds in rows and columns (Figures 7, 8, 11, 13 and 14)."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from fpnlib import checks
from fpnlib.plots.clouds import render
from fpnlib.plots.given import Array, checked, need_entries
from fpnlib.plots.look import COLORS, EDGE, new_figure, style

SIZES = {"gray": 0.48, "color": 0.82, "cloud": 1.0}  # inches of a picture's height
BESIDE = 0.75  # the share of it for panels side by side
DPI = 100  # of faces and clouds; more would take megabytes
SHARP = 200  # dots an inch, at least, of grey images, whose pixels are to be seen
NARROW = 0.7  # inches of a picture's width below which long labels are turned


@style()
def grid(
    pictures: Array | Mapping[str, Array],
    row_labels: Sequence | Mapping[str, Sequence] | None = None,
    column_labels: Sequence | None = None,
    title: str | None = None,
    *,
    columns: int = 10,
    row_title: str | None = None,
    framed: Iterable[tuple[int, int]] = (),
    azimuth: float = 35.0,
) -> Figure:
    """Draw images, faces or point clouds in rows and columns.

    Args:
        pictures: images (rows, columns, channels, h, w) in [0, 1] with 1 or 3 channels, or clouds
            (rows, columns, points, 3) with y up. Without the first dimension they are laid out
            ``columns`` to a row. A list of rows may have rows of different lengths. A mapping title
            → pictures draws panels side by side.
        row_labels: one a row, on the left; for panels also a mapping title → labels.
        column_labels: one a column, on top.
        title: of the figure.
        columns: pictures to a row, if they come without rows.
        row_title: what the row labels are, e.g. "requested class".
        framed: (row, column) of pictures to frame, e.g. the edit that keeps the class.
        azimuth: degrees by which clouds are turned about their upright axes.

    Raises:
        ValueError: pictures of another shape, out of range or with NaN; labels of another number.

    >>> grid(np.zeros((12, 1, 28, 28)), columns=6, title="Twelve images").axes[0].get_title()
    'Twelve images'
    """
    several = isinstance(pictures, Mapping)
    panels = dict(pictures) if several else {title or "": pictures}
    need_entries(panels, "pictures")
    labels = row_labels if isinstance(row_labels, Mapping) else dict.fromkeys(panels, row_labels)
    drawn = []
    for objects in panels.values():
        rows, kind = _rows(objects, columns)
        inches = SIZES[kind] * (BESIDE if several else 1)
        drawn.append(_drawn(rows, kind, inches, azimuth))
    figure, axes = new_figure(1, 1, 1, len(panels))
    figure.set_layout_engine("none")  # every dot of a picture is to be a dot of the figure
    figure.set_dpi(drawn[0].dpi)
    for ax, name, panel in zip(axes[0], panels, drawn):
        _label(ax, panel, labels.get(name), column_labels)
        ax.set_title(name)
        if row_title and labels.get(name) is not None:
            ax.set_ylabel(row_title)
            row_title = None  # said once
        for i, j in framed:
            ax.add_patch(panel.frame(i, j))
    _place(figure, list(axes[0]), drawn)
    return figure


@dataclass(frozen=True)
class _Panel:
    """A picture of all the pictures: a canvas (height, width, 3), and where each lies on it."""

    canvas: np.ndarray
    rows: int
    columns: int
    cell: tuple[int, int]  # height and width in dots
    gap: int
    dpi: float

    def corner(self, i: Any, j: Any) -> tuple[Any, Any]:
        """Top and left of a picture, or of several."""
        return i * (self.cell[0] + self.gap), j * (self.cell[1] + self.gap)

    def frame(self, i: int, j: int) -> Rectangle:
        top, left = self.corner(i, j)
        look = {"fill": False, "edgecolor": COLORS[1], "linewidth": 1.5, "clip_on": False}
        return Rectangle((left - 0.5, top - 0.5), self.cell[1], self.cell[0], **look)


def _rows(objects: Array, columns: int) -> tuple[list[np.ndarray], str]:
    """Rows of images (n, channels, h, w) or of clouds (n, points, 3), and their kind."""
    if hasattr(objects, "shape") and _kind(objects):
        objects = checks.numbers(objects).split(checks.positive("columns", columns))
    rows: list[Any] = list(map(checks.numbers, objects))
    filled = list(filter(len, rows))
    if not filled:
        raise ValueError("pictures must have a picture in some row, got none")
    kind = _kind(filled[0])
    if kind is None:
        wanted = "rows of images (1 or 3, h, w) or of clouds (points, 3)"
        raise ValueError(f"pictures must be {wanted}, got rows of shape {tuple(filled[0].shape)}")
    shape = ("n", "points", 3) if kind == "cloud" else ("n", *filled[0].shape[1:])
    for i, row in enumerate(rows):
        if not len(row):
            continue
        rows[i] = checked(row, "pictures", *shape)
        low, high = rows[i].min(), rows[i].max()
        if kind != "cloud" and (low < -1e-3 or high > 1 + 1e-3):
            raise ValueError(f"images must lie in [0, 1], got {low:.3g} to {high:.3g}")
    return rows, kind


def _kind(pictures: Array) -> str | None:
    """What pictures (n, ...) are: "gray", "color" or "cloud"; None: they are in rows."""
    if pictures.ndim == 3 and pictures.shape[-1] == 3:
        return "cloud"
    if pictures.ndim == 4 and pictures.shape[-1] != 3:
        return {1: "gray", 3: "color"}.get(pictures.shape[1])
    return None


def _drawn(rows: list[np.ndarray], kind: str, inches: float, azimuth: float) -> _Panel:
    """All pictures on one canvas."""
    first = next(filter(len, rows))[0]
    dpi, dots, paper = float(DPI), round(DPI * inches), 1.0
    draw: Callable[[np.ndarray], np.ndarray]
    if kind == "gray":
        height = first.shape[1]
        times = math.ceil(SHARP * inches / height) if height <= 64 else 1
        dpi, gap, paper = times * height / inches, times * max(1, round(height / 28)), 0.85
        draw = partial(_enlarged, times=times)
    elif kind == "color":
        gap, draw = round(dots / 10), partial(_resized, height=dots)
    else:
        gap, draw = 0, partial(render, azimuth=azimuth, size=dots)
    height, width = draw(first).shape[:2]
    columns = max(map(len, rows))
    shape = len(rows) * (height + gap) - gap, columns * (width + gap) - gap
    panel = _Panel(np.full((*shape, 3), paper), len(rows), columns, (height, width), gap, dpi)
    for i, j in np.ndindex(len(rows), columns):
        top, left = panel.corner(i, j)
        picture = draw(rows[i][j]) if j < len(rows[i]) else 1.0
        panel.canvas[top : top + height, left : left + width] = picture
    return panel


def _enlarged(image: np.ndarray, times: int) -> np.ndarray:
    """A grey image (1, h, w), black on white, with ``times`` dots for each pixel."""
    ink = 1 - image[0].clip(0, 1)
    return ink.repeat(times, 0).repeat(times, 1)[..., None]


def _resized(image: np.ndarray, height: int) -> np.ndarray:
    """A colour image (3, h, w) with ``height`` rows of dots."""
    data = (255 * image.clip(0, 1)).round().astype(np.uint8).transpose(1, 2, 0)
    width = round(height * data.shape[1] / data.shape[0])
    resized = Image.fromarray(data).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized) / 255


def _label(
    ax: Axes, panel: _Panel, row_labels: Sequence | None, column_labels: Sequence | None
) -> None:
    """Show a panel with its labels."""
    height, width = panel.cell
    rows = _texts(row_labels, panel.rows, "row")
    words = _texts(column_labels, panel.columns, "column")
    ax.imshow(panel.canvas, interpolation="nearest", aspect="auto")
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    narrow = width / panel.dpi < NARROW
    down, across = panel.corner(np.arange(len(rows)), np.arange(len(words)))
    ax.set_yticks(down + (height - 1) / 2, rows)
    ax.set_xticks(across + (width - 1) / 2, words if narrow else list(map(_wrapped, words)))
    for text in ax.get_xticklabels():
        if narrow and len(text.get_text()) > 4:
            text.set(rotation=40, ha="left", rotation_mode="anchor")


def _texts(labels: Sequence | None, count: int, name: str) -> list[str]:
    """The labels of all rows or columns; none if ``labels`` is None."""
    if labels is not None and len(labels) != count:
        raise ValueError(f"{name}_labels must name {count} {name}s, got {len(labels)}")
    return [] if labels is None else list(map(str, labels))


def _place(figure: Figure, axes: list[Axes], panels: list[_Panel]) -> None:
    """Set the panels side by side on whole dots, with as much paper around as their texts need."""
    dpi = figure.dpi
    boxes = []
    for ax, panel in zip(axes, panels):
        width, height = figure.get_size_inches() * dpi
        ax.set_position((0, 0, panel.canvas.shape[1] / width, panel.canvas.shape[0] / height))
        inner, outer = ax.get_window_extent(), ax.get_tightbbox()
        assert outer is not None  # the axes are visible
        sides = inner.x0 - outer.x0, outer.x1 - inner.x1, outer.y1 - inner.y1, inner.y0 - outer.y0
        boxes.append(np.ceil(np.maximum(sides, 0)).astype(int))
    edge = math.ceil(EDGE * dpi)
    left, x = edge, []
    for panel, (before, after, _, _) in zip(panels, boxes):
        x.append(left + before)
        left += before + panel.canvas.shape[1] + after + 3 * edge
    width = left - 2 * edge
    above, below = np.max(boxes, axis=0)[2:] + edge
    height = above + max(panel.canvas.shape[0] for panel in panels) + below
    figure.set_size_inches(width / dpi, height / dpi)
    for ax, panel, start in zip(axes, panels, x):
        down, across = panel.canvas.shape[:2]
        bottom = height - above - down
        ax.set_position((start / width, bottom / height, across / width, down / height))


def _wrapped(label: str) -> str:
    """An edit such as "+Wearing_Lipstick -Smiling" on lines that fit a face."""
    words = [word.replace("_", " " if len(word) < 14 else "\n") for word in label.split(" ")]
    return "\n".join(words)
