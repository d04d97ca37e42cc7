"""One at a time: a run's folder for one run, a file for one process. The system drops a lock when its holder dies."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from fpnlib.store.files import PathLike, cannot_write, make_folder, read_json, write_json

MOMENT = 1.0
"""Seconds of waiting that need no word."""


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
    card = (
        folder / ".run.json"
    )  # who holds it; the lock itself is the system's, and cannot go stale
    lock = FileLock(folder / ".run.lock")
    try:
        _acquire(lock, timeout=0)
    except Timeout:
        who = _who(card, "a run that just began")
        raise FolderInUse(
            f"{folder} is in use by {who}; wait for it, or give another folder with --out"
        ) from None
    try:
        left = _read(card)
        write_json(card, _card())
        yield left
    finally:
        card.unlink(missing_ok=True)
        lock.release()


@contextmanager
def alone(path: PathLike) -> Iterator[None]:
    """Be the only process in this block, among those that name the same ``path``; waits for its turn, and says for whom.

    Raises:
        OSError: the folder cannot be written to.
    """
    path = Path(path)
    folder = make_folder(path.parent)
    card, lock = folder / f".{path.name}.holder", FileLock(folder / f".{path.name}.lock")
    try:
        _acquire(lock, MOMENT)
    except Timeout:
        _wait(lock, lambda: f"{path.name}: waiting for {_who(card, 'another process')}")
    try:
        with suppress(OSError):  # it only serves the one that waits
            card.write_text(json.dumps(_card()))
        yield
    finally:
        with suppress(OSError):
            card.unlink()
        lock.release()


def _wait(lock: FileLock, say: Callable[[], str]) -> None:
    """Acquire the lock, however long it takes, with a line on the screen meanwhile."""
    with tqdm(desc=say(), bar_format="{desc} ({elapsed})", leave=False, dynamic_ncols=True) as line:
        while True:
            with suppress(Timeout):
                return _acquire(lock, MOMENT)
            line.set_description_str(say())


def _acquire(lock: FileLock, timeout: float) -> None:
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise
    except OSError as error:
        raise cannot_write(Path(lock.lock_file), error) from None


def _card() -> dict:
    """Who this process is, and since when it holds what it holds."""
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return {"host": socket.gethostname(), "process": os.getpid(), "since": since}


def _who(card: Path, else_: str) -> str:
    holder = _read(card)
    return "process {process} on {host}, since {since}".format(**holder) if holder else else_


def _read(card: Path) -> dict | None:
    try:
        held = read_json(card)
        return held if {"host", "process", "since"} <= held.keys() else None
    except (OSError, ValueError, AttributeError):
        return None
