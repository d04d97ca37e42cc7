"""Files that are complete or not there: atomic writes, JSON, hashes.

Every write goes to a temporary file in the same folder, is flushed to the disk and then renamed: a run killed at any
moment leaves either the old file or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
"""The checkout: relative output folders and the default data folder are under it, whatever the working directory."""

PathLike = str | os.PathLike[str]


def write_bytes(path: PathLike, data: bytes) -> Path:
    """Write ``data`` atomically, making the folders above ``path``; returns the path.

    Raises:
        OSError: the folder cannot be written to; one line that names the file and the reason.
    """
    path = Path(path)
    make_folder(path.parent)
    _note_use(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)
    return path


def make_folder(path: PathLike) -> Path:
    """Make a folder and those above it; returns it. Raises OSError, in one line, where that cannot be done."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from None
    return path


def write_text(path: PathLike, text: str) -> Path:
    """Write ``text`` atomically as UTF-8. Raises as :func:`write_bytes` does."""
    return write_bytes(path, text.encode())


def write_json(path: PathLike, obj: object) -> Path:
    """Write ``obj`` atomically as indented JSON; tensors, NumPy values and paths are turned into plain ones.

    Raises:
        ValueError: NaN or infinite numbers, which JSON does not know.
        TypeError: something that JSON cannot hold.
        OSError: as :func:`write_bytes`.
    """
    try:
        text = json.dumps(obj, indent=1, ensure_ascii=False, allow_nan=False, default=plain)
    except ValueError as error:
        raise ValueError(f"{path} must hold finite numbers: {error}") from None
    return write_text(path, text + "\n")


def read_json(path: PathLike) -> object:
    """The object in a JSON file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated or no JSON at all; one line that names the file.
    """
    _note_use(path)
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged (no valid JSON: {error}); delete it and run again") from None


def sha256(path: PathLike) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(obj: object) -> str:
    """The first 12 hexadecimal digits of a hash of a JSON-able object in whatever order of keys: a cache's key."""
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), default=plain)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def inside(folder: PathLike, name: str) -> Path:
    """The file ``name`` of a run's folder. Names come from files that others wrote: none leads out of the folder.

    Raises:
        ValueError: an absolute name, one with "..", or a link to somewhere else.
    """
    root = Path(folder).resolve()
    path = (root / str(name)).resolve()
    if not path.is_relative_to(root) or path == root:
        raise ValueError(f"'{name}' leads out of {folder}; a run's files lie within its folder")
    return path


def sweep_up(folder: PathLike) -> None:
    """Remove the temporary files that killed processes of this machine left under ``folder``."""
    for path in Path(folder).rglob(".*.tmp"):
        owner = path.suffixes[-2][1:] if len(path.suffixes) > 1 else ""
        if owner.isdecimal() and not _alive(int(owner)):
            path.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> OSError:
    """The error of one line for a file that could not be written; to be raised by the caller."""
    return OSError(error.errno, f"cannot write {path} ({error.strerror}); expected a folder that can be written to")


def plain(obj: object) -> object:
    """What JSON takes in place of a tensor, an array, a NumPy value or a path. Raises TypeError on anything else."""
    if hasattr(obj, "tolist"):
        return obj.tolist()
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    raise TypeError(f"JSON holds numbers, text, lists and mappings, got {type(obj).__name__}")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return True


def _note_use(path: PathLike) -> None:
    """Tell the runner, where it listens, which files a notebook's processes write and read."""
    if listener := os.environ.get("FPN_USES"):
        with open(listener, "a", encoding="utf-8") as file:
            file.write(f"{os.path.abspath(path)}\n")
