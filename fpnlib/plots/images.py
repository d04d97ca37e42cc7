"""Images in grids, and images with what a classifier says of them (Figures 7, 8 and 11; section 3.4)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from fpnlib import checks
from fpnlib.plots.look import COLORS, checked, names_of, new_figure, styled, whole_pixels


@styled
def image_grid(
    images,
    row_labels: Sequence | None = None,
    column_labels: Sequence | None = None,
    title: str | None = None,
    *,
    columns: int = 10,
    row_title: str | None = None,
    framed: Iterable[tuple[int, int]] = (),
    cmap: str = "gray_r",
    scale: float = 1.0,
) -> Figure:
    """Images in rows and columns: Figure 8 (a row a class), and edits (original, reconstruction, 0, 1, …).

    Args:
        images: (rows, columns, channels, h, w), or (n, channels, h, w), then laid out ``columns`` to a row; 1 or 3
            channels, in [0, 1].
        row_labels, column_labels: one a row on the left; one a column on top.
        row_title: what the row labels are, e.g. "requested class".
        framed: (row, column) of images to frame, e.g. the edit that keeps the class.
        scale: size of the images on paper; 1: half an inch.
    """
    images = _rows_of_images(images, columns)
    rows, cols, _, height, width = images.shape
    longest = max((len(str(label)) for label in column_labels or ()), default=0)
    above = 0.2 + 0.3 * bool(title) + (0.08 * longest if longest > 4 else 0.2 * bool(longest))
    fig, axes = new_figure(0.48 * scale * cols * width / height + 0.7, 0.48 * scale * rows + above)
    across = _draw_grid(
        axes[0, 0], images, row_labels, column_labels, title, row_title, framed, cmap
    )
    whole_pixels(fig, axes[0, 0], across, height)
    return fig


@styled
def compare_grids(
    left,
    right,
    titles: tuple[str, str],
    *,
    row_labels: Sequence | None = None,
    left_labels: Sequence | None = None,
    row_title: str | None = None,
    columns: int = 10,
) -> Figure:
    """Two grids side by side: what a base model draws by itself and with a plugin (Figure 7), or two plugins (Figure 11).

    Args:
        left, right: images as for :func:`image_grid`.
        titles: one a side.
        row_labels: labels of the right side's rows, e.g. the requested classes.
        left_labels: those of the left side's; None: they have none.
    """
    left, right = _rows_of_images(left, columns), _rows_of_images(right, columns)
    rows = max(left.shape[0], right.shape[0])
    fig, axes = new_figure(
        0.36 * (left.shape[1] + right.shape[1]) + 0.9,
        0.36 * rows + 0.4,
        1,
        2,
        width_ratios=[left.shape[1], right.shape[1]],
    )
    across = _draw_grid(
        axes[0, 0], left, left_labels, None, titles[0], row_title if left_labels else None
    )
    _draw_grid(axes[0, 1], right, row_labels, None, titles[1], None if left_labels else row_title)
    whole_pixels(fig, axes[0, 0], across, left.shape[3])
    return fig


@styled
def posteriors(
    images, log_posterior, class_names: Sequence | None = None, *, labels=None, columns: int = 5
) -> Figure:
    """Images with their class posteriors p(y | z) beneath, equation 15; the most probable class is darker.

    Args:
        images: (n, channels, h, w) in [0, 1].
        log_posterior: (n, K) natural logarithms; each row's exponentials sum to one.
        labels: true class indices (n,); the true class is marked with a triangle.
    """
    images = checked(images, "images", "n", "channels", "h", "w")
    probabilities = np.exp(checked(log_posterior, "log_posterior", len(images), "K", finite=False))
    n, classes = probabilities.shape
    if not np.allclose(probabilities.sum(1), 1, atol=1e-3):
        raise ValueError("log_posterior's rows must be logarithms of probabilities that sum to 1")
    names = names_of(class_names, classes)
    labels = None if labels is None else checked(labels, "labels", n).astype(int)
    columns = min(columns, n)
    bands = math.ceil(n / columns)
    fig, axes = new_figure(
        1.45 * columns, 2.3 * bands, 2 * bands, columns, height_ratios=[1.3, 1] * bands
    )
    fig.set_dpi(200)
    for cell in range(bands * columns):
        picture, bars = axes[2 * (cell // columns) : 2 * (cell // columns) + 2, cell % columns]
        picture.axis("off")
        if cell >= n:
            bars.axis("off")
            continue
        best = int(probabilities[cell].argmax())
        picture.imshow(_picture(images[cell]), cmap="gray_r", vmin=0, vmax=1)
        picture.set_title(f"{names[best]} ({_percent(probabilities[cell, best])})")
        shades = [COLORS[0] if k == best else "0.75" for k in range(classes)]
        bars.bar(range(classes), probabilities[cell], color=shades, width=0.8)
        bars.set(ylim=(0, 1.12), yticks=[0, 1], xlim=(-0.6, classes - 0.4))
        bars.set_xticks(
            range(classes), names, rotation=0 if max(map(len, names)) < 3 else 90, fontsize=7
        )
        bars.tick_params(length=2)
        if cell % columns == 0:
            bars.set_ylabel("p(y | z)")
        if labels is not None:
            height = min(probabilities[cell, labels[cell]] + 0.06, 1.06)
            bars.plot(
                labels[cell], height, marker="v", color=COLORS[3], markersize=4.5, clip_on=False
            )
    if labels is not None:
        mark = Line2D(
            [], [], marker="v", color=COLORS[3], linestyle="", markersize=4.5, label="true class"
        )
        fig.legend(handles=[mark], loc="outside lower right")
    return fig


def _rows_of_images(images, columns: int) -> np.ndarray:
    """Images (rows, columns, channels, h, w); a flat list is laid out in rows and filled up with white (zeros)."""
    array = (
        images.detach().cpu().numpy() if isinstance(images, torch.Tensor) else np.asarray(images)
    )
    if array.ndim == 4:
        array = checked(array, "images", "n", "channels", "h", "w")
        columns = min(checks.positive("columns", columns), len(array))
        blanks = np.zeros((-len(array) % columns, *array.shape[1:]), array.dtype)
        array = np.concatenate([array, blanks]).reshape(-1, columns, *array.shape[1:])
    elif array.ndim != 5:
        raise ValueError(
            f"images must have shape (n, channels, h, w) or (rows, columns, channels, h, w), got {array.shape}"
        )
    array = checked(array, "images", "rows", "columns", "channels", "h", "w")
    if array.shape[2] not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels, got {array.shape[2]}")
    if array.min() < -1e-3 or array.max() > 1 + 1e-3:
        raise ValueError(f"images must lie in [0, 1], got [{array.min():.3g}, {array.max():.3g}]")
    return array


def _picture(image: np.ndarray) -> np.ndarray:
    """(channels, h, w) → what imshow wants."""
    return image[0] if len(image) == 1 else image.transpose(1, 2, 0)


def _draw_grid(
    ax: Axes,
    images,
    row_labels=None,
    column_labels=None,
    title=None,
    row_title=None,
    framed=(),
    cmap="gray_r",
) -> int:
    """All images as one picture, a thin line between them; how many pixels wide it is."""
    rows, cols, channels, height, width = images.shape
    line = max(1, round(height / 28))
    canvas = np.full(
        (rows * (height + line) - line, cols * (width + line) - line, channels), np.nan
    )
    for i, j in np.ndindex(rows, cols):
        canvas[i * (height + line) :][:height, j * (width + line) :][:, :width] = images[
            i, j
        ].transpose(1, 2, 0)
    if channels == 1:
        colors = mpl.colormaps[cmap].with_extremes(bad="0.85")
        ax.imshow(
            np.ma.masked_invalid(canvas[..., 0]),
            cmap=colors,
            vmin=0,
            vmax=1,
            interpolation="nearest",
        )
    else:
        ax.imshow(np.nan_to_num(canvas.clip(0, 1), nan=1.0), interpolation="nearest")
    ax.xaxis.tick_top()
    for axis, labels, count, step, name in (
        (ax.yaxis, row_labels, rows, height, "row"),
        (ax.xaxis, column_labels, cols, width, "column"),
    ):
        if labels is not None and len(labels) != count:
            raise ValueError(f"{name}_labels must name {count} {name}s, got {len(labels)}")
        axis.set_ticks(
            [k * (step + line) + (step - 1) / 2 for k in range(count)] if labels is not None else []
        )
        if labels is not None:
            axis.set_ticklabels([str(label) for label in labels])
    for text in ax.get_xticklabels():
        if len(text.get_text()) > 4:
            text.set(rotation=40, ha="left", rotation_mode="anchor")
    for i, j in framed:
        corner = (j * (width + line) - 0.5, i * (height + line) - 0.5)
        ax.add_patch(
            Rectangle(
                corner, width, height, fill=False, edgecolor=COLORS[1], linewidth=1.5, clip_on=False
            )
        )
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(title or "")
    ax.set_ylabel(row_title or "")
    return canvas.shape[1]


def _percent(probability: float) -> str:
    return f"{100 * probability:.0f} %" if probability < 0.995 else "> 99 %"
