"""The flows of fpnlib beside nflows 0.14 and zuko, in CPU time on one thread: ``make bench``.

The alternatives take turns within one run, and so does a matrix product, whose rate gives the arithmetic limit: the
multiply-adds that the masks let through, at that rate. Medians over the turns, of the times and of their ratios within a
turn. Sampling by D passes that would take minutes is timed on one pass of each layer, times D, since all D passes are the
same work; the table marks those with ×D. The last row is another question: wall-clock times of ours on one and on two
threads, the shortest of some turns.
Writes flows.csv, flows.md, flows.png and threads.csv.
"""

from __future__ import annotations

import argparse
import copy
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
from fpnlib.flows.autoregressive_weights import layout
from fpnlib.flows.cost import temper
from fpnlib.flows.vectors import LANES, ROWS

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Workload:
    """Calls to be timed in turns; ``operations`` floating-point operations are what cannot be avoided."""

    name: str
    runs: dict[str, Callable[[], object]]
    operations: float | None
    repeats: int
    targets: tuple[
        float | None, float | None, float | None
    ]  # over nflows, over zuko, over the limit
    factors: dict[str, int] = field(default_factory=dict)  # timed call × this


def plain(flow: Flow) -> Flow:
    """The same flow as nflows itself runs it."""
    twin = copy.deepcopy(flow)
    transform = CompositeTransform(list(twin._transform._transforms))
    return Flow(transform, twin._distribution, twin._embedding_net).train(flow.training)


def made_macs(features: int, hidden: int, blocks: int) -> float:
    """Multiply-adds of a masked network for one sample: the ones of its masks."""
    shape = layout(features, hidden)
    return float(
        shape.input_mask.sum() + 2 * blocks * shape.unit_mask.sum() + shape.output_mask.sum()
    )


def maf(features: int, context: int, hidden: int, layers: int, blocks: int, **settings):
    torch.manual_seed(0)
    flow = build_flow(
        "maf",
        features,
        context,
        hidden_features=hidden,
        num_layers=layers,
        num_blocks=blocks,
        **settings,
    )
    temper(flow.eval())
    return flow


def zuko_maf(features: int, context: int, hidden: int, layers: int, blocks: int):
    """As many masked products of the same widths; zuko has no residual masked blocks with a context in each."""
    flow = zuko.flows.MAF(
        features, context, transforms=layers, hidden_features=[hidden] * (2 * blocks + 1)
    ).eval()
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            if name.endswith(f"{4 * blocks + 2}.weight"):
                parameter.mul_(0.1)
    return flow


def sampling(
    name, widths, samples, targets, repeats, extrapolated=False, with_zuko=True, **settings
) -> Workload:
    features, context_features, hidden, layers, blocks = widths
    flow = maf(*widths, **settings)
    theirs, third = plain(flow), zuko_maf(*widths) if with_zuko else None
    noise, context = (
        torch.randn(samples, features),
        torch.eye(context_features)[torch.arange(samples) % context_features],
    )
    runs, factors = {"ours": lambda: flow.transform_from_noise(noise, context)}, {}
    if extrapolated:
        inner = [t for t in theirs._transform._transforms if hasattr(t, "autoregressive_net")]

        def one_pass_each():
            for transform in inner:
                transform._elementwise_inverse(noise, transform.autoregressive_net(noise, context))

        runs["nflows"], factors["nflows"] = one_pass_each, features
    else:
        runs["nflows"] = lambda: theirs._transform.inverse(noise, context)
    if third is not None:
        runs["zuko"] = lambda: third(context).transform.inv(noise)
        if extrapolated:
            runs["zuko"], factors["zuko"] = (lambda: third(context).transform(noise)), features
    operations = 2 * samples * layers * made_macs(features, hidden, blocks)
    return Workload(name, runs, operations, repeats, targets, factors)


def classification(name, widths, samples, targets, repeats) -> Workload:
    features, classes, hidden, layers, blocks = widths
    flow, third = maf(*widths), zuko_maf(*widths)
    theirs = plain(flow)
    z, every = torch.randn(samples, features), torch.eye(classes)
    runs = {
        "ours": lambda: flow.class_log_prob(z, every),
        "nflows": lambda: torch.stack(
            [theirs.log_prob(z, row.expand(samples, -1)) for row in every], 1
        ),
        "zuko": lambda: torch.stack(
            [third(row.expand(samples, -1)).log_prob(z) for row in every], 1
        ),
    }
    operations = 2 * samples * classes * layers * made_macs(features, hidden, blocks)
    return Workload(name, runs, operations, repeats, targets)


def training(name, widths, targets, repeats, batch=1024) -> Workload:
    features, context_features, *_ = widths
    flow = maf(*widths).train()
    theirs, third = plain(flow), zuko_maf(*widths).train()
    z, context = (
        torch.randn(batch, features),
        torch.eye(context_features)[torch.arange(batch) % context_features],
    )

    def step(module, loss, **adam) -> Callable[[], None]:
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
    return Workload(name, runs, None, repeats, targets)


def float64_sampling(name, widths, samples) -> Workload:
    """Ours alone, which runs in plain torch."""
    flow, context = maf(*widths).double(), torch.eye(widths[1]).double()
    noise, given = (
        torch.randn(samples, widths[0]).double(),
        context[torch.arange(samples) % widths[1]],
    )
    return Workload(
        name, {"ours": lambda: flow.transform_from_noise(noise, given)}, None, 0, (None, None, None)
    )


def coupling_sampling(name, samples, targets, repeats) -> Workload:
    torch.manual_seed(0)
    flow = build_flow("realnvp", 40, 10, hidden_features=40)
    temper(flow.eval())
    theirs, third = (
        plain(flow),
        zuko.flows.RealNVP(40, 10, transforms=5, hidden_features=[40] * 5).eval(),
    )
    noise, context = torch.randn(samples, 40), torch.eye(10)[torch.arange(samples) % 10]
    runs = {
        "ours": lambda: flow.transform_from_noise(noise, context),
        "nflows": lambda: theirs._transform.inverse(noise, context),
        "zuko": lambda: third(context).transform.inv(noise),
    }
    operations = 2 * samples * 5 * (20 * 40 + 4 * 40 * 40 + 40 * 40)
    return Workload(name, runs, operations, repeats, targets)


SMALL, NORMED, WIDE, FACE = (
    (40, 10, 40, 5, 2),
    (40, 10, 100, 10, 5),
    (128, 55, 1024, 5, 2),
    (2048, 512, 1024, 1, 10),
)


def workloads() -> list[Callable[[], Workload]]:
    return [
        lambda: sampling("sample 10,000: D 40, hidden 40, 5 × 2", SMALL, 10_000, (100, 50, 4), 5),
        lambda: sampling("sample 1,000: D 40, hidden 100, 10 × 5, batch norm", NORMED, 1_000, (50, 38, 3.5), 5, batch_norm=True),
        lambda: sampling("sample 1,000: D 128, hidden 1024, 5 × 2", WIDE, 1_000, (180, 160, 1.7), 5, True),
        lambda: sampling("sample 10: D 2048, hidden 1024, 1 × 10, batch norm", FACE, 10, (1000, None, None), 5, True, False,
                         batch_norm=True),
        lambda: classification("10,000 latents under 10 classes, D 40", SMALL, 10_000, (5, 2.2, 2.1), 9),
        lambda: classification("500 latents under 55 classes, D 128", WIDE, 500, (1.7, 1.8, 1.4), 3),
        lambda: training("training step of 1,024, D 40, hidden 40", SMALL, (1.35, 1.0, None), 25),
        lambda: training("training step of 1,024, D 40, hidden 200", (40, 10, 200, 5, 2), (None, None, None), 9),
        lambda: training("training step of 1,024, D 128, hidden 1024", WIDE, (1.5, 1.6, None), 9),
        lambda: coupling_sampling("C-RNVP, sample 10,000: D 40, hidden 40", 10_000, (2, 1.5, None), 15),
    ]  # fmt: skip


CALLS, QUICK = 5, 0.2  # calls in a turn, of what takes fewer seconds than this


def measure(load: Workload) -> dict[str, object]:
    """The row of one workload.

    A shared machine's speed drifts, within seconds, by a third: what is measured in the same turn finds much the same
    speed; the matrix product is timed before ours and after, and ours before the others and after.
    """
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    runs = {"product": lambda: a @ b} | load.runs
    others = sorted(load.runs.keys() - {"ours"})
    turns, order = {name: [] for name in runs}, ["product", "ours", "product", *others, "ours"]
    with torch.no_grad():
        for run in load.runs.values():
            run()  # ours packs its weights, and compiles where nothing is cached; all find their caches warm
        for _ in range(load.repeats):
            times = {name: [] for name in runs}
            for name in order:
                for _ in range(
                    CALLS
                ):  # what is quick is called again: the first call of a turn finds cold caches
                    start = time.process_time()
                    runs[name]()
                    times[name].append(time.process_time() - start)
                    if times[name][-1] > QUICK:
                        break
            for name, values in times.items():
                turns[name].append(median(values) * load.factors.get(name, 1))
    return compared(load, turns)


def compared(load: Workload, turns: dict[str, list[float]]) -> dict[str, object]:
    """Medians over the turns: of the times, in milliseconds, and of what they are over each other within a turn."""
    none = [float("nan")] * len(turns["ours"])
    peaks = [2 * 1024**3 / seconds for seconds in turns["product"]]
    limit = [load.operations / peak for peak in peaks] if load.operations else none
    times = {"nflows": none, "zuko": none} | turns | {"limit": limit}

    def over(upper: str, lower: str) -> float:
        return median([one / other for one, other in zip(times[upper], times[lower], strict=True)])

    row = {"workload": load.name, "peak GFLOP/s": median(peaks) / 1e9}
    row |= {f"{name} ms": median(times[name]) * 1e3 for name in ("nflows", "zuko", "ours", "limit")}
    row |= {
        "over nflows": over("nflows", "ours"),
        "over zuko": over("zuko", "ours"),
        "over limit": over("ours", "limit"),
    }
    row["×D"] = ", ".join(load.factors)
    for what, target in zip(("nflows", "zuko", "limit"), load.targets, strict=True):
        row[f"goal {what}"] = float("nan") if target is None else target
    return row


@torch.no_grad()
def threads(repeats: int = 9) -> pd.DataFrame:
    """Seconds of wall-clock time on one and on two threads, taking turns; the shortest, for others share the machine."""
    rows, makers = [], workloads()
    makers.append(
        lambda: float64_sampling("sample 1,000 in float64: D 40, hidden 40, 5 × 2", SMALL, 1_000)
    )
    for row in (0, 2, 4, 6, 8, 9, -1):
        load = makers[row]()
        run = load.runs["ours"]
        run()
        times = {1: [], 2: []}
        for _ in range(repeats):
            for count in times:
                torch.set_num_threads(count)
                start = time.perf_counter()
                run()
                times[count].append(time.perf_counter() - start)
        one, two = min(times[1]), min(times[2])
        rows.append(
            {
                "workload": load.name,
                "one ms": one * 1e3,
                "two ms": two * 1e3,
                "one over two": one / two,
            }
        )
    torch.set_num_threads(1)
    return pd.DataFrame(rows)


def number(value: float, unit: str = "") -> str:
    return "–" if value != value else (f"{value:,.0f}" if value >= 100 else f"{value:.3g}") + unit


def markdown(table: pd.DataFrame, machine: str) -> str:
    def goal(row, what: str, sign: str) -> str:
        aimed = (
            ""
            if row[f"goal {what}"] != row[f"goal {what}"]
            else f" ({sign} {number(row[f'goal {what}'])})"
        )
        return number(row[f"over {what}"], "×") + aimed

    lines = [
        "| workload | nflows ms | zuko ms | ours ms | limit ms | over nflows | over zuko | over the limit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for _, row in table.iterrows():
        cells = [
            number(row[f"{name} ms"]) + (" ×D" if name in row["×D"] else "")
            for name in ("nflows", "zuko", "ours")
        ]
        cells += [
            number(row["limit ms"]),
            goal(row, "nflows", "≥"),
            goal(row, "zuko", "≥"),
            goal(row, "limit", "≤"),
        ]
        lines.append("| " + " | ".join([row["workload"], *cells]) + " |")
    peak = table["peak GFLOP/s"].median()
    note = (
        "CPU time on one thread: medians over the turns, of the times and of their ratios within a turn; goals in brackets. "
        f"{machine}. Matrix-product peak {peak:.0f} GFLOP/s "
        "(median over the rows; each row's limit uses its own). ×D: one pass of each layer timed, times D."
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
    names = ["nflows ms", "zuko ms", "ours ms", "limit ms"]
    labels = ["nflows 0.14", f"zuko {zuko.__version__}", "fpnlib", "arithmetic limit"]
    figure, axes = plt.subplots(figsize=(9, 0.55 * len(table) + 1.5), layout="constrained")
    places = range(len(table))
    for name, label, color, marker in zip(
        names, labels, sns.color_palette("colorblind"), "os^|", strict=False
    ):
        axes.scatter(table[name], places, color=color, marker=marker, s=70, label=label, zorder=3)
    axes.set(
        xscale="log",
        xlabel="CPU time on one thread (ms)",
        yticks=places,
        yticklabels=table["workload"],
    )
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, 1.12), ncols=4, frameon=False)
    return figure


def cpu() -> str:
    """Its name as it gives it (on Linux), and as LLVM knows it."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.is_file() else []
    return f"{(names or [platform.machine()])[0]} ({binding.get_host_cpu_name()})"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "outputs" / "benchmarks",
        help="folder for table and plot",
    )
    parser.add_argument(
        "--only", type=int, nargs="*", help="numbers of the rows to measure, from 1"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    makers = workloads()
    chosen = options.only or range(1, len(makers) + 2)
    if wrong := sorted(set(chosen) - {*range(1, len(makers) + 2)}):
        parser.error(f"rows are numbered from 1 to {len(makers) + 1}, got {wrong[0]}")
    machine = (
        f"{cpu()}, kernels on {ROWS} rows of {LANES} samples at a time, torch {torch.__version__.split('+')[0]}, "
        f"numba {numba.__version__}, nflows 0.14, zuko {zuko.__version__}"
    )
    options.out.mkdir(parents=True, exist_ok=True)
    rows, texts = [], {}
    for row in tqdm(chosen, unit="row"):
        if row > len(makers):
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
