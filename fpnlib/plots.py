"""Every figure of the project: pure functions from arrays or tensors to a matplotlib ``Figure``.

Colours are safe for the colour-blind (seaborn's "colorblind", cividis), and none carries a meaning alone: classes are
also numbered, lines also dashed, values also written. Each function draws within :func:`style`, changes no global
setting, and raises a ValueError of one line for arrays of the wrong shape or with NaN.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager

import matplotlib as mpl
import matplotlib.patheffects as effects
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch, Polygon, Rectangle
from matplotlib.ticker import MaxNLocator

from fpnlib import checks

COLORS = sns.color_palette("colorblind")
INK, MUTED, FAINT = "0.15", "0.45", "0.88"
MARKERS = "osD^vPX"
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
        "savefig.dpi": 200,
        "axes.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "lines.linewidth": 1.5,
        "axes.prop_cycle": mpl.cycler(color=COLORS),
        "mathtext.fontset": "cm",
        "pdf.fonttype": 42,
        "svg.fonttype": "none",
    }
    with mpl.rc_context({**sns.axes_style("ticks"), **sns.plotting_context("paper"), **look}):
        yield


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    @functools.wraps(draw)
    def wrapper(*args, **kwargs) -> Figure:
        with style():
            return draw(*args, **kwargs)

    return wrapper


# Images ---------------------------------------------------------------------------------------------------------------


@_styled
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
) -> Figure:
    """Images in rows and columns: Figures 7, 8 and 11 (a row a class), and edits (original, reconstruction, 0, 1, …).

    Args:
        images: (rows, columns, channels, h, w), or (n, channels, h, w), then laid out ``columns`` to a row; 1 or 3
            channels, in [0, 1].
        row_labels, column_labels: one a row on the left; one a column on top.
        row_title: what the row labels are, e.g. "requested class".
        framed: (row, column) of images to frame, e.g. the edit that keeps the class.
    """
    images = _rows_of_images(images, columns)
    rows, cols, _, height, width = images.shape
    fig, axes = _figure(0.48 * cols * width / height + 0.7, 0.48 * rows + 0.35 * bool(title) + 0.2)
    _draw_grid(axes[0, 0], images, row_labels, column_labels, title, row_title, framed, cmap)
    return fig


@_styled
def compare_grids(
    left,
    right,
    titles: tuple[str, str],
    *,
    row_labels: Sequence | None = None,
    row_title: str | None = None,
    columns: int = 10,
) -> Figure:
    """Two grids side by side, Figure 7: what the base model draws by itself, and what the plugin draws on request.

    Args:
        left, right: images as for :func:`image_grid`.
        titles: one a side.
        row_labels: labels of the right side's rows, e.g. the requested classes.
    """
    left, right = _rows_of_images(left, columns), _rows_of_images(right, columns)
    rows = max(left.shape[0], right.shape[0])
    fig, axes = _figure(
        0.36 * (left.shape[1] + right.shape[1]) + 0.9,
        0.36 * rows + 0.4,
        1,
        2,
        width_ratios=[left.shape[1], right.shape[1]],
    )
    _draw_grid(axes[0, 0], left, None, None, titles[0])
    _draw_grid(axes[0, 1], right, row_labels, None, titles[1], row_title)
    return fig


@_styled
def posteriors(images, log_posterior, class_names: Sequence | None = None, *, labels=None, columns: int = 5) -> Figure:
    """Images with their class posteriors p(y | z) beneath, equation 15; the most probable class is darker.

    Args:
        images: (n, channels, h, w) in [0, 1].
        log_posterior: (n, K) natural logarithms; each row's exponentials sum to one.
        labels: true class indices (n,); the true class is marked with a triangle.
    """
    images = _array(images, "images", "n", "channels", "h", "w")
    probabilities = np.exp(_array(log_posterior, "log_posterior", len(images), "K", finite=False))
    n, classes = probabilities.shape
    if not np.allclose(probabilities.sum(1), 1, atol=1e-3):
        raise ValueError("log_posterior's rows must be logarithms of probabilities that sum to 1")
    names = _names(class_names, classes)
    labels = None if labels is None else _array(labels, "labels", n).astype(int)
    columns = min(columns, n)
    bands = math.ceil(n / columns)
    fig, axes = _figure(1.45 * columns, 2.3 * bands, 2 * bands, columns, height_ratios=[1.3, 1] * bands)
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
        bars.set_xticks(range(classes), names, rotation=0 if max(map(len, names)) < 3 else 90, fontsize=7)
        bars.tick_params(length=2)
        if cell % columns == 0:
            bars.set_ylabel("p(y | z)")
        if labels is not None:
            height = min(probabilities[cell, labels[cell]] + 0.06, 1.06)
            bars.plot(labels[cell], height, marker="v", color=COLORS[3], markersize=4.5, clip_on=False)
    if labels is not None:
        mark = Line2D([], [], marker="v", color=COLORS[3], linestyle="", markersize=4.5, label="true class")
        fig.legend(handles=[mark], loc="outside lower right")
    return fig


# Training and scores --------------------------------------------------------------------------------------------------


@_styled
def training_curves(
    histories: Mapping[str, Sequence[Mapping]], ylabel: str | Mapping[str, str], *, title: str | None = None
) -> Figure:
    """Training (dashed) and validation (solid) loss against the epoch, the best epoch marked with its value.

    Args:
        histories: name → rows with "epoch", "train" and "validation", as ``training.History.epochs`` has them.
        ylabel: the loss and its unit; a mapping name → label draws each history in a panel of its own.
    """
    if not histories:
        raise ValueError("histories must hold at least one training history, got none")
    apart = not isinstance(ylabel, str)
    panels = len(histories) if apart else 1
    fig, axes = _figure(3.6 * panels if apart else 5.2, 3.1, 1, panels)
    dashes = {"linestyle": (0, (4, 2)), "linewidth": 1}
    kinds = [Line2D([], [], color=MUTED, label="training", **dashes), Line2D([], [], color=MUTED, label="validation")]
    keys = {ax: list(kinds) for ax in axes[0]}
    for i, (name, rows) in enumerate(histories.items()):
        ax = axes[0, i if apart else 0]
        epoch, train, validation = _losses(name, rows)
        best = int(validation.argmin())
        look = {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)], "markeredgecolor": INK}
        ax.plot(epoch, train, color=look["color"], **dashes)
        ax.plot(epoch, validation, color=look["color"])
        ax.plot(epoch[best], validation[best], **look)
        text = f"{'' if apart else name + ', '}best: {validation[best]:.4g} (epoch {epoch[best]:g})"
        keys[ax].append(Line2D([], [], label=text, **look))
        ax.set(xlabel="epoch", ylabel=ylabel[name] if apart else ylabel, title=name if apart else title or "")
    for ax in axes[0]:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        _clip_top(ax)
        ax.legend(handles=keys[ax])
    if apart and title:
        fig.suptitle(title)
    return fig


@_styled
def confusion(
    matrix,
    class_names: Sequence | None = None,
    title: str | None = None,
    *,
    row_title: str = "requested class",
    column_title: str = "judged class",
) -> Figure:
    """A confusion matrix in percent of its rows; the diagonal is muted, so that the confusions stand out.

    Args:
        matrix: (K, K) counts or rates: row = true or requested class, column = predicted or judged class.
    """
    matrix = _confusion(matrix)
    classes = len(matrix)
    names = _names(class_names, classes)
    percent = 100 * matrix / matrix.sum(1, keepdims=True)
    off = np.ma.masked_array(percent, np.eye(classes, dtype=bool))
    top = max(float(off.max()) if classes > 1 else 0, 0.5)
    fig, axes = _figure(0.43 * classes + 1.5, 0.4 * classes + 0.9)
    ax = axes[0, 0]
    shown = ax.imshow(off, cmap=sns.color_palette("YlOrBr", as_cmap=True), vmin=0, vmax=top)
    for i, j in np.ndindex(classes, classes):
        if i == j:
            ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=FAINT, edgecolor="none"))
        if i == j or percent[i, j] >= 0.05:
            text = f"{percent[i, j]:.1f}" if percent[i, j] < 99.95 else "100"
            color = MUTED if i == j else "white" if percent[i, j] > 0.65 * top else INK
            ax.text(j, i, text, ha="center", va="center", color=color, fontsize=7)
    ax.set_xticks(range(classes), names)
    ax.set_yticks(range(classes), names)
    ax.set(xlabel=column_title, ylabel=row_title, title=title or "")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    fig.colorbar(shown, ax=ax, label="confused, % of the row", shrink=0.8, pad=0.02).outline.set_visible(False)
    return fig


@_styled
def confusions(
    matrices: Mapping[str, object], class_names: Sequence | None = None, *, top: int = 8, title: str | None = None
) -> Figure:
    """The most frequent confusions, in percent of the true or requested class, one bar a model.

    Args:
        matrices: model → confusion matrix (K, K) as for :func:`confusion`.
        top: how many pairs to show, ordered by their sum over the models.
    """
    rates = {name: (m := _confusion(matrix)) / m.sum(1, keepdims=True) for name, matrix in matrices.items()}
    classes = len(next(iter(rates.values())))
    names = _names(class_names, classes)
    total = sum(rates.values()) * (1 - np.eye(classes))
    order = [divmod(int(flat), classes) for flat in np.argsort(-total, axis=None, kind="stable")]
    pairs = [(i, j) for i, j in order if i != j][: checks.positive("top", top)]
    rows = [(f"{names[i]} → {names[j]}", name, 100 * rate[i, j]) for i, j in pairs for name, rate in rates.items()]
    table = pd.DataFrame(rows, columns=["pair", "model", "percent"])
    fig, axes = _figure(4.6, 0.3 * len(pairs) * max(1, 0.45 * len(rates)) + 0.9)
    ax = axes[0, 0]
    palette = COLORS[: len(rates)]
    sns.barplot(table, y="pair", x="percent", hue="model", palette=palette, ax=ax, errorbar=None, saturation=1)
    ax.set(xlabel="% of the first class taken for the second", ylabel="", title=title or "")
    ax.legend(title=None, loc="lower right")
    return fig


@_styled
def accuracies(
    table: pd.DataFrame, *, label: str = "model", xlabel: str = "test accuracy", title: str | None = None
) -> Figure:
    """Scores of each model as dots on a line, ours beside the paper's: Tables 1 and 2 at a glance, values written.

    Args:
        table: one row a model, in the order drawn; the column ``label`` names it and every other numeric column
            ("paper", "ours", …) is a series of dots. NaN: not reported, no dot.
    """
    if label not in table:
        raise ValueError(
            f"the table needs a column '{label}' with the models' names; it has {', '.join(map(str, table.columns))}"
        )
    series = [column for column in table.columns if column != label and pd.api.types.is_numeric_dtype(table[column])]
    if not series:
        raise ValueError("the table needs at least one numeric column of scores, got none")
    rows = np.arange(len(table))[::-1]
    fig, axes = _figure(5 + 0.75 * len(series), 0.38 * len(table) + 1.0)
    ax = axes[0, 0]
    beside = ax.get_yaxis_transform()
    ax.hlines(rows, 0, 1, transform=beside, color=FAINT, linewidth=0.8, zorder=0)
    for i, column in enumerate(series):
        color = "white" if column == "paper" else COLORS[(i - ("paper" in series)) % len(COLORS)]
        values = table[column].to_numpy(float)
        apart = 0.13 * ((len(series) - 1) / 2 - i)
        ax.plot(
            values,
            rows + apart,
            linestyle="",
            marker=MARKERS[i % len(MARKERS)],
            markersize=6,
            color=color,
            markeredgecolor=INK,
            label=column,
        )
        place = 1.06 + 0.19 * i
        for row, value in zip(rows, values):
            ax.text(
                place,
                row,
                f"{value:.4f}" if np.isfinite(value) else "–",
                transform=beside,
                ha="left",
                va="center",
                fontsize=8,
            )
        ax.text(place, len(table) - 0.45, column, transform=beside, va="bottom", fontsize=8, fontweight="bold")
    ax.set_yticks(rows, table[label])
    ax.set(xlabel=xlabel, title=title or "", ylim=(-0.6, len(table) - 0.4))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    fig.legend(loc="outside lower center", ncols=len(series))
    return fig


@_styled
def costs(
    table: pd.DataFrame, *, x: str = "D", y: str = "seconds", hue: str = "implementation", panel: str = "flow"
) -> Figure:
    """Time against dimension on logarithmic axes: a panel a flow, a line an implementation (nflows beside ours).

    Args:
        table: tidy, one measurement a row, with the columns ``x``, ``y`` (seconds), ``hue`` and, if there are several
            flows, ``panel``.
    """
    if missing := [column for column in (x, y, hue) if column not in table]:
        raise ValueError(f"the table lacks {', '.join(missing)}; it has {', '.join(map(str, table.columns))}")
    groups = dict(list(table.groupby(panel, sort=False))) if panel in table else {"": table}
    fig, axes = _figure(3.2 * len(groups) + 0.4, 2.8, 1, len(groups), sharey=True)
    for ax, (name, group) in zip(axes[0], groups.items()):
        for i, (which, line) in enumerate(group.groupby(hue, sort=False)):
            line = line.groupby(x)[y].median()
            ax.plot(
                line.index, line, marker=MARKERS[i % len(MARKERS)], markersize=5, markeredgecolor="white", label=which
            )
        ax.set(xscale="log", yscale="log", xlabel="dimension D" if x == "D" else x, title=name)
        ticks = sorted(group[x].unique())
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.set_xticks([], minor=True)
        ax.grid(axis="y", color=FAINT, linewidth=0.6)
    axes[0, 0].legend()
    axes[0, 0].set_ylabel(y)
    return fig


# Points, densities, Jacobians -----------------------------------------------------------------------------------------


@_styled
def embedding(
    panels: Mapping[str, tuple],
    class_names: Sequence | None = None,
    *,
    axis_labels: tuple[str, str] = ("UMAP 1", "UMAP 2"),
    legend_title: str = "class",
    numbered: bool = True,
    ticks: bool = False,
) -> Figure:
    """Labelled points in the plane, panels on the same axes: Figures 9, 10 and 12 (latents beside plugin samples).

    Args:
        panels: title → (points (n, 2), labels (n,)); labels are class indices 0…K-1.
        numbered: write each class's name at the median of its points.
        ticks: show the axes' numbers (UMAP's have no meaning).
    """
    panels = {title: _labelled(*panel) for title, panel in panels.items()}
    classes = 1 + max(int(labels.max()) for _, labels in panels.values())
    names = _names(class_names, max(classes, len(class_names or ())))
    fig, axes = _figure(3.1 * len(panels) + 0.9, 3.2, 1, len(panels), sharex=True, sharey=True)
    for ax, (title, (points, labels)) in zip(axes[0], panels.items()):
        # A fixed shuffle keeps the class that is drawn last from hiding the others.
        order = np.random.default_rng(0).permutation(len(points))
        shades = np.array([COLORS[k % len(COLORS)] for k in labels])
        size = float(np.clip(9000 / len(points), 3, 14))
        ax.scatter(*points[order].T, c=shades[order], s=size, alpha=0.8, linewidths=0, rasterized=len(points) > 5000)
        for k in np.unique(labels) if numbered else ():
            middle = np.median(points[labels == k], axis=0)
            ax.text(
                *middle,
                names[k],
                ha="center",
                va="center",
                fontsize=10,
                fontweight="bold",
                color=INK,
                path_effects=HALO,
            )
        ax.set(title=title, xlabel=axis_labels[0])
        if not ticks:
            ax.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)
    axes[0, 0].set_ylabel(axis_labels[1])
    present = sorted(set().union(*(np.unique(labels) for _, labels in panels.values())))
    keys = [
        Line2D([], [], marker="o", linestyle="", markersize=5, color=COLORS[k % len(COLORS)], label=names[k])
        for k in present
    ]
    fig.legend(handles=keys, title=legend_title, loc="outside right center")
    return fig


@_styled
def densities(
    panels: Mapping[str, object],
    extent: tuple[float, float, float, float],
    *,
    samples: Mapping[str, object] | None = None,
    axis_labels: tuple[str, str] = ("$x_1$", "$x_2$"),
    columns: int = 4,
) -> Figure:
    """Densities in the plane as heat maps on one colour scale, samples on top.

    Args:
        panels: title → density (m, k) on a regular grid, row = second coordinate, from low to high; not negative.
        extent: (left, right, bottom, top) of the grid.
        samples: title → points (n, 2) drawn in that panel.
    """
    grids = {title: _array(grid, f"density '{title}'", "m", "k") for title, grid in panels.items()}
    samples = {title: _array(points, f"samples '{title}'", "n", 2) for title, points in (samples or {}).items()}
    for title in samples:
        if title not in grids:
            raise checks.unknown("panel", title, grids)
    columns = min(columns, len(grids))
    bands = math.ceil(len(grids) / columns)
    fig, axes = _figure(2.3 * columns + 0.7, 2.3 * bands + 0.3, bands, columns, sharex=True, sharey=True)
    top = max(grid.max() for grid in grids.values())
    for ax, (title, grid) in zip(axes.flat, grids.items()):
        shown = ax.imshow(grid, extent=extent, origin="lower", cmap="cividis", vmin=0, vmax=top, aspect="equal")
        if title in samples:
            ax.scatter(*samples[title].T, s=5, color="white", edgecolors=INK, linewidths=0.3)
        ax.set(title=title, xlim=extent[:2], ylim=extent[2:])
    for ax in axes.flat[len(grids) :]:
        ax.set_visible(False)
    for ax in axes[-1]:
        ax.set_xlabel(axis_labels[0])
    for ax in axes[:, 0]:
        ax.set_ylabel(axis_labels[1])
    fig.colorbar(shown, ax=axes, label="density", shrink=0.85, pad=0.02).outline.set_visible(False)
    return fig


@_styled
def change_of_variables(u, x, density_u, density_x, *, interval: tuple[float, float] = (0.0, 1.0)) -> Figure:
    """Equations 2 and 3 on a line: p_u below, x = T(u) in the middle, p_x on the left; equal shaded areas.

    Args:
        u, x: (n,) with x = T(u), u increasing, T monotone.
        density_u, density_x: (n,) p_u(u) and p_x(x) at those points.
        interval: an interval of u; the mass above it and the mass above its image are shaded.
    """
    u, x, density_u, density_x = (
        _array(v, name, "n" if name == "u" else len(u))
        for name, v in zip(("u", "x", "density_u", "density_x"), (u, x, density_u, density_x))
    )
    fig, axes = _figure(4.6, 4.0, 2, 2, width_ratios=[1, 2.6], height_ratios=[2.6, 1])
    left, middle, below = axes[0, 0], axes[0, 1], axes[1, 1]
    axes[1, 0].axis("off")
    left.sharey(middle)
    below.sharex(middle)
    inside = (u >= interval[0]) & (u <= interval[1])
    middle.plot(u, x, color=INK)
    for end in (u[inside][0], u[inside][-1]):
        image = np.interp(end, u, x)
        middle.plot([end, end, u.min()], [x.min(), image, image], color=COLORS[1], linewidth=0.8, linestyle=(0, (3, 2)))
    below.plot(u, density_u, color=COLORS[0])
    below.fill_between(u[inside], density_u[inside], color=COLORS[1], alpha=0.5, linewidth=0)
    left.plot(density_x, x, color=COLORS[2])
    left.fill_betweenx(x[inside], density_x[inside], color=COLORS[1], alpha=0.5, linewidth=0)
    left.invert_xaxis()
    below.set(xlabel="$u$", ylabel="$p_u(u)$", ylim=(0, None))
    left.set(ylabel="$x$", xlabel="$p_x(x)$")
    left.set_xlim(None, 0)
    middle.set(title="$x = T(u)$", xlim=(u.min(), u.max()), ylim=(x.min(), x.max()))
    middle.tick_params(labelleft=False, labelbottom=False)
    masses = [float(np.trapezoid(p[inside], v[inside])) for p, v in ((density_u, u), (density_x, x))]
    text = "\n".join(["shaded mass", f"$\\int p_u\\,du = {masses[0]:.3f}$", f"$\\int p_x\\,dx = {masses[1]:.3f}$"])
    axes[1, 0].text(0.5, 0.5, text, ha="center", va="center", transform=axes[1, 0].transAxes, linespacing=1.6)
    return fig


@_styled
def grids(panels: Mapping[str, object], *, axis_labels: tuple[str, str] = ("$x_1$", "$x_2$")) -> Figure:
    """What a transformation does to the plane: a square grid, carried along; a panel a step (equations 4, 11 and 12).

    Args:
        panels: title → images (rows, columns, 2) of the points of a regular grid, the same points in each panel.
    """
    panels = {title: _array(points, f"grid '{title}'", "rows", "columns", 2) for title, points in panels.items()}
    fig, axes = _figure(2.4 * len(panels) + 0.3, 2.8, 1, len(panels))
    reach = 1.05 * max(np.abs(points).max() for points in panels.values())
    for ax, (title, points) in zip(axes[0], panels.items()):
        for lines, color in ((points, COLORS[0]), (points.transpose(1, 0, 2), COLORS[1])):
            ax.add_collection(LineCollection(list(lines), colors=[color], linewidths=0.8))
        ax.set(title=title, xlabel=axis_labels[0], aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach))
        ax.label_outer()
    axes[0, 0].set_ylabel(axis_labels[1])
    return fig


@_styled
def jacobians(panels: Mapping[str, object], *, row: str = "u", column: str = "x") -> Figure:
    """Jacobians ∂row/∂column as heat maps, exact zeros left blank: the triangular structure seen (equations 10, 13).

    Args:
        panels: title → (D, D), entry (i, j) = ∂row_i/∂column_j.
        row, column: the variables' names in the axis labels.
    """
    panels = {title: _square(matrix, f"Jacobian '{title}'") for title, matrix in panels.items()}
    fig, axes = _figure(2.5 * len(panels) + 0.6, 2.7, 1, len(panels))
    top = max(np.abs(matrix).max() for matrix in panels.values())
    norm = mpl.colors.SymLogNorm(linthresh=top / 100, vmin=-top, vmax=top)
    for ax, (title, matrix) in zip(axes[0], panels.items()):
        ax.set_facecolor("white")
        shown = ax.imshow(np.ma.masked_equal(matrix, 0), cmap="PuOr", norm=norm)
        size = len(matrix)
        ticks = range(0, size, max(1, size // 8))
        ax.set_xticks(ticks, [i + 1 for i in ticks])
        ax.set_yticks(ticks, [i + 1 for i in ticks])
        ax.set(title=title, xlabel=f"$j$ (of ${column}_j$)", ylabel=f"$i$ (of ${row}_i$)")
        ax.spines[:].set_visible(True)
    bar = fig.colorbar(
        shown, ax=axes, label=rf"$\partial {row}_i / \partial {column}_j$ (blank: exactly 0)", shrink=0.85, pad=0.02
    )
    bar.outline.set_visible(False)
    bar.minorticks_off()
    return fig


# Schemas --------------------------------------------------------------------------------------------------------------

# Okabe and Ito's green, yellow and vermillion, paled; the outline says the same without colour.
KINDS = {
    "input": {"facecolor": "#a6dccb", "edgecolor": INK, "linewidth": 0.8},
    "intermediate": {"facecolor": "#faf3a0", "edgecolor": INK, "linewidth": 0.8, "linestyle": (0, (3, 2))},
    "output": {"facecolor": "#f2b391", "edgecolor": INK, "linewidth": 2.0},
}

# A schema's panels: title, nodes (name → kind, x, y), arrows. E, D and F are the networks of the paper.
SCHEMAS = {
    "overview": [
        (
            "",
            {
                "x": ("input", 0, 1.5),
                "E": ("encoder, frozen", 1.5, 1.5),
                "z": ("intermediate", 3, 1.5),
                "D": ("decoder, frozen", 4.5, 1.5),
                r"\tilde{x}": ("output", 6, 1.5),
                "y": ("input", 1.5, 0),
                "F": ("flow plugin", 3, 0),
                "u": ("intermediate", 4.5, 0),
            },
            r"x→E E→z z→D D→\tilde{x} z↔F F↔u y→F",
        )
    ],
    "training": [
        (
            "(a) data encoding",
            {"x": ("input", 0, 0.75), "E": ("encoder, frozen", 1.5, 0.75), "z": ("output", 3, 0.75)},
            "x→E E→z",
        ),
        (
            "(b) flow training",
            {"z": ("input", 0, 1.5), "y": ("input", 0, 0), "F": ("flow, trained", 1.5, 0.75), "u": ("output", 3, 0.75)},
            "z→F y→F F→u",
        ),
    ],
    "generation": [
        (
            "",
            {
                "u": ("input", 0, 1.5),
                "y": ("input", 0, 0),
                "F": ("flow", 1.5, 0.75),
                "z": ("intermediate", 3, 0.75),
                "D": ("decoder, frozen", 4.5, 0.75),
                "x": ("output", 6, 0.75),
            },
            "u→F y→F F→z z→D D→x",
        )
    ],
    "editing": [
        (
            "(a) encoding with the attributes as they are",
            {
                "x": ("input", 0, 1.5),
                "E": ("encoder, frozen", 1.35, 1.5),
                "z": ("intermediate", 2.7, 1.5),
                "y": ("input", 2.7, 0),
                "F": ("flow", 4.05, 0.75),
                "u": ("output", 5.4, 0.75),
            },
            "x→E E→z z→F y→F F→u",
        ),
        (
            "(b) decoding with the attributes changed",
            {
                "u": ("input", 0, 1.5),
                "y'": ("input", 0, 0),
                "F": ("flow", 1.35, 0.75),
                "z'": ("intermediate", 2.7, 0.75),
                "D": ("decoder, frozen", 4.05, 0.75),
                "x'": ("output", 5.4, 0.75),
            },
            "u→F y'→F F→z' z'→D D→x'",
        ),
    ],
    "classification": [
        (
            "",
            {
                "x": ("input", 0, 1.5),
                "E": ("encoder, frozen", 1.5, 1.5),
                "z": ("intermediate", 3, 1.5),
                "Y": ("input", 3, 0),
                "F": ("flow", 4.5, 0.75),
                "p(z|y)": ("intermediate", 6, 0.75),
                r"\hat{y}": ("output", 7.5, 0.75),
            },
            r"x→E E→z z→F Y→F F→p(z|y) p(z|y)→\hat{y}",
        )
    ],
}


@_styled
def schema(name: str) -> Figure:
    """The paper's diagrams drawn anew: "overview" (Figure 3), "training" (4), "generation" (5), "editing" (6), and
    "classification" (section 3.4). Green, thin outline: input; yellow, dashed: intermediate; red, thick: output."""
    if name not in SCHEMAS:
        raise checks.unknown("schema", name, SCHEMAS)
    panels = SCHEMAS[name]
    spans = [max(x for _, x, _ in nodes.values()) + 1.3 for _, nodes, _ in panels]
    fig, axes = _figure(0.72 * sum(spans), 2.4, 1, len(panels), width_ratios=spans)
    for ax, (title, nodes, arrows), span in zip(axes[0], panels, spans):
        for label, node in nodes.items():
            _draw_node(ax, label, *node)
        for start, way, end in (re.split("([→↔])", arrow) for arrow in arrows.split()):
            ends = _between(nodes[start][1:], nodes[end][1:])
            shape = "-|>" if way == "→" else "<|-|>"
            ax.add_patch(
                FancyArrowPatch(
                    *ends, arrowstyle=shape, mutation_scale=9, shrinkA=0, shrinkB=0, color=MUTED, linewidth=1
                )
            )
        ax.set(title=title, xlim=(-0.65, span - 0.65), ylim=(-0.75, 2.2), aspect="equal")
        ax.axis("off")
    fig.legend(handles=[Patch(label=kind, **look) for kind, look in KINDS.items()], loc="outside lower center", ncols=3)
    return fig


# Helpers --------------------------------------------------------------------------------------------------------------


def _figure(
    width: float, height: float, rows: int = 1, columns: int = 1, *, width_ratios=None, height_ratios=None, **shared
):
    """A figure and its axes (rows, columns), closed for pyplot: it's shown where it's returned, once, and not kept."""
    ratios = {"width_ratios": width_ratios, "height_ratios": height_ratios}
    fig, axes = plt.subplots(
        rows, columns, figsize=(width, height), layout="constrained", squeeze=False, **ratios, **shared
    )
    plt.close(fig)
    return fig, axes


def _array(values, name: str, *shape: int | str, finite: bool = True) -> np.ndarray:
    """``values`` as an array of that shape (a str is any length), finite; otherwise a ValueError of one line."""
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    if len(shape) != array.ndim or any(isinstance(want, int) and want != got for want, got in zip(shape, array.shape)):
        expected = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
        raise ValueError(f"{name} must have shape ({expected}), got {array.shape}")
    if not array.size:
        raise ValueError(f"{name} must not be empty, got shape {array.shape}")
    if np.isnan(array).any() or (finite and not np.isfinite(array).all()):
        bad = int((~np.isfinite(array)).sum())
        raise ValueError(f"{name} has {bad:,} NaN or infinite entries of {array.size:,}; expected finite numbers")
    return array


def _square(matrix, name: str) -> np.ndarray:
    matrix = _array(matrix, name, "K", "K")
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{name} must be square, got {matrix.shape}")
    return matrix


def _confusion(matrix) -> np.ndarray:
    matrix = _square(matrix, "the confusion matrix").astype(float)
    empty = np.flatnonzero(matrix.sum(1) == 0)
    if len(empty):
        raise ValueError(f"the confusion matrix has no samples of class {empty[0]}")
    return matrix


def _labelled(points, labels) -> tuple[np.ndarray, np.ndarray]:
    points = _array(points, "points", "n", 2)
    return points, _array(labels, "labels", len(points)).astype(int)


def _names(names: Sequence | None, count: int) -> list[str]:
    if names is None:
        return [str(k) for k in range(count)]
    if len(names) != count:
        raise ValueError(f"class_names must name {count} classes, got {len(names)}")
    return [str(name) for name in names]


def _rows_of_images(images, columns: int) -> np.ndarray:
    """Images (rows, columns, channels, h, w); a flat list is laid out in rows and filled up with white (zeros)."""
    array = images.detach().cpu().numpy() if isinstance(images, torch.Tensor) else np.asarray(images)
    if array.ndim == 4:
        array = _array(array, "images", "n", "channels", "h", "w")
        columns = min(checks.positive("columns", columns), len(array))
        blanks = np.zeros((-len(array) % columns, *array.shape[1:]), array.dtype)
        array = np.concatenate([array, blanks]).reshape(-1, columns, *array.shape[1:])
    elif array.ndim != 5:
        raise ValueError(
            f"images must have shape (n, channels, h, w) or (rows, columns, channels, h, w), got {array.shape}"
        )
    array = _array(array, "images", "rows", "columns", "channels", "h", "w")
    if array.shape[2] not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels, got {array.shape[2]}")
    if array.min() < -1e-3 or array.max() > 1 + 1e-3:
        raise ValueError(f"images must lie in [0, 1], got [{array.min():.3g}, {array.max():.3g}]")
    return array


def _picture(image: np.ndarray) -> np.ndarray:
    """(channels, h, w) → what imshow wants."""
    return image[0] if len(image) == 1 else image.transpose(1, 2, 0)


def _draw_grid(
    ax: Axes, images, row_labels=None, column_labels=None, title=None, row_title=None, framed=(), cmap="gray_r"
) -> None:
    """All images as one picture, a thin line between them: fast, and sharp at any size."""
    rows, cols, channels, height, width = images.shape
    line = max(1, round(height / 28))
    canvas = np.full((rows * (height + line) - line, cols * (width + line) - line, channels), np.nan)
    for i, j in np.ndindex(rows, cols):
        canvas[i * (height + line) :][:height, j * (width + line) :][:, :width] = images[i, j].transpose(1, 2, 0)
    if channels == 1:
        colors = mpl.colormaps[cmap].with_extremes(bad="0.85")
        ax.imshow(np.ma.masked_invalid(canvas[..., 0]), cmap=colors, vmin=0, vmax=1, interpolation="nearest")
    else:
        ax.imshow(np.nan_to_num(canvas.clip(0, 1), nan=1.0), interpolation="nearest")
    for axis, labels, count, step, name in (
        (ax.yaxis, row_labels, rows, height, "row"),
        (ax.xaxis, column_labels, cols, width, "column"),
    ):
        if labels is not None and len(labels) != count:
            raise ValueError(f"{name}_labels must name {count} {name}s, got {len(labels)}")
        axis.set_ticks([k * (step + line) + (step - 1) / 2 for k in range(count)] if labels is not None else [])
        if labels is not None:
            axis.set_ticklabels([str(label) for label in labels])
            for text in axis.get_ticklabels() if name == "column" else ():
                if len(text.get_text()) > 4:
                    text.set(rotation=40, ha="left", rotation_mode="anchor")
    for i, j in framed:
        corner = (j * (width + line) - 0.5, i * (height + line) - 0.5)
        ax.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=COLORS[1], linewidth=1.5))
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(title or "")
    ax.set_ylabel(row_title or "")


def _losses(name: str, rows: Sequence[Mapping]) -> list[np.ndarray]:
    """The columns epoch, train and validation of a history."""
    columns = ("epoch", "train", "validation")
    if not rows or (missing := [column for column in columns if column not in rows[0]]):
        lack = f"it lacks {', '.join(missing)}" if rows else "it is empty"
        raise ValueError(f"history '{name}' must have rows with epoch, train and validation; {lack}")
    return [_array([row[column] for row in rows], f"history '{name}', {column},", "n") for column in columns]


def _clip_top(ax: Axes) -> None:
    """Keep a few huge first losses from flattening the rest of the curves."""
    losses = np.concatenate([line.get_ydata() for line in ax.lines])
    low, high = losses.min(), np.quantile(losses, 0.97)
    if losses.max() - low > 2.5 * (high - low) > 0:
        ax.set_ylim(low - 0.08 * (high - low), high + 0.25 * (high - low))


def _percent(probability: float) -> str:
    return f"{100 * probability:.0f} %" if probability < 0.995 else "> 99 %"


def _draw_node(ax: Axes, label: str, kind: str, x: float, y: float) -> None:
    """A variable, rounded and bold; or a network with its kind written below, the autoencoder's halves as trapezia."""
    network = {"facecolor": "#dfe6f0", "edgecolor": INK, "linewidth": 0.8}
    if kind in KINDS:
        ax.add_patch(
            FancyBboxPatch((x - 0.3, y - 0.3), 0.6, 0.6, boxstyle="round,pad=0.1,rounding_size=0.35", **KINDS[kind])
        )
        ax.text(
            x,
            y,
            rf"$\mathbf{{{label}}}$",
            ha="center",
            va="center",
            fontsize=12 if len(label) < 3 or "{" in label else 9,
        )
        return
    if kind.startswith("flow"):
        ax.add_patch(FancyBboxPatch((x - 0.33, y - 0.33), 0.66, 0.66, boxstyle="round,pad=0.08", **network))
    else:
        wide, narrow = (0.55, 0.3) if kind.startswith("encoder") else (0.3, 0.55)
        corners = [(x - 0.4, y - wide), (x + 0.4, y - narrow), (x + 0.4, y + narrow), (x - 0.4, y + wide)]
        ax.add_patch(Polygon(corners, closed=True, **network))
    ax.text(x, y, rf"$\mathcal{{{label}}}$", ha="center", va="center", fontsize=12)
    ax.text(x, y - 0.66, kind, ha="center", va="center", fontsize=7, color=MUTED)


def _between(start: tuple[float, float], end: tuple[float, float], margin: float = 0.47) -> tuple:
    """The arrow's ends: the line between two nodes, less a margin at both."""
    a, b = np.array(start), np.array(end)
    step = (b - a) / np.linalg.norm(b - a) * margin
    return tuple(a + step), tuple(b - step)
