"""One at a time: a run's folder for one run, a file for one process. The system drops a lock when its holder dies."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fpnlib.artifacts.files import PathLike, cannot_write, make_folder, read_json, write_json


class FolderInUse(OSError):
    """Another run works in the folder; the message names it."""


@contextmanager
def claim(folder: PathLike) -> Iterator[dict | None]:
    """Hold a run's folder against every other run; yields who held it before and did not let go (killed), or None.

    Raises:
        FolderInUse: a run that is alive holds it; one line with its host, its process and since when.
        OSError: the folder cannot be written to.
    """
    folder = make_folder(folder)
    card = folder / ".run.json"  # who holds it; the lock itself is the system's, and cannot go stale
    lock = FileLock(folder / ".run.lock")
    try:
        _acquire(lock, timeout=0)
    except Timeout:
        holder = _read(card)
        who = "process {process} on {host}, since {since}".format(**holder) if holder else "a run that just began"
        raise FolderInUse(f"{folder} is in use by {who}; wait for it, or give another folder with --out") from None
    try:
        left = _read(card)
        since = time.strftime("%Y-%m-%d %H:%M:%S %z")
        write_json(card, {"host": socket.gethostname(), "process": os.getpid(), "since": since})
        yield left
    finally:
        card.unlink(missing_ok=True)
        lock.release()


@contextmanager
def alone(path: PathLike) -> Iterator[None]:
    """Be the only process in this block, among those that name the same ``path``; waits for its turn.

    Raises:
        OSError: the folder cannot be written to.
    """
    path = Path(path)
    lock = FileLock(make_folder(path.parent) / f".{path.name}.lock")
    _acquire(lock)
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, timeout: float = -1) -> None:
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise
    except OSError as error:
        raise cannot_write(Path(lock.lock_file), error) from None


def _read(card: Path) -> dict | None:
    try:
        held = read_json(card)
        return held if {"host", "process", "since"} <= held.keys() else None
    except (OSError, ValueError, AttributeError):
        return None
