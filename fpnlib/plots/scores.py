"""Losses, confusions, accuracies and costs (Table 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator

from fpnlib import checks
from fpnlib.plots.look import (
    COLORS,
    FAINT,
    INK,
    MARKERS,
    MUTED,
    checked,
    names_of,
    new_figure,
    square,
    styled,
)

HATCHES = ("", "////", "....", "xxxx")


@styled
def training_curves(
    histories: Mapping[str, Sequence[Mapping]],
    ylabel: str | Mapping[str, str],
    *,
    title: str | None = None,
) -> Figure:
    """Training (dashed) and validation (solid) loss against the epoch, the best epoch marked with its value.

    Args:
        histories: name → rows with "epoch", "train" and "validation", as ``training.History.epochs`` has them.
        ylabel: the loss and its unit; a mapping name → label draws each history in a panel of its own.
    """
    if not histories:
        raise ValueError("histories must hold at least one training history, got none")
    apart = not isinstance(ylabel, str)
    columns = 1 if not apart else 2 if len(histories) == 4 else min(3, len(histories))
    rows_of_panels = -(-len(histories) // columns) if apart else 1
    fig, axes = new_figure(
        3.6 * columns if apart else 5.2, 3.1 * rows_of_panels, rows_of_panels, columns
    )
    panels = axes.flatten()
    for ax in panels[len(histories) if apart else 1 :]:
        ax.remove()
    panels = panels[: len(histories) if apart else 1]
    dashes = {"linestyle": (0, (4, 2)), "linewidth": 1}
    kinds = [
        Line2D([], [], color=MUTED, label="training", **dashes),
        Line2D([], [], color=MUTED, label="validation"),
    ]
    keys = {ax: list(kinds) for ax in panels}
    for i, (name, rows) in enumerate(histories.items()):
        ax = panels[i if apart else 0]
        epoch, train, validation = _losses(name, rows)
        best = int(validation.argmin())
        look = {
            "color": COLORS[i % len(COLORS)],
            "marker": MARKERS[i % len(MARKERS)],
            "markeredgecolor": INK,
        }
        ax.plot(epoch, train, color=look["color"], **dashes)
        ax.plot(epoch, validation, color=look["color"])
        ax.plot(epoch[best], validation[best], **look)
        text = f"{'' if apart else name + ', '}best: {validation[best]:.4g} (epoch {epoch[best]:g})"
        keys[ax].append(Line2D([], [], label=text, **look))
        ax.set(
            xlabel="epoch",
            ylabel=ylabel[name] if apart else ylabel,
            title=name if apart else title or "",
        )
    for ax in panels:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        _clip_top(ax)
        ax.legend(handles=keys[ax])
    if apart and title:
        fig.suptitle(title)
    return fig


@styled
def latent_spread(mean, std) -> Figure:
    """How the variance of each latent dimension splits into what tells images apart and what is noise of the posterior.

    Args:
        mean, std: (n, D) the posteriors' means and standard deviations. Dimensions are sorted by the means' variance.
    """
    mean = checked(mean, "mean", "n", "D")
    std = checked(std, "std", *mean.shape)
    between, within = mean.var(0), np.square(std).mean(0)
    order = np.argsort(-between)
    fig, axes = new_figure(6.2, 2.9)
    ax, place = axes[0, 0], np.arange(1, len(order) + 1)
    ax.bar(place, between[order], color=COLORS[0], label="variance of the means")
    noise = {"color": COLORS[1], "hatch": "////", "edgecolor": "white", "linewidth": 0}
    ax.bar(
        place,
        within[order],
        bottom=between[order],
        label="mean variance of the posteriors",
        **noise,
    )
    ax.axhline(1, color=INK, linewidth=0.8, linestyle=(0, (4, 2)), label="variance of the prior")
    ax.set(xlabel="latent dimension, sorted", ylabel="variance", xlim=(0, len(order) + 1))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    fig.legend(loc="outside upper center", ncols=3)
    return fig


@styled
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
    names = names_of(class_names, classes)
    percent = 100 * matrix / matrix.sum(1, keepdims=True)
    off = np.ma.masked_array(percent, np.eye(classes, dtype=bool))
    top = max(float(off.max()) if classes > 1 else 0, 0.5)
    fig, axes = new_figure(0.43 * classes + 1.5, 0.4 * classes + 0.9)
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
    fig.colorbar(
        shown, ax=ax, label="confused, % of the row", shrink=0.8, pad=0.02
    ).outline.set_visible(False)
    return fig


@styled
def confusions(
    matrices: Mapping[str, object],
    class_names: Sequence | None = None,
    *,
    first: Sequence[tuple[int, int]] = (),
    top: int = 8,
    title: str | None = None,
) -> Figure:
    """The most frequent confusions, in percent of the true or requested class, one bar a model.

    Args:
        matrices: model → confusion matrix (K, K) as for :func:`confusion`.
        first: pairs (class, taken for) to show before those, however rare, marked with a star.
        top: how many pairs to show, the others ordered by their sum over the models.
    """
    rates = {
        name: (m := _confusion(matrix)) / m.sum(1, keepdims=True)
        for name, matrix in matrices.items()
    }
    classes = len(next(iter(rates.values())))
    names = names_of(class_names, classes)
    total = sum(rates.values()) * (1 - np.eye(classes))
    order = [divmod(int(flat), classes) for flat in np.argsort(-total, axis=None, kind="stable")]
    others = [(i, j) for i, j in order if i != j and (i, j) not in first]
    pairs = [*first, *others][: checks.positive("top", top)]
    labels = {
        (i, j): f"{names[i]} → {names[j]}" + ("*" if (i, j) in first else "") for i, j in pairs
    }
    rows = [
        (labels[i, j], name, 100 * rate[i, j]) for i, j in pairs for name, rate in rates.items()
    ]
    table = pd.DataFrame(rows, columns=["pair", "model", "percent"])
    fig, axes = new_figure(4.6, 0.3 * len(pairs) * max(1, 0.45 * len(rates)) + 0.9)
    ax = axes[0, 0]
    palette = COLORS[: len(rates)]
    sns.barplot(
        table,
        y="pair",
        x="percent",
        hue="model",
        palette=palette,
        ax=ax,
        errorbar=None,
        saturation=1,
    )
    ax.set(xlabel="% of the first class taken for the second", ylabel="", title=title or "")
    handles, labels = ax.get_legend_handles_labels()
    for i, bars in enumerate(ax.containers):
        for bar in (*bars, handles[i]):
            bar.set(hatch=HATCHES[i % len(HATCHES)], edgecolor="white", linewidth=0.5)
    ax.get_legend().remove()
    fig.legend(handles, labels, loc="outside upper center", ncols=2)
    return fig


@styled
def accuracies(
    table: pd.DataFrame,
    *,
    label: str = "model",
    xlabel: str = "test accuracy",
    title: str | None = None,
) -> Figure:
    """Scores of each model as dots on a line, ours beside the paper's: Tables 1 and 2 at a glance, values written.

    Args:
        table: one row a model, in the order drawn; the column ``label`` names it and every other numeric column
            ("paper", "ours", …) is a series of dots, white for the paper's. NaN: not reported, no dot.
    """
    if label not in table:
        raise ValueError(
            f"the table needs a column '{label}' with the models' names; it has {', '.join(map(str, table.columns))}"
        )
    series = [
        column
        for column in table.columns
        if column != label and pd.api.types.is_numeric_dtype(table[column])
    ]
    if not series:
        raise ValueError("the table needs at least one numeric column of scores, got none")
    papers = [column for column in series if column.startswith("paper")]
    rows = np.arange(len(table))[::-1]
    fig, axes = new_figure(
        5 + 0.085 * max(7, *map(len, series)) * len(series), 0.38 * len(table) + 1.0
    )
    ax = axes[0, 0]
    beside = ax.get_yaxis_transform()
    gap = 5.2 * max(7, *map(len, series)) + 6  # points from one written column to the next
    ax.hlines(rows, 0, 1, transform=beside, color=FAINT, linewidth=0.8, zorder=0)
    for i, column in enumerate(series):
        color = "white" if column in papers else COLORS[(i - len(papers)) % len(COLORS)]
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
        for row, value in zip([*rows, len(table) - 0.5], [*values, column]):
            text = value if value is column else f"{value:.4f}" if np.isfinite(value) else "–"
            where = {
                "xy": (1, row),
                "xycoords": beside,
                "xytext": (14 + gap * i, 0),
                "textcoords": "offset points",
            }
            ax.annotate(
                text,
                **where,
                va="center",
                fontsize=8,
                fontweight="bold" if value is column else "normal",
            )
    ax.set_yticks(rows, table[label])
    ax.set(xlabel=xlabel, title=title or "", ylim=(-0.6, len(table) - 0.3))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    fig.legend(loc="outside lower center", ncols=len(series))
    return fig


@styled
def costs(
    table: pd.DataFrame,
    *,
    x: str = "D",
    y: str = "seconds",
    hue: str = "implementation",
    panel: str = "flow",
    ylabel: str | None = None,
    reference: str | None = None,
) -> Figure:
    """Time against dimension on logarithmic axes: a panel a flow, a line an implementation (nflows beside ours).

    Args:
        table: tidy, one measurement a row, with the columns ``x``, ``y`` (seconds), ``hue`` and, if there are several
            flows, ``panel``.
        ylabel: what was timed; None: the name ``y``.
        reference: the one of ``hue`` to set the others against, dashed.
    """
    if missing := [column for column in (x, y, hue) if column not in table]:
        raise ValueError(
            f"the table lacks {', '.join(missing)}; it has {', '.join(map(str, table.columns))}"
        )
    groups = dict(list(table.groupby(panel, sort=False))) if panel in table else {"": table}
    fig, axes = new_figure(3.2 * len(groups) + 0.4, 2.8, 1, len(groups), sharey=True)
    for ax, (name, group) in zip(axes[0], groups.items()):
        for i, (which, line) in enumerate(group.groupby(hue, sort=False)):
            line = line.groupby(x)[y].median()
            look = {
                "marker": MARKERS[i % len(MARKERS)],
                "markersize": 5,
                "markeredgecolor": "white",
            }
            if which == reference:
                look = {"color": MUTED, "linestyle": (0, (4, 2))}
            ax.plot(line.index, line, label=which, **look)
        ax.set(xscale="log", yscale="log", xlabel="dimension D" if x == "D" else x, title=name)
        ticks = sorted(group[x].unique())
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.set_xticks([], minor=True)
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(EngFormatter(unit="s"))
        ax.yaxis.set_minor_locator(LogLocator(subs=()))
        ax.grid(axis="y", color=FAINT, linewidth=0.6)
    axes[0, 0].legend()
    axes[0, 0].set_ylabel(ylabel or y)
    return fig


@styled
def trade_off(
    table: pd.DataFrame, *, x: str, y: str, hue: str, along: str, mark: float | None = None
) -> Figure:
    """One score against another as a dial is turned: a line for each ``hue``, its points larger the farther it is turned.

    Args:
        table: a row a point, with the numeric columns ``x``, ``y`` (they name the axes) and ``along`` (the dial), and the
            names ``hue``.
        mark: the dial's value whose points get a dark edge, e.g. that of the other scores.
    """
    for column in (x, y, hue, along):
        if column not in table:
            raise checks.unknown("column", column, table.columns)
    fig, axes = new_figure(6.4, 3.6)
    ax, keys = axes[0, 0], []
    turns = sorted(table[along].unique())
    sizes = dict(zip(turns, np.linspace(4, 8, len(turns))))
    for i, (name, rows) in enumerate(table.groupby(hue, sort=False)):
        rows = rows.sort_values(along)
        points = checked(rows[[x, y]].to_numpy(float), f"{x} and {y}", "n", 2)
        look = {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)]}
        ax.plot(*points.T, color=look["color"])
        for point, turn in zip(points, rows[along]):
            ax.plot(
                *point,
                **look,
                markersize=sizes[turn],
                markeredgecolor=INK if turn == mark else "white",
            )
        keys.append(Line2D([], [], label=name, markeredgecolor="white", **look))
    keys.append(Line2D([], [], linestyle="", label=f"\n{along}"))
    for turn in turns if len(turns) <= 4 else sorted({turns[0], turns[-1], mark} - {None}):
        edge = INK if turn == mark else "white"
        dot = {
            "marker": "o",
            "markersize": sizes.get(turn, 5),
            "markeredgecolor": edge,
            "color": MUTED,
        }
        keys.append(Line2D([], [], linestyle="", label=f"{turn:g}", **dot))
    ax.set(xlabel=x, ylabel=y)
    fig.legend(handles=keys, title=hue, loc="outside right upper")
    return fig


def _losses(name: str, rows: Sequence[Mapping]) -> list[np.ndarray]:
    """The columns epoch, train and validation of a history."""
    columns = ("epoch", "train", "validation")
    if not rows or (missing := [column for column in columns if column not in rows[0]]):
        lack = f"it lacks {', '.join(missing)}" if rows else "it is empty"
        raise ValueError(
            f"history '{name}' must have rows with epoch, train and validation; {lack}"
        )
    return [
        checked([row[column] for row in rows], f"history '{name}', {column},", "n")
        for column in columns
    ]


def _clip_top(ax: Axes) -> None:
    """Keep a few huge first losses from flattening the rest of the curves."""
    losses = np.concatenate([line.get_ydata() for line in ax.lines])
    low, high = losses.min(), np.quantile(losses, 0.97)
    if losses.max() - low > 2.5 * (high - low) > 0:
        ax.set_ylim(low - 0.08 * (high - low), high + 0.25 * (high - low))


def _confusion(matrix) -> np.ndarray:
    matrix = square(matrix, "the confusion matrix").astype(float)
    empty = np.flatnonzero(matrix.sum(1) == 0)
    if len(empty):
        raise ValueError(f"the confusion matrix has no samples of class {empty[0]}")
    return matrix
