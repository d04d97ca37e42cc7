"""The benchmark's command line: a row measured and written, a number that is no row refused; and the goals, in what is kept."""

import importlib.util
import sys
from pathlib import Path

import pandas as pd
import pytest

KEPT = Path(__file__).resolve().parents[1] / "outputs" / "benchmarks"


def test_every_row_that_is_kept_reaches_its_goals():
    table = pd.read_csv(KEPT / "flows.csv")
    assert len(table) == 10 and table.filter(like="goal").notna().to_numpy().sum() > 20
    for what, sign in (("nflows", -1), ("zuko", -1), ("limit", 1)):
        missed = sign * table[f"over {what}"] > sign * table[f"goal {what}"]
        assert not missed.any(), table.loc[
            missed, ["workload", f"over {what}", f"goal {what}"]
        ].to_string()


def test_no_row_that_is_kept_is_slower_on_two_threads_than_on_one():
    table = pd.read_csv(KEPT / "threads.csv")
    slower = table["one over two"] < 0.95  # timings of the same work differ by as much
    assert not slower.any(), table[slower].to_string()


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "flows.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_flows", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_row_is_measured_and_written(benchmark, tmp_path, capsys, monkeypatch):
    small = [
        lambda: benchmark.sampling(
            "small", (6, 2, 8, 1, 1), 50, (1, None, None), 2, extrapolated=True
        )
    ]
    monkeypatch.setattr(benchmark, "workloads", lambda: small)
    benchmark.main(["--only", "1", "--out", str(tmp_path / "new")])
    row = pd.read_csv(tmp_path / "new" / "flows.csv").iloc[0]
    assert row["workload"] == "small" and row["×D"] == "nflows, zuko"
    assert all(
        row[f"over {name}"] > 0 and row[f"{name} ms"] > 0 for name in ("nflows", "zuko", "limit")
    )
    text = (tmp_path / "new" / "flows.md").read_text(encoding="utf-8")
    assert "| small |" in text and text.strip() == capsys.readouterr().out.strip()
    assert (tmp_path / "new" / "flows.png").stat().st_size > 10_000


def test_times_are_compared_within_a_turn(benchmark):
    load = benchmark.Workload("one", {}, 2.0 * 1024**3, 3, (None, None, None))
    speeds, row = [1.0, 9.0, 2.0], {"product": 0.5, "ours": 1.0, "nflows": 30.0}
    turns = {name: [seconds * speed for speed in speeds] for name, seconds in row.items()}
    turns["nflows"][1] = (
        45.0  # alone in a fast moment: the medians of the times, 45 and 2, would say 22.5
    )
    found = benchmark.compared(load, turns)
    assert (found["over nflows"], found["over limit"]) == (30, 2) and found["over zuko"] != found[
        "over zuko"
    ]
    assert (found["ours ms"], found["nflows ms"], found["limit ms"]) == (2000, 45_000, 1000)


def test_a_number_that_is_no_row_is_refused(benchmark, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--only", "99"])
    assert "rows are numbered from 1 to 11, got 99" in capsys.readouterr().err
