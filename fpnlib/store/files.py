"""Files that are complete or absent: atomic writes, JSON, digests.

A write goes to a temporary file in the same folder, is flushed to the disk and renamed. A process
that is killed at any moment leaves either the old file or the new one.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import fastjsonschema

PROJECT = Path(__file__).resolve().parents[2]
"""The checkout. Relative output folders count from here, whatever the working directory."""

PathLike = str | os.PathLike[str]


def write(path: PathLike, data: str | bytes) -> Path:
    """Write a file atomically, and make the folders above it.

    Args:
        path: where.
        data: its content; text becomes UTF-8.

    Returns:
        The path.

    Raises:
        OSError: the folder cannot be written to; one line that names the file and the reason.
    """
    with _replace(path, data.encode() if isinstance(data, str) else data):
        return Path(path)


def write_json(path: PathLike, obj: object) -> Path:
    """Write an object atomically as JSON.

    Args:
        path: where.
        obj: the object. Tensors and arrays become lists, paths become text.

    Returns:
        The path.

    Raises:
        ValueError: NaN or infinite numbers, which JSON does not know.
        TypeError: something that JSON cannot hold.
        OSError: as :func:`write`.
    """
    return write(path, _json_text(path, obj))


def read_json(path: PathLike) -> Any:
    """Read the object in a JSON file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is truncated or no JSON; one line that names it.
    """
    try:  # int refuses NaN and infinity, which are no JSON
        return json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=int)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"no valid JSON: {error}") from None


def damaged(path: PathLike, reason: str) -> ValueError:
    """Return the error, in one line, for a file that is not as it was written."""
    return ValueError(f"{path} is damaged ({reason}); delete it and run again")


def sha256(path: PathLike) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(obj: object) -> str:
    """Twelve hexadecimal digits that identify a JSON-able object, in whatever order its keys are.

    >>> digest({"epochs": 2, "seed": 0}) == digest({"seed": 0, "epochs": 2})
    True
    """
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@cache
def library_digest() -> str:
    """A digest of the library's code, as it is when first asked for."""
    files = (PROJECT / "fpnlib").rglob("*.py")
    return digest({path.relative_to(PROJECT).as_posix(): sha256(path) for path in files})


@contextmanager
def _replace(path: PathLike, data: bytes) -> Iterator[None]:
    """Put ``data`` on the disk beside ``path``, and in its place if the block ends well."""
    path = Path(path)
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with in_one_line(path), open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield
        with in_one_line(path):
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder and those above it. Raises OSError, in one line, if that is impossible."""
    with in_one_line(path):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def in_one_line(path: Path) -> Iterator[None]:
    """Raise an OSError of this block in one line, which names the path and the reason."""
    try:
        yield
    except TimeoutError:  # of a lock
        raise
    except OSError as error:
        reason = f"({error.strerror}); expected a folder that can be written to"
        raise OSError(error.errno, f"cannot write {path} {reason}") from None


def _json_text(path: PathLike, obj: object) -> str:
    try:
        text = json.dumps(obj, indent=1, ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError as error:
        raise ValueError(f"{path} must hold finite numbers: {error}") from None
    return text + "\n"


def schema(name: str) -> Callable[[object], Any]:
    """Return a JSON schema of this folder as a function that checks an object and returns it."""
    return fastjsonschema.compile(read_json(Path(__file__).with_name(f"{name}.schema.json")))


def read_as(schema: Callable[[object], Any], path: PathLike) -> Any:
    """Read the object in a JSON file. Raises ValueError, in one line, if it has another schema."""
    try:
        return schema(read_json(path))
    except fastjsonschema.JsonSchemaValueException as error:
        reason = error.message.replace("data", "$", 1)  # as in a JSON path
        raise damaged(path, f"{reason}, got {error.value!r:.40}") from None


def _expect(path: PathLike, obj: object, **kinds: type) -> dict:
    """Return ``obj``, read from ``path``, if it is a mapping with these fields of these types."""
    if not isinstance(obj, dict):
        raise damaged(path, f"expected a mapping, got {type(obj).__name__}")
    for name, kind in kinds.items():
        if name not in obj:
            raise damaged(path, f"'{name}' is missing")
        if not isinstance(obj[name], kind):
            raise damaged(path, f"'{name}' is of another type than expected")
    return obj


def sealed(path: PathLike, content: Mapping) -> str:
    """Return JSON of ``content`` with its digest, for :func:`unsealed`."""
    plain = json.loads(_json_text(path, content))
    return _json_text(path, {**plain, "digest": digest(plain)})


def unsealed(path: PathLike, **kinds: type) -> dict | None:
    """Read the content of a sealed file and check its digest. Earlier versions wrote no digest.

    Args:
        path: the file.
        kinds: the type of each field that must be there.

    Returns:
        The content without the digest; None if there is no such file.

    Raises:
        ValueError: the file is damaged; one line.
    """
    if not Path(path).is_file():
        return None
    content = _expect(path, read_json(path), **kinds)
    seal = content.pop("digest", None)
    if seal not in (None, digest(content)):
        raise damaged(path, "its digest is that of another content")
    return content


def _plain(obj: object) -> object:
    """Return what JSON takes in place of a tensor, an array, a NumPy value or a path."""
    if hasattr(obj, "tolist"):
        return obj.tolist()
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    raise TypeError(f"JSON holds numbers, text, lists and mappings, got {type(obj).__name__}")
