"""Where data lies, and which files in its folders are data."""

import os
from pathlib import Path

from fpnlib.store import PROJECT

Root = str | Path | None


def data_root(root: Root = None) -> Path:
    """The folder of all datasets: ``root``, else $FPN_DATA, else ``data/`` in the project.

    ``~`` is the user's home; a relative path counts from the project's root.

    >>> data_root("/datasets").as_posix()
    '/datasets'
    """
    given = root or os.environ.get("FPN_DATA") or "data"  # noqa: TID251 the user's variable
    return PROJECT / Path(given).expanduser()


def entries(folder: Path, *patterns: str) -> list[Path]:
    """Paths in ``folder`` that match one of the patterns, sorted within each pattern.

    What other programs leave there is left out: hidden files and folders
    (``.ipynb_checkpoints``, ``._photo.jpg``) and ``__MACOSX``.
    """
    found = []
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            parts = path.relative_to(folder).parts
            if not any(part.startswith((".", "__MACOSX")) for part in parts):
                found.append(path)
    return found
