"""How near two sets of point clouds are, as PointFlow measures it (Yang et al. 2019, section 5.1, arXiv:1906.12320)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from tqdm.auto import tqdm

from fpnlib import checks

AT_ONCE = (
    2**20
)  # distances between points held at a time, or one pair's: what a processor's cache holds


def chamfer(a: Tensor, b: Tensor) -> Tensor:
    """Chamfer distances (n, m) between clouds (n, p, 3) and (m, q, 3), in squared units.

    The mean squared distance of a point to the other cloud's nearest, both ways added up.

    Raises:
        ValueError, TypeError: clouds of another shape, with NaN, or with all points equal.
    """
    a, b = _pair(a, b)
    center = b.mean((0, 1))  # small numbers: the squares below lose less
    a, b = a - center, b - center
    rows, distances = max(1, AT_ONCE // (a.shape[1] * b.shape[1])), a.new_empty(len(a), len(b))
    for start in range(0, len(b), rows):
        for i, cloud in enumerate(
            a
        ):  # each into its place: pieces kept between large blocks would scatter the memory
            distances[i, start : start + rows] = _chamfer_to_all(cloud, b[start : start + rows])
    return distances


def earth_movers(a: Tensor, b: Tensor) -> Tensor:
    """Earth mover's distances (n, m) between clouds (n, p, 3) and (m, p, 3): a point's mean way in the best matching.

    Exact, by scipy's assignment solver: some 5 ms a pair of 256 points, 90 ms of 1,024.

    Raises:
        ValueError, TypeError: as :func:`chamfer`, or clouds of different numbers of points.
    """
    a, b = _pair(a, b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"earth mover's distance matches as many points to as many, got {a.shape[1]} and {b.shape[1]}"
        )
    distances = np.empty((len(a), len(b)))
    for i, j in np.ndindex(*distances.shape):
        ways = (
            torch.cdist(a[i], b[j], compute_mode="donot_use_mm_for_euclid_dist").cpu().numpy()
        )  # 0 between equals
        distances[i, j] = ways[linear_sum_assignment(ways)].mean()
    return torch.from_numpy(distances).to(a)


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "chamfer": chamfer,
    "earth mover's": earth_movers,
}


def pairwise(a: Tensor, b: Tensor | None = None, distance: str = "chamfer") -> Tensor:
    """Distances (n, m) on the CPU, a row at a time with a progress bar; without ``b`` those within ``a``, each pair once.

    Raises:
        ValueError: an unknown distance, or what it refuses.
    """
    if distance not in DISTANCES:
        raise checks.unknown("distance", distance, DISTANCES)
    other, measure = a if b is None else b, DISTANCES[distance]
    matrix = torch.zeros(len(a), len(other))
    for i in tqdm(
        range(len(a)), desc=f"{distance} distances", unit="cloud", dynamic_ncols=True, leave=False
    ):
        start = i + 1 if b is None else 0
        if start < len(other):
            matrix[i, start:] = measure(a[i : i + 1], other[start:])[0].cpu()
    return matrix + matrix.T if b is None else matrix


def compare(
    samples: Tensor,
    y_samples: Tensor,
    reference: Tensor,
    y_reference: Tensor,
    classes: int,
    distance: str = "chamfer",
) -> dict[str, list[float]]:
    """Scores of clouds (n, p, 3) of classes (n,) against a reference (m, q, 3) of classes (m,), overall and by class.

    Each entry of the result is a list of 1 + ``classes`` numbers, the first over all, NaN for a class that is not there:

    - "coverage": share of the reference that is some sample's nearest; 1 is best, few modes give little.
    - "mmd": minimum matching distance: what lies between a reference cloud and its nearest sample, on average.
    - "1-nna": how often the nearest neighbour (itself left out) tells samples from reference; 1/2 is best.

    1-NNA wants as many of the one as of the other; where a class has more samples, its first so many are taken.

    Raises:
        ValueError: lengths that differ, a class out of range, no sample of a class that the reference has, or what the
            distance refuses.
    """
    y, y_ref = (torch.as_tensor(labels).cpu() for labels in (y_samples, y_reference))
    (
        checks.same_length(samples, y, ("samples", "y_samples")),
        checks.same_length(reference, y_ref, ("reference", "y_reference")),
    )
    for labels in (y, y_ref):
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ValueError(
                f"classes must lie between 0 and {classes - 1}, got {int(labels.min())} to {int(labels.max())}"
            )
    needed, there = y_ref.bincount(minlength=classes), y.bincount(minlength=classes)
    if (there < needed).any():
        k = int((there < needed).nonzero()[0])
        raise ValueError(
            f"class {k} has {int(there[k])} samples for {int(needed[k])} reference clouds; as many are needed"
        )
    taken = torch.cat([(y == k).nonzero()[: needed[k], 0] for k in range(classes)])
    samples, y = samples[taken.to(samples.device)], y[taken]
    across = pairwise(samples, reference, distance)
    within = pairwise(samples, None, distance), pairwise(reference, None, distance)
    groups = [(torch.arange(len(y)), torch.arange(len(y_ref)))]
    groups += [((y == k).nonzero()[:, 0], (y_ref == k).nonzero()[:, 0]) for k in range(classes)]
    scores = [
        set_scores(across[s][:, r], within[0][s][:, s], within[1][r][:, r])
        if len(r)
        else dict.fromkeys(SCORES, float("nan"))
        for s, r in groups
    ]
    return {name: [score[name] for score in scores] for name in SCORES}


SCORES = ("coverage", "mmd", "1-nna")


def set_scores(across: Tensor, samples: Tensor, reference: Tensor) -> dict[str, float]:
    """Coverage, MMD and 1-NNA (see :func:`compare`) from distances.

    Args:
        across: (n, m), samples to reference.
        samples, reference: (n, n) and (m, m), within each; n = m, or 1-NNA's chance would not be 1/2.
    """
    n, m = across.shape
    if n != m:
        raise ValueError(f"1-NNA needs as many samples as reference clouds, got {n} and {m}")
    distances = torch.cat([torch.cat([samples, across], 1), torch.cat([across.T, reference], 1)])
    nearest = distances.fill_diagonal_(torch.inf).argmin(1)
    is_sample = torch.arange(n + m) < n
    return {
        "coverage": across.argmin(1).unique().numel() / m,
        "mmd": float(across.amin(0).mean()),
        "1-nna": float((is_sample[nearest] == is_sample).double().mean()),
    }


def _chamfer_to_all(cloud: Tensor, others: Tensor) -> Tensor:
    """Chamfer distances (m,) of one cloud (p, 3) to others (m, q, 3)."""
    to = others.square().sum(2)[:, None]
    squares = torch.baddbmm(to, -2 * cloud.expand(len(others), -1, -1), others.mT).add_(
        cloud.square().sum(1)[:, None]
    )
    return sum(
        squares.amin(axis).clamp_min(0).mean(1) for axis in (1, 2)
    )  # rounding goes below zero


def _pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    a = checks.clouds(a, "a")
    return a, checks.clouds(b, "b").to(a)
