"""Where data lies, and which files in its folders are data."""

from __future__ import annotations

import os
from pathlib import Path

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
