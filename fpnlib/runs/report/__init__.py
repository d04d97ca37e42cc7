"""One self-contained HTML page for a run: every number, table and figure, and where they come from.

It needs no network and no files beside it; what it shows of the run's files is text, escaped, and
pictures.
"""

import base64
import csv
import fnmatch
import math
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from fpnlib import store
from fpnlib.store import PROJECT, Manifest, Results, damaged, read_json

NEAR = 0.02
"""A number is near the paper's if it is behind by at most this share of it."""
WHOLE_TABLE = 40
"""Rows of the longest table that is shown; a longer one is linked."""
WIDE = 2.6
"""Width by height above which a figure takes a row of its own."""
PNG = b"\x89PNG\r\n\x1a\n"
CAPTIONS = PROJECT / "notebooks" / "captions.yaml"
"""What each figure and each table shows, by its name in the run, in the notebooks' order."""


@dataclass(frozen=True)
class _Number:
    """A result beside the paper's; more is better. A sweep's has a ``deviation`` over ``runs``."""

    quantity: str
    value: float
    paper: float | None = None
    n: int | None = None
    deviation: float | None = None
    runs: int | None = None

    @property
    def difference(self) -> float | None:
        """Ours less the paper's; None if the paper has none."""
        return None if self.paper is None else self.value - self.paper

    @property
    def standing(self) -> str:
        """How it compares with the paper: "ahead" (or equal), "near", "behind" or "".

        What was measured on training data is not compared, because there more is not better.
        """
        if self.paper is None or "train accuracy" in self.quantity:
            return ""
        if self.value >= self.paper:
            return "ahead"
        near = self.paper - self.value <= NEAR * abs(self.paper) + 1e-12
        return "near" if near else "behind"


def write(folder: Path) -> Path:
    """Write ``report.html`` into a run's or a sweep's folder; returns its path.

    Raises:
        FileNotFoundError: no run in the folder.
        ValueError: a damaged manifest, result or table, in one line that names it; a file that
            leads out of the folder.
        OSError: the folder cannot be written to.
    """
    templates = Environment(
        loader=PackageLoader("fpnlib.runs.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["amount"] = _amount
    template = templates.get_template("page.html")
    return store.write(folder / "report.html", template.render(_page(folder)))


def _page(folder: Path) -> dict:
    """The template's values for the run or the sweep in ``folder``; raises as :func:`write`."""
    manifest = Manifest(folder)
    noted = manifest.read()
    if not noted:
        raise FileNotFoundError(f"{manifest.path} is missing; a run's folder has one")
    files = manifest.made()
    checksums = noted.get("files", {})
    for name in [*files, *checksums]:
        manifest.path_of(name)
    sections = _sections(manifest, noted.get("notebooks", {}), files)
    numbers = list(chain.from_iterable(map(itemgetter("numbers"), sections)))
    beside = [number for number in numbers if number.paper is not None]
    standings = Counter(number.standing for number in beside)
    weights = fnmatch.filter(files, "*.safetensors")
    parts = ("environment", "differences", "data", "seconds", "total", "failed")
    return {part: noted.get(part, {}) for part in parts} | {
        "name": folder.resolve().name,
        "sweep": manifest.SUMMARY in files,
        "sections": sections,
        "numbers": len(numbers),
        "beside": sorted(beside, key=lambda number: (not number.standing, _first(number))),
        "standings": standings,
        "near": NEAR,
        "models": {name: files[name].stat().st_size for name in weights},
        "checksums": checksums,
        "wrong": manifest.changed(),
        "unlisted": manifest.unlisted(),
    }


def _amount(value: float, sign: str = "", decimals: int | None = None) -> str:
    """A number at as many decimals as its size allows; a whole one as it is.

    Args:
        value: the number.
        sign: "+" to show the sign of positive numbers.
        decimals: those of its column in a table; None: by the number alone.
    """
    if decimals is None:
        whole = value == int(value) and 1 < abs(value) < 1e15
        decimals = 0 if whole else _decimals(abs(value))
    hidden = 0 < abs(value) < 0.5 * 10**-decimals
    style = ".1e" if hidden else f",.{decimals}f"
    return format(value, sign + style).replace("-", "−")


def _decimals(largest: float) -> int:
    """The decimals that are shown of numbers up to this one."""
    return 4 if largest < 10 else 3 if largest < 100 else 1


def _sections(manifest: Manifest, made: dict, files: dict[str, Path]) -> list[dict]:
    """What each notebook left, and what belongs to none."""
    sweep, folder = manifest.SUMMARY in files, manifest.folder
    numbers = _means(folder / manifest.SUMMARY) if sweep else _results(folder)
    stems = sorted({*made, *numbers})
    sections = []
    for stem in stems:
        section = _section(manifest, stem, files)
        section |= {"made": made.get(stem, {}), "numbers": numbers.get(stem, [])}
        section["source"] = manifest.SUMMARY if sweep else f"results/{stem}.json"
        sections.append(section)
    starts: list[str] = []
    for stem in stems:
        starts += (f"figures/{stem}_", f"tables/{stem}_")
    rest = {name: path for name, path in files.items() if not name.startswith(tuple(starts))}
    shown = _shown(rest, "")
    if shown:
        title = "The sweep as a whole" if sweep else "The run as a whole"
        whole = {"id": "whole", "title": title, "source": "", "shown": shown}
        sections.append(whole | {"copies": {}, "made": {}, "numbers": []})
    return sections


def _section(manifest: Manifest, stem: str, files: dict[str, Path]) -> dict:
    """A notebook's title, its executed copies by what to call them, its figures and tables."""
    name = f"notebooks/{stem}.ipynb"
    copy = manifest.path_of(name)
    copies = {"executed notebook": name} if copy.is_file() else {}
    for run in manifest.runs():
        if (manifest.folder / "runs" / run / name).is_file():
            copies[run] = f"runs/{run}/{name}"
    if not copy.is_file():
        copy = CAPTIONS.with_name(f"{stem}.ipynb")  # a sweep keeps no copy of its own
    title = _title(copy) if copy.is_file() else None
    shown = _shown(files, f"{stem}_")
    return {"id": stem, "title": title or stem, "copies": copies, "shown": shown}


def _title(copy: Path) -> str | None:
    """The first heading of an executed copy; None if there is none."""
    try:
        notebook: Any = read_json(copy)
        for cell in notebook["cells"]:
            text = "".join(cell["source"])
            if cell["cell_type"] == "markdown" and text.startswith("# "):
                return text.splitlines()[0][2:].strip()
    except (TypeError, KeyError):
        raise damaged(copy, "no notebook") from None
    return None


def _results(folder: Path) -> dict[str, list[_Number]]:
    """The numbers of a run, by notebook."""
    numbers: dict[str, list[_Number]] = {}
    for path in sorted((folder / "results").glob("*.json")):
        numbers[path.stem] = []
        for row in Results.read(path):
            number = _Number(row["quantity"], row["value"], row.get("paper"), row.get("n"))
            numbers[path.stem].append(number)
    return numbers


def _means(path: Path) -> dict[str, list[_Number]]:
    """The means of a sweep, by notebook. A quantity's name says what varied beside the seed."""
    numbers: dict[str, list[_Number]] = {}
    head, rows = _csv(path)
    try:
        varied = head[: head.index("notebook")]
        for cells in rows:
            row = dict(zip(head, cells, strict=True))
            name = row["quantity"] + "".join(f", {key} {row[key]}" for key in varied)
            value, paper = float(row["mean"]), _float(row["paper"])
            deviation, runs = _float(row["standard deviation"]), int(row["runs"])
            number = _Number(name, value, paper, deviation=deviation, runs=runs)
            numbers.setdefault(row["notebook"], []).append(number)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, f"no summary: {error}") from None
    return numbers


def _shown(files: dict[str, Path], start: str) -> list[dict]:
    """Figures and tables in the notebook's order, then those without a caption, each told apart."""
    captions = yaml.safe_load(CAPTIONS.read_text(encoding="utf-8"))
    places = {name: place for place, name in enumerate(captions)}
    shown = []
    for name in sorted(files, key=lambda name: places.get(name, len(places))):
        if name.startswith(f"figures/{start}"):
            item = _figure(files[name])
        elif name.startswith(f"tables/{start}") and name.endswith(".csv"):
            item = _table(files[name])
        else:
            continue
        words = files[name].stem.removeprefix(start).replace("_", " ")
        if item:
            shown.append(item | {"file": name, "caption": captions.get(name, words)})
    return shown


def _figure(path: Path) -> dict:
    """A picture, whole, as a data URI; empty if it is no PNG."""
    data = path.read_bytes()
    if not data.startswith(PNG):
        return {}
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])  # of the header
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    shape = "row" if width > WIDE * height else "tall" if height > WIDE * width else ""
    return {"source": source, "shape": shape}


def _table(path: Path) -> dict:
    """A table, without its rows if they are too many to show."""
    head, rows = _csv(path)
    shown = rows if len(rows) <= WHOLE_TABLE else []
    columns = map(_column, zip(*shown, strict=True))
    return {"head": head, "total": len(rows), "rows": list(zip(*columns, strict=True))}


def _column(cells: tuple[str, ...]) -> list[tuple[str, bool]]:
    """A table's cells as they are shown, each with whether its column has numbers only."""
    written = list(filter(None, cells))
    try:
        values = list(map(float, written))
    except ValueError:
        return [(cell or "–", False) for cell in cells]
    finite = list(filter(math.isfinite, values))
    places = max((len(cell.partition(".")[2]) for cell in written), default=0)
    decimals = min(places, _decimals(max(map(abs, finite), default=0)))
    shown = []
    for cell in cells:
        finite_cell = bool(cell) and math.isfinite(float(cell))
        text = _amount(float(cell), decimals=decimals) if finite_cell else cell or "–"
        shown.append((text, True))
    return shown


def _csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """A table's head and rows."""
    try:
        head, *rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
        even = {len(head)}.issuperset(map(len, rows))
    except (ValueError, csv.Error):
        even = False
    if not even:
        raise damaged(path, "no table")
    return head, rows


def _float(cell: str) -> float | None:
    return float(cell) if cell else None


def _first(number: _Number) -> bool:
    """Whether a number sorts behind those of the paper's tables."""
    return not number.quantity.startswith("Table")
