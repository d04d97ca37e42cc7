"""``manifest.json``: where a run's numbers come from, and what its files should be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from fpnlib.artifacts.files import PathLike, read_json, sha256, write_json
from fpnlib.artifacts.locks import alone

T = TypeVar("T")


class Manifest:
    """``manifest.json`` of a run's folder: where its numbers come from.

    Sections are flat mappings that notebooks and the runner add to, each from its own process: ``environment`` (commit,
    versions, device), ``data`` (checksums), ``notebooks`` (parameters, seconds), ``files`` (sha256), or any other.
    """

    KEPT = ("figures", "tables", "results", "models")
    """The folders whose files it vouches for."""

    def __init__(self, folder: PathLike):
        self.folder = Path(folder)
        self.path = self.folder / "manifest.json"

    def read(self) -> dict:
        """All sections; empty where there is no manifest yet. Raises ValueError on a damaged file."""
        sections = read_json(self.path) if self.path.is_file() else {}
        if not isinstance(sections, dict) or not all(isinstance(section, dict) for section in sections.values()):
            raise ValueError(f"{self.path} is damaged (no mapping of sections); delete it and run again")
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

    def note_files(self) -> None:
        """Note the sha256 of every file under figures, tables, results and models, and drop those that are gone."""
        with alone(self.path):
            write_json(self.path, self.read() | {"files": self.files()})

    def files(self) -> dict[str, str]:
        """sha256 of every finished file under figures, tables, results and models, by its path within the folder."""
        return self.each(sha256)

    def each(self, what: Callable[[Path], T]) -> dict[str, T]:
        """``what`` of each of those files; one that another process removes meanwhile is left out."""
        found = {}
        for kept in self.KEPT:
            for path in sorted((self.folder / kept).rglob("*")):
                if path.is_file() and not path.name.startswith("."):
                    with suppress(FileNotFoundError):
                        found[path.relative_to(self.folder).as_posix()] = what(path)
        return found
