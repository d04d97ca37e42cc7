"""Which files and data a notebook of a run uses: told by its processes, read by the runner."""

import json
from pathlib import Path

from fpnlib.store.files import PathLike, make_folder


class Uses:
    """The files and data that a notebook of a run has used, in ``.uses/<notebook>.jsonl``.

    The notebook's process and its workers append a line each time they read or write a file or load
    a dataset. A line is one write to a file that is open for appending, so that processes can share
    the file.

    Args:
        folder: the run's folder.
        notebook: name of the notebook, e.g. "04_conditional_generation".

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     uses = Uses(folder, "04_conditional_generation")
    ...     uses.file(f"{folder}/tables/scores.csv")
    ...     uses.data("digits", "06b0d1")
    ...     uses.read()
    (['tables/scores.csv'], {'digits': '06b0d1'})
    """

    def __init__(self, folder: PathLike, notebook: str):
        self.folder = Path(folder).resolve()
        self.path = self.folder / ".uses" / f"{notebook}.jsonl"

    def file(self, path: PathLike) -> None:
        """Note that a file was read or written; with weights, the JSON that describes them.

        A path inside the run's folder is kept relative to it.
        """
        path = Path(path).resolve()
        pair = [path, path.with_suffix(".json")] if path.suffix == ".safetensors" else [path]
        for one in pair:
            inside = one.is_relative_to(self.folder)
            self._append({"file": str(one.relative_to(self.folder) if inside else one)})

    def data(self, name: str, checksum: str) -> None:
        """Note that a dataset was loaded."""
        self._append({"data": name, "checksum": checksum})

    def clear(self) -> None:
        """Forget what was noted, because the notebook is executed again."""
        self.path.unlink(missing_ok=True)

    def read(self) -> tuple[list[str], dict[str, str]]:
        """Return the names of the files, and the checksums of the datasets.

        A name is relative inside the run's folder, else absolute.
        """
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        files: set[str] = set()
        data: dict[str, str] = {}
        for note in map(json.loads, text.splitlines()):
            if "file" in note:
                files.add(note["file"])
            else:
                data[note["data"]] = note["checksum"]
        return sorted(files), data

    def _append(self, note: dict[str, str]) -> None:
        make_folder(self.path.parent)
        line = json.dumps(note) + "\n"
        with open(self.path, "ab", buffering=0) as file:
            file.write(line.encode())
