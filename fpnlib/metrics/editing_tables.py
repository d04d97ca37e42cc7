"""Tables of edits: means over attributes, and editors compared at equal cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

OURS = "C-MAF (ours)"


def mean_scores(
    scores: pd.DataFrame, by: list[str], groups: Mapping[str, Iterable[str]] | None = None
) -> pd.DataFrame:
    """Means of single edits' scores for each group of rows; every attribute counts alike.

    Args:
        scores: a row for each edit, with a column ``attribute``.
        by: columns whose values make the groups of rows.
        groups: name → attributes, to average over each separately. A group with as many attributes
            as an earlier one is left out. None: over all attributes.

    Returns:
        The columns ``by`` and the scores. With ``groups`` there are also ``group`` and
        ``attributes`` (how many) in front, and ``n`` (edits) at the end.

    >>> edits = pd.DataFrame({"editor": "ours", "attribute": ["Bald", "Bald", "Young"],
    ...                       "achieved": [0.0, 1.0, 1.0]})
    >>> mean_scores(edits, ["editor"])["achieved"].tolist()
    [0.75]
    """
    if groups is None:
        each = scores.groupby([*dict.fromkeys([*by, "attribute"])], sort=False)
        means = each.mean(numeric_only=True).drop(columns=["strength"], errors="ignore")
        return means.groupby(by, sort=False).mean().reset_index()
    tables: dict[int, pd.DataFrame] = {}
    for name, attributes in groups.items():
        part = scores[scores["attribute"].isin(attributes)]
        size = part["attribute"].nunique()
        if size and size not in tables:
            counts = part.groupby(by, sort=False).size().rename("n").reset_index()
            tables[size] = mean_scores(part, by).merge(counts)
            tables[size].insert(0, "group", name)
            tables[size].insert(1, "attributes", size)
    return pd.concat(tables.values(), ignore_index=True)


def at_equal_cost(curve: pd.DataFrame, cost: str) -> pd.DataFrame:
    """Each editor's success at the cost that ours has at strength 1.

    Args:
        curve: what :func:`mean_scores` gives: columns ``editor``, ``strength`` (growing),
            ``achieved`` and ``cost``. With a column ``attribute`` each attribute has its own
            curves.
        cost: a column: "others", "moved" or "outside".

    Raises:
        ValueError: a curve without a point at strength 1.

    >>> curve = pd.DataFrame({"editor": [OURS, OURS, "b", "b"], "strength": [0, 1, 0, 1],
    ...                       "moved": [0, 0.1, 0, 0.2], "achieved": [0, 0.8, 0, 0.8]})
    >>> at_equal_cost(curve, "moved")["achieved"].tolist()
    [0.8, 0.4]
    """
    if not (curve["strength"] == 1).any():
        given = sorted(set(curve["strength"]))
        raise ValueError(f"strengths must have 1, the whole edit, got {given}")
    parts = curve.groupby("attribute", sort=False) if "attribute" in curve else [("all", curve)]
    rows = []
    for attribute, part in parts:
        whole = part[(part["editor"] == OURS) & (part["strength"] == 1)]
        level = float(whole[cost].iloc[0])
        for editor, points in part.groupby("editor", sort=False):
            success = _success_at(points[cost].to_numpy(), points["achieved"].to_numpy(), level)
            rows.append((attribute, editor, level, success))
    table = pd.DataFrame(rows, columns=["attribute", "editor", cost, "achieved"])
    return table if "attribute" in curve else table.drop(columns="attribute")


def ahead(each: pd.DataFrame, n: int) -> dict[str, list[str]]:
    """Attributes on which each other editor beats ours by more than two standard errors.

    Args:
        each: what :func:`at_equal_cost` gives for each attribute.
        n: edits behind each share.
    """
    table = each.pivot(index="attribute", columns="editor", values="achieved")
    variance = table * (1 - table)
    error = 2 * (variance.add(variance[OURS], axis=0) / n) ** 0.5
    better = {}
    for name in table.columns.drop(OURS):
        better[name] = list(table.index[table[name] - table[OURS] > error[name]])
    return better


def _success_at(cost: np.ndarray, success: np.ndarray, level: float) -> float:
    """The largest success that costs at most ``level``; NaN if all of the curve costs more.

    The curve is taken at growing strengths and is linear in between. A curve that ends before it
    costs as much counts with what it reached at less.
    """
    points = np.arange(len(cost))
    at = np.linspace(0, len(cost) - 1, 100 * (len(cost) - 1) + 1)
    cost = np.interp(at, points, np.asarray(cost, float))
    success = np.interp(at, points, np.asarray(success, float))
    affordable = cost <= level * (1 + 1e-9)
    return float(success[affordable].max()) if affordable.any() else float("nan")
