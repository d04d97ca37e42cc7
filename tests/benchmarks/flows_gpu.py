"""Sampling on a GPU beside nflows on the same card: D 128, hidden 1024, context 55, 5 layers of 2 blocks.

The alternatives take turns: ours, ours without its kernel, nflows; medians of wall-clock times from one synchronization to
the next. Writes flows_gpu.csv; where torch finds no GPU there is nothing to measure.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from flows import maf, plain
from tqdm.auto import trange

from fpnlib import store
from fpnlib.flows.incremental import Incremental

WIDTHS = 128, 55, 1024, 5, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--samples", type=int, nargs="+", default=[100, 1_000, 10_000], help="in one call"
    )
    parser.add_argument("--turns", type=int, default=7, help="of the alternatives")
    parser.add_argument("--out", type=Path, default=store.PROJECT / "outputs" / "benchmarks")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU that torch can use: nothing to measure")
        return
    table = pd.DataFrame([sampling(n, options.turns, "cuda") for n in options.samples])
    table = table.assign(GPU=torch.cuda.get_device_name(), torch=torch.__version__)
    print(table.to_string(index=False, float_format="%.4g"))
    store.write(options.out / "flows_gpu.csv", table.to_csv(index=False, float_format="%.4g"))


@torch.no_grad()
def sampling(
    samples: int, turns: int, device: str, widths: tuple[int, ...] = WIDTHS
) -> dict[str, float]:
    """Milliseconds of each alternative, the ratios within a turn, and how far the samples lie from nflows'."""
    flow = maf(*widths).to(device)
    stack, theirs = flow._transform, plain(flow)
    noise = torch.randn(samples, widths[0], device=device)
    context = torch.eye(widths[1], device=device)[torch.arange(samples, device=device) % widths[1]]
    torch_alone = Incremental([stack._pack(layer) for layer in stack._layers()])
    runs = {
        "ours": lambda: flow.transform_from_noise(noise, context),
        "ours, torch alone": lambda: torch_alone.inverse(noise, context)[0],
        "nflows": lambda: theirs._transform.inverse(noise, context)[0],
    }
    found = {name: run() for name, run in runs.items()}  # what is compiled, is compiled here
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in trange(turns, desc=f"{samples} samples", unit="turn"):
        for name, run in runs.items():
            begin = _now(device)
            run()
            seconds[name].append(_now(device) - begin)
    over = {
        f"nflows / {name}": median(
            b / a for a, b in zip(seconds[name], seconds["nflows"], strict=True)
        )
        for name in ("ours", "ours, torch alone")
    }
    far = (found["ours"] - found["nflows"]).abs().max().item()
    times = {f"{name}, ms": 1e3 * median(each) for name, each in seconds.items()}
    return {"samples": samples} | times | over | {"largest difference": far}


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
