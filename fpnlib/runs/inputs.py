"""What a finished notebook was made from: whether it is still the same."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from threading import Lock

from fpnlib.runs import places
from fpnlib.store import PROJECT, Manifest, Uses, sha256


class Data:
    """The datasets as they are now, each loaded once for its checksum."""

    def __init__(self) -> None:
        self._checksum, self._one_at_a_time = cache(_checksum), Lock()

    def is_still(self, checksum: str, name: str, settings: Mapping) -> bool:
        """Whether the dataset of these settings has ``checksum``; a missing one counts as so."""
        with self._one_at_a_time:
            now = self._checksum(name, settings.get("data_dir"), settings.get("seed", 0))
        return now in (checksum, None)


def used(
    manifest: Manifest, notebook: str, settings: Iterable[object]
) -> dict[str, dict[str, str]]:
    """What a notebook has used since it began, for its entry in the manifest.

    Args:
        manifest: the run's.
        notebook: its name.
        settings: values of its parameters. Those that name a file count as used.

    Returns:
        ``data``: checksums of datasets by name; ``files``: sha256 of the run's files by their paths
        within its folder; ``inputs``: sha256 of files elsewhere, by path: relative inside the
        project, else as :func:`places.named` has it.
    """
    told, data = Uses(manifest.folder, notebook).read()
    outside = set(filter(os.path.isabs, told))
    for value in settings:
        if isinstance(value, str) and os.path.isfile(PROJECT / value):
            outside.add(str(PROJECT / value))
    inputs = {_name(Path(name)): sha256(name) for name in sorted(outside) if os.path.isfile(name)}
    inside = [name for name in told if name not in outside]
    return {"data": data, "inputs": inputs, "files": manifest.files(inside)}


def are_still(inputs: Mapping[str, str]) -> bool:
    """Whether files outside the run's folder are as they were. A missing one has not changed."""
    for name, checksum in inputs.items():
        path = PROJECT / places.found(name)
        if path.is_file() and sha256(path) != checksum:
            return False
    return True


def _name(path: Path) -> str:
    inside = path.is_relative_to(PROJECT)
    return str(path.relative_to(PROJECT)) if inside else str(places.named(str(path)))


def _checksum(name: str, root: str | None, seed: int) -> str | None:
    """A dataset's checksum; "damaged", or None if the dataset is missing."""
    from fpnlib import data  # heavy, and needed only after an earlier run

    if name not in data.DATASETS:
        return None
    try:
        return data.load(name, root or None, seed).checksum
    except FileNotFoundError:
        return None
    except ValueError:  # the notebook will say what is wrong with it
        return "damaged"
