"""The flows of fpnlib beside nflows 0.14 and zuko, in CPU time on one thread: ``make bench``.

The alternatives take turns within one run, because a shared machine's speed drifts. The table has
medians over the turns, of the times and of their ratios within a turn. Sampling by D passes that
would take minutes is timed on one pass of each layer, times D, because all D passes are the same
work; the table marks those with ×D. The last row compares wall-clock times of ours on one and on
two threads, the shortest of some turns.

Writes flows.csv, flows.md, flows.png and threads.csv.
"""

from __future__ import annotations

import argparse
import copy
import math
import platform
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numba
import pandas as pd
import seaborn as sns
import torch
import zuko
from llvmlite import binding
from nflows.flows import Flow
from nflows.transforms import CompositeTransform
from tqdm.auto import tqdm

from fpnlib.flows import build_flow
from fpnlib.flows.engine.kernels import MANY

ROOT = Path(__file__).resolve().parents[2]
CALLS = 5  # calls in a turn, of what takes fewer seconds than QUICK
QUICK = 0.2
GOALS = ("nflows", "zuko", "ms")  # at least so many times as fast as these; at most so many ms
Run = Callable[[], object]
Widths = tuple[int, int, int, int, int]  # features, context, hidden, layers, blocks


@dataclass
class Workload:
    """Calls to be timed in turns, and the goals for ours."""

    name: str
    runs: dict[str, Run]
    repeats: int
    goals: dict[str, float]
    factors: dict[str, int] = field(default_factory=dict)  # the timed call counts so many times


def plain(flow: Flow) -> Flow:
    """The same flow as nflows itself runs it."""
    twin = copy.deepcopy(flow)
    transform = CompositeTransform(list(twin._transform._transforms))
    return Flow(transform, twin._distribution, twin._embedding_net).train(flow.training)


@torch.no_grad()
def temper(flow: Flow) -> None:
    """Give a flow of random weights the scale of a trained one.

    The networks' outputs become small, and batch norms get the statistics of standard normal data.
    """
    for name, parameter in flow.named_parameters():
        if "final_layer.weight" in name:
            parameter.mul_(0.1)
    for name, buffer in flow.named_buffers():
        if name.endswith("running_var"):
            buffer.fill_(1.0)


def maf(widths: Widths, **settings) -> Flow:
    torch.manual_seed(0)
    features, context, hidden, layers, blocks = widths
    settings |= {"hidden_features": hidden, "num_layers": layers, "num_blocks": blocks}
    flow = build_flow("maf", features, context, **settings).eval()
    temper(flow)
    return flow


def zuko_maf(widths: Widths) -> torch.nn.Module:
    """As many masked products of the same widths; zuko has no residual masked blocks."""
    features, context, hidden, layers, blocks = widths
    hidden_features = [hidden] * (2 * blocks + 1)
    flow = zuko.flows.MAF(features, context, transforms=layers, hidden_features=hidden_features)
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            if name.endswith(f"{4 * blocks + 2}.weight"):
                parameter.mul_(0.1)
    return flow.eval()


def data(n: int, widths: Widths) -> tuple[torch.Tensor, torch.Tensor]:
    """Standard normal vectors (n, D) and one-hot contexts (n, C)."""
    features, context = widths[:2]
    return torch.randn(n, features), torch.eye(context)[torch.arange(n) % context]


def sampling(
    name: str,
    widths: Widths,
    samples: int,
    goals: dict[str, float],
    repeats: int,
    extrapolated: bool = False,
    with_zuko: bool = True,
    **settings,
) -> Workload:
    flow = maf(widths, **settings)
    theirs, noise, context = plain(flow), *data(samples, widths)
    runs: dict[str, Run] = {"ours": lambda: flow.transform_from_noise(noise, context)}
    runs["nflows"] = lambda: theirs._transform.inverse(noise, context)
    if with_zuko:
        third = zuko_maf(widths)
        runs["zuko"] = lambda: third(context).transform.inv(noise)
    if not extrapolated:
        return Workload(name, runs, repeats, goals)
    layers = [t for t in theirs._transform._transforms if hasattr(t, "autoregressive_net")]

    def one_pass_each() -> None:
        for layer in layers:
            layer._elementwise_inverse(noise, layer.autoregressive_net(noise, context))

    runs["nflows"] = one_pass_each
    if with_zuko:
        runs["zuko"] = lambda: third(context).transform(noise)
    return Workload(name, runs, repeats, goals, dict.fromkeys(runs.keys() - {"ours"}, widths[0]))


def classification(
    name: str, widths: Widths, samples: int, goals: dict[str, float], repeats: int
) -> Workload:
    flow, third = maf(widths), zuko_maf(widths)
    theirs, (z, _) = plain(flow), data(samples, widths)
    every = torch.eye(widths[1])

    def loop(log_prob: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return torch.stack([log_prob(row.expand(samples, -1)) for row in every], 1)

    runs: dict[str, Run] = {
        "ours": lambda: flow.class_log_prob(z, every),
        "nflows": lambda: loop(lambda context: theirs.log_prob(z, context)),
        "zuko": lambda: loop(lambda context: third(context).log_prob(z)),
    }
    return Workload(name, runs, repeats, goals)


def training(name: str, widths: Widths, goals: dict[str, float], repeats: int) -> Workload:
    """Steps on 1,024 samples, ours with the fused optimizer of ``fpnlib.training``."""
    flow, third = maf(widths).train(), zuko_maf(widths).train()
    theirs, (z, context) = plain(flow), data(1024, widths)

    def step(module: torch.nn.Module, loss: Callable[[], torch.Tensor], **adam) -> Run:
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-4, **adam)

        @torch.enable_grad()
        def run() -> None:
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()

        return run

    runs = {
        "ours": step(flow, lambda: -flow.log_prob(z, context).mean(), fused=True),
        "nflows": step(theirs, lambda: -theirs.log_prob(z, context).mean()),
        "zuko": step(third, lambda: -third(context).log_prob(z).mean()),
    }
    return Workload(name, runs, repeats, goals)


SMALL: Widths = (40, 10, 40, 5, 2)
KEPT: Widths = (40, 10, 224, 5, 2)
NORMED: Widths = (40, 10, 100, 10, 5)
SHAPES: Widths = (64, 11, 128, 5, 2)
WIDE: Widths = (128, 55, 1024, 5, 2)
EDIT: Widths = (128, 40, 48, 10, 10)
FACE: Widths = (2048, 512, 1024, 1, 10)


def workloads() -> list[Callable[[], Workload]]:
    """The rows of the table; a workload is built when its turn comes."""
    small, kept = {"nflows": 90, "zuko": 40}, {"nflows": 60}
    return [
        lambda: sampling(
            "one edit of a face: D 128, hidden 48, 10 × 10, batch norm",
            EDIT, 1, {"ms": 2}, 9, with_zuko=False, batch_norm=True,
        ),
        lambda: sampling("sample 10,000: D 40, hidden 40, 5 × 2", SMALL, 10_000, small, 5),
        lambda: sampling("sample 10,000: D 40, hidden 224, 5 × 2", KEPT, 10_000, kept, 5, True),
        lambda: sampling(
            "sample 1,000: D 40, hidden 100, 10 × 5, batch norm",
            NORMED, 1_000, {}, 3, batch_norm=True,
        ),
        lambda: sampling("sample 1,000: D 64, hidden 128, 5 × 2", SHAPES, 1_000, {}, 5),
        lambda: sampling(
            "sample 1,000: D 128, hidden 1024, 5 × 2", WIDE, 1_000, {"nflows": 100}, 5, True
        ),
        lambda: sampling(
            "sample 10: D 2048, hidden 1024, 1 × 10, batch norm",
            FACE, 10, {"nflows": 1000}, 5, True, False, batch_norm=True,
        ),
        lambda: classification(
            "10,000 latents under 10 classes, D 40", SMALL, 10_000, {"nflows": 4}, 9
        ),
        lambda: training(
            "training step of 1,024, D 40, hidden 40", SMALL, {"nflows": 1.3}, 25
        ),
        lambda: training("training step of 1,024, D 40, hidden 224", KEPT, {"nflows": 1.3}, 9),
    ]  # fmt: skip


def measure(load: Workload) -> dict[str, object]:
    """The row of one workload; in each turn, ours comes before and after the others."""
    others = sorted(load.runs.keys() - {"ours"})
    turns: dict[str, list[float]] = {name: [] for name in load.runs}
    with torch.no_grad():
        for run in load.runs.values():
            run()  # ours packs its weights, and compiles if nothing is cached
        for _ in range(load.repeats):
            times: dict[str, list[float]] = {name: [] for name in load.runs}
            for name in ["ours", *others, "ours"]:
                times[name] += seconds(load.runs[name])
            for name, values in times.items():
                turns[name].append(median(values) * load.factors.get(name, 1))
    return compared(load, turns)


def seconds(run: Run) -> list[float]:
    """CPU time of one call, or of several if it is quick: the first one finds cold caches."""
    times: list[float] = []
    while len(times) < CALLS and (not times or times[-1] < QUICK):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return times


def compared(load: Workload, turns: dict[str, list[float]]) -> dict[str, object]:
    """Medians over the turns: of the times in ms, and of the others' times over ours."""
    row: dict[str, object] = {"workload": load.name}
    for name in ("nflows", "zuko", "ours"):
        row[f"{name} ms"] = median(turns[name]) * 1e3 if name in turns else math.nan
    for name in ("nflows", "zuko"):
        ratios = [a / b for a, b in zip(turns.get(name, []), turns["ours"])]
        row[f"over {name}"] = median(ratios) if ratios else math.nan
    row["×D"] = ", ".join(sorted(load.factors))
    for name in GOALS:
        row[f"goal {name}"] = load.goals.get(name, math.nan)
    return row


@torch.no_grad()
def threads(repeats: int = 9) -> pd.DataFrame:
    """Wall-clock ms of ours on one and on two threads, in turns; the shortest, for others run."""
    rows = []
    for index in (1, 2, 4, 7):
        load = workloads()[index]()
        run = load.runs["ours"]
        run()
        times: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(repeats):
            for count, values in times.items():
                torch.set_num_threads(count)
                start = time.perf_counter()
                run()
                values.append(time.perf_counter() - start)
        one, two = (min(values) * 1e3 for values in times.values())
        row = {"workload": load.name, "one ms": one, "two ms": two, "one over two": one / two}
        rows.append(row)
    torch.set_num_threads(1)
    return pd.DataFrame(rows)


def number(value: float, unit: str = "") -> str:
    if math.isnan(value):
        return "–"
    return (f"{value:,.0f}" if value >= 100 else f"{value:.3g}") + unit


def goal(value: float, sign: str) -> str:
    return "" if math.isnan(value) else f" ({sign} {number(value)})"


def time_of(row: pd.Series, name: str) -> str:
    return number(row[f"{name} ms"]) + (" ×D" if name in row["×D"] else "")


def ratio_to(row: pd.Series, name: str) -> str:
    return number(row[f"over {name}"], "×") + goal(row[f"goal {name}"], "≥")


def markdown(table: pd.DataFrame, machine: str) -> str:
    lines = [
        "| workload | nflows ms | zuko ms | ours ms | over nflows | over zuko |",
        "|---|---|---|---|---|---|",
    ]
    for _, row in table.iterrows():
        cells = [row["workload"]]
        cells += [time_of(row, name) for name in ("nflows", "zuko")]
        cells.append(number(row["ours ms"]) + goal(row["goal ms"], "≤"))
        cells += [ratio_to(row, name) for name in ("nflows", "zuko")]
        lines.append("| " + " | ".join(cells) + " |")
    note = (
        "CPU time on one thread: medians over the turns, of the times and of their ratios within "
        f"a turn; goals in brackets. {machine}. ×D: one pass of each layer timed, times D."
    )
    return "\n".join([*lines, "", note, ""])


def threads_markdown(table: pd.DataFrame) -> str:
    lines = [
        "| ours, wall-clock time | one thread ms | two threads ms | times faster |",
        "|---|---|---|---|",
    ]
    for name, *values in table.itertuples(index=False):
        lines.append("| " + " | ".join([name, *map(number, values)]) + " |")
    return "\n".join([*lines, ""])


def plot(table: pd.DataFrame) -> plt.Figure:
    labels = {
        "nflows ms": "nflows 0.14",
        "zuko ms": f"zuko {zuko.__version__}",
        "ours ms": "fpnlib",
    }
    figure, axes = plt.subplots(figsize=(9, 0.55 * len(table) + 1.5), layout="constrained")
    places = range(len(table))
    colors = sns.color_palette("colorblind")
    for (name, label), color, marker in zip(labels.items(), colors, "os^"):
        axes.scatter(table[name], places, color=color, marker=marker, s=70, label=label, zorder=3)
    axes.set(xscale="log", xlabel="CPU time on one thread (ms)")
    axes.set_yticks(places, table["workload"])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, 1.12), ncols=3, frameon=False)
    return figure


def cpu() -> str:
    """The processor's name, as it gives it on Linux and as LLVM knows it."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.is_file() else []
    return f"{(names or [platform.machine()])[0]} ({binding.get_host_cpu_name()})"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    folder = ROOT / "outputs" / "benchmarks"
    parser.add_argument("--out", type=Path, default=folder, help="folder for table and plot")
    parser.add_argument("--only", type=int, nargs="*", help="rows to measure, counted from 1")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    makers = workloads()
    last = len(makers) + 1
    chosen = options.only or range(1, last + 1)
    for row in chosen:
        if not 1 <= row <= last:
            parser.error(f"rows are numbered from 1 to {last}, got {row}")
    machine = (
        f"{cpu()}, {MANY} samples abreast, torch {torch.__version__.split('+')[0]}, "
        f"numba {numba.__version__}, nflows 0.14, zuko {zuko.__version__}"
    )
    options.out.mkdir(parents=True, exist_ok=True)
    rows, texts = [], {}
    for row in tqdm(chosen, unit="row"):
        if row == last:
            table = threads()
            table.to_csv(options.out / "threads.csv", index=False, float_format="%.5g")
            texts["threads"] = threads_markdown(table)
        else:
            rows.append(measure(makers[row - 1]()))
            table = pd.DataFrame(rows)
            table.to_csv(options.out / "flows.csv", index=False, float_format="%.5g")
            plot(table).savefig(options.out / "flows.png", dpi=150)
            plt.close("all")
            texts["flows"] = markdown(table, machine)
        (options.out / "flows.md").write_text("\n".join(texts.values()), encoding="utf-8")
    print("\n".join(texts.values()))


if __name__ == "__main__":
    main(sys.argv[1:])
