"""``manifest.json``: where a run's numbers come from, and what its files should be."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import fastjsonschema

from fpnlib.store.files import PathLike, damaged, read_as, schema, sha256, write_json
from fpnlib.store.locks import alone

_SECTIONS = schema("manifest")
_RUNS = fastjsonschema.compile({"type": "object", "additionalProperties": {"type": "object"}})


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
        """Return all sections, empty if there is no manifest yet.

        Raises:
            ValueError: a damaged file, in one line.
        """
        sections = read_as(_SECTIONS, self.path) if self.path.is_file() else {}
        for name in sections.get("notebooks", {}):
            if name.startswith(".") or Path(name).name != name:
                raise damaged(self.path, f"'{name}' names no notebook")
        return sections

    def note(self, section: str, values: Mapping) -> None:
        """Add values to a section, replacing those of the same name.

        Args:
            section: its name.
            values: JSON-able values by name.

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
            name: of the notebook.
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
            kept = {}
            for one in notebooks.values():
                for file in one.get("files", {}).keys() & files:
                    kept[file] = files[file]
            sections["files"] = dict(sorted(kept.items()))
            write_json(self.path, sections)

    def files(self, names: Iterable[str]) -> dict[str, str]:
        """Return the sha256 of those of the files that exist, by their paths within the folder."""
        checksums = {}
        for name in names:
            path = self.folder / name
            if path.is_file() and not path.name.startswith("."):
                with suppress(FileNotFoundError):  # another process has just removed it
                    checksums[name] = sha256(path)
        return checksums

    def made(self) -> dict[str, Path]:
        """Return the finished files that notebooks made, by their paths within the folder."""
        files: dict[str, Path] = {}
        for kind in self.KEPT:
            files |= self._named((self.folder / kind).rglob("[!.]*"))
        return files

    def path_of(self, name: str) -> Path:
        """Return the path of a file of the folder, which no name from a manifest may leave.

        Raises:
            ValueError: an absolute name, one with "..", or a link to somewhere else.
        """
        return _inside(self.folder, name)

    def refuse_strangers(self) -> None:
        """Raise ValueError if starting over would empty folders that no run has made."""
        made_by_a_run = self.path.is_file() or (self.folder / ".run.lock").is_file()
        if not made_by_a_run and self.unlisted():
            raise ValueError(f"{self.folder} is no run's folder and would be emptied; give another")

    def clear(self) -> None:
        """Remove what a run leaves, and nothing else that may stand in its folder."""
        for kind in (*self.KEPT, "notebooks", ".uses"):
            for path in sorted((self.folder / kind).rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        for path in (self.folder / self.GRID, self.path):
            path.unlink(missing_ok=True)

    def runs(self) -> dict[str, dict]:
        """Return a sweep's combinations by its runs' names; empty if the folder is no sweep's.

        Raises:
            ValueError: damaged, or a name that leads out of the folder; one line.
        """
        grid = self.folder / self.GRID
        points = read_as(_RUNS, grid) if grid.is_file() else {}
        for name in points:
            _inside(self.folder / "runs", name)
        return points

    def changed(self) -> list[str]:
        """Return what is not as it was when it was noted, one line each.

        One of a sweep's runs may lack its figures, models or executed copies altogether, because
        its numbers are enough.

        Raises:
            ValueError: a damaged manifest.
        """
        sections = self.read()
        files = sections.get("files", {})
        faults = [self._difference(*file) for file in files.items()]
        for notebook, entry in sections.get("notebooks", {}).items():
            for name, checksum in entry.get("files", {}).items():
                if files.get(name) != checksum:
                    faults.append(f"{notebook} was made with another {name}")
        return list(filter(None, faults))

    def unlisted(self) -> list[str]:
        """Return the files that belong in the manifest and are not there."""
        return sorted(self._belonging().keys() - self.read().get("files", {}))

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

    def _belonging(self) -> dict[str, Path]:
        """Return what belongs in a manifest: what notebooks made, their copies, a sweep's grid."""
        copies = set((self.folder / "notebooks").glob("[!.]*.ipynb"))
        finished = copies - set((self.folder / "notebooks").glob("*.failed.ipynb"))
        return self._named([*finished, self.folder / self.GRID]) | self.made()

    def _named(self, paths: Iterable[Path]) -> dict[str, Path]:
        files = filter(Path.is_file, sorted(paths))
        return {path.relative_to(self.folder).as_posix(): path for path in files}


def _inside(folder: Path, name: str) -> Path:
    root = folder.resolve()
    path = (root / str(name)).resolve()
    if not path.is_relative_to(root) or path == root:
        raise ValueError(f"'{name}' leads out of {folder}; a run's files lie within its folder")
    return path
