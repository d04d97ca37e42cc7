"""What a finished notebook was made from: whether it is still the same."""

import os
from collections.abc import Iterable, Mapping
from functools import cache
from threading import Lock

from fpnlib.runs import places
from fpnlib.store import PROJECT, Manifest, Uses, sha256


class Inputs:
    """What the notebooks of a run are made from, beside their code and parameters.

    Args:
        manifest: the run's.
    """

    def __init__(self, manifest: Manifest):
        self._manifest = manifest
        self._checksum, self._one_at_a_time = cache(_checksum), Lock()

    def used(self, notebook: str, settings: Iterable[object]) -> dict[str, dict[str, str]]:
        """What a notebook has used since it began, for its entry in the manifest.

        Args:
            notebook: its name.
            settings: values of its parameters. Those that name a file count as used.

        Returns:
            ``data``: checksums of datasets by name; ``files``: sha256 of the run's files by their
            paths within its folder; ``inputs``: sha256 of files elsewhere, by their paths as
            :func:`places.named` has them.
        """
        told, data = Uses(self._manifest.folder, notebook).read()
        outside = set(filter(os.path.isabs, told))
        inside = sorted(set(told) - outside)
        for value in settings:
            if isinstance(value, str) and os.path.isfile(PROJECT / value):
                outside.add(str(PROJECT / value))
        here = sorted(filter(os.path.isfile, outside))
        inputs = {places.named(path): sha256(path) for path in here}
        return {"data": data, "inputs": inputs, "files": self._manifest.files(inside)}

    def are_still(self, entry: Mapping, settings: Mapping) -> bool:
        """Whether the data and the files outside the run's folder are as they were.

        What is missing has not changed.

        Args:
            entry: the notebook's entry in the manifest.
            settings: its parameters.
        """
        for name, checksum in entry.get("inputs", {}).items():
            path = PROJECT / places.found(name)
            if path.is_file() and sha256(path) != checksum:
                return False
        root, seed = settings.get("data_dir"), settings.get("seed", 0)
        for name, checksum in entry.get("data", {}).items():
            with self._one_at_a_time:  # each dataset is loaded once
                now = self._checksum(name, root, seed)
            if now not in (checksum, None):
                return False
        return True


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
