"""Which of a run's files belong to which notebook, while several write into one folder side by side."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from fpnlib.artifacts import Manifest


class Uses:
    """Listens to what notebooks' processes write and read through ``fpnlib.artifacts``; a context manager.

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
        """The files, by their paths within the run's folder, that the notebook has written or read since it began."""
        root, before = self._manifest.folder.resolve(), self._before[notebook]
        told = {}
        for name in self._before:
            listener = self._listener(name)
            lines = listener.read_text(encoding="utf-8").splitlines() if listener.is_file() else []
            paths = {Path(line).resolve() for line in lines}
            told[name] = {path.relative_to(root).as_posix() for path in paths if path.is_relative_to(root)}
        own = told.pop(notebook)
        changed = {name for name, stamp in self._stamps().items() if before.get(name) != stamp}
        return own | (changed - set().union(*told.values()))

    def _listener(self, notebook: str) -> Path:
        return Path(self._folder.name, notebook)

    def _stamps(self) -> dict[str, int]:
        """When each of the run's files was last written, in nanoseconds."""
        return self._manifest.each(lambda path: path.stat().st_mtime_ns)
