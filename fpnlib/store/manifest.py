"""``manifest.json``: where a run's numbers come from, and what its files should be."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import NoneType
from typing import TypeVar

from fpnlib.store.files import PathLike, damaged, inside, read_json, sha256, write_json
from fpnlib.store.locks import alone

T = TypeVar("T")

# What a section holds, name by name; sections that are not here may hold anything.
NUMBER = (int, float)
SECTIONS = {"data": str, "differences": str, "failed": str, "files": str, "notebooks": dict}
SECTIONS |= {"seconds": NUMBER, "total": NUMBER}
# What an entry of "notebooks" holds, where it is there.
MAPPINGS = ("parameters", "environment", "files", "data", "inputs")
ENTRY = {"key": str, "commit": (str, NoneType), "seconds": NUMBER} | dict.fromkeys(MAPPINGS, dict)
OF_TEXT = ("files", "data", "inputs")


class Manifest:
    """``manifest.json`` of a run's folder: where its numbers come from.

    Sections are flat mappings that notebooks and the runner add to, each from its own process: ``environment`` (commit,
    versions, device), ``data`` (checksums), ``notebooks`` (parameters, seconds), ``files`` (sha256), ``total`` (of the last
    command that executed something: its seconds, and how many notebooks), or any other.
    """

    KEPT = ("figures", "tables", "results", "models")
    """The folders of what notebooks make."""
    GRID = "grid.json"
    """A sweep's combinations, by the names of its runs' folders."""
    SUMMARY = "tables/summary.csv"
    """A sweep's means and standard deviations over its runs."""

    def __init__(self, folder: PathLike):
        self.folder = Path(folder)
        self.path = self.folder / "manifest.json"

    def read(self) -> dict:
        """All sections; empty where there is no manifest yet. Raises ValueError, in one line, on a damaged file."""
        sections = read_json(self.path) if self.path.is_file() else {}
        if wrong := _wrong(sections):
            raise damaged(self.path, wrong)
        return sections

    def note(self, section: str, values: Mapping) -> None:
        """Add ``values`` to a section, replacing those of the same name.

        Raises:
            OSError, ValueError, TypeError: as :func:`write_json`.
        """
        with alone(self.path):
            sections = self.read()
            sections.setdefault(section, {}).update(values)
            write_json(self.path, sections)
        if listener := os.environ.get("FPN_USES"):  # the runner asks which notebook noted it
            with open(listener, "a", encoding="utf-8") as file:
                file.write(json.dumps({section: dict(values)}) + "\n")

    def note_notebook(self, name: str, entry: Mapping, environment: Mapping | None = None) -> None:
        """Note a finished notebook: its ``entry``, the sha256 of its own ``files``, and where it was executed.

        The section ``environment`` is that of the last notebook; the entries of earlier ones keep what differs there. A file
        that is no notebook's any more is not vouched for any longer.

        Args:
            environment: None where the notebook was not executed anew.
        """
        with alone(self.path):
            sections = self.read()
            notebooks, before = (
                sections.setdefault("notebooks", {}),
                sections.get("environment", {}),
            )
            if environment is not None:
                changed = {
                    key: value for key, value in before.items() if value != environment.get(key)
                }
                for other in notebooks.values() if changed else ():
                    other["environment"] = changed | other.get("environment", {})
                sections["environment"] = dict(environment)
            notebooks[name] = dict(entry)
            files = sections.get("files", {}) | entry["files"]
            owned = {file for one in notebooks.values() for file in one.get("files", {})}
            sections["files"] = {file: files[file] for file in sorted(files.keys() & owned)}
            write_json(self.path, sections)

    def note_files(self) -> None:
        """Note the sha256 of every file that it vouches for, see :meth:`files`, and drop those that are gone."""
        with alone(self.path):
            write_json(self.path, self.read() | {"files": self.files()})

    def files(self, names: Iterable[str] | None = None) -> dict[str, str]:
        """sha256 of the files ``names`` that are there, by the path within the folder; None: of all that it vouches for.

        These are what notebooks made, their executed copies, and a sweep's grid.
        """
        return self._of(
            self._all() if names is None else [self.folder / name for name in names], sha256
        )

    def runs(self) -> dict[str, dict]:
        """A sweep's combinations by the names of its runs, which stand in ``runs``; empty where the folder is no sweep's.

        Raises:
            ValueError: damaged, or a name that leads out of the folder; one line.
        """
        path = self.folder / self.GRID
        points = read_json(path) if path.is_file() else {}
        if not isinstance(points, dict) or not all(
            isinstance(point, dict) for point in points.values()
        ):
            raise damaged(path, "no mapping of runs")
        for name in points:
            inside(self.folder / "runs", name)
        return points

    def changed(self) -> list[str]:
        """What is not as it was when it was noted, one line each; empty where all is.

        Of one of a sweep's runs the figures, models or executed copies need not be there at all: their numbers are kept.

        Raises:
            ValueError: a damaged manifest.
        """
        sections, in_sweep, wrong = self.read(), self.folder.resolve().parent.name == "runs", []
        files = sections.get("files", {})
        for name, checksum in files.items():
            try:
                path, kind = inside(self.folder, name), Path(name).parts[0]
            except ValueError as error:
                wrong.append(str(error))
                continue
            if not path.is_file():
                if not (
                    in_sweep
                    and kind in ("figures", "models", "notebooks")
                    and not (self.folder / kind).exists()
                ):
                    wrong.append(f"{name} is missing")
            elif sha256(path) != checksum:
                wrong.append(
                    f"{name} is not the file that the run made: its sha256 differs from the manifest's"
                )
        for notebook, entry in sections.get("notebooks", {}).items():
            others = [
                name
                for name, checksum in entry.get("files", {}).items()
                if files.get(name) != checksum
            ]
            wrong += [f"{notebook} was made with another {name}" for name in others]
        return wrong

    def unlisted(self) -> list[str]:
        """Files that stand among those of :meth:`files` and that the manifest does not have."""
        listed = self.read().get("files", {})
        return [name for name in self._of(self._all(), str) if name not in listed]

    def each(self, what: Callable[[Path], T]) -> dict[str, T]:
        """``what`` of each finished file under figures, tables, results and models, by its path within the folder.

        One that another process removes meanwhile is left out.
        """
        return self._of(self._made(), what)

    def _made(self) -> Iterator[Path]:
        for kept in self.KEPT:
            yield from sorted((self.folder / kept).rglob("*"))

    def _all(self) -> Iterator[Path]:
        copies = sorted((self.folder / "notebooks").glob("*.ipynb"))
        yield from (path for path in copies if not path.name.endswith(".failed.ipynb"))
        yield self.folder / self.GRID
        yield from self._made()

    def _of(self, paths: Iterable[Path], what: Callable[[Path], T]) -> dict[str, T]:
        found = {}
        for path in paths:
            if path.is_file() and not path.name.startswith("."):
                with suppress(FileNotFoundError):
                    found[path.relative_to(self.folder).as_posix()] = what(path)
        return found


def _wrong(sections: object) -> str:
    """What is not as a manifest has it; empty where all is."""
    if not isinstance(sections, dict) or not all(
        isinstance(section, dict) for section in sections.values()
    ):
        return "no mapping of sections"
    for section, kind in SECTIONS.items():
        for name, value in sections.get(section, {}).items():
            if not isinstance(value, kind):
                return f"{section}, '{name}': {value!r:.40}"
    notebooks = sections.get("notebooks", {})
    for environment in [
        holder.get("environment", {}) for holder in (sections, *notebooks.values())
    ]:
        if not isinstance(environment, dict) or not isinstance(
            environment.get("versions", {}), dict
        ):
            return "environment: no mapping of versions"
    for name, entry in notebooks.items():
        if name.startswith(".") or Path(name).name != name:
            return f"'{name}' names no notebook"
        if "parameters" not in entry:
            return f"notebook '{name}': no parameters"
        for key, kind in ENTRY.items():
            if key in entry and not isinstance(entry[key], kind):
                return f"notebook '{name}', {key}: {entry[key]!r:.40}"
        for key in OF_TEXT:
            if not all(isinstance(value, str) for value in entry.get(key, {}).values()):
                return f"notebook '{name}', {key}: no mapping of text"
    return ""
