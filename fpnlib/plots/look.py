"""The look that the figures share, and what all of them check."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from contextlib import contextmanager

import matplotlib as mpl
import matplotlib.patheffects as effects
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLORS = sns.color_palette("colorblind")
INK, MUTED, FAINT = "0.15", "0.45", "0.88"
MARKERS = "osD^vPX"
EDGE = 0.05  # inches of paper around a figure
HALO = [effects.withStroke(linewidth=2.5, foreground="white")]


@contextmanager
def style():
    """The look of every figure, as a context: ``with plots.style(): ...``; what was set before is put back after."""
    look = {
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.labelsize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "figure.dpi": 130,
        "axes.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "lines.linewidth": 1.5,
        "axes.prop_cycle": mpl.cycler(color=COLORS),
        "mathtext.fontset": "cm",
    }
    with mpl.rc_context({**sns.axes_style("ticks"), **sns.plotting_context("paper"), **look}):
        yield


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    @functools.wraps(draw)
    def in_style(*args, **kwargs) -> Figure:
        with style():
            return draw(*args, **kwargs)

    return in_style


def new_figure(
    width: float,
    height: float,
    rows: int = 1,
    columns: int = 1,
    *,
    width_ratios=None,
    height_ratios=None,
    **shared,
):
    """A figure and its axes (rows, columns), closed for pyplot: it's shown where it's returned, once, and not kept."""
    ratios = {"width_ratios": width_ratios, "height_ratios": height_ratios}
    fig, axes = plt.subplots(
        rows,
        columns,
        figsize=(width, height),
        layout="constrained",
        squeeze=False,
        **ratios,
        **shared,
    )
    x, y = EDGE / width, EDGE / height
    fig.get_layout_engine().set(rect=(x, y, 1 - 2 * x, 1 - 2 * y))
    plt.close(fig)
    return fig, axes


def whole_pixels(fig: Figure, ax: Axes, across: int, height: int) -> None:
    """Set the resolution so that a pixel of the picture in ``ax``, ``across`` pixels wide, takes a whole number of dots.

    At least 200 dots an inch; of images whose ``height`` is over 64 pixels, one dot each: they have detail of their own.
    """
    fig.draw_without_rendering()
    fig.set_layout_engine("none")  # where it has put things they stay
    inches = ax.get_position().width * fig.get_figwidth()
    dots = math.ceil(200 * inches / across) if height <= 64 else 1
    fig.set_dpi(dots * across / inches)


def checked(values, name: str, *shape: int | str, finite: bool = True) -> np.ndarray:
    """``values`` as an array of that shape (a str is any length), finite; otherwise a ValueError of one line."""
    array = (
        values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    )
    if len(shape) != array.ndim or any(
        isinstance(want, int) and want != got for want, got in zip(shape, array.shape)
    ):
        expected = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
        raise ValueError(f"{name} must have shape ({expected}), got {array.shape}")
    if not array.size:
        raise ValueError(f"{name} must not be empty, got shape {array.shape}")
    if np.isnan(array).any() or (finite and not np.isfinite(array).all()):
        bad = int((~np.isfinite(array)).sum())
        raise ValueError(
            f"{name} has {bad:,} NaN or infinite entries of {array.size:,}; expected finite numbers"
        )
    return array


def square(matrix, name: str) -> np.ndarray:
    matrix = checked(matrix, name, "K", "K")
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{name} must be square, got {matrix.shape}")
    return matrix


def names_of(names: Sequence | None, count: int) -> list[str]:
    if names is None:
        return [str(k) for k in range(count)]
    if len(names) != count:
        raise ValueError(f"class_names must name {count} classes, got {len(names)}")
    return [str(name) for name in names]
