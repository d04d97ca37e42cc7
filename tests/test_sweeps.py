"""Many runs, one table: what fans out and is gathered, whatever becomes of the workers."""

import itertools
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import dask
import numpy as np
import pandas as pd
import pytest
from distributed import Client, Event, LocalCluster
from distributed.utils import get_mp_context
from laws import error_line, note_files
from test_runner import LOG, command, write_notebook

from fpnlib import plots, store
from fpnlib.__main__ import main
from fpnlib.runs import cluster, execute, plan, report, sweeps, verify
from fpnlib.runs.tables import _varied, gathered
from fpnlib.store import Manifest

PARAMETERS = """out = "outputs/tiny"  # help the run's folder
seed = 0  # help of everything random
scale = 1.0  # help of the scores
levels = [1, 2]  # help a list by itself
once = ""  # help a file: where it is not there yet, the worker is killed
fail = -1  # help the seed that fails"""
STEPS = f"""NOTEBOOK = "00_tiny"
{LOG}
import os, random, signal
draw = random.Random(seed).random
rows = [("accuracy, A", draw(), 0.5), ("accuracy, B", scale * draw(), None)]
rows.append(("loss", scale * draw() / 3, None))
records = [dict(quantity=q, value=v, paper=p, n=10, seed=seed) for q, v, p in rows]
if once and not Path(once).exists():
    Path(once).touch()
    os.kill(os.getppid(), signal.SIGKILL)
if seed == fail:
    raise ValueError("no such luck")
write("results/00_tiny.json", json.dumps(records))"""


@pytest.fixture(scope="module", autouse=True)
def workers_are_forked():
    """Fork workers from a process that has imported what a run needs, once for all of them."""
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        get_mp_context().set_forkserver_preload(["fpnlib.runs.sweeps"])
        yield


@pytest.fixture(scope="module")
def notebooks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps")
    store.write(folder / "profiles" / "small.yaml", "scale: 0.7\n")
    write_notebook(folder / "00_tiny.ipynb", PARAMETERS, STEPS)
    return folder


@pytest.fixture(scope="module")
def scheduler():
    """The address of a cluster of two workers."""
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as local:
        yield local.scheduler_address


RESULTS = Path("results", "00_tiny.json")


def sweep(notebooks, out, *more):
    """Run the command in this process; the exit code."""
    return main([*command(notebooks, out), *more])


def tables(out):
    return {path.name: path.read_bytes() for path in (out / "tables").iterdir()}


@pytest.fixture(scope="module")
def swept(notebooks, scheduler, tmp_path_factory):
    """Two seeds by one worker, and by two of which one is killed."""
    folder = tmp_path_factory.mktemp("swept")
    seeds = ["--seeds", "0", "1"]
    assert sweep(notebooks, folder / "one", *seeds, "--workers", "1") == 0
    there = ["--scheduler", scheduler, "--set", f"once={folder / 'killed'}"]
    assert sweep(notebooks, folder / "two", *seeds, *there) == 0
    assert (folder / "killed").exists()
    return folder


def test_whatever_the_workers_a_plain_run_gives_the_same_numbers(notebooks, swept, tmp_path):
    assert tables(swept / "one") == tables(swept / "two")
    execute.run("small", str(tmp_path), values={"seed": 1}, notebooks=notebooks)
    among = swept / "one" / "runs" / "seed=1"
    assert (tmp_path / RESULTS).read_bytes() == (among / RESULTS).read_bytes()


def test_a_sweep_leaves_means_figures_a_manifest_and_a_page(swept):
    one = swept / "one"
    table = pd.read_csv(one / "tables" / "summary.csv")
    assert list(table["quantity"]) == ["accuracy, A", "accuracy, B", "loss"]
    assert set(table["runs"]) == {2}
    files = [one / "runs" / f"seed={seed}" / RESULTS for seed in range(2)]
    values = [store.read_json(file)[0]["value"] for file in files]
    assert table["mean"][0] == pytest.approx(np.mean(values), abs=1e-15)
    assert table["standard deviation"][0] == pytest.approx(np.std(values, ddof=1), abs=1e-15)
    assert (one / "figures" / "00_tiny_spread.png").read_bytes().startswith(b"\x89PNG")
    assert verify.verify(one) == []
    noted = Manifest(one).read()
    made = noted["notebooks"]["00_tiny"]
    assert made["parameters"]["seed"] == [0, 1] and made["parameters"]["scale"] == 0.7
    assert made["seconds"] > 0 and "grid.json" in noted["files"]
    page = report.write(one).read_text()
    assert "accuracy, A" in page and "[0, 1]" in page and "as mean ± standard deviation" in page


def test_tables_that_somebody_edited_do_not_hold(swept, tmp_path):
    copy = shutil.copytree(swept / "two", tmp_path / "two")
    for name, column, by in (("runs", "value", 0.01), ("summary", "mean", 1e-8)):
        table = pd.read_csv(copy / "tables" / f"{name}.csv")
        table.loc[0, column] += by
        table.to_csv(copy / "tables" / f"{name}.csv", index=False)
    assert len(verify.verify(copy)) == 2
    note_files(copy)  # the manifest vouches for them
    said = [f"tables/{name}.csv is not what the runs' results give" for name in ("runs", "summary")]
    assert verify.verify(copy) == said
    for text in ("", "a,b\n1,2,3\n1\n"):
        (copy / "tables" / "runs.csv").write_text(text)
        note_files(copy)
        assert verify.verify(copy) == said


@pytest.mark.parametrize(("points", "workers"), [(4, 3), (3, 8)])
def test_there_are_as_many_workers_as_asked_for_and_runs(monkeypatch, points, workers):
    monkeypatch.setattr("distributed.LocalCluster", lambda **options: nullcontext(options))
    monkeypatch.setattr("distributed.Client", nullcontext)
    with cluster.client_of(points, workers, None) as local:
        assert local.enter_result["n_workers"] == 3


def test_a_run_that_fails_fails_the_sweep(notebooks, scheduler, tmp_path, capsys):
    more = ["--seeds", "0", "1", "--scheduler", scheduler, "--set", "fail=1"]
    assert sweep(notebooks, tmp_path / "out", *more) == 1
    said = capsys.readouterr().err.rstrip().splitlines()
    reason = "00_tiny, cell 3 failed: ValueError: no such luck"
    assert said[-2:] == ["1 of 2 runs failed; the others are gathered", f"seed=1: {reason}"]
    out = tmp_path / "out"
    assert set(pd.read_csv(out / "tables" / "runs.csv")["seed"]) == {0}
    assert Manifest(out).read()["failed"] == {"seed=1": reason}
    assert verify.verify(out) == []
    before = {}
    for path in [out / "manifest.json", out / "grid.json", *out.glob("tables/*")]:
        before[path] = path.read_bytes()
    failing = ["--set", "seed=1", "fail=1", "scale=[1,2]", "--scheduler", scheduler]
    assert sweep(notebooks, out, *failing) == 1
    assert "2 of 2 runs failed; nothing is gathered\n" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in before}


def test_a_fresh_sweep_spares_what_is_not_its_own(notebooks, scheduler, tmp_path, capsys):
    """It leaves nothing of an earlier sweep."""
    out, stale = tmp_path / "out", tmp_path / "out" / "runs" / "seed=9"
    mine = store.write(out / "runs" / "mine" / "figures" / "thesis.png", "")
    fresh = ["--fresh", "--seeds", "0", "1", "--scheduler", scheduler]
    store.write(stale / "results" / "00_tiny.json", "[]")
    store.write_json(stale / "manifest.json", {})
    store.write(out / "figures" / "09_old_spread.png", "")
    store.write_json(out / "grid.json", {"seed=9": {"seed": 9}})
    note_files(out)
    assert sweep(notebooks, out, *fresh) == 2
    assert f"{mine.parents[1]} is no run's folder" in capsys.readouterr().err and mine.exists()
    mine.unlink()
    with store.claim(stale):
        assert sweep(notebooks, out, *fresh) == 2
    assert "seed=9 is in use by" in capsys.readouterr().err
    assert (out / "figures" / "09_old_spread.png").exists()
    assert sweep(notebooks, out, *fresh) == 0
    files = {"grid.json", "tables/runs.csv", "tables/summary.csv", "figures/00_tiny_spread.png"}
    assert set(Manifest(out).read()["files"]) == files and Manifest(out).unlisted() == []
    assert not [path for path in stale.rglob("*") if path.is_file() and path.name != ".run.lock"]
    assert verify.verify(out) == []


def test_a_scheduler_that_is_not_there_is_one_line(notebooks, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", (0.5, 0.5))
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        assert sweep(notebooks, tmp_path / "out", "--seeds", "0", "1", "--scheduler", address) == 2
        said = f"error: no Dask scheduler answers at {address} ("
        assert error_line(capsys).startswith(said)


def test_a_scheduler_without_workers_is_one_line(notebooks, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", (30, 0.5))
    quiet = {"dashboard_address": None, "silence_logs": "CRITICAL"}  # a busy machine makes it talk
    with LocalCluster(n_workers=0, **quiet) as local:
        address = local.scheduler_address
        assert sweep(notebooks, tmp_path / "out", "--seeds", "0", "1", "--scheduler", address) == 2
        (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: the Dask scheduler at {address} has had no worker for 0.5 s")


def test_runs_whose_scheduler_is_lost_have_failed(monkeypatch, tmp_path):
    class Done(list):
        add, count = list.append, list.__len__

        def __iter__(self):
            while self:
                yield self.pop()

    lost = SimpleNamespace(key="a", status="cancelled", exception=lambda: None)
    lost.nthreads, lost.submit = lambda: {"worker": 1}, lambda *_, **__: lost
    monkeypatch.setattr("distributed.as_completed", Done)
    calls = {"seed=0": (), "seed=1": ()}
    failures = sweeps._run_all(lost, calls, tmp_path)
    assert failures == dict.fromkeys(calls, "the scheduler was lost")


def test_no_worker_is_idle_while_runs_wait(monkeypatch, tmp_path):
    """The first run ends after all others: Dask might leave one that stands in line behind it."""
    others = ["1", "2", "3", "4"]

    def run(name):
        if name != "0":
            Event(name).set()
        elif not all(Event(other).wait(60) for other in others):
            raise ValueError("a run stood in line behind this one")

    monkeypatch.setattr(sweeps, "_run", run)
    threads = {"n_workers": 2, "threads_per_worker": 1, "processes": False}
    threads["dashboard_address"] = None
    calls = {name: (name,) for name in ["0", *others]}
    alone = dask.config.set({"distributed.scheduler.work-stealing": False})
    with alone, LocalCluster(**threads) as local, Client(local) as client:
        assert sweeps._run_all(client, calls, tmp_path) == {}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--seeds", "0"], "a sweep needs two runs or more"),
        (["--workers", "2"], "a sweep needs two runs or more"),
        (["--seeds", "0", "0"], "the values of seed must differ from each other, got [0, 0]"),
        (["--set", "scale=[1,2]", "sed=3"], "unknown parameter 'sed'; did you mean 'seed'?"),
        (["--set", "scale=[1,big]"], "parameter 'scale' must be a number like 1.0, got 'big'"),
        (["--seeds", "0", "1", "--workers", "0"], "workers must be a positive whole number, got 0"),
        (["--workers", "2", "--scheduler", "tcp://x:1"], "--workers are processes of this machine"),
        (["--seeds", "0", "1", "--set", "seed=5"], "--seeds and --set seed=… both say the seed"),
        (["--seeds", "0", "1", "--jobs", "2"], "--jobs is for the notebooks of one run"),
    ],
)
def test_mistakes_are_refused_before_anything_runs(notebooks, tmp_path, capsys, more, said):
    assert sweep(notebooks, tmp_path / "out", *more) == 2
    assert error_line(capsys).startswith(f"error: {said}")
    assert not (tmp_path / "out" / "runs").exists()


def test_lists_fan_out_where_the_parameter_is_none_itself(notebooks, tmp_path):
    values = {"seed": [0, 1], "scale": [1, 2], "levels": [3, 4]}
    fans_out = plan.fan_out(values, (), notebooks)
    assert fans_out == {"seed": [0, 1], "scale": [1, 2]}
    points = sweeps._grid(values, fans_out)
    assert list(points) == ["seed=0,scale=1", "seed=0,scale=2", "seed=1,scale=1", "seed=1,scale=2"]
    assert points["seed=1,scale=2"] == {"seed": 1, "scale": 2, "levels": [3, 4]}
    assert _varied(points) == ["scale", "seed"]
    parameters = 'out = "x"  # help\nprofile = "demo"  # help\noverride = ""  # help'
    write_notebook(tmp_path / "00_a.ipynb", parameters)
    values = {"digits.flow_width": [40, 224]}
    points = sweeps._grid(values, plan.fan_out(values, (), tmp_path))
    assert list(points) == ["digits.flow_width=40", "digits.flow_width=224"]
    assert _varied(points) == ["digits.flow_width"]


def test_folders_of_odd_values_stay_in_the_sweeps_folder():
    values = {"once": ["../../x", "a/b", "x" * 300]}
    names = list(sweeps._grid(values, values))
    assert len(set(names)) == 3
    for name in names:
        assert "/" not in name and ".." not in name.split("-")[0][:5] and len(name) < 80


@pytest.mark.parametrize("name", ["seed", "digits.flow_seed"])
def test_means_are_over_seeds_and_apart_for_what_else_varies(tmp_path, name):
    points = {}
    for scale, seed in itertools.product((1, 2), (0, 1)):
        points[f"{scale},{seed}"] = {"scale": scale, name: seed}
        row = {"quantity": "loss", "value": scale * (1 + seed), "paper": None, "n": None}
        results = tmp_path / "runs" / f"{scale},{seed}" / "results"
        store.write_json(results / "00_tiny.json", [row])
        store.write_json(results / "01_of_an_earlier_run.json", [row])
    short = gathered(tmp_path, points, (), ["00_tiny"])[Manifest.SUMMARY]
    assert list(short["scale"]) == [1, 2] and list(short["mean"]) == [1.5, 3.0]
    assert list(short["standard deviation"]) == pytest.approx([0.5**0.5, 2**0.5])
    assert list(short["mean ± std"]) == ["1.5000 ± 0.7071", "3.0000 ± 1.4142"]


def test_results_that_are_not_here_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="the workers need to share this folder"):
        gathered(tmp_path, {"seed=0": {"seed": 0}}, (), ["00_tiny"])


def test_the_sweeps_manifest_names_in_what_its_runs_differ(tmp_path, capsys):
    for seed, torch, data in ((0, "2.14.0", "ab"), (1, "2.15.0", "ab"), (2, "2.15.0", "ab")):
        manifest = store.Manifest(tmp_path / "runs" / f"seed={seed}")
        parameters = {"seed": seed, "scale": 0.7, "out": str(seed)}
        entry = {"parameters": parameters, "seconds": 1.5, "files": {}}
        where = {"device": "cpu", "versions": {"torch": torch, "numpy": "2"}}
        manifest.note("data", {"digits": data})
        manifest.note_notebook("00_tiny", entry, where)
        if seed == 1:  # of another sweep into the same folder
            manifest.note_notebook("01_other", entry)
    names = [f"seed={seed}" for seed in range(4)]
    sweeps._note(tmp_path, names, ["00_tiny"], [], {"seed=3": "no such luck"})
    said = "2.14.0 in seed=0; 2.15.0 in seed=1, seed=2"
    assert store.read_json(tmp_path / "manifest.json") == {
        "environment": {"device": "cpu", "versions": {"torch": "2.14.0 or 2.15.0", "numpy": "2"}},
        "data": {"digits": "ab"},
        "differences": {"versions, torch": said},
        "notebooks": {"00_tiny": {"parameters": {"seed": [0, 1, 2], "scale": 0.7}, "seconds": 4.5}},
        "failed": {"seed=3": "no such luck"},
        "files": {},
    }
    assert capsys.readouterr().err == f"the runs differ in versions, torch: {said}\n"


def test_the_spread_shows_every_run_and_refuses_what_it_cannot_show():
    rows = [("loss", 3.0, np.nan), ("accuracy, A", 0.5, 0.6), ("accuracy, A", 0.7, 0.6)]
    table = pd.DataFrame(rows, columns=["quantity", "value", "paper"])
    figure = plots.spread(table)
    accuracy, loss = figure.axes
    assert (accuracy.get_xlabel(), loss.get_xlabel()) == ("accuracy", "loss")
    assert "0.6000 ± 0.1414" in [text.get_text() for text in accuracy.texts]
    dots = [line for line in accuracy.lines if line.get_marker() == "o"]
    assert sorted(dots[0].get_xdata()) == [0.5, 0.7]
    with pytest.raises(ValueError, match="unknown column 'paper'"):
        plots.spread(table.drop(columns="paper"))
    with pytest.raises(ValueError, match="NaN"):
        plots.spread(table.assign(value=np.nan))
