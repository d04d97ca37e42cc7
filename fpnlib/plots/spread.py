"""How a score scatters over the seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fpnlib.plots.look import COLORS, FAINT, INK, MUTED, checked, new_figure, styled


@styled
def spread(table: pd.DataFrame, *, across: Sequence[str] = (), title: str | None = None) -> Figure:
    """Each run's value as a dot, their mean ± standard deviation (n − 1) as a bar, the paper's value as a diamond.

    A panel for each measure, the text of "quantity" before its first comma, those that the paper has first; a row for what
    comes after it.

    Args:
        table: a row a number of a run, with the columns "quantity" (text), "value" and "paper" (NaN: not reported).
        across: columns whose values get rows of their own, e.g. ("flow_width",).
    """
    if missing := [
        column for column in ("quantity", "value", "paper", *across) if column not in table
    ]:
        raise ValueError(
            f"the table lacks {', '.join(missing)}; it has {', '.join(map(str, table.columns))}"
        )
    checked(table["value"].to_numpy(float), "value", "n")
    parts = table["quantity"].str.partition(", ")
    labels = parts[2].where(parts[2] != "", parts[0])
    for name in across:
        labels = labels + ", " + name + " " + table[name].astype(str)
    measures = list(table.assign(label=labels).groupby(parts[0], sort=False))
    measures.sort(key=lambda measure: measure[1]["paper"].isna().all())
    panels = {measure: list(group.groupby("label", sort=False)) for measure, group in measures}
    sizes = [len(rows) + 1.2 for rows in panels.values()]
    fig, axes = new_figure(7.2, 0.27 * sum(sizes) + 0.5, len(panels), 1, height_ratios=sizes)
    for ax, (measure, rows) in zip(axes[:, 0], panels.items()):
        for place, (_, group) in enumerate(rows):
            values, paper = group["value"].to_numpy(float), group["paper"].to_numpy(float)[0]
            mean, deviation = values.mean(), values.std(ddof=1) if len(values) > 1 else 0
            ax.axhline(place, color=FAINT, linewidth=0.8, zorder=0)
            ax.errorbar(
                mean, place, xerr=deviation, fmt="|", color=INK, capsize=3, markersize=9, zorder=3
            )
            ax.plot(
                values,
                np.full(len(values), place),
                "o",
                color=COLORS[0],
                alpha=0.6,
                markeredgewidth=0,
                zorder=2,
            )
            if np.isfinite(paper):
                ax.plot(
                    paper,
                    place,
                    "D",
                    markerfacecolor="white",
                    markeredgecolor=INK,
                    markersize=6,
                    zorder=4,
                )
            beside = {
                "xycoords": ax.get_yaxis_transform(),
                "xytext": (8, 0),
                "textcoords": "offset points",
            }
            ax.annotate(
                f"{mean:.4f} ± {deviation:.4f}",
                (1, place),
                va="center",
                fontsize=8,
                color=MUTED,
                **beside,
            )
        ax.set_yticks(range(len(rows)), [label for label, _ in rows])
        ax.set(xlabel=measure, ylim=(len(rows) - 0.4, -0.6))
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
    keys = [
        Line2D([], [], linestyle="", marker="o", color=COLORS[0], alpha=0.6, label="one run"),
        Line2D([], [], color=INK, marker="|", markersize=9, label="mean ± standard deviation"),
    ]
    if table["paper"].notna().any():
        keys.append(
            Line2D(
                [], [], linestyle="", marker="D", markerfacecolor="white", color=INK, label="paper"
            )
        )
    fig.legend(handles=keys, loc="outside upper center", ncols=3)
    if title:
        fig.suptitle(title)
    return fig
