"""Scores of generated objects, as a judge sees them: class, likeness, diversity."""

from typing import Any

import torch
from torch import Tensor, nn

from fpnlib import checks
from fpnlib.metrics.judge import Judge


def right_class_rate(judge: Judge, x: Tensor, y: Tensor) -> float:
    """Share, in [0, 1], of objects x (n, ...) that the judge takes for their classes y (n,).

    Raises:
        ValueError: objects and labels of different lengths, a class that the judge does not know,
            no objects, or what the judge refuses.
    """
    y = checks.labels(y, range(judge.outputs)).cpu()
    checks.same_length(x, y, ("x", "y"))
    return (judge.predict(x) == y).double().mean().item()


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Fréchet distance between Gaussians fitted to features (n, F) and (m, F) of two sets.

    This is FID (Heusel et al. 2017, arXiv:1706.08500) with a judge in the place of Inception, which
    never saw digits. Compare it only between sets of one size that the same judge has read.

    Raises:
        ValueError: fewer than two objects in a set, or features of other widths, or with NaN.

    >>> features = torch.randn(50, 3)
    >>> round(frechet_distance(features, features + 2), 3)
    12.0
    """
    from torchmetrics.image.fid import FrechetInceptionDistance  # slow to import

    real = checks.latents(real, name="real")
    fake = checks.latents(fake, real.shape[1], "fake")
    fewest = min(len(real), len(fake))
    if fewest < 2:
        raise ValueError(f"a Fréchet distance needs two objects or more of each, got {fewest}")
    network: Any = nn.Identity()  # the metric expects a network; here it gets features
    network.num_features = real.shape[1]
    distance = FrechetInceptionDistance(feature=network)
    distance.update(real.double(), real=True)
    distance.update(fake.double(), real=False)
    return max(distance.compute().item(), 0.0)  # rounding goes below zero


def diversity(features: Tensor, y: Tensor) -> float:
    """Mean distance between the features (n, F) of two objects of a class, averaged over classes.

    It is zero if a class always looks the same.

    Raises:
        ValueError: lengths that differ, no objects, or a class with fewer than two of them.
    """
    features, y = checks.latents(features, name="features"), checks.class_indices(y)
    checks.same_length(features, y, ("features", "y"))
    if not len(y):
        raise ValueError("there are no objects to judge")
    y = y.to(features.device)
    distances = []
    for k, count in enumerate(y.bincount().tolist()):
        if count < 2:
            raise ValueError(f"diversity needs two images of each class, got {count} of class {k}")
        distances.append(torch.pdist(features[y == k]).mean())
    return torch.stack(distances).mean().item()
