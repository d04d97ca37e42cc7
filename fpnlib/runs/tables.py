"""A sweep's tables: every number of its runs, and their means."""

from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import pandas as pd

from fpnlib.store import Manifest, Results

RUNS = "tables/runs.csv"
"""A row for each number of each run; their means are ``Manifest.SUMMARY``."""
SPREAD = ["paper", "mean", "standard deviation", "least", "most", "runs", "mean ± std"]


def _varied(points: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Return the parameters that differ between the points, seeds last."""
    table = pd.DataFrame(points.values()).map(repr)
    names = list(table.columns[table.nunique() > 1])
    return sorted(names, key=lambda name: name.endswith("seed"))


def gathered(
    folder: Path,
    points: Mapping[str, Mapping[str, object]],
    failed: Container[str],
    notebooks: Sequence[str],
) -> dict[str, pd.DataFrame]:
    """Return a sweep's tables by their names.

    Args:
        folder: the sweep's.
        points: the parameters of each run, by its name.
        failed: names of runs that count for nothing.
        notebooks: those whose results count.

    Raises:
        FileNotFoundError: a run without results, as when workers do not share this folder.
        ValueError: damaged results.
    """
    rows, names = [], _varied(points)
    for name, point in points.items():
        if name not in failed:
            rows += _rows(folder / "runs" / name, {key: point[key] for key in names}, notebooks)
    columns = dict.fromkeys([*names, "notebook", "quantity", "value", "paper", "n"])
    table = pd.DataFrame(rows, columns=list(columns))
    table = table.astype({"value": float, "paper": float, "n": "Int64"})
    return {RUNS: table, Manifest.SUMMARY: _summary(table)}


def _rows(run: Path, varying: Mapping[str, object], notebooks: Sequence[str]) -> list[dict]:
    """Return a row for each number of a run: its record, what varied, and the notebook."""
    rows = []
    for notebook in notebooks:
        path, about = run / "results" / f"{notebook}.json", {**varying, "notebook": notebook}
        if path.is_file():
            rows += [record | about for record in Results.read(path)]
    if not rows:
        raise FileNotFoundError(f"{run} has no results; the workers need to share this folder")
    return rows


def _summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean and standard deviation (n − 1) over the seeds, for all else that varied."""
    others = table.columns.drop(["value", "paper", "n"])
    apart = list(others[~others.str.endswith("seed")])
    rows = []
    for keys, group in table.groupby(apart, sort=False, dropna=False):
        value, paper = group["value"], group["paper"].iloc[0]
        mean, deviation = value.mean(), value.std()
        text = f"{mean:.4f} ± {deviation:.4f}" if len(value) > 1 else f"{mean:.4f}"
        rows.append([*keys, paper, mean, deviation, value.min(), value.max(), len(value), text])
    return pd.DataFrame(rows, columns=[*apart, *SPREAD])
