"""What the page of a run shows, as plain values: read from its folder, put in order, nothing computed anew."""

from __future__ import annotations

import base64
import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fpnlib.store import Manifest, damaged, read_json

NEAR = 0.02
"""A number is green where it is better than the paper's, or short of it by at most this share of the paper's."""
WHOLE_TABLE, PART_OF_TABLE = 40, 8
"""Rows of a table that is shown as a whole; rows shown of a longer one."""
PICTURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


@dataclass(frozen=True)
class Number:
    """One result beside the paper's, of those of which more is better. A sweep's has a ``deviation`` over ``runs``.

    Raises:
        TypeError: text where a number belongs, or the other way round.
    """

    quantity: str
    value: float
    paper: float | None = None
    n: int | None = None
    seed: int | None = None
    deviation: float | None = None
    runs: int | None = None

    def __post_init__(self):
        if not isinstance(self.quantity, str):
            raise TypeError(f"{self.quantity!r} is no quantity")
        if not _is_number(self.value):
            raise TypeError(f"'{self.quantity}' must be a number, got {self.value!r}")
        for given in (self.paper, self.n, self.seed, self.deviation, self.runs):
            if given is not None and not _is_number(given):
                raise TypeError(f"'{self.quantity}' has {given!r} where a number belongs")

    @property
    def difference(self) -> float | None:
        """Ours less the paper's; None where the paper has none."""
        return None if self.paper is None else self.value - self.paper

    @property
    def standing(self) -> str:
        """ "better" than the paper's (or equal), "near" it, "short" of it, or "" where the paper has none."""
        if self.paper is None:
            return ""
        short = self.paper - self.value
        return (
            "better"
            if short <= 0
            else "near"
            if short <= NEAR * abs(self.paper) + 1e-12
            else "short"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Table:
    """A table's first rows, or all of them, of ``count``."""

    name: str
    file: str
    head: list[str]
    rows: list[list[str]]
    count: int


@dataclass(frozen=True)
class Figure:
    """A picture, whole, as a data URI."""

    name: str
    file: str
    source: str


@dataclass(frozen=True)
class Section:
    """What one notebook left.

    Its executed copies by what to call them, its entry in the manifest, and its numbers with the file that has them.
    """

    id: str
    title: str
    tables: list[Table]
    figures: list[Figure]
    copies: Mapping[str, str] = field(default_factory=dict)
    made: Mapping[str, object] = field(default_factory=dict)
    numbers: list[Number] = field(default_factory=list)
    source: str = ""


def page(folder: Path) -> dict:
    """The template's values for the run or the sweep in ``folder``; raises as :func:`fpnlib.runs.report.write` does."""
    manifest = Manifest(folder)
    noted = manifest.read()
    if not noted:
        raise FileNotFoundError(f"{manifest.path} is missing; a run's folder has one")
    files = manifest.each(lambda path: path)
    promised, made = noted.get("files", {}), noted.get("notebooks", {})
    for name in [*files, *promised]:
        manifest.path_of(name)
    sweep = manifest.SUMMARY in files
    numbers = _means(folder / manifest.SUMMARY) if sweep else _results(folder)
    stems = sorted({*made, *numbers})
    runs = list(manifest.runs())
    sections = [
        _section(folder, stem, files, runs, made.get(stem, {}), numbers.get(stem, []))
        for stem in stems
    ]
    starts = tuple(f"{kind}/{stem}_" for stem in stems for kind in ("figures", "tables"))
    rest = {name: path for name, path in files.items() if not name.startswith(starts)}
    if any(shown := (_tables(rest, ""), _figures(rest, ""))):
        sections.append(Section("whole", "The run as a whole", *shown))
    compared = [
        number for section in sections for number in section.numbers if number.paper is not None
    ]
    return {
        "name": folder.resolve().name,
        "sweep": sweep,
        "sections": sections,
        "numbers": sum(len(section.numbers) for section in sections),
        "compared": sorted(compared, key=lambda number: not number.quantity.startswith("Table")),
        "near": NEAR,
        "environment": noted.get("environment", {}),
        "differences": noted.get("differences", {}),
        "data": noted.get("data", {}),
        "seconds": noted.get("seconds", {}),
        "total": noted.get("total", {}),
        "models": {
            name: path.stat().st_size
            for name, path in files.items()
            if name.endswith(".safetensors")
        },
        "checksums": promised,
        "wrong": manifest.changed(),
        "failed": noted.get("failed", {}),
        "unlisted": manifest.unlisted(),
    }


def _section(
    folder: Path,
    stem: str,
    files: dict[str, Path],
    runs: list[str],
    made: dict,
    numbers: list[Number],
) -> Section:
    name = f"notebooks/{stem}.ipynb"
    copy = Manifest(folder).path_of(name)
    copies = {"executed notebook": name} if copy.is_file() else {}
    copies |= {
        run: f"runs/{run}/{name}" for run in runs if (folder / "runs" / run / name).is_file()
    }
    return Section(
        id=stem,
        title=(_title(copy) if copy.is_file() else None) or stem,
        tables=_tables(files, f"{stem}_"),
        figures=_figures(files, f"{stem}_"),
        copies=copies,
        made=made,
        numbers=numbers,
        source=Manifest.SUMMARY if Manifest.SUMMARY in files else f"results/{stem}.json",
    )


def _title(copy: Path) -> str | None:
    """The first heading of an executed copy; None where there is none."""
    notebook = read_json(copy)
    try:
        texts = [
            "".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"
        ]
    except (TypeError, KeyError):
        raise damaged(copy, "no notebook") from None
    return next((text.splitlines()[0][2:].strip() for text in texts if text.startswith("# ")), None)


def _results(folder: Path) -> dict[str, list[Number]]:
    """The numbers of a run, by notebook."""
    return {path.stem: _numbers(path) for path in sorted((folder / "results").glob("*.json"))}


def _numbers(path: Path) -> list[Number]:
    fields = Number.__dataclass_fields__
    try:
        return [
            Number(**{name: row[name] for name in fields if name in row}) for row in read_json(path)
        ]
    except TypeError as error:
        raise damaged(path, f"no list of results: {error}") from None


def _means(path: Path) -> dict[str, list[Number]]:
    """The means of a sweep, by notebook; what varied beside the seed belongs to a quantity's name."""
    numbers: dict[str, list[Number]] = {}
    head, rows = _csv(path)
    try:
        for row in (dict(zip(head, cells, strict=True)) for cells in rows):
            varied = "".join(f", {name} {row[name]}" for name in head[: head.index("notebook")])
            given = (row[name] for name in ("mean", "paper", "standard deviation"))
            value, paper, deviation = (float(cell) if cell else None for cell in given)
            number = Number(
                row["quantity"] + varied, value, paper, deviation=deviation, runs=int(row["runs"])
            )
            numbers.setdefault(row["notebook"], []).append(number)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, f"no summary: {error}") from None
    return numbers


def _tables(files: dict[str, Path], start: str) -> list[Table]:
    tables = []
    for name, path in files.items():
        if not (name.startswith(f"tables/{start}") and name.endswith(".csv")):
            continue
        head, rows = _csv(path)
        shown = rows if len(rows) <= WHOLE_TABLE else rows[:PART_OF_TABLE]
        shown = [[_short(cell) for cell in row] for row in shown]
        tables.append(Table(_caption(path, start), name, head, shown, len(rows)))
    return tables


def _csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """A table's head and rows."""
    try:
        head, *rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
    except (ValueError, csv.Error):
        raise damaged(path, "no table") from None
    return head, rows


def _figures(files: dict[str, Path], start: str) -> list[Figure]:
    figures = []
    for name, path in files.items():
        if not name.startswith(f"figures/{start}"):
            continue
        data = path.read_bytes()
        for magic, kind in PICTURES.items():
            if data.startswith(magic):
                source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
                figures.append(Figure(_caption(path, start), name, source))
    return figures


def _caption(path: Path, start: str) -> str:
    return path.stem.removeprefix(start).replace("_", " ")


def _short(cell: str) -> str:
    """A cell of a table: text and whole numbers as they are, others as :func:`amount` has them."""
    try:
        value = float(cell)
    except ValueError:
        return cell
    return amount(value) if math.isfinite(value) and not cell.lstrip("-").isdigit() else cell


def amount(value: float, sign: str = "") -> str:
    """A number at four decimals, or four digits where these would hide it; "+" as ``sign`` shows that of positive ones."""
    whole = value == int(value) and 1 < abs(value) < 1e15
    style = ",.0f" if whole else ".4f" if value == 0 or 0.001 <= abs(value) < 1000 else ".4g"
    return format(value, sign + style).replace("-", "−")
