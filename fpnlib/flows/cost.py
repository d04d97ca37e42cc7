"""What sampling costs against the number of dimensions: nflows' D passes beside one pass's work."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pandas as pd
import torch
from nflows.transforms import CompositeTransform

from fpnlib.flows.conditional import ConditionalFlow
from fpnlib.flows.maf import conditional_maf


def cost_against_dimension(
    dimensions: Sequence[int] = (2, 4, 8, 16, 32, 64),
    samples: int = 256,
    hidden_features: int = 64,
    num_layers: int = 2,
    repeats: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """Seconds of CPU time to sample from a conditional MAF by nflows' inverse and by ours, and of one pass; takes some seconds.

    Returns:
        A row for each implementation and D: columns flow, implementation, D, seconds (median of ``repeats``).
    """
    rows = []
    for features in dimensions:
        runs = _samplers(
            *small_maf(
                features, 10, samples, seed, hidden_features=hidden_features, num_layers=num_layers
            )
        )
        seconds = interleaved(runs, repeats)
        rows += [
            {"flow": "C-MAF", "implementation": name, "D": features, "seconds": s}
            for name, s in seconds.items()
        ]
    return pd.DataFrame(rows)


def _samplers(
    flow: ConditionalFlow, noise: torch.Tensor, context: torch.Tensor
) -> dict[str, Callable]:
    return {
        "nflows": lambda: CompositeTransform.inverse(flow._transform, noise, context),
        "ours": lambda: flow.transform_from_noise(noise, context),
        "one pass": lambda: CompositeTransform.forward(flow._transform, noise, context),
    }


def small_maf(
    features: int, contexts: int, samples: int, seed: int, **settings
) -> tuple[ConditionalFlow, torch.Tensor, torch.Tensor]:
    """A MAF in eval mode with its data's scale kept (as a trained one keeps it), noise (n, D) and one-hot contexts."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        flow = conditional_maf(features, contexts, **settings).eval()
        temper(flow)
        noise = torch.randn(samples, features)
    return flow, noise, torch.eye(contexts)[torch.arange(samples) % contexts]


@torch.no_grad()
def temper(flow: torch.nn.Module) -> None:
    """Outputs of random networks made small, and batch norms' statistics those of standard normal data."""
    for name, parameter in flow.named_parameters():
        if "final_layer.weight" in name:
            parameter.mul_(0.1)
    for name, buffer in flow.named_buffers():
        if name.endswith("running_var"):
            buffer.fill_(1.0)


def interleaved(runs: dict[str, Callable], repeats: int) -> dict[str, float]:
    """Median seconds of CPU time of each call, after one call that does not count, taking turns."""
    times = {name: [] for name in runs}
    with torch.no_grad():
        for turn in range(repeats + 1):
            for name, run in runs.items():
                start = time.process_time()
                run()
                if turn:
                    times[name].append(time.process_time() - start)
    return {name: sorted(seconds)[len(seconds) // 2] for name, seconds in times.items()}
