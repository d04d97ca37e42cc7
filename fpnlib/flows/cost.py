"""The cost of sampling against the number of dimensions: nflows' D passes and one pass's work."""

import timeit
from collections.abc import Callable
from statistics import median
from time import process_time

import pandas as pd
import torch
from nflows.transforms import CompositeTransform

from fpnlib.flows.builders import conditional_maf

DIMENSIONS = (2, 4, 8, 16, 32, 64)
SAMPLES, REPEATS = 256, 3  # samples in a batch; timed calls, of which the median counts


def cost_against_dimension(seed: int = 0) -> pd.DataFrame:
    """Measure how the cost of sampling from a small conditional MAF grows with the dimension.

    The alternatives are nflows' inverse, ours, and one forward pass of nflows. The measurement
    takes some seconds.

    Args:
        seed: of weights and noise.

    Returns:
        One row for each implementation and D, with columns flow, implementation, D and seconds of
        CPU time.
    """
    rows = []
    for features in DIMENSIONS:
        for name, sample in _samplers(features, seed).items():
            seconds = _seconds(sample)
            row = {"flow": "C-MAF", "implementation": name, "D": features, "seconds": seconds}
            rows.append(row)
    return pd.DataFrame(rows)


def _samplers(features: int, seed: int) -> dict[str, Callable[[], object]]:
    """Return the calls to measure, on a flow of random weights with ten classes."""
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(seed)
        flow = conditional_maf(features, 10, hidden_features=64, num_layers=2).eval()
        for name, parameter in flow.named_parameters():
            if "final_layer.weight" in name:
                parameter.mul_(0.1)  # small, as in a trained flow
        noise = torch.randn(SAMPLES, features)
    context = torch.eye(10)[torch.arange(SAMPLES) % 10]
    return {
        "nflows": lambda: CompositeTransform.inverse(flow._transform, noise, context),
        "ours": lambda: flow.transform_from_noise(noise, context),
        "one pass": lambda: CompositeTransform.forward(flow._transform, noise, context),
    }


@torch.no_grad()
def _seconds(call: Callable[[], object]) -> float:
    """Return the median CPU time of a call, after one that is not timed."""
    call()
    return median(timeit.repeat(call, timer=process_time, number=1, repeat=REPEATS))
