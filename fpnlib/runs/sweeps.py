"""Many runs from one command: seeds and lists of values fan out through Dask into one table.

Each point of the grid is a run into a folder of its own, ``<sweep>/runs/seed=0``, which resumes
like any other run. The tables are gathered in the grid's order, so they hold the same bits for any
workers.
"""

import io
import itertools
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from operator import itemgetter
from pathlib import Path
from threading import RLock
from typing import Any

import pandas as pd
from tqdm import tqdm

from fpnlib import store
from fpnlib.runs.cluster import client_of
from fpnlib.runs.engine import CellError, Limits
from fpnlib.runs.execute import run
from fpnlib.runs.plan import fan_out, plan
from fpnlib.runs.tables import RUNS, gathered
from fpnlib.store import PROJECT, Manifest

SHOWN_NAME = 60
"""Characters of a run's folder's name, before the rest becomes a digest."""

LOST = "the scheduler was lost"
Points = dict[str, dict[str, object]]


def sweep(
    profile: str,
    values: Mapping[str, object],
    out: str | None = None,
    only: Iterable[str] = (),
    fresh: bool = False,
    notebooks: Path = PROJECT / "notebooks",
    workers: int | None = None,
    scheduler: str | None = None,
    limits: tuple[float | None, float | None] = (None, None),
) -> Path:
    """Run every combination of the lists among ``values``, for example of seeds.

    In the sweep's folder, ``tables/runs.csv`` holds every number of every run and
    ``tables/summary.csv`` means and standard deviations over the seeds. ``figures`` shows their
    spread, ``grid.json`` holds the combinations, and ``manifest.json`` says which runs failed and
    how their environments differ. If every run fails, all of it stays as it was.

    Args:
        profile: as for :func:`fpnlib.runs.execute.run`.
        values: as for a run; a list fans out if the parameter is not a list itself.
        out: the sweep's folder, relative to the project; None: ``outputs/<profile>-sweep``.
        only: as for a run.
        fresh: as for a run.
        notebooks: as for a run.
        workers: runs at a time on this machine; None: one a core, or one on a GPU.
        scheduler: address of a Dask cluster, ``tcp://host:port``. Its workers need the same
            library, the data, and the sweep's folder under the same path.
        limits: seconds that a cell and each run may take.

    Returns:
        The sweep's folder.

    Raises:
        ValueError, TypeError: as a run does, before anything runs; fewer than two combinations;
            workers of this machine and a scheduler.
        OSError: no scheduler at that address, or no workers; a folder that is in use or read-only.
        CellError: runs failed; one line for each. The numbers of the others are gathered.
    """
    if scheduler is not None and workers is not None:
        raise ValueError("--workers are processes of this machine; a scheduler has its own")
    out = f"outputs/{profile}-sweep" if out is None else out
    points, folder = _grid(values, fan_out(values, only, notebooks)), PROJECT / out
    for point in points.values():
        todo = plan(profile, out, only, point, notebooks)
    stale = _stale(folder) if fresh else []
    with store.claim(folder), client_of(len(points), workers, scheduler) as client:
        _start_over(stale)
        calls = {}
        for name, point in points.items():
            call = {"profile": profile, "out": f"{out}/runs/{name}", "only": tuple(only)}
            calls[name] = call | {"values": point, "notebooks": notebooks}, limits
        failures = _run_all(client, calls, folder)
        if len(failures) < len(points):
            _finish(folder, points, [path.stem for path in todo.tasks], failures)
    if failures:
        raise _error(failures, len(points))
    return folder


def _error(failures: Mapping[str, str], count: int) -> CellError:
    """The error of a sweep of ``count`` runs, one line for each that failed."""
    others = "the others are" if len(failures) < count else "nothing is"
    lines = [f"{len(failures)} of {count} runs failed; {others} gathered"]
    lines += map(": ".join, failures.items())
    return CellError("\n".join(lines))


def _grid(values: Mapping[str, object], fans_out: Mapping[str, list]) -> Points:
    """``values`` with every combination of the lists that fan out, by the name of its folder."""
    for name, value in fans_out.items():
        if len(set(map(repr, value))) < len(value) or not value:
            raise ValueError(f"the values of {name} must differ from each other, got {value}")
    points: Points = {}
    for combination in itertools.product(*fans_out.values()):
        point = dict(zip(fans_out, combination))
        points[_name(point)] = dict(values) | point
    if len(points) < 2:
        raise ValueError("a sweep needs two runs or more: give --seeds, or --set name=[1,2]")
    return points


def _stale(folder: Path) -> list[Manifest]:
    """Return the manifests of a sweep and its runs; refuse folders that no run has made."""
    manifests = list(map(Manifest, (folder, *sorted(folder.glob("runs/*/")))))
    for manifest in manifests:
        manifest.refuse_strangers()
    return manifests


def _start_over(manifests: Sequence[Manifest]) -> None:
    """Clear the folders of a sweep, which is held, and of its runs, unless one is in use."""
    with ExitStack() as held:
        for manifest in manifests[1:]:
            held.enter_context(store.claim(manifest.folder))
        for manifest in manifests:
            manifest.clear()


def _run(arguments: Mapping[str, Any], limits: tuple[float | None, float | None]) -> None:
    """Do one run, in a worker's process: quiet, with its notebooks one after another."""
    os.environ["TQDM_DISABLE"] = "1"  # noqa: TID251 the kernels inherit it and draw no bars
    tqdm.set_lock(RLock())  # its default, of processes, leaks when a worker is ended
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        run(**arguments, side_by_side=1, limits=Limits(*limits))


def _run_all(client: Any, calls: Mapping[str, tuple], folder: Path) -> dict[str, str]:
    """Do the runs, each once a worker is free for it.

    Given all at once, Dask puts some in line behind a worker, where they stay while another has
    nothing to do.

    Args:
        client: of the Dask cluster.
        calls: the arguments of :func:`_run` by the run's name.
        folder: the sweep's.

    Returns:
        What went wrong, by the run's name, in the grid's order.
    """
    from distributed import as_completed

    waiting, done = list(calls), as_completed()
    names: dict[str, str] = {}
    failures: dict[str, str] = {}

    def give_out() -> None:
        free = max(1, sum(client.nthreads().values())) - done.count()
        for name in waiting[: max(0, free)]:
            # A run whose worker is killed goes to another one; a run that fails would fail again.
            future = client.submit(_run, *calls[name], key=f"{folder}/{name}", pure=False)
            names[future.key] = waiting.pop(0)
            done.add(future)

    shape = {"desc": "sweep", "unit": "run", "dynamic_ncols": True, "leave": False, "disable": None}
    with tqdm(total=len(calls), **shape) as bar:
        give_out()
        for number, future in enumerate(done, start=1):
            name = names[future.key]
            if future.status != "finished":
                error = future.exception()
                failures[name] = _last_line(error) if error else LOST
                if error is None:  # nobody is there to do the others
                    failures |= dict.fromkeys(waiting, LOST)
                    waiting.clear()
            tqdm.write(f"[{number}/{len(calls)}] {name}{': failed' if name in failures else ''}")
            bar.update()
            give_out()
    return {name: failures[name] for name in calls if name in failures}


def _finish(
    folder: Path, points: Points, notebooks: Sequence[str], failures: Mapping[str, str]
) -> None:
    """Write what the sweep leaves: its tables, figures, grid and manifest."""
    tables = gathered(folder, points, failures, notebooks)
    for name, table in tables.items():
        store.write(folder / name, table.to_csv(index=False))
    figures = _draw(folder, tables[RUNS])
    store.write_json(folder / Manifest.GRID, points)
    _note(folder, list(points), notebooks, [Manifest.GRID, *tables, *figures], failures)


def _draw(folder: Path, table: pd.DataFrame) -> list[str]:
    """Draw the spread of each notebook's numbers; returns the figures' names."""
    import matplotlib.pyplot as plt  # heavy, and the workers draw nothing

    from fpnlib import plots

    names, varied = [], table.columns[: table.columns.get_loc("notebook")]
    across = list(varied[~varied.str.endswith("seed")])
    for notebook, rows in table.groupby("notebook", sort=True):
        figure, png = plots.spread(rows, across=across), io.BytesIO()
        figure.savefig(png, format="png", dpi=110, pil_kwargs={"optimize": True})
        plt.close(figure)
        names.append(f"figures/{notebook}_spread.png")
        store.write(folder / names[-1], png.getvalue())
    return names


def _note(
    folder: Path,
    names: Sequence[str],
    notebooks: Sequence[str],
    files: Sequence[str],
    failed: Mapping[str, str],
) -> None:
    """Write the sweep's own manifest: what its runs noted, how they differ, which failed."""
    manifest = Manifest(folder)
    runs = {name: Manifest(folder / "runs" / name).read() for name in names if name not in failed}
    sections = _common(runs)
    for notebook in notebooks:
        found = (noted.get("notebooks", {}).get(notebook) for noted in runs.values())
        if entries := list(filter(None, found)):
            sections["notebooks"][notebook] = _joined(entries)
    sections |= {"failed": dict(failed), "files": manifest.files(files)}
    store.write_json(manifest.path, sections)


def _common(runs: Mapping[str, Mapping]) -> dict[str, dict]:
    """Return where the runs were computed and on what data; how they differ is printed too."""
    names_of: dict[tuple[str, str], dict[Any, list[str]]] = {}
    for name, sections_of_run in runs.items():
        for section, key, value in _noted(sections_of_run):
            names_of.setdefault((section, key), {}).setdefault(value, []).append(name)
    versions: dict[str, object] = {}
    sections: dict[str, dict] = {"environment": {"versions": versions}, "data": {}}
    sections |= {"differences": {}, "notebooks": {}}
    for (section, key), where in names_of.items():
        holder = versions if section == "versions" else sections[section]
        holder[key] = " or ".join(map(str, where)) if len(where) > 1 else next(iter(where))
        if len(where) > 1:
            said = "; ".join(f"{value} in {', '.join(those)}" for value, those in where.items())
            sections["differences"][f"{section}, {key}"] = said
            print(f"the runs differ in {section}, {key}: {said}", file=sys.stderr)
    return sections


def _noted(run: Mapping[str, Mapping]) -> Iterator[tuple[str, str, Any]]:
    """Yield where a run was computed and on what data: section, name and value."""
    environment = dict(run.get("environment", {}))
    versions = environment.pop("versions", {})
    parts = {"versions": versions, "environment": environment, "data": run.get("data", {})}
    for section, values in parts.items():
        for key, value in values.items():
            yield section, key, value


def _joined(entries: Sequence[Mapping]) -> dict[str, object]:
    """Return a notebook's entry for all runs: each parameter's value or values, and all seconds."""
    parameters = {}
    for key in entries[0]["parameters"]:
        values = [entry["parameters"].get(key) for entry in entries]
        if key != "out":
            parameters[key] = values[0] if values == [values[0]] * len(values) else values
    seconds = round(sum(map(itemgetter("seconds"), entries)), 1)
    return {"parameters": parameters, "seconds": seconds}


def _name(point: Mapping[str, object]) -> str:
    text = ",".join(f"{name}={value}" for name, value in point.items())
    safe = re.sub(r"[^\w=.,+-]", "_", text)
    if safe == text and len(text) <= SHOWN_NAME:
        return safe
    return f"{safe[:SHOWN_NAME]}-{store.digest(point)}"


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    where = f"{lines[0].rstrip(':')}: " if len(lines) > 1 else ""
    return f"{where}{lines[-1]}" if lines else type(error).__name__
