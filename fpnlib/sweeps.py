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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from tqdm.auto import tqdm

from fpnlib import artifacts, checks, plots
from fpnlib.artifacts import PROJECT, Manifest, cores
from fpnlib.runner import CellError, Limits, fan_out, plan, run
from fpnlib.runner.kernel import jobs

PATIENCE = 10
"""Seconds in which a scheduler has to answer."""

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
    deviation over the seeds, ``figures`` their spread, ``grid.json`` the combinations, ``manifest.json`` what was noted.

    Args:
        profile, only, fresh, notebooks: as for :func:`fpnlib.runner.run`.
        out: the sweep's folder, relative to the project; None: ``outputs/<profile>-sweep``.
        values: as for a run; a list fans out where the parameter is not a list itself.
        seeds: values of ``seed``; none: the profile's.
        workers: runs at a time on this machine; None: one a core, or one on a GPU.
        scheduler: address of a Dask cluster, ``tcp://host:port``, instead of processes on this machine. Its workers need
            the same library, the data, and the sweep's folder under the same path.
        limits: seconds that a cell and each run may take.

    Raises:
        ValueError, TypeError: as a run does, before anything runs; fewer than two combinations.
        OSError: no scheduler at that address; a folder that cannot be written to, or is in use.
        CellError: runs failed; one line for each. What the others gave is gathered all the same.
    """
    out = out if out is not None else f"outputs/{profile}-sweep"
    values = dict(values or {}) | ({"seed": list(seeds)} if seeds else {})
    points = grid(values, fan_out(values, only, notebooks))
    for point in points.values():
        plan(profile, out, only, point, notebooks)
    folder = PROJECT / out
    with artifacts.claim(folder), _client(len(points), workers, scheduler) as client:
        calls = [
            (profile, f"{out}/runs/{name}", tuple(only), point, fresh, notebooks, limits)
            for name, point in points.items()
        ]
        # A run whose worker is killed goes to another one; a run that fails would fail again.
        futures = [client.submit(_run, *call, key=f"{folder}/{name}", pure=False) for call, name in zip(calls, points)]
        failures = _wait(dict(zip(points, futures)))
        done = [name for name in points if name not in failures]
        _gather(folder, {name: points[name] for name in done}, varied(points))
        artifacts.write_json(folder / "grid.json", points)
        _note(folder, done)
    if failures:
        lines = [f"{name}: {error}" for name, error in failures.items()]
        raise CellError("\n".join([f"{len(failures)} of {len(points)} runs failed; the others are gathered", *lines]))
    return folder


def grid(values: Mapping[str, object], fans_out: Mapping[str, list]) -> dict[str, dict[str, object]]:
    """``values`` with every combination of the lists that fan out, by the name of its folder.

    Raises:
        ValueError: fewer than two combinations, or a value twice.
    """
    for name, value in fans_out.items():
        if len({repr(one) for one in value}) < len(value) or not value:
            raise ValueError(f"the values of {name} must differ from each other, got {value}")
    points = [dict(zip(fans_out, combination)) for combination in itertools.product(*fans_out.values())]
    if len(points) < 2:
        raise ValueError("a sweep needs two runs or more: give --seeds, or a list like --set flow_width=[40,224]")
    return {_name(point): dict(values) | point for point in points}


def varied(points: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Names of the parameters that differ between the points, the seed last."""
    first = next(iter(points.values()))
    names = [name for name in first if any(point[name] != first[name] for point in points.values())]
    return sorted(names, key=lambda name: name == "seed")


def tidy(folder: Path, points: Mapping[str, Mapping[str, object]], names: Sequence[str]) -> pd.DataFrame:
    """One row for each number of each run: what varied, notebook, quantity, value, the paper's value, n.

    Raises:
        FileNotFoundError: a run without results, as where workers do not share this folder.
    """
    rows = []
    for name, point in points.items():
        results = sorted((folder / "runs" / name / "results").glob("*.json"))
        if not results:
            raise FileNotFoundError(f"{folder / 'runs' / name} has no results; the workers need to share this folder")
        for path in results:
            for record in artifacts.read_json(path):
                of_it = {key: record[key] for key in ("quantity", "value", "paper", "n")}
                rows.append({key: point[key] for key in names} | {"notebook": path.stem} | of_it)
    table = pd.DataFrame(rows)
    return table.astype({"value": float, "paper": float, "n": "Int64"})


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation (n − 1) over the seeds, one row for each quantity and each value of what else varied."""
    apart = [name for name in table.columns if name not in ("seed", "value", "paper", "n")]
    rows = []
    for keys, group in table.groupby(apart, sort=False, dropna=False):
        value, paper = group["value"], group["paper"].iloc[0]
        mean, deviation = value.mean(), value.std()
        text = f"{mean:.4f} ± {deviation:.4f}" if len(value) > 1 else f"{mean:.4f}"
        rows.append([*keys, paper, mean, deviation, value.min(), value.max(), len(value), text])
    return pd.DataFrame(
        rows, columns=[*apart, "paper", "mean", "standard deviation", "least", "most", "runs", "mean ± std"]
    )


def _run(
    profile: str,
    out: str,
    only: Sequence[str],
    values: Mapping[str, object],
    fresh: bool,
    notebooks: Path,
    limits: tuple[float | None, float | None],
) -> None:
    """One run, in a worker's process: quiet, with its notebooks one after another."""
    os.environ["TQDM_DISABLE"] = "1"  # the notebooks' bars
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        run(profile, out, only, values, fresh, notebooks, side_by_side=1, limits=Limits(*limits))


@contextmanager
def _client(points: int, workers: int | None, scheduler: str | None) -> Iterator:
    """A client of the cluster at ``scheduler``, or of processes on this machine."""
    from distributed import Client, LocalCluster  # heavy, and only sweeps need it

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what it has to say, the error says
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=PATIENCE)
        except (OSError, ValueError) as error:
            raise OSError(
                f"no Dask scheduler answers at {scheduler} ({' '.join(str(error).split())}); start one with"
                " 'dask scheduler', or leave --scheduler out for processes on this machine"
            ) from None
        with client:
            yield client
        return
    count = min(points, jobs() if workers is None else checks.positive("workers", workers))
    share = {"LOKY_MAX_CPU_COUNT": str(max(1, cores() // count))}
    quiet = {"dashboard_address": None, "silence_logs": logging.CRITICAL, "memory_limit": None}
    with LocalCluster(count, threads_per_worker=1, processes=True, env=share, **quiet) as cluster:
        with Client(cluster) as client:
            yield client


def _wait(futures: Mapping[str, object]) -> dict[str, str]:
    """Wait for the runs; returns what went wrong, by the run's name, in the grid's order."""
    from distributed import as_completed

    names = {future.key: name for name, future in futures.items()}
    failures = {}
    with tqdm(total=len(futures), desc="sweep", unit="run", dynamic_ncols=True) as bar:
        for future in as_completed(futures.values()):
            if error := future.exception():
                failures[names[future.key]] = _last_line(error)
            bar.set_postfix_str(f"{names[future.key]}{', failed' if error else ''}")
            bar.update()
    return {name: failures[name] for name in futures if name in failures}


def _gather(folder: Path, points: Mapping[str, Mapping[str, object]], names: Sequence[str]) -> None:
    if not points:
        return
    table = tidy(folder, points, names)
    short = summary(table)
    artifacts.write_text(folder / "tables" / "runs.csv", table.to_csv(index=False))
    artifacts.write_text(folder / "tables" / "summary.csv", short.to_csv(index=False))
    for notebook, rows in table.groupby("notebook", sort=True):
        figure = plots.spread(rows, across=[name for name in names if name != "seed"])
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=150)
        plt.close(figure)
        artifacts.write_bytes(folder / "figures" / f"{notebook}_spread.png", png.getvalue())


def _note(folder: Path, names: Sequence[str]) -> None:
    """What the runs noted, in the sweep's own manifest; of parameters that vary, all values."""
    manifest, runs = Manifest(folder), [Manifest(folder / "runs" / name).read() for name in names]
    for section in ("environment", "data"):
        manifest.note(section, {key: value for run in runs for key, value in run.get(section, {}).items()})
    for notebook in runs[0]["notebooks"] if runs else ():
        made = [run["notebooks"][notebook] for run in runs]
        values = {key: [entry["parameters"][key] for entry in made] for key in made[0]["parameters"] if key != "out"}
        parameters = {key: of[0] if all(value == of[0] for value in of) else of for key, of in values.items()}
        seconds = sum(entry["seconds"] for entry in made)
        manifest.note("notebooks", {notebook: {"parameters": parameters, "seconds": seconds}})
    manifest.note_files()


def _name(point: Mapping[str, object]) -> str:
    text = ",".join(f"{name}={value}" for name, value in point.items())
    safe = re.sub(r"[^\w=.,+-]", "_", text)
    return safe if safe == text and len(text) <= SHOWN_NAME else f"{safe[:SHOWN_NAME]}-{artifacts.digest(point)}"


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    where = f"{lines[0].rstrip(':')}: " if len(lines) > 1 else ""
    return f"{where}{lines[-1]}" if lines else type(error).__name__
