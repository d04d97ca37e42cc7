"""``manifest.json``: where a run's numbers come from, and what its files should be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import NoneType
from typing import TypeVar

from fpnlib.store.files import PathLike, damaged, read_json, sha256, write_json
from fpnlib.store.locks import alone

T = TypeVar("T")

NUMBER = (int, float)
# The type of a section's values. Sections that are not named here may hold anything.
SECTIONS = {"data": str, "differences": str, "failed": str, "files": str, "notebooks": dict}
SECTIONS |= {"seconds": NUMBER, "total": NUMBER}
# The type of each optional field of a notebook's entry, and those that map names to text.
MAPPINGS = ("parameters", "environment", "files", "data", "inputs")
ENTRY = {"key": str, "commit": (str, NoneType), "seconds": NUMBER} | dict.fromkeys(MAPPINGS, dict)
OF_TEXT = ("files", "data", "inputs")


class Manifest:
    """``manifest.json`` of a run's folder.

    Its sections are flat mappings. Notebooks and the runner add to them, each from its own process:
    ``environment`` (commit, versions, device), ``data`` (checksums), ``notebooks`` (parameters,
    seconds), ``files`` (sha256), ``total`` (seconds and notebooks of the last command that executed
    something), or any other.
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
        """All sections; empty if there is no manifest yet. Raises ValueError on a damaged file."""
        sections = read_json(self.path) if self.path.is_file() else {}
        if fault := _fault(sections):
            raise damaged(self.path, fault)
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

    def note_notebook(self, name: str, entry: Mapping, environment: Mapping | None = None) -> None:
        """Note a finished notebook.

        The section ``environment`` is that of the last notebook; the entries of earlier ones keep
        what differs there. Files that no notebook produces any more are dropped.

        Args:
            entry: parameters, seconds and the like, and the sha256 of its own ``files``.
            environment: where the notebook was executed; None if it was not executed again.
        """
        with alone(self.path):
            sections = self.read()
            notebooks = sections.setdefault("notebooks", {})
            if environment is not None:
                before = sections.get("environment", {}).items()
                changed = {key: value for key, value in before if value != environment.get(key)}
                for other in notebooks.values() if changed else ():
                    other["environment"] = changed | other.get("environment", {})
                sections["environment"] = dict(environment)
            notebooks[name] = dict(entry)
            files = sections.get("files", {}) | entry["files"]
            owned = set().union(*(one.get("files", {}) for one in notebooks.values()))
            sections["files"] = {file: files[file] for file in sorted(files.keys() & owned)}
            write_json(self.path, sections)

    def note_files(self) -> None:
        """Note the sha256 of every file that belongs in a manifest; drop those that are gone."""
        with alone(self.path):
            write_json(self.path, self.read() | {"files": self.files()})

    def files(self, names: Iterable[str] | None = None) -> dict[str, str]:
        """sha256 of the files ``names`` that exist, by the path within the folder.

        Args:
            names: None for all that belong in a manifest: what notebooks made, their executed
                copies, a sweep's grid.
        """
        paths = self._all() if names is None else [self.folder / name for name in names]
        return self._of(paths, sha256)

    def path_of(self, name: str) -> Path:
        """The file ``name`` of the folder, which no name from somebody's file may leave.

        Raises:
            ValueError: an absolute name, one with "..", or a link to somewhere else.
        """
        return _inside(self.folder, name)

    def refuse_strangers(self) -> None:
        """Raise ValueError if starting over would empty folders that no run has made."""
        made_by_a_run = self.path.is_file() or (self.folder / ".run.lock").is_file()
        if not made_by_a_run and self.unlisted():
            said = "is no run's folder, and starting over would empty it; give another --out"
            raise ValueError(f"{self.folder} {said}")

    def clear(self) -> None:
        """Remove what a run leaves, and nothing else that may stand in its folder."""
        for kind in (*self.KEPT, "notebooks", ".uses"):
            for path in sorted((self.folder / kind).rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        for path in (self.folder / self.GRID, self.path):
            path.unlink(missing_ok=True)

    def runs(self) -> dict[str, dict]:
        """A sweep's combinations by the names of its runs; empty if the folder is no sweep's.

        Raises:
            ValueError: damaged, or a name that leads out of the folder; one line.
        """
        path = self.folder / self.GRID
        points = read_json(path) if path.is_file() else {}
        if not _is_mapping_of(points, dict):
            raise damaged(path, "no mapping of runs")
        for name in points:
            _inside(self.folder / "runs", name)
        return points

    def changed(self) -> list[str]:
        """What is not as it was when it was noted, one line each.

        One of a sweep's runs may lack its figures, models or executed copies altogether, because
        its numbers are enough.

        Raises:
            ValueError: a damaged manifest.
        """
        sections = self.read()
        files = sections.get("files", {})
        faults = [self._difference(name, checksum) for name, checksum in files.items()]
        for notebook, entry in sections.get("notebooks", {}).items():
            for name, checksum in entry.get("files", {}).items():
                if files.get(name) != checksum:
                    faults.append(f"{notebook} was made with another {name}")
        return [fault for fault in faults if fault]

    def unlisted(self) -> list[str]:
        """Files that belong in the manifest, see :meth:`files`, and are not there."""
        listed = self.read().get("files", {})
        return [name for name in self._of(self._all(), str) if name not in listed]

    def each(self, what: Callable[[Path], T]) -> dict[str, T]:
        """``what`` of each finished file that notebooks made, by its path within the folder.

        A file that another process removes meanwhile is left out.
        """
        return self._of(self._made(), what)

    def _difference(self, name: str, checksum: str) -> str:
        try:
            path = self.path_of(name)
        except ValueError as error:
            return str(error)
        if path.is_file():
            another = f"{name} is not the file that the run made: its sha256 differs"
            return "" if sha256(path) == checksum else f"{another} from the manifest's"
        kind = Path(name).parts[0]
        optional = kind in ("figures", "models", "notebooks") and not (self.folder / kind).exists()
        in_sweep = self.folder.resolve().parent.name == "runs"
        return "" if in_sweep and optional else f"{name} is missing"

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


def _inside(folder: Path, name: str) -> Path:
    root = folder.resolve()
    path = (root / str(name)).resolve()
    if not path.is_relative_to(root) or path == root:
        raise ValueError(f"'{name}' leads out of {folder}; a run's files lie within its folder")
    return path


def _is_mapping_of(obj: object, kind: type | tuple[type, ...]) -> bool:
    return isinstance(obj, dict) and all(isinstance(value, kind) for value in obj.values())


def _fault(sections: object) -> str:
    """How a manifest's content is malformed; empty if it is well formed."""
    if not _is_mapping_of(sections, dict):
        return "no mapping of sections"
    for section, kind in SECTIONS.items():
        for name, value in sections.get(section, {}).items():
            if not isinstance(value, kind):
                return f"{section}, '{name}': {value!r:.40}"
    notebooks = sections.get("notebooks", {})
    environments = [one.get("environment", {}) for one in (sections, *notebooks.values())]
    for environment in environments:
        versions = environment.get("versions", {}) if isinstance(environment, dict) else None
        if not isinstance(versions, dict):
            return "environment: no mapping of versions"
    for name, entry in notebooks.items():
        if fault := _entry_fault(name, entry):
            return fault
    return ""


def _entry_fault(name: str, entry: Mapping) -> str:
    if name.startswith(".") or Path(name).name != name:
        return f"'{name}' names no notebook"
    if "parameters" not in entry:
        return f"notebook '{name}': no parameters"
    for key, kind in ENTRY.items():
        if key in entry and not isinstance(entry[key], kind):
            return f"notebook '{name}', {key}: {entry[key]!r:.40}"
    for key in OF_TEXT:
        if not _is_mapping_of(entry.get(key, {}), str):
            return f"notebook '{name}', {key}: no mapping of text"
    return ""
