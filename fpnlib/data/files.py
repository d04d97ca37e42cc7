"""Where data lies, and which files in its folders are data."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from fpnlib.store import PROJECT


def data_root(root: str | Path | None = None) -> Path:
    """The folder of all datasets: ``root``, else $FPN_DATA, else ``data/`` in the project.

    ``~`` is the user's home; a relative path counts from the project's root.

    >>> data_root("/datasets").as_posix()
    '/datasets'
    """
    given = root or os.environ.get("FPN_DATA") or "data"  # noqa: TID251 the user's variable
    return PROJECT / Path(given).expanduser()


def entries(folder: Path, pattern: str = "*") -> list[Path]:
    """Paths in ``folder`` that match ``pattern``, sorted, without what other programs leave there.

    Hidden files (``.ipynb_checkpoints``, ``._photo.jpg``) and ``__MACOSX`` are left out.
    """
    paths = sorted(folder.glob(pattern))
    return [path for path in paths if not path.name.startswith((".", "__MACOSX"))]


def checksum(*arrays: np.ndarray) -> str:
    """sha256 of the arrays' bytes, one after another, as a hexadecimal string."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
