"""What each notebook of a run writes and reads, while several work in one folder side by side."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock

from fpnlib.runs import places
from fpnlib.store import PROJECT, Manifest, sha256


class Data:
    """The datasets as they are now, each loaded once for its checksum."""

    def __init__(self):
        self._checksum, self._one_at_a_time = cache(_checksum), Lock()

    def is_still(self, checksum: str, name: str, settings: Mapping) -> bool:
        """Whether the dataset that a notebook's settings ask for has ``checksum``; one that is not here has not changed."""
        with self._one_at_a_time:
            return self._checksum(name, settings.get("data_dir"), settings.get("seed", 0)) in (
                checksum,
                None,
            )


def _checksum(name: str, root: str | None, seed: int) -> str | None:
    """A dataset's checksum; "damaged", or None where it is not here."""
    from fpnlib import data  # heavy, and only what was executed before needs it

    if name not in data.DATASETS:
        return None
    try:
        return data.load(name, root or None, seed).checksum
    except FileNotFoundError:
        return None
    except ValueError:  # the notebook will say what is wrong with it
        return "damaged"


class Uses:
    """Listens to what notebooks' processes write, read and note through ``fpnlib.store``; a context manager.

    A file that changed without a word there (a notebook may write on its own) is the notebook's that ran meanwhile.
    """

    def __init__(self, manifest: Manifest):
        self._manifest = manifest
        self._before: dict[str, dict[str, int]] = {}

    def __enter__(self) -> Uses:
        self._folder = TemporaryDirectory(prefix="fpnlib-")
        return self

    def __exit__(self, *_) -> None:
        self._folder.cleanup()

    def begin(self, notebook: str) -> dict[str, str]:
        """To be called before a notebook is executed; returns what its process needs in its environment."""
        self._before[notebook] = self._stamps()
        return {"FPN_USES": str(self._listener(notebook))}

    def files(self, notebook: str) -> set[str]:
        """The run's files, by their paths within its folder, that the notebook has written or read since it began."""
        root, now, before = self._manifest.folder.resolve(), self._stamps(), self._before[notebook]
        told = {
            name: {
                path.relative_to(root).as_posix()
                for path in self._told(name)
                if path.is_relative_to(root)
            }
            for name in self._before
        }
        own = told.pop(notebook)
        changed = {name for name, stamp in now.items() if before.get(name) != stamp}
        return (own | (changed - set().union(*told.values()))) & now.keys()

    def inputs(self, notebook: str, settings: Iterable[object] = ()) -> dict[str, str]:
        """sha256 of the files outside the run's folder that the notebook has used, or that one of its settings names.

        By path: relative inside the project, else as :func:`fpnlib.runs.places.named` has it.
        """
        root = self._manifest.folder.resolve()
        named = {
            PROJECT / value
            for value in settings
            if isinstance(value, str) and os.path.isfile(PROJECT / value)
        }
        told = {
            path
            for path in self._told(notebook)
            if path.is_file() and not path.is_relative_to(root)
        }
        return {_near(path): sha256(path) for path in sorted(named | told)}

    def data(self, notebook: str) -> dict[str, str]:
        """Checksums, by name, of the data that the notebook has loaded."""
        noted = [json.loads(line) for line in self._lines(notebook) if line.startswith("{")]
        return {name: checksum for note in noted for name, checksum in note.get("data", {}).items()}

    def _told(self, notebook: str) -> set[Path]:
        """Files written or read; with the JSON that describes weights, the weights."""
        paths = {Path(line).resolve() for line in self._lines(notebook) if not line.startswith("{")}
        return paths | {
            path.with_suffix(".safetensors") for path in paths if path.suffix == ".json"
        }

    def _lines(self, notebook: str) -> list[str]:
        listener = self._listener(notebook)
        return listener.read_text(encoding="utf-8").splitlines() if listener.is_file() else []

    def _listener(self, notebook: str) -> Path:
        return Path(self._folder.name, notebook)

    def _stamps(self) -> dict[str, int]:
        """When each of the run's files was last written, in nanoseconds."""
        return self._manifest.each(lambda path: path.stat().st_mtime_ns)


def _near(path: Path) -> str:
    return (
        str(path.relative_to(PROJECT)) if path.is_relative_to(PROJECT) else places.named(str(path))
    )
