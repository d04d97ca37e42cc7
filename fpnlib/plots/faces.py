"""Faces in rows, as in Figure 14, and how well their attributes are edited."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fpnlib import checks
from fpnlib.plots.look import COLORS, FAINT, MARKERS, MUTED, checked, new_figure, styled

CELL, DPI = 0.82, 100  # inches a face; pixels an inch: enough for faces of 64, which take megabytes


@styled
def face_grid(
    faces,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    title: str | None = None,
    *,
    framed: Iterable[tuple[int, int]] = (),
) -> Figure:
    """Faces in rows and columns, in colour: Figure 14 (original, reconstruction, edits), or an attribute as it grows.

    Args:
        faces: (rows, columns, 3, size, size) in [0, 1].
        row_labels, column_labels: one a row on the left; one a column on top.
        framed: (row, column) of faces to frame.

    Raises:
        ValueError: another shape, NaN, or labels of another number.
    """
    faces = checked(faces, "faces", "rows", "columns", 3, "size", "size")
    rows, columns = faces.shape[:2]
    for name, labels, count in (("row", row_labels, rows), ("column", column_labels, columns)):
        if labels is not None and len(labels) != count:
            raise ValueError(f"{name}_labels must name {count} {name}s, got {len(labels)}")
    widest = max((len(label) for label in row_labels or ()), default=0)
    column_labels = None if column_labels is None else [_wrapped(label) for label in column_labels]
    lines = max((1 + label.count("\n") for label in column_labels or ()), default=0)
    above = 0.3 * bool(title) + 0.16 * lines + 0.1
    fig, axes = new_figure(
        CELL * columns + 0.075 * widest + 0.1, CELL * rows + above, rows, columns
    )
    fig.set_dpi(DPI)
    fig.get_layout_engine().set(w_pad=0.04, h_pad=0.04, wspace=0.0, hspace=0.0)
    for (i, j), ax in np.ndenumerate(axes):
        ax.imshow(faces[i, j].transpose(1, 2, 0).clip(0, 1), interpolation="lanczos")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        if i == 0 and column_labels is not None:
            ax.set_title(column_labels[j], fontsize=7.5)
        if j == 0 and row_labels is not None:
            ax.set_ylabel(row_labels[i], rotation=0, ha="right", va="center", fontsize=8)
    for i, j in framed:
        frame = Rectangle(
            (0, 0),
            1,
            1,
            transform=axes[i, j].transAxes,
            fill=False,
            edgecolor=COLORS[1],
            linewidth=2,
        )
        axes[i, j].add_patch(frame)
    if title:
        fig.suptitle(title, fontsize=9.5)
    return fig


@styled
def attribute_scores(
    table: pd.DataFrame,
    panels: Mapping[str, str],
    *,
    hue: str = "editor",
    label: str = "attribute",
    floor: str | None = None,
) -> Figure:
    """Scores per attribute, a panel for each score and a marker for each editor.

    A panel begins at zero where its scores reach down to a half, else a little below the lowest.

    Args:
        table: a row for each editor and attribute.
        panels: column of scores in [0, 1] → its axis label.
        hue, label: the columns that name the editor and the attribute.
        floor: the editor that others are to be seen above, in grey, where that is not left of a panel or at nothing.

    Raises:
        ValueError: a missing column, or an empty table.
    """
    for column in (hue, label, *panels):
        if column not in table:
            raise checks.unknown("column", column, table.columns)
    if table.empty:
        raise ValueError("table must have rows, got none")
    names = list(dict.fromkeys(table[label]))
    fig, axes = new_figure(
        3.4 * len(panels) + 1.2, 0.19 * len(names) + 0.9, 1, len(panels), sharey=True
    )
    floors, others = table[table[hue] == floor], table[table[hue] != floor]
    for ax, (column, title) in zip(axes[0], panels.items()):
        lowest, highest = others[column].min(), others[column].max()
        low = np.floor(10 * lowest - 0.5) / 10 if lowest > 0.5 else 0.0
        high = 1.0 if highest > 0.5 else max(1.05 * highest, 0.01)
        for k, (editor, rows) in enumerate(others.groupby(hue, sort=False)):
            at = [names.index(name) + 0.16 * (k - 1) for name in rows[label]]
            ax.plot(
                rows[column],
                at,
                MARKERS[k],
                color=COLORS[k],
                markersize=4.5,
                label=editor,
                clip_on=False,
            )
        if (floors[column] > low).any():
            ax.plot(
                floors[column],
                [names.index(name) for name in floors[label]],
                "|",
                color=MUTED,
                label=floor,
            )
        ax.set(xlabel=title, ylim=(len(names) - 0.4, -0.6), xlim=(low, high))
        ax.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
        ax.grid(axis="y", color=FAINT)
        ax.tick_params(axis="y", length=0)
    axes[0, 0].spines["left"].set_color(MUTED)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return fig


def _wrapped(label: str) -> str:
    """An edit such as "+Wearing_Lipstick -Smiling" on lines that fit a face."""
    return "\n".join(
        word.replace("_", " ") if len(word) < 14 else word.replace("_", "\n")
        for word in label.split(" ")
    )
