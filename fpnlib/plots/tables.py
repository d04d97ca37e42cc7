"""Tables at a glance: accuracies, scores of edits, costs, trade-offs and the spread over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator

from fpnlib.plots.given import checked, need_columns, need_entries
from fpnlib.plots.look import COLORS, DASHED, FAINT, INK, MARKERS, MUTED, key, new_figure, style

RUN: dict[str, Any] = {"marker": "o", "color": COLORS[0], "alpha": 0.6, "markeredgewidth": 0}
PAPER: dict[str, Any] = {"marker": "D", "color": "white", "markeredgecolor": INK, "markersize": 6}


@style()
def accuracies(table: pd.DataFrame) -> Figure:
    """Scores of each model as dots on a line, with their values: Tables 1 and 2 at a glance.

    Args:
        table: one row a model, in the order drawn, with its name in "model". Every numeric column
            ("paper", "ours", …) is a series of dots, white for the paper's. NaN: not reported, no
            dot.

    >>> table = pd.DataFrame({"model": ["SVM", "FPN"], "paper": [0.96, 0.97], "ours": [0.95, 0.96]})
    >>> len(accuracies(table).axes[0].lines)
    2
    """
    need_columns(table, "model")
    series = list(table.drop(columns="model").select_dtypes("number").columns)
    if not series:
        raise ValueError("the table needs at least one numeric column of scores, got none")
    papers = [column for column in series if column.startswith("paper")]
    widest = max(7, *map(len, series))
    rows = np.arange(len(table))[::-1]
    fig, axes = new_figure(5 + 0.085 * widest * len(series), 0.38 * len(table) + 1.0)
    ax = axes[0, 0]
    ax.hlines(rows, 0, 1, transform=ax.get_yaxis_transform(), color=FAINT, linewidth=0.8, zorder=0)
    for i, column in enumerate(series):
        color = "white" if column in papers else COLORS[(i - len(papers)) % len(COLORS)]
        values = table[column].to_numpy(float)
        apart = 0.13 * ((len(series) - 1) / 2 - i)
        marker = {"marker": MARKERS[i % len(MARKERS)], "markersize": 6, "markeredgecolor": INK}
        ax.plot(values, rows + apart, linestyle="", color=color, label=column, **marker)
        offset = 14 + (5.2 * widest + 6) * i  # points from the axes to this written column
        _write_beside(ax, len(table) - 0.5, column, offset, fontweight="bold")
        for row, value in zip(rows, values):
            _write_beside(ax, row, f"{value:.4f}" if np.isfinite(value) else "–", offset)
    ax.set_yticks(rows, table["model"])
    ax.set(xlabel="test accuracy", ylim=(-0.6, len(table) - 0.3))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    fig.legend(loc="outside lower center", ncols=len(series))
    return fig


@style()
def attribute_scores(
    table: pd.DataFrame, panels: Mapping[str, str], *, floor: str | None = None
) -> Figure:
    """Scores per attribute, a panel for each score and a marker for each editor.

    A panel begins at zero if a score is below a half, else a little below the lowest.

    Args:
        table: a row for each "editor" and "attribute".
        panels: column of scores in [0, 1] → its axis label.
        floor: an editor to compare others with, drawn in grey unless it is left of a panel.

    Raises:
        ValueError: a missing column.
    """
    need_entries(panels, "panels")
    need_columns(table, "editor", "attribute", *panels)
    places, names = pd.factorize(table["attribute"])
    table = table.assign(place=places)
    size = 3.4 * len(panels) + 1.2, 0.19 * len(names) + 0.9
    fig, axes = new_figure(*size, 1, len(panels), sharey=True)
    is_floor = table["editor"] == floor
    floors, others = table[is_floor], table[~is_floor]
    for ax, (column, title) in zip(axes[0], panels.items()):
        lowest, highest = others[column].min(), others[column].max()
        low = np.floor(10 * lowest - 0.5) / 10 if lowest > 0.5 else 0.0
        high = 1.0 if highest > 0.5 else max(1.05 * highest, 0.01)
        for k, (editor, rows) in enumerate(others.groupby("editor", sort=False)):
            at = rows["place"] + 0.16 * (k - 1)
            look = {"color": COLORS[k % len(COLORS)], "markersize": 4.5, "clip_on": False}
            ax.plot(rows[column], at, MARKERS[k % len(MARKERS)], label=editor, **look)
        if (floors[column] > low).any():
            ax.plot(floors[column], floors["place"], "|", color=MUTED, label=floor)
        ax.set(xlabel=title, ylim=(len(names) - 0.4, -0.6), xlim=(low, high))
        ax.set_yticks(range(len(names)), names.str.replace("_", " "))
        ax.grid(axis="y", color=FAINT)
        ax.tick_params(axis="y", length=0)
    axes[0, 0].spines["left"].set_color(MUTED)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return fig


@style()
def costs(table: pd.DataFrame, *, ylabel: str = "seconds", reference: str | None = None) -> Figure:
    """Time against dimension on logarithmic axes: a panel a flow, a line an implementation.

    Args:
        table: one measurement a row, with the columns "flow", "implementation", "D" and "seconds".
        ylabel: what was timed.
        reference: the implementation to set the others against, dashed.
    """
    need_columns(table, "flow", "implementation", "D", "seconds")
    groups = table.groupby("flow", sort=False)
    fig, axes = new_figure(3.2 * len(groups) + 0.4, 2.8, 1, len(groups), sharey=True)
    for ax, (name, group) in zip(axes[0], groups):
        for i, (which, rows) in enumerate(group.groupby("implementation", sort=False)):
            line = rows.groupby("D")["seconds"].median()
            look = {"marker": MARKERS[i % len(MARKERS)], "markersize": 5}
            look["markeredgecolor"] = "white"
            if which == reference:
                look = {"color": MUTED, "linestyle": DASHED}
            ax.plot(line.index, line, label=which, **look)
        ax.set(xscale="log", yscale="log", xlabel="dimension D", title=name)
        ticks = sorted(group["D"].unique())
        ax.set_xticks(ticks, map("{:g}".format, ticks))
        ax.set_xticks([], minor=True)
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(EngFormatter(unit="s"))
        ax.yaxis.set_minor_locator(LogLocator(subs=()))
        ax.grid(axis="y", color=FAINT, linewidth=0.6)
    axes[0, 0].legend()
    axes[0, 0].set_ylabel(ylabel)
    return fig


@style()
def trade_off(
    table: pd.DataFrame, *, x: str, y: str, hue: str, along: str, mark: float | None = None
) -> Figure:
    """One score against another as a dial is turned: a line for each ``hue``, growing points.

    Args:
        table: a row a point.
        x: the column of one score, which names its axis.
        y: the column of the other.
        hue: the column that names the lines.
        along: the column of the dial's values.
        mark: the value of the dial whose points get a dark edge.
    """
    need_columns(table, x, y, hue, along)
    fig, axes = new_figure(6.4, 3.6)
    ax, keys = axes[0, 0], []
    turns = sorted(table[along].unique())
    dots = {}
    for turn, size in zip(turns, np.linspace(4, 8, len(turns))):
        edge = INK if turn == mark else "white"
        dots[turn] = {"markersize": size, "markeredgecolor": edge}
    for i, (name, group) in enumerate(table.groupby(hue, sort=False)):
        rows = group.sort_values(along)
        points = checked(rows[[x, y]].to_numpy(float), f"{x} and {y}", "n", 2)
        look = {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)]}
        ax.plot(*points.T, color=look["color"])
        for point, turn in zip(points, rows[along]):
            ax.plot(*point, **look, **dots[turn])
        keys.append(key(label=name, markeredgecolor="white", linestyle="-", **look))
    keys.append(key(label=f"\n{along}"))
    ends = [turn for turn in turns if turn in (turns[0], turns[-1], mark)]
    shown = turns if len(turns) <= 4 else ends
    keys += [key(label=f"{turn:g}", marker="o", color=MUTED, **dots[turn]) for turn in shown]
    ax.set(xlabel=x, ylabel=y)
    fig.legend(handles=keys, title=hue, loc="outside right upper")
    return fig


@style()
def spread(table: pd.DataFrame, *, across: Sequence[str] = ()) -> Figure:
    """Each run's value as a dot, mean ± standard deviation (n − 1) as a bar, the paper's a diamond.

    A measure is the text of "quantity" before its first comma. It gets a panel, the measures of the
    paper first, with a row for each text after the comma.

    Args:
        table: one number of a run a row, with the columns "quantity" (text), "value" and "paper"
            (NaN: not reported).
        across: columns whose values get rows of their own, e.g. ("flow_width",).
    """
    need_columns(table, "quantity", "value", "paper", *across)
    checked(table["value"].to_numpy(float), "value", "n")
    parts = table["quantity"].str.partition(", ")
    labels = parts[2].where(parts[2] != "", parts[0])
    for name in across:
        labels = labels + ", " + name + " " + table[name].astype(str)
    measures = list(table.assign(label=labels).groupby(parts[0], sort=False))
    measures.sort(key=lambda measure: measure[1]["paper"].isna().all())
    sizes = [group["label"].nunique() + 1.2 for _, group in measures]
    fig, axes = new_figure(7.2, 0.27 * sum(sizes) + 0.5, len(measures), 1, height_ratios=sizes)
    for ax, (measure, group) in zip(axes[:, 0], measures):
        ax.set_xlabel(measure)
        _draw_spread(ax, group)
    bar = key(color=INK, linestyle="-", marker="|", markersize=9, label="mean ± standard deviation")
    keys = [key(label="one run", **RUN), bar]
    if table["paper"].notna().any():
        keys.append(key(label="paper", **PAPER))
    fig.legend(handles=keys, loc="outside upper center", ncols=3)
    return fig


def _draw_spread(ax: Axes, group: pd.DataFrame) -> None:
    """The rows of one measure."""
    rows = dict(list(group.groupby("label", sort=False)))
    for place, row in enumerate(rows.values()):
        values, paper = row["value"].to_numpy(float), row["paper"].to_numpy(float)[0]
        mean, deviation = values.mean(), values.std(ddof=1) if len(values) > 1 else 0.0
        ax.axhline(place, color=FAINT, linewidth=0.8, zorder=0)
        bar: dict[str, Any] = {"fmt": "|", "capsize": 3, "markersize": 9}
        ax.errorbar(mean, place, xerr=deviation, color=INK, zorder=3, **bar)
        ax.plot(values, np.full(len(values), place), linestyle="", zorder=2, **RUN)
        if np.isfinite(paper):
            ax.plot(paper, place, zorder=4, **PAPER)
        _write_beside(ax, place, f"{mean:.4f} ± {deviation:.4f}", 8, color=MUTED)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def _write_beside(ax: Axes, row: float, text: str, offset: float, **look: Any) -> None:
    """Write a text to the right of the axes, ``offset`` points away, at a row's height."""
    look |= {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points"}
    ax.annotate(text, (1, row), (offset, 0), va="center", fontsize=8, **look)
