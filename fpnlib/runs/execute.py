"""A run: the notebooks of a profile into one folder, as many side by side as there are cores."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from time import perf_counter

import nbformat
from nbformat import NotebookNode
from tqdm.auto import tqdm

from fpnlib import checks
from fpnlib.runs import copies, places
from fpnlib.runs.engine import CellError, Limits, TimeUp, execute
from fpnlib.runs.environment import environment
from fpnlib.runs.fresh import SHOWN, clear, refuse_strangers
from fpnlib.runs.kernel import ThisPython, jobs
from fpnlib.runs.plan import plan, source_of
from fpnlib.runs.uses import Data, Uses
from fpnlib.store import (
    PROJECT,
    Manifest,
    claim,
    digest,
    library_digest,
    sha256,
)


def run(
    profile: str,
    out: str | None = None,
    only: Iterable[str] = (),
    values: Mapping[str, object] | None = None,
    fresh: bool = False,
    notebooks: Path = PROJECT / "notebooks",
    side_by_side: int | None = None,
    limits: Limits | None = None,
) -> Path:
    """Execute the notebooks with a profile's parameters; returns the run's folder.

    The numbers are the same for any ``side_by_side``.

    Args:
        profile: the name of a flat YAML mapping, parameter to value, in ``notebooks/profiles``.
        out: the run's folder, relative to the project; None: the profile's, else ``outputs/<profile>``.
        only: notebooks by name or by the start of it ("04"); none: all.
        values: parameters that take precedence over the profile's.
        fresh: forget what the folder holds and start over.
        notebooks: the folder of notebooks.
        side_by_side: how many notebooks at a time; None: one a core, or one on a GPU.
        limits: of the time that a cell and the run may take; None: none.

    Raises:
        ValueError, TypeError: an unknown profile, notebook or parameter, or a value of another type; one line, before
            anything runs. A damaged manifest.
        OSError: a folder that cannot be written to, or is in use by another run (``store.FolderInUse``).
        CellError: a cell failed or took too long. The other notebooks are executed all the same, unless the run's time is
            up; of several failures the first is raised, and the others are printed.
    """
    out, tasks = plan(profile, out, only, values or {}, notebooks)
    width = min(
        len(tasks),
        jobs() if side_by_side is None else checks.positive("side_by_side", side_by_side),
    )
    folder, limits, started = PROJECT / out, limits or Limits(), perf_counter()
    manifest = Manifest(folder)
    if fresh:
        refuse_strangers(manifest)
    with claim(folder) as left, Uses(manifest) as uses:
        if left:
            print(
                "taking up what process {process} on {host} left when it was stopped".format(**left)
            )
        if fresh:
            clear(manifest)
        manifest.read()  # a damaged one is refused here, before anything runs
        (folder / "notebooks").mkdir(exist_ok=True)
        session = _Session(manifest, uses, limits, width, environment(), library_digest())

        def stop() -> None:
            limits.stop()
            ThisPython.kill_all()

        titles = (
            f"[{number}/{len(tasks)}] {path.stem}" for number, path in enumerate(tasks, start=1)
        )
        _abreast(
            width,
            session.finish,
            [(title, *task) for title, task in zip(titles, tasks.items())],
            stop,
        )
        if session.executed:
            total = {
                "seconds": round(perf_counter() - started, 1),
                "notebooks": len(session.executed),
            }
            manifest.note("total", total)
    print(f"\n{_near(folder)} holds")
    for kind in SHOWN:
        count = sum(file.is_file() and file.name[0] != "." for file in (folder / kind).rglob("*"))
        print(f"  {count:4d} {kind:<10} {_near(folder / kind)}")
    return folder


def _abreast(width: int, call: Callable, calls: list[tuple], stop: Callable) -> None:
    """``call(*arguments)`` for each, ``width`` at a time. A CellError stops no other; upon any other failure, and when the
    time is up, those that run end, and none begins. Interrupted, it calls ``stop``, upon which those that run should fail.
    Side by side the last begin first: the long notebooks are among them, and none is then left to run alone at the end.

    Raises what stopped it, else the first failure in the order of ``calls``; the others are printed before.
    """
    stopped = Event()

    def unless_stopped(arguments: tuple) -> None:
        try:
            if not stopped.is_set():
                call(*arguments)
        except BaseException as failure:
            if _stops(failure):
                stopped.set()
            raise

    order = -1 if width > 1 else 1
    with ThreadPoolExecutor(width) as pool:
        futures = [pool.submit(unless_stopped, arguments) for arguments in calls[::order]][::order]
        try:
            wait(futures)
        except KeyboardInterrupt:
            stopped.set()
            stop()
            raise
    failures = [failure for failure in (future.exception() for future in futures) if failure]
    if not failures:
        return
    last = next(filter(_stops, failures), failures[0])
    for failure in reversed(failures):
        if failure is not last:
            print(f"\n{failure}", file=sys.stderr)
    raise last


def _stops(failure: BaseException) -> bool:
    return isinstance(failure, TimeUp) or not isinstance(failure, CellError)


@dataclass(frozen=True)
class _Session:
    """What the notebooks of a run share while they are executed."""

    manifest: Manifest
    uses: Uses
    limits: Limits
    width: int
    here: dict
    library: str
    data: Data = field(default_factory=Data)
    executed: list[str] = field(default_factory=list)

    def finish(self, title: str, path: Path, settings: dict[str, object]) -> None:
        """Execute one notebook, or bring its executed copy's text up to date where it is finished."""
        source = source_of(path)
        # Without the folder: a run that is moved stays finished.
        inputs = {name: value for name, value in settings.items() if name != "out"}
        code = [cell.source for cell in source.cells if cell.cell_type == "code"]
        key = digest([code, inputs, self.library])
        copy = f"notebooks/{path.name}"
        final = self.manifest.folder / copy
        failed, running = (
            final.with_suffix(".failed.ipynb"),
            final.with_name(f".{path.stem}.running.ipynb"),
        )
        entry = self.manifest.read().get("notebooks", {}).get(path.stem, {})
        if entry.get("key") == key and copy in entry["files"] and self._unchanged(entry, settings):
            copies.save(copies.with_text_of(source, nbformat.read(final, as_version=4)), final)
            if (now := entry["files"] | self.manifest.files([copy])) != entry["files"]:
                self.manifest.note_notebook(path.stem, entry | {"files": now})
            failed.unlink(missing_ok=True)
            tqdm.write(f"{title}: finished before ({_near(final)})")
            return
        if self.limits.over():
            raise TimeUp(f"{path.stem}: not begun at {self.limits}")

        started = perf_counter()
        watch = dict(
            title=title, limits=self.limits, bars_from=self.width, env=self.uses.begin(path.stem)
        )
        try:
            executed = execute(path, running, settings, **watch)
        except CellError:
            if so_far := _executed(running):
                copies.save(so_far, failed)
                tqdm.write(f"{title}: failed, see {_near(failed)}")
            raise
        finally:
            running.unlink(missing_ok=True)
        failed.unlink(missing_ok=True)
        seconds = round(perf_counter() - started, 1)
        copies.save(copies.with_text_of(source, executed), final)
        made_with = {name: self.here[name] for name in ("commit", "uncommitted changes")} | {
            "library": self.library
        }
        read = {
            "data": self.uses.data(path.stem),
            "inputs": self.uses.inputs(path.stem, settings.values()),
        }
        files = self.manifest.files([copy, *sorted(self.uses.files(path.stem))])
        given = {"parameters": places.named(settings), "seconds": seconds}
        entry = {"key": key} | made_with | given | read | {"files": files}
        self.manifest.note_notebook(path.stem, entry, self.here)
        self.executed.append(path.stem)
        tqdm.write(f"{title}: {seconds:g} s")

    def _unchanged(self, entry: Mapping, settings: Mapping) -> bool:
        """Whether a notebook's files are as it left them, and what it read is as it was, as far as it is still there."""
        if self.manifest.files(entry["files"]) != entry["files"]:
            return False
        there = [
            (PROJECT / places.found(name), checksum)
            for name, checksum in entry.get("inputs", {}).items()
        ]
        if any(path.is_file() and sha256(path) != checksum for path, checksum in there):
            return False
        return all(
            self.data.is_still(checksum, name, settings)
            for name, checksum in entry.get("data", {}).items()
        )


def _executed(path: Path) -> NotebookNode | None:
    """The copy that grew at ``path`` until its notebook failed; None where there is none that is whole."""
    with suppress(OSError, ValueError):
        return nbformat.read(path, as_version=4)


def _near(path: Path) -> Path:
    """``path`` as seen from the working directory, where that is shorter."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
