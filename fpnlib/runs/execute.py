"""A run: the notebooks of a profile into one folder, as many side by side as there are cores."""

import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from time import perf_counter

import nbformat
from tqdm import tqdm

from fpnlib import checks
from fpnlib.runs import copies, places
from fpnlib.runs.engine import CellError, Limits, TimeUp, execute
from fpnlib.runs.environment import environment
from fpnlib.runs.inputs import Inputs
from fpnlib.runs.kernel import jobs
from fpnlib.runs.plan import Plan, plan, source_of
from fpnlib.store import PROJECT, Manifest, Uses, claim, digest, library_digest

SHOWN = ("notebooks", "figures", "tables", "results")
"""The folders in which a reader looks for what a run has left."""


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
    """Execute the notebooks with a profile's parameters.

    The numbers are the same for any ``side_by_side``.

    Args:
        profile: the name of a YAML file in ``notebooks/profiles``.
        out: the run's folder, relative to the project; None: the profile's, else
            ``outputs/<profile>``.
        only: notebooks by name or by the start of it ("04"); none: all.
        values: parameters that take precedence over the profile's; a dotted name
            ("digits.flow_epochs") overrides a family's setting.
        fresh: forget what the folder holds and start over.
        notebooks: the folder of notebooks.
        side_by_side: how many notebooks at a time; None: one a core, or one on a GPU.
        limits: of the time that a cell and the run may take; None: none.

    Returns:
        The run's folder.

    Raises:
        ValueError, TypeError: an unknown profile, notebook or parameter, or a value of another
            type; one line, before anything runs. A damaged manifest.
        OSError: a folder that cannot be written to, or is in use by another run.
        CellError: a cell failed or took too long. The other notebooks are executed nevertheless,
            unless the run's time is up. Of several failures the first is raised, and the others are
            printed.
    """
    todo = plan(profile, out, only, values or {}, notebooks)
    count = jobs() if side_by_side is None else checks.positive("jobs", side_by_side)
    manifest, started = Manifest(PROJECT / todo.out), perf_counter()
    if fresh:
        manifest.refuse_strangers()
    with claim(manifest.folder) as left:
        if left:
            said = "taking up what process {process} on {host} left when it was stopped"
            print(said.format(**left))
        if fresh:
            manifest.clear()
        manifest.read()  # a damaged one is refused here, before anything runs
        limits = limits or Limits()
        here, library = environment(), library_digest()
        session = _Session(manifest, todo, limits, here, library, Inputs(manifest))
        _abreast(min(count, len(todo.tasks)), session.finish, list(todo.tasks), limits.stop)
        if session.executed:
            seconds = round(perf_counter() - started, 1)
            manifest.note("total", {"seconds": seconds, "notebooks": len(session.executed)})
    _print_content(manifest.folder)
    return manifest.folder


@dataclass(frozen=True)
class _Session:
    """What the notebooks of a run share while they are executed."""

    manifest: Manifest
    todo: Plan
    limits: Limits
    here: dict
    library: str
    inputs: Inputs
    executed: list[str] = field(default_factory=list)

    def finish(self, path: Path) -> None:
        """Execute one notebook, or bring its executed copy's text up to date if it is finished."""
        paths = list(self.todo.tasks)
        title = f"[{paths.index(path) + 1}/{len(paths)}] {path.stem}"
        source, settings = source_of(path), self.todo.tasks[path]
        final = self.manifest.folder / "notebooks" / path.name
        code = [cell.source for cell in copies.code_cells(source.cells)]
        given = dict(settings)
        given.pop("out", None)  # a run that is moved stays finished
        groups = self.todo.groups_for(path, "\n".join(code))
        key = digest([code, given, self.library, groups])
        entry = self.manifest.read().get("notebooks", {}).get(path.stem, {})
        if self._is_finished(entry, key, settings, f"notebooks/{path.name}"):
            self._refresh(path.stem, entry, source, final)
            tqdm.write(f"{title}: finished before ({_near(final)})")
            return
        if self.limits.over():
            raise TimeUp(f"{path.stem}: not begun at {self.limits}")
        started = perf_counter()
        final.parent.mkdir(exist_ok=True)
        executed = self._execute(path, title, settings, final)
        seconds = round(perf_counter() - started, 1)
        copies.save(executed, final, text_of=source)
        self._note(path, key, settings, seconds)
        tqdm.write(f"{title}: {seconds:g} s")

    def _execute(
        self, path: Path, title: str, settings: dict, final: Path
    ) -> nbformat.NotebookNode:
        Uses(self.manifest.folder, path.stem).clear()
        failed = final.with_suffix(".failed.ipynb")
        running = final.with_name(f".{path.stem}.running.ipynb")
        try:
            executed = execute(path, running, settings, title=title, limits=self.limits)
        except CellError:
            if running.is_file() and not self.limits.interrupted:
                copies.save(nbformat.read(running, as_version=4), failed)
                tqdm.write(f"{title}: failed, see {_near(failed)}")
            raise
        finally:
            running.unlink(missing_ok=True)
        failed.unlink(missing_ok=True)
        return executed

    def _note(self, path: Path, key: str, settings: dict, seconds: float) -> None:
        entry = {
            "key": key,
            "commit": self.here["commit"],
            "uncommitted changes": self.here["uncommitted changes"],
            "library": self.library,
            "parameters": places.named(settings),
            "seconds": seconds,
        }
        entry |= self.inputs.used(path.stem, settings.values())
        entry["files"] |= self.manifest.files([f"notebooks/{path.name}"])
        self.manifest.note_notebook(path.stem, entry, self.here)
        self.executed.append(path.stem)

    def _refresh(self, name: str, entry: dict, source: nbformat.NotebookNode, final: Path) -> None:
        """Give a finished copy the text of its source, which may have been edited."""
        copies.save(nbformat.read(final, as_version=4), final, text_of=source)
        now = entry["files"] | self.manifest.files([f"notebooks/{final.name}"])
        if now != entry["files"]:
            self.manifest.note_notebook(name, entry | {"files": now})
        final.with_suffix(".failed.ipynb").unlink(missing_ok=True)

    def _is_finished(self, entry: Mapping, key: str, settings: Mapping, copy: str) -> bool:
        """Whether a notebook's files are as it left them, and what it read is as it was."""
        if entry.get("key") != key or copy not in entry.get("files", {}):
            return False
        if self.manifest.files(entry["files"]) != entry["files"]:
            return False
        return self.inputs.are_still(entry, settings)


def _abreast(width: int, call: Callable, paths: list, stop: Callable) -> None:
    """Do ``call(path)`` for each, ``width`` at a time.

    A CellError stops no other call. Upon any other failure, and when the time is up, no other call
    begins. An interrupt calls ``stop``, upon which the running calls should fail.

    Raises what stopped it, else the first failure in the order of ``paths``; the others are printed
    before.
    """
    stopped = Event()

    def unless_stopped(path: object) -> None:
        try:
            if not stopped.is_set():
                call(path)
        except BaseException as failure:
            if _stops(failure):
                stopped.set()
            raise

    with ThreadPoolExecutor(width) as pool:
        futures = [pool.submit(unless_stopped, path) for path in paths]
        try:
            wait(futures)
        except KeyboardInterrupt:
            stopped.set()
            stop()
            raise
    failures = list(filter(None, map(Future.exception, futures)))
    if failures:
        last = next(filter(_stops, failures), failures[0])
        for failure in reversed(failures):
            if failure is not last:
                print(f"\n{failure}", file=sys.stderr)
        raise last


def _stops(failure: BaseException) -> bool:
    return isinstance(failure, TimeUp) or not isinstance(failure, CellError)


def _print_content(folder: Path) -> None:
    print(f"\n{_near(folder)} holds")
    for kind in SHOWN:
        count = sum(map(Path.is_file, (folder / kind).rglob("[!.]*")))
        print(f"  {count:4d} {kind:<10} {_near(folder / kind)}")


def _near(path: Path) -> Path:
    """``path`` as seen from the working directory, if that is shorter."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
