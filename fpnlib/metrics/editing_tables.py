"""Tables of edits: means over attributes, and editors compared at strengths of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from fpnlib import checks

OURS = "C-MAF (ours)"
STEP = 0.05  # between the strengths to choose from


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


def chosen_strengths(curve: pd.DataFrame, most: float, within: float = 0.02) -> dict[str, float]:
    """Choose for each editor the strength that achieves most while few other attributes change.

    Args:
        curve: what :func:`mean_scores` gives for ``editor`` and ``strength``. It is linear between
            its points.
        most: the share of other attributes that may change.
        within: of all strengths whose success is so close to the best, the smallest is chosen.

    Raises:
        ValueError: an editor changes more at every strength.

    >>> curve = pd.DataFrame({"editor": OURS, "strength": [1, 2, 3], "others": [0.04, 0.09, 0.14],
    ...                       "achieved": [0.4, 0.6, 0.7]})
    >>> chosen_strengths(curve, most=0.1, within=0)
    {'C-MAF (ours)': 2.2}
    """
    chosen = {}
    for editor, points in curve.sort_values("strength").groupby("editor", sort=False):
        given = points["strength"].to_numpy()
        strengths = np.arange(given[0], given[-1] + STEP / 2, STEP)
        others = np.interp(strengths, given, points["others"])
        achieved = np.interp(strengths, given, points["achieved"])
        allowed = others <= most + 1e-9
        if not allowed.any():
            raise ValueError(
                f"{editor} changes {others.min():.3f} of the others or more, not {most:g}"
            )
        enough = allowed & (achieved >= achieved[allowed].max() - within - 1e-9)
        chosen[editor] = round(float(strengths[enough][0]), 2)
    return chosen


def shared_successes(scores: pd.DataFrame, floor: str = "") -> pd.DataFrame:
    """The rows of the edits at which every editor succeeds.

    Args:
        scores: a row for each edit, the same edits in the same order for every editor.
        floor: an editor that changes nothing. Edits that even it achieves are left out, because
            the judge misreads the object, and so are its rows.

    >>> edits = pd.DataFrame({"editor": ["a", "a", "b", "b"], "achieved": [1.0, 0.0, 1.0, 1.0]})
    >>> shared_successes(edits).index.tolist()
    [0, 2]
    """
    edit = scores.groupby("editor", sort=False).cumcount()
    is_floor = scores["editor"] == floor
    wanted = scores["achieved"] == 1 - is_floor
    return scores[wanted.groupby(edit).transform("all") & ~is_floor]


def paired_differences(
    scores: pd.DataFrame, column: str = "achieved", ours: str = OURS
) -> pd.DataFrame:
    """Our mean score less each other editor's on the same edits, with its standard error.

    Args:
        scores: a row for each edit, the same edits in the same order for every editor.
        column: the score.
        ours: the editor from whose score the others' are taken.

    Returns:
        The columns ``editor``, ``difference`` and ``standard error``.

    Raises:
        ValueError: an editor with more or fewer edits than ours.

    >>> edits = pd.DataFrame({"editor": [OURS, OURS, "b", "b"], "achieved": [1.0, 1.0, 0.0, 1.0]})
    >>> paired_differences(edits)["difference"].tolist()
    [0.5]
    """
    values = {name: part[column].to_numpy() for name, part in scores.groupby("editor", sort=False)}
    first, rows = values.pop(ours), []
    for editor, theirs in values.items():
        checks.same_length(first, theirs, (ours, editor))
        difference = first - theirs
        error = difference.std(ddof=1) / len(difference) ** 0.5
        rows.append((editor, difference.mean(), error))
    return pd.DataFrame(rows, columns=["editor", "difference", "standard error"])
