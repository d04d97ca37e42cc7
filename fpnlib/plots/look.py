"""The look that the figures share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import matplotlib.patheffects as effects
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from cycler import cycler
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

COLORS = sns.color_palette("colorblind")
INK, MUTED, FAINT = "0.15", "0.45", "0.88"
MARKERS = "osD^vPX"
DASHED = (0, (4, 2))
EDGE = 0.05  # inches of paper around a figure
HALO = [effects.withStroke(linewidth=2.5, foreground="white")]


@contextmanager
def style() -> Iterator[None]:
    """The look of every figure, as a context or decorator that puts matplotlib's settings back.

    >>> with style():
    ...     size = mpl.rcParams["font.size"]
    >>> size
    9.0
    """
    look: dict[str, Any] = {
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
        "axes.prop_cycle": cycler(color=COLORS),
        "mathtext.fontset": "cm",
    }
    with sns.axes_style("ticks"), sns.plotting_context("paper"), mpl.rc_context(look):  # type: ignore[arg-type]
        yield


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **layout: Any
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes (rows, columns), closed for pyplot, so that it is shown only once.

    ``width`` and ``height`` are in inches; ``layout`` is passed to ``pyplot.subplots``.
    """
    layout |= {"figsize": (width, height), "layout": "constrained", "squeeze": False}
    fig, axes = plt.subplots(rows, columns, **layout)
    x, y = EDGE / width, EDGE / height
    engine: Any = fig.get_layout_engine()
    engine.set(rect=(x, y, 1 - 2 * x, 1 - 2 * y))
    plt.close(fig)
    return fig, axes


def key(**look: Any) -> Line2D:
    """An entry of a legend: a line or, without a line's style, a marker."""
    return Line2D([], [], **({"linestyle": ""} | look))
