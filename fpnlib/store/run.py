"""One notebook's part of a run: where its numbers, figures and tables go."""

import io
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure

from fpnlib.store.cache import Cache
from fpnlib.store.files import PROJECT, sha256, write
from fpnlib.store.manifest import Manifest
from fpnlib.store.results import Results
from fpnlib.store.uses import Uses


class Run:
    """One notebook's part of a run: its device, its cache, and where its results go.

    Args:
        notebook: name of the notebook, e.g. "04_conditional_generation"; its files carry it.
        out: the run's folder; a relative path counts from the project's root.
        profile: name of a file in ``notebooks/profiles``, which gives the sizes of models and
            trainings.
        override: ``"family.name=value"`` pairs, separated by spaces, above the profile's values;
            ``"device=cpu"``, "cuda", "mps" or "auto" is where torch computes.
        seed: seed of everything random.
        data_dir: folder of the datasets; empty: $FPN_DATA, else ``data`` in the project.
        read_only: train nothing, download nothing, and write nothing.

    Raises:
        ValueError: a device that is unknown or not there.
    """

    def __init__(
        self,
        notebook: str,
        *,
        out: str | os.PathLike[str],
        profile: str = "demo",
        override: str = "",
        seed: int = 0,
        data_dir: str = "",
        read_only: bool = False,
    ):
        self.notebook, self.profile, self.override = notebook, profile, override
        self.seed, self.data_dir, self.read_only = int(seed), data_dir, read_only
        self.folder = PROJECT / out  # an absolute path stays as it is
        self.device = _device(override)
        self.results = Results(self.folder / "results" / f"{notebook}.json")
        self.manifest = Manifest(self.folder)
        self.uses = Uses(self.folder, notebook)
        self.cache = Cache(self.folder / "models", self.device, self.used, read_only)
        torch.manual_seed(self.seed)
        names = ("torch", "nflows", "numpy")
        versions = ", ".join(f"{name} {version(name)}" for name in names)
        threads = torch.get_num_threads()
        print(f"Python {platform.python_version()}, {versions}; {self.device}, {threads} threads")
        print(f"seed {seed}; results go to {os.path.relpath(self.folder, PROJECT)}/")

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments, for another process that works on the same run."""
        names = ("notebook", "profile", "override", "seed", "data_dir", "read_only")
        return {"out": str(self.folder)} | {name: getattr(self, name) for name in names}

    def record(
        self,
        quantity: str | pd.DataFrame,
        value: float | None = None,
        *,
        name: str = "",
        columns: Iterable[str] | None = None,
        n: int | Mapping[str, int | str] | None = None,
        paper: float | None = None,
        more: Sequence[str] = (),
        **about: Any,
    ) -> None:
        """Keep one number, or the numbers of a table, in ``results/<notebook>.json``.

        The numbers are printed, or only counted if a table has more than ten.

        Args:
            quantity: what was measured, or a table whose cells are kept one by one. Missing cells
                are left out; a column "paper, <column>" has the paper's values.
            value: the measurement; not for a table.
            name: of a table, the quantity of each cell: a format string that may use ``{column}``
                and the row's own columns, e.g. ``"{column}, {model}"``.
            columns: of a table, the columns to keep; None: every column of floats.
            n: number of samples behind the value; of a table also a number, or a column that has
                it, for each column. By default a table's column "n".
            paper: the paper's value.
            more: of a table, columns whose values go with each number.
            about: whatever else a reader needs, JSON-able.
        """
        if not isinstance(quantity, pd.DataFrame):
            print(self._record(quantity, value, paper, {"n": n, **about}))
            return
        lines = []
        if columns is None:
            floats = quantity.select_dtypes("float")
            columns = floats.columns[~floats.columns.str.startswith("paper, ")]
        for row, column in product(quantity.to_dict("records"), list(columns)):
            if pd.isna(row[column]):
                continue
            count = n.get(column) if isinstance(n, Mapping) else n
            count = row.get("n") if count is None else row.get(count, count)
            cell = {"n": count} | {other: row[other] for other in more} | about
            named = name.format_map(row | {"column": column})
            lines.append(self._record(named, row[column], row.get(f"paper, {column}"), cell))
        print("\n".join(lines) if len(lines) <= 10 else f"{len(lines)} numbers recorded")

    def _record(self, quantity: str, value: Any, paper: float | None, about: dict) -> str:
        paper = None if pd.isna(paper) else paper
        about["n"] = None if about["n"] is None else int(about["n"])
        value = self.results.record(quantity, float(value), paper=paper, seed=self.seed, **about)
        self.used(self.results.path)
        beside = "" if paper is None else f"  (paper: {paper:.4f})"
        count = value > 1 and value.is_integer()
        return f"{quantity}: {value:,.0f}{beside}" if count else f"{quantity}: {value:.4f}{beside}"

    def figure(self, figure: Figure, name: str) -> Figure:
        """Save a figure as ``figures/<notebook>_<name>.png`` and return it to be shown."""
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=figure.dpi)
        path = self.folder / "figures" / f"{self.notebook}_{name}.png"
        write(path, png.getvalue())
        self.used(path)
        plt.close(figure)  # or the notebook would show it twice
        return figure

    def table(self, table: pd.DataFrame, name: str, digits: int = 4) -> Any:
        """Save a table as ``tables/<notebook>_<name>.csv`` and return it styled to be shown.

        Of more than fifty rows, the first ten are shown.
        """
        path = self.folder / "tables" / f"{self.notebook}_{name}.csv"
        write(path, table.to_csv(index=False))
        self.used(path)
        if len(table) > 50:
            print(f"the first 10 of {len(table):,} rows; the others are in {path.name}")
            table = table.head(10)
        return table.style.format(precision=digits, na_rep="–").hide(axis="index")

    def note(self, section: str, values: Mapping) -> None:
        """Add to the run's manifest, unless the run is only read."""
        if not self.read_only:
            self.manifest.note(section, values)

    def used_data(self, name: str, checksum: str) -> None:
        """Note that the notebook has loaded a dataset, unless the run is only read."""
        self.note("data", {name: checksum})
        if not self.read_only:
            self.uses.data(name, checksum)

    def used(self, path: Path) -> None:
        """Note that the notebook has written or read a file, unless the run is only read."""
        if not self.read_only:
            self.uses.file(path)

    def seconds(self, name: str) -> float:
        """Wall time of the training that made ``name``, in all its sessions; NaN if unknown."""
        return self.manifest.read().get("seconds", {}).get(name, math.nan)

    def weights_sha256(self, name: str) -> str:
        """Return the checksum of the weights kept under ``name``."""
        return sha256(self.cache.folder / f"{name}.safetensors")


def _device(override: str) -> torch.device:
    """The device that an override names; else a CUDA GPU if there is one, else the CPU."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    found = [*filter(there.get, there), "cpu"]
    asked = "auto"
    for pair in override.split():
        if pair.startswith("device="):
            asked = pair.removeprefix("device=")
    if asked == "auto":
        return torch.device("cuda" if there["cuda"] else "cpu")
    if asked not in found:
        raise ValueError(f"device '{asked}' is not there; expected auto or {' or '.join(found)}")
    return torch.device(asked)
