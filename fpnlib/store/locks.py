"""Locks of folders and files. The system frees a lock when its holder dies."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from fpnlib.store.files import PathLike, in_one_line, make_folder, read_json, write_json

MOMENT = 1.0
"""Seconds of waiting that need no message."""


@contextmanager
def claim(folder: PathLike) -> Iterator[dict | None]:
    """Hold a run's folder against other runs, and remove temporary files of killed processes.

    Yields:
        The host, process and time of a holder that was killed; None if there was none.

    Raises:
        OSError: a run that is alive holds the folder; one line with its host, its process and since
            when. Or the folder cannot be written to.
    """
    folder = Path(folder)
    card, lock = folder / ".run.json", FileLock(folder / ".run.lock")
    try:
        _acquire(lock, timeout=0)
    except Timeout:
        held, holder = _read(card), "a run that just began"
        if held is not None:
            holder = "process {process} on {host}, since {since}".format(**held)
        remedy = "wait for it, or give another folder with --out"
        raise OSError(f"{folder} is in use by {holder}; {remedy}") from None
    try:
        _sweep_up(folder)
        left = _read(card)
        since = time.strftime("%Y-%m-%d %H:%M:%S %z")
        write_json(card, {"host": socket.gethostname(), "process": os.getpid(), "since": since})
        yield left
    finally:
        card.unlink(missing_ok=True)
        lock.release()


@contextmanager
def alone(path: PathLike) -> Iterator[None]:
    """Be the only process in this block among those that name the same ``path``.

    A process that has to wait says so.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder, name = Path(path).parent, Path(path).name
    lock = FileLock(folder / f".{name}.lock")
    try:
        _acquire(lock, MOMENT)
    except Timeout:
        said = f"{name}: waiting for another process"
        with tqdm(desc=said, bar_format="{desc}", leave=False):
            _acquire(lock, timeout=-1)
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, timeout: float) -> None:
    path = Path(lock.lock_file)
    make_folder(path.parent)
    with in_one_line(path):
        lock.acquire(timeout=timeout)


def _read(card: Path) -> dict | None:
    try:
        held = read_json(card)
        return held if {"host", "process", "since"} <= held.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _sweep_up(folder: Path) -> None:
    """Remove the temporary files that killed processes of this machine left under ``folder``."""
    for path in folder.rglob(".*.tmp"):
        owner = path.suffixes[-2][1:] if len(path.suffixes) > 1 else ""
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            path.unlink(missing_ok=True)
