"""What the page of a run shows, as plain values: read from its folder, put in order, nothing computed anew."""

from __future__ import annotations

import base64
import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import nbformat

from fpnlib.artifacts import Manifest, inside, read_json, sha256

NEAR = 0.02
"""A number is green where it is better than the paper's, or short of it by at most this share of the paper's."""
WHOLE_TABLE, PART_OF_TABLE = 40, 8
"""Rows of a table that is shown as a whole; rows shown of a longer one."""
PICTURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


@dataclass(frozen=True)
class Number:
    """One result beside the paper's; ``better``: "higher" or "lower"."""

    quantity: str
    value: float
    paper: float | None = None
    n: int | None = None
    seed: int | None = None
    better: str = "higher"

    @property
    def difference(self) -> float | None:
        """Ours less the paper's; None where the paper has none."""
        return None if self.paper is None else self.value - self.paper

    @property
    def standing(self) -> str:
        """ "better" than the paper's (or equal), "near" it, "short" of it, or "" where the paper has none."""
        if self.paper is None:
            return ""
        short = -self.difference if self.better == "higher" else self.difference
        return "better" if short <= 0 else "near" if short <= NEAR * abs(self.paper) + 1e-12 else "short"


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
    """What one notebook left; ``notebook`` is its executed copy, ``made`` its entry in the manifest."""

    id: str
    title: str
    tables: list[Table]
    figures: list[Figure]
    notebook: str | None = None
    made: Mapping[str, object] = field(default_factory=dict)
    numbers: list[Number] = field(default_factory=list)


def page(folder: Path) -> dict:
    """The template's values for the run in ``folder``; raises as :func:`fpnlib.report.write` does."""
    manifest = Manifest(folder)
    noted = manifest.read()
    if not noted:
        raise FileNotFoundError(f"{manifest.path} is missing; a run's folder has one")
    files = manifest.each(lambda path: path)
    for name in files:
        inside(folder, name)
    promised, made = noted.get("files", {}), noted.get("notebooks", {})
    stems = sorted({*made, *(path.stem for path in (folder / "results").glob("*.json"))})
    sections = [_section(folder, stem, files, made.get(stem, {})) for stem in stems]
    starts = tuple(f"{kind}/{stem}_" for stem in stems for kind in ("figures", "tables"))
    rest = {name: path for name, path in files.items() if not name.startswith(starts)}
    if any(shown := (_tables(rest, ""), _figures(rest, ""))):
        sections.insert(0, Section("whole", "The run as a whole", *shown))
    numbers = [number for section in sections for number in section.numbers]
    changed = [name for name, path in files.items() if name in promised and sha256(path) != promised[name]]
    return {
        "name": folder.resolve().name,
        "sections": sections,
        "numbers": numbers,
        "compared": [number for number in numbers if number.paper is not None],
        "near": NEAR,
        "environment": noted.get("environment", {}),
        "data": noted.get("data", {}),
        "seconds": noted.get("seconds", {}),
        "models": {name: path.stat().st_size for name, path in files.items() if name.endswith(".safetensors")},
        "checksums": promised,
        "wrong": changed + [name for name in promised if name not in files],
    }


def _section(folder: Path, stem: str, files: dict[str, Path], made: dict) -> Section:
    copy, results = folder / "notebooks" / f"{stem}.ipynb", folder / "results" / f"{stem}.json"
    return Section(
        id=stem,
        title=_title(copy) or stem,
        tables=_tables(files, f"{stem}_"),
        figures=_figures(files, f"{stem}_"),
        notebook=f"notebooks/{copy.name}" if copy.is_file() else None,
        made=made,
        numbers=_numbers(results) if results.is_file() else [],
    )


def _title(copy: Path) -> str | None:
    """The first heading of an executed copy; None where there is none."""
    if not copy.is_file():
        return None
    try:
        cells = nbformat.read(copy, as_version=4).cells
    except ValueError:
        raise ValueError(f"{copy} is damaged; delete it and run again") from None
    texts = [cell.source for cell in cells if cell.cell_type == "markdown" and cell.source.startswith("# ")]
    return texts[0].splitlines()[0][2:].strip() if texts else None


def _numbers(path: Path) -> list[Number]:
    fields = Number.__dataclass_fields__
    try:
        return [Number(**{name: row[name] for name in fields if name in row}) for row in read_json(path)]
    except TypeError:
        raise ValueError(f"{path} is damaged (no list of results); delete it and run again") from None


def _tables(files: dict[str, Path], start: str) -> list[Table]:
    tables = []
    for name, path in files.items():
        if not (name.startswith(f"tables/{start}") and name.endswith(".csv")):
            continue
        try:
            head, *rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
        except (ValueError, csv.Error):
            raise ValueError(f"{path} is damaged (no table); delete it and run again") from None
        shown = rows if len(rows) <= WHOLE_TABLE else rows[:PART_OF_TABLE]
        shown = [[_short(cell) for cell in row] for row in shown]
        tables.append(Table(_caption(path, start), name, head, shown, len(rows)))
    return tables


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
    """A cell of a table, with numbers at four decimals or four digits."""
    try:
        value = float(cell)
    except ValueError:
        return cell
    if cell.lstrip("-").isdigit():
        return cell
    return f"{value:.4f}" if 0.001 <= abs(value) < 1000 else f"{value:.4g}"
