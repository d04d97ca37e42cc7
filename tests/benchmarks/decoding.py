"""Decoding a cloud of 2,048 points at PointFlow's published size: for the points alone, and with the trace carried along.

The original solves for the density as well and throws it away. All ways take turns within one run, on one thread, in CPU
time, with the same solver, noise and latent; the shortest of some turns. Writes decoding.csv.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from fpnlib.base_models import PointFlow

ROOT = Path(__file__).resolve().parents[1]
STEEP = 6.0  # weights × this: about as many steps as a trained field takes


def ways(model: PointFlow, points: int) -> dict[str, Callable[[], int]]:
    """Name → a solve from noise to points, which gives its number of evaluations of the field."""
    z, u = torch.randn(1, model.latent_dim), torch.randn(1, points, 3)
    probe, field = torch.randn_like(u), model.decoder.fields[0]
    context, with_density = field.context(z), torch.cat([u, torch.zeros(1, points, 1)], -1)

    def alone(s: Tensor, x: Tensor) -> Tensor:
        return field.velocity(s, x, context)

    def pushed(s: Tensor, state: Tensor) -> Tensor:
        return torch.cat(field.with_divergence(s, state[..., :3], probe, context), -1)

    @torch.enable_grad()
    def pulled(s: Tensor, state: Tensor) -> Tensor:
        x = state[..., :3].detach().requires_grad_()
        dx = field.velocity(s, x, context)
        (pulled,) = torch.autograd.grad(
            dx, x, probe, create_graph=True
        )  # the original keeps the graph
        return torch.cat([dx, (pulled * probe).sum(-1, keepdim=True)], -1).detach()

    @torch.no_grad()
    def solve(change: Callable[[Tensor, Tensor], Tensor], state: Tensor) -> int:
        calls = []
        model.solver(lambda s, x: calls.append(s) or change(s, x), state, 1.0, 0.0)
        return len(calls)

    return {
        "points alone": lambda: solve(alone, u),
        "with the trace, forward": lambda: solve(pushed, with_density),
        "with the trace, as the original": lambda: solve(pulled, with_density),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=2048)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "benchmarks")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = PointFlow().eval()
    with torch.no_grad():
        for layer in model.decoder.fields[0].layers:
            layer.linear.weight.mul_(STEEP)
    runs = ways(model, arguments.points)
    seconds, evaluations = {name: [] for name in runs}, {}
    for _ in range(arguments.turns):
        for name, run in runs.items():
            started = time.process_time()
            evaluations[name] = run()
            seconds[name].append(time.process_time() - started)
    table = pd.DataFrame(
        {"evaluations": evaluations, "CPU seconds": {name: min(s) for name, s in seconds.items()}}
    )
    table["times"] = table["CPU seconds"] / table["CPU seconds"].iloc[0]
    arguments.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.out / "decoding.csv", index_label="way", float_format="%.3f")
    print(table.round(3).to_string())


if __name__ == "__main__":
    main()
