"""Many runs from one command: seeds and lists of values fan out through Dask, and come back as one tidy table.

Each point of the grid is a run into a folder of its own, ``<sweep>/runs/seed=0``, and is taken up where it stopped like
any other. The tables are gathered in the grid's order, whoever computed what: they hold the same bits for any workers.
"""

from __future__ import annotations

import io
import itertools
import logging
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from joblib import cpu_count
from tqdm.auto import tqdm

from fpnlib import checks, store
from fpnlib.runs import CellError, Limits, fan_out, plan, run
from fpnlib.runs.fresh import clear, refuse_strangers
from fpnlib.runs.kernel import jobs
from fpnlib.runs.tables import RUNS, gathered, varied
from fpnlib.store import PROJECT, Manifest

PATIENCE = 10, 60
"""Seconds in which a scheduler has to answer, and then in which a worker has to join it."""

PAUSE, HELD = 5, 3600
"""Seconds between two tries of a run whose folder another still holds, and after which it is tried no more, where no limit
of the run's says that."""

SHOWN_NAME = 60
"""Characters of a run's folder's name, before the rest becomes a digest."""


def sweep(
    profile: str,
    out: str | None = None,
    only: Iterable[str] = (),
    values: Mapping[str, object] | None = None,
    fresh: bool = False,
    notebooks: Path = PROJECT / "notebooks",
    seeds: Sequence[int] = (),
    workers: int | None = None,
    scheduler: str | None = None,
    limits: tuple[float | None, float | None] = (None, None),
) -> Path:
    """Run every combination of ``seeds`` and of the lists among ``values``; returns the sweep's folder.

    ``tables/runs.csv`` there holds a row for each number of each run, ``tables/summary.csv`` their mean and standard
    deviation over the seeds, ``figures`` their spread, ``grid.json`` the combinations, ``manifest.json`` what was noted,
    under ``failed`` which runs are not among them, and under ``differences`` in what the runs' environments or data differ,
    which is printed too. Where every run fails, all of it stays as it was.

    Args:
        profile, only, fresh, notebooks: as for :func:`fpnlib.runs.run`.
        out: the sweep's folder, relative to the project; None: ``outputs/<profile>-sweep``.
        values: as for a run; a list fans out where the parameter is not a list itself.
        seeds: values of ``seed``; none: the profile's.
        workers: runs at a time on this machine; None: one a core, or one on a GPU.
        scheduler: address of a Dask cluster, ``tcp://host:port``, instead of processes on this machine. Its workers need
            the same library, the data, and the sweep's folder under the same path.
        limits: seconds that a cell and each run may take.

    Raises:
        ValueError, TypeError: as a run does, before anything runs; fewer than two combinations; seeds given twice; workers
            of this machine and a scheduler.
        OSError: no scheduler at that address, or none with workers; a folder that cannot be written to, or is in use.
        CellError: runs failed; one line for each. What the others gave is gathered all the same.
    """
    if scheduler is not None and workers is not None:
        raise ValueError(
            "--workers are processes of this machine; with --scheduler the cluster's own workers run"
        )
    if seeds and "seed" in (values or {}):
        raise ValueError("--seeds and --set seed=… both say the seed; give one of them")
    out = out if out is not None else f"outputs/{profile}-sweep"
    values = dict(values or {}) | ({"seed": list(seeds)} if seeds else {})
    points = grid(values, fan_out(values, only, notebooks))
    for point in points.values():
        _, tasks = plan(profile, out, only, point, notebooks)
    chosen, folder = [path.stem for path in tasks], PROJECT / out
    stale = [Manifest(path) for path in (folder, *sorted(folder.glob("runs/*/")))] if fresh else []
    for manifest in stale:
        refuse_strangers(manifest)
    with store.claim(folder), _client(len(points), workers, scheduler) as client:
        _start_over(stale)
        calls = {
            name: (profile, f"{out}/runs/{name}", tuple(only), point, notebooks, limits)
            for name, point in points.items()
        }
        failures = _run_all(client, calls, folder)
        done = {name: point for name, point in points.items() if name not in failures}
        if done:
            files = _gather(folder, done, varied(points), chosen)
            store.write_json(folder / Manifest.GRID, points)
            _note(folder, list(done), chosen, [Manifest.GRID, *files], failures)
    if failures:
        said = f"{len(failures)} of {len(points)} runs failed; {'the others are' if done else 'nothing is'} gathered"
        raise CellError(
            "\n".join([said, *(f"{name}: {error}" for name, error in failures.items())])
        )
    return folder


def grid(
    values: Mapping[str, object], fans_out: Mapping[str, list]
) -> dict[str, dict[str, object]]:
    """``values`` with every combination of the lists that fan out, by the name of its folder.

    Raises:
        ValueError: fewer than two combinations, or a value twice.
    """
    for name, value in fans_out.items():
        if len({repr(one) for one in value}) < len(value) or not value:
            raise ValueError(f"the values of {name} must differ from each other, got {value}")
    points = [
        dict(zip(fans_out, combination)) for combination in itertools.product(*fans_out.values())
    ]
    if len(points) < 2:
        raise ValueError(
            "a sweep needs two runs or more: give --seeds, or a list like --set flow_width=[40,224]"
        )
    return {_name(point): dict(values) | point for point in points}


def _start_over(manifests: Sequence[Manifest]) -> None:
    """Clear the folders of a sweep, which is held already, and of its runs; none where one of them is in use."""
    with ExitStack() as held:
        for manifest in manifests[1:]:
            held.enter_context(store.claim(manifest.folder))
        for manifest in manifests:
            clear(manifest)


def _run(
    profile: str,
    out: str,
    only: Sequence[str],
    values: Mapping[str, object],
    notebooks: Path,
    limits: tuple[float | None, float | None],
) -> None:
    """One run, in a worker's process: quiet, with its notebooks one after another."""
    os.environ["TQDM_DISABLE"] = "1"  # the notebooks' bars
    end, said = time.monotonic() + (limits[1] or HELD), ""
    while True:
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                run(
                    profile,
                    out,
                    only,
                    values,
                    notebooks=notebooks,
                    side_by_side=1,
                    limits=Limits(*limits),
                )
            return
        except (
            store.FolderInUse
        ) as error:  # by a worker without connection, that works on: its work is taken up
            if time.monotonic() >= end:
                raise
            if not said:
                print(said := f"waiting: {error}", file=sys.stderr)
            time.sleep(PAUSE)


@contextmanager
def _client(points: int, workers: int | None, scheduler: str | None) -> Iterator:
    """A client of the cluster at ``scheduler``, or of processes on this machine."""
    from distributed import Client, LocalCluster  # heavy, and only sweeps need it

    logging.getLogger("distributed").setLevel(
        logging.CRITICAL
    )  # what it has to say, the error says
    if scheduler is not None:
        for_scheduler, for_workers = PATIENCE
        try:
            client = Client(scheduler, timeout=for_scheduler)
        except (OSError, ValueError) as error:
            raise OSError(
                f"no Dask scheduler answers at {scheduler} ({' '.join(str(error).split())}); start one with"
                " 'dask scheduler', or leave --scheduler out for processes on this machine"
            ) from None
        with client:
            try:
                client.wait_for_workers(1, timeout=for_workers)
            except TimeoutError:
                said = f"the Dask scheduler at {scheduler} has had no worker for {for_workers:g} s"
                raise OSError(
                    f"{said}; start some with 'dask worker {scheduler} --nthreads 1'"
                ) from None
            yield client
        return
    count = min(points, jobs() if workers is None else checks.positive("workers", workers))
    share = {"LOKY_MAX_CPU_COUNT": str(max(1, cpu_count() // count))}
    quiet = {"dashboard_address": None, "silence_logs": logging.CRITICAL, "memory_limit": None}
    with LocalCluster(
        n_workers=count, threads_per_worker=1, processes=True, env=share, **quiet
    ) as cluster:
        with Client(cluster) as client:
            yield client


def _run_all(client, calls: Mapping[str, tuple], folder: Path) -> dict[str, str]:
    """Do the runs, each once a worker is free for it; returns what went wrong, by the run's name, in the grid's order.

    Given all at once, Dask puts some in line behind a worker, where they stay while another has nothing to do.
    """
    from distributed import as_completed

    waiting, running, failures, done = list(calls), {}, {}, as_completed()

    def give_out() -> None:
        free = max(1, sum(client.nthreads().values())) - len(running)
        for name in waiting[: max(0, free)]:
            # A run whose worker is killed goes to another one; a run that fails would fail again.
            future = client.submit(_run, *calls[name], key=f"{folder}/{name}", pure=False)
            running[future.key] = waiting.pop(0)
            done.add(future)

    with tqdm(total=len(calls), desc="sweep", unit="run", dynamic_ncols=True) as bar:
        give_out()
        for future in done:
            name, lost = running.pop(future.key), OSError("the scheduler was lost")
            if future.status != "finished":
                failures[name] = _last_line(error := future.exception() or lost)
                if error is lost:  # nobody is there to do the others
                    failures |= dict.fromkeys(waiting, str(lost))
                    waiting.clear()
            bar.set_postfix_str(f"{name}{', failed' if name in failures else ''}")
            bar.update()
            if waiting:
                give_out()
    return {name: failures[name] for name in calls if name in failures}


def _gather(
    folder: Path,
    points: Mapping[str, Mapping[str, object]],
    names: Sequence[str],
    notebooks: Sequence[str],
) -> list[str]:
    """Write the tables and figures of the runs ``points``; returns their names."""
    import matplotlib.pyplot as plt  # heavy, and the workers draw nothing

    from fpnlib import plots

    tables = gathered(folder, points, names, notebooks)
    files = list(tables)
    for name, table in tables.items():
        store.write(folder / name, table.to_csv(index=False))
    for notebook, rows in tables[RUNS].groupby("notebook", sort=True):
        figure = plots.spread(rows, across=[name for name in names if name != "seed"])
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=110, pil_kwargs={"optimize": True})
        plt.close(figure)
        files.append(f"figures/{notebook}_spread.png")
        store.write(folder / files[-1], png.getvalue())
    return files


def _note(
    folder: Path,
    names: Sequence[str],
    notebooks: Sequence[str],
    files: Sequence[str],
    failed: Mapping[str, str],
) -> None:
    """The sweep's own manifest: what its runs noted, all values of what varies, in what else they differ, which failed."""
    manifest, runs = (
        Manifest(folder),
        {name: Manifest(folder / "runs" / name).read() for name in names},
    )
    flat = {name: _noted(run) for name, run in runs.items()}
    sections: dict[str, dict] = {
        "environment": {"versions": {}},
        "data": {},
        "differences": {},
        "notebooks": {},
    }
    for section, key in dict.fromkeys(place for noted in flat.values() for place in noted):
        having = {
            name: noted[section, key] for name, noted in flat.items() if (section, key) in noted
        }
        where: dict[str, list[str]] = {}
        for name, value in having.items():
            where.setdefault(str(value), []).append(name)
        holder = sections["environment"]["versions"] if section == "versions" else sections[section]
        holder[key] = " or ".join(where) if len(where) > 1 else next(iter(having.values()))
        if len(where) > 1:
            said = "; ".join(f"{value} in {', '.join(those)}" for value, those in where.items())
            sections["differences"][f"{section}, {key}"] = said
            print(f"the runs differ in {section}, {key}: {said}", file=sys.stderr)
    for notebook in notebooks:
        made = [
            run["notebooks"][notebook]
            for run in runs.values()
            if notebook in run.get("notebooks", {})
        ]
        if made:
            given = [entry["parameters"] for entry in made]
            values = {key: [one.get(key) for one in given] for key in given[0] if key != "out"}
            parameters = {
                key: of[0] if all(one == of[0] for one in of) else of for key, of in values.items()
            }
            seconds = round(sum(entry["seconds"] for entry in made), 1)
            sections["notebooks"][notebook] = {"parameters": parameters, "seconds": seconds}
    store.write_json(
        manifest.path, sections | {"failed": dict(failed), "files": manifest.files(files)}
    )


def _noted(run: Mapping[str, Mapping]) -> dict[tuple[str, str], object]:
    """Where a run was computed and on what data, by section and name."""
    environment = dict(run.get("environment", {}))
    parts = {
        "versions": environment.pop("versions", {}),
        "environment": environment,
        "data": run.get("data", {}),
    }
    return {
        (section, key): value for section, values in parts.items() for key, value in values.items()
    }


def _name(point: Mapping[str, object]) -> str:
    text = ",".join(f"{name}={value}" for name, value in point.items())
    safe = re.sub(r"[^\w=.,+-]", "_", text)
    return (
        safe
        if safe == text and len(text) <= SHOWN_NAME
        else f"{safe[:SHOWN_NAME]}-{store.digest(point)}"
    )


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    where = f"{lines[0].rstrip(':')}: " if len(lines) > 1 else ""
    return f"{where}{lines[-1]}" if lines else type(error).__name__
