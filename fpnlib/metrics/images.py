"""Scores of generated images, as a judge sees them: the class asked for, likeness to real images, diversity."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fpnlib import checks
from fpnlib.metrics.judge import Judge

BATCH = 1_000


def right_class_rate(judge: Judge, x: Tensor, y: Tensor) -> float:
    """Share, in [0, 1], of images (n, 1, 28, 28) that the judge takes for the classes ``y`` (n,) they were asked to be.

    Raises:
        ValueError: images and labels of different lengths, no images, or what :meth:`Judge.features` refuses.
    """
    return (_predict(judge, x, y) == y.cpu()).double().mean().item()


def confusion(judge: Judge, x: Tensor, y: Tensor) -> Tensor:
    """Counts (K, K), int64: row y, column what the judge sees. Raises as :func:`right_class_rate` does."""
    k = judge.config["num_classes"]
    return torch.bincount(y.cpu() * k + _predict(judge, x, y), minlength=k**2).reshape(k, k)


def features(judge: Judge, x: Tensor) -> Tensor:
    """What the judge's last layer sees of images (n, 1, 28, 28): (n, F), on the CPU. Raises as :meth:`Judge.features`."""
    return _in_batches(judge, judge.features, x)


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Fréchet distance between Gaussians fitted to the :func:`features` (n, F) and (m, F) of two sets of images.

    As FID (Heusel et al. 2017, arXiv:1706.08500), with the judge in the place of Inception, which never saw digits:
    comparable only between sets of one size that the same judge scored.

    Raises:
        ValueError: fewer than two images in a set, or features of other widths, or with NaN.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance  # heavy, and only this needs it

    fake = checks.latents(fake, checks.latents(real, name="real").shape[1], "fake")
    identity = (
        nn.Identity()
    )  # the metric gets features, so an identity stands where it expects a network
    identity.num_features = real.shape[1]
    distance = FrechetInceptionDistance(feature=identity)
    for name, seen in (("real", real), ("fake", fake)):
        if len(seen) < 2:
            raise ValueError(f"a Fréchet distance needs two {name} images or more, got {len(seen)}")
        distance.update(seen.double(), real=name == "real")
    return max(distance.compute().item(), 0.0)  # rounding goes below zero


def diversity(features: Tensor, y: Tensor) -> float:
    """Mean distance between the :func:`features` (n, F) of two images of one class, averaged over the classes ``y`` (n,).

    Zero if a class always looks the same.

    Raises:
        ValueError: lengths that differ, no images, or a class below the largest with fewer than two of them.
    """
    _check(features, y)
    y = y.cpu()
    counts = y.bincount().tolist()
    for k, count in enumerate(counts):
        if count < 2:
            raise ValueError(
                f"diversity needs two images or more of each class, got {count} of class {k}"
            )
    return (
        torch.stack([torch.pdist(features[y == k]).mean() for k in range(len(counts))])
        .mean()
        .item()
    )


def _predict(judge: Judge, x: Tensor, y: Tensor) -> Tensor:
    _check(x, y)
    return _in_batches(judge, judge, x).argmax(1)


def _check(x: Tensor, y: Tensor) -> None:
    checks.same_length(x, y, ("x", "y"))
    if not len(x):
        raise ValueError("there are no images to judge")


@torch.no_grad()
def _in_batches(judge: Judge, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``function`` of x on the judge's device and in eval mode; the result is on the CPU."""
    judge.eval()
    device = next(judge.parameters()).device
    return torch.cat([function(batch.to(device)).cpu() for batch in x.split(BATCH)])
