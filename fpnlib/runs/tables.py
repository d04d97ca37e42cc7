"""A sweep's tables: every number of its runs, and their means; the same bits from the same results, whoever gathers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from fpnlib.store import Manifest, Results

RUNS = "tables/runs.csv"
"""A row for each number of each run; their means are ``Manifest.SUMMARY``."""


def varied(points: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Names of the parameters that differ between the points, the seed last."""
    first = next(iter(points.values()))
    names = [name for name in first if any(point[name] != first[name] for point in points.values())]
    return sorted(names, key=lambda name: name == "seed")


def tidy(
    folder: Path,
    points: Mapping[str, Mapping[str, object]],
    names: Sequence[str],
    notebooks: Sequence[str],
) -> pd.DataFrame:
    """One row for each number that ``notebooks`` left in each run: what varied, notebook, quantity, value, paper's, n.

    Raises:
        FileNotFoundError: a run without results, as where workers do not share this folder.
        ValueError: damaged results.
    """
    rows = []
    for name, point in points.items():
        paths = [folder / "runs" / name / "results" / f"{notebook}.json" for notebook in notebooks]
        results = [path for path in paths if path.is_file()]
        if not results:
            raise FileNotFoundError(
                f"{folder / 'runs' / name} has no results; the workers need to share this folder"
            )
        for path in results:
            for record in Results.read(path):
                of_it = {key: record.get(key) for key in ("quantity", "value", "paper", "n")}
                rows.append({key: point[key] for key in names} | {"notebook": path.stem} | of_it)
    table = pd.DataFrame(rows)
    return table.astype({"value": float, "paper": float, "n": "Int64"})


def gathered(
    folder: Path,
    points: Mapping[str, Mapping[str, object]],
    names: Sequence[str],
    notebooks: Sequence[str],
) -> dict[str, pd.DataFrame]:
    """A sweep's tables by their names; arguments and errors as for :func:`tidy`."""
    table = tidy(folder, points, names, notebooks)
    return {RUNS: table, Manifest.SUMMARY: summary(table)}


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation (n − 1) over the seeds, one row for each quantity and each value of what else varied."""
    apart = [name for name in table.columns if name not in ("seed", "value", "paper", "n")]
    rows = []
    for keys, group in table.groupby(apart, sort=False, dropna=False):
        value, paper = group["value"], group["paper"].iloc[0]
        mean, deviation = value.mean(), value.std()
        text = f"{mean:.4f} ± {deviation:.4f}" if len(value) > 1 else f"{mean:.4f}"
        rows.append([*keys, paper, mean, deviation, value.min(), value.max(), len(value), text])
    return pd.DataFrame(
        rows,
        columns=[
            *apart,
            "paper",
            "mean",
            "standard deviation",
            "least",
            "most",
            "runs",
            "mean ± std",
        ],
    )
