"""Files that are complete or not there: atomic writes, JSON, hashes.

Every write goes to a temporary file in the same folder, is flushed to the disk and then renamed: a run killed at any
moment leaves either the old file or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

PROJECT = Path(__file__).resolve().parents[2]
"""The checkout: relative output folders and the default data folder are under it, whatever the working directory."""

PathLike = str | os.PathLike[str]
T = TypeVar("T")


def write_bytes(path: PathLike, data: bytes) -> Path:
    """Write ``data`` atomically, making the folders above ``path``; returns the path.

    Raises:
        OSError: the folder cannot be written to; one line that names the file and the reason.
    """
    with replaced(path, data):
        return Path(path)


@contextmanager
def replaced(path: PathLike, data: bytes) -> Iterator[None]:
    """``data`` on the disk beside ``path``, whose place it takes at the end of the block, if that ends well.

    Raises:
        OSError: as :func:`write_bytes`, before the block.
    """
    path = Path(path)
    make_folder(path.parent)
    _note_use(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _in_one_line(path), open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield
        with _in_one_line(path):
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path: PathLike) -> Path:
    """Make a folder and those above it; returns it. Raises OSError, in one line, where that cannot be done."""
    path = Path(path)
    with _in_one_line(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write_text(path: PathLike, text: str) -> Path:
    """Write ``text`` atomically as UTF-8. Raises as :func:`write_bytes` does."""
    return write_bytes(path, text.encode())


def write_json(path: PathLike, obj: object) -> Path:
    """Write ``obj`` atomically as JSON; tensors, arrays, NumPy values and paths become lists, numbers and text.

    Raises:
        ValueError: NaN or infinite numbers, which JSON does not know.
        TypeError: something that JSON cannot hold.
        OSError: as :func:`write_bytes`.
    """
    return write_text(path, json_text(path, obj))


def json_text(path: PathLike, obj: object) -> str:
    """What :func:`write_json` writes; raises as it does, in the name of ``path``."""
    try:
        return json.dumps(obj, indent=1, ensure_ascii=False, allow_nan=False, default=plain) + "\n"
    except ValueError as error:
        raise ValueError(f"{path} must hold finite numbers: {error}") from None


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
        raise damaged(path, f"no valid JSON: {error}") from None


def expect(path: PathLike, obj: object, **kinds: type | tuple[type, ...]) -> dict:
    """``obj``, read from the JSON file ``path``, as a mapping that has at least these fields, each of its kind.

    Raises:
        ValueError: anything else; one line that names the file and the field.
    """
    if not isinstance(obj, dict):
        raise damaged(path, f"expected a mapping, got {type(obj).__name__}")
    for name, kind in kinds.items():
        if not isinstance(obj.get(name), kind):
            raise damaged(
                path, f"'{name}' is {'another thing than expected' if name in obj else 'missing'}"
            )
    return obj


def rebuilt(path: PathLike, kind: type[T], values: Mapping) -> T:
    """``kind(**values)`` of what a JSON file holds. Raises ValueError, in one line, where they are not its fields."""
    try:
        return kind(**values)
    except TypeError:
        raise damaged(path, f"it holds no {kind.__name__}") from None


def sealed(path: PathLike, content: Mapping) -> str:
    """JSON of ``content`` with a ``digest`` of it, for a file ``path`` that :func:`read_sealed` reads.

    Raises:
        ValueError, TypeError: as :func:`write_json`.
    """
    content = json.loads(json_text(path, content))
    return json_text(path, content | {"digest": digest(content)})


def read_sealed(path: PathLike, **kinds: type) -> dict:
    """The content of a file written with :func:`sealed`; earlier versions wrote no digest.

    Raises:
        FileNotFoundError: no such file.
        ValueError: changed since, or other fields than ``kinds``, see :func:`expect`; one line.
    """
    content = expect(path, read_json(path), **kinds)
    seal = content.pop("digest", None)
    if seal not in (None, digest(content)):
        raise damaged(path, "its digest is that of another content")
    return content


def write_kept(path: PathLike, key: str, **values: object) -> Path:
    """Keep JSON-able ``values`` under ``key``, the digest of what they depend on. Raises as :func:`write_json` does."""
    return write_text(path, sealed(path, {"key": key} | values))


def read_kept(path: PathLike, key: str, **kinds: type) -> dict | None:
    """What :func:`write_kept` wrote under ``key``; None where there is nothing, or it was kept under another key.

    Raises:
        ValueError: as :func:`read_sealed`.
    """
    if not Path(path).is_file():
        return None
    kept = read_sealed(path, key=str, **kinds)
    return kept if kept["key"] == key else None


def damaged(path: PathLike, what: str) -> ValueError:
    """The error of one line for a file that is not as it was written; to be raised by the caller."""
    return ValueError(f"{path} is damaged ({what}); delete it and run again")


def sha256(path: PathLike) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(obj: object) -> str:
    """The first 12 hexadecimal digits of a hash of a JSON-able object in whatever order of keys: a cache's key."""
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), default=plain)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@cache
def library_digest() -> str:
    """A digest of the library's code, as it is when first asked for."""
    return digest(
        {
            path.relative_to(PROJECT).as_posix(): sha256(path)
            for path in (PROJECT / "fpnlib").rglob("*.py")
        }
    )


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
    return OSError(
        error.errno,
        f"cannot write {path} ({error.strerror}); expected a folder that can be written to",
    )


def plain(obj: object) -> object:
    """What JSON takes in place of a tensor, an array, a NumPy value or a path. Raises TypeError on anything else."""
    if hasattr(obj, "tolist"):
        return obj.tolist()
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    raise TypeError(f"JSON holds numbers, text, lists and mappings, got {type(obj).__name__}")


@contextmanager
def _in_one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from None


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
