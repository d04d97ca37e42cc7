"""How real and sampled latents compare: in a picture (UMAP) and in numbers (nearest neighbours)."""

import warnings
from contextlib import suppress

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from fpnlib import checks


def embed(
    real: Tensor, sampled: Tensor, seed: int = 0, neighbors: int = 15
) -> tuple[np.ndarray, np.ndarray]:
    """UMAP (McInnes et al. 2018, arXiv:1802.03426) of both sets of latents (n, D) and (m, D) in one embedding.

    Returns (n, 2) and (m, 2). Seeded, hence on one thread; other machines may still give another picture.
    """
    from umap import UMAP, umap_  # here, for it takes seconds to import

    for kernel in (umap_.smooth_knn_dist, umap_.compute_membership_strengths):
        with suppress(RuntimeError):  # no folder that numba could write to
            kernel.enable_caching()  # or each process would compile them, for ten seconds
    z = torch.cat(
        [
            checks.latents(real, name="real"),
            checks.latents(sampled, real.shape[1], "sampled").to(real),
        ]
    )
    z, neighbors = z.float().cpu().numpy(), min(neighbors, len(z) - 1)
    distances, nearest = (
        NearestNeighbors(n_neighbors=neighbors).fit(z).kneighbors(z)
    )  # umap's own takes 9 s to compile
    known = nearest, distances.astype(z.dtype), None
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=r"precomputed_knn\[2\]"
        )  # nothing is to be embedded later
        points = UMAP(
            n_neighbors=neighbors, precomputed_knn=known, random_state=seed, n_jobs=1
        ).fit_transform(z)
    return points[: len(real)], points[len(real) :]


def two_sample_accuracy(real: Tensor, sampled: Tensor) -> float:
    """How often a leave-one-out nearest neighbour tells real latents (n, D) from sampled ones (n, D).

    1/2 is chance: the two sets look alike; 1: they can always be told apart (Lopez-Paz & Oquab 2016, arXiv:1610.06545);
    well below 1/2: the samples are copies. Raises ValueError where the two differ in length: chance would not be 1/2.
    """
    real, sampled = checks.latents(real, name="real"), checks.latents(sampled, name="sampled")
    checks.same_length(real, sampled, ("real", "sampled"))
    origin = np.repeat([0, 1], len(real))
    return float((origin[_nearest(torch.cat([real, sampled.to(real)]), 1)[:, 0]] == origin).mean())


def class_separation(z: Tensor, y: Tensor, neighbors: int = 5) -> float:
    """Share of the ``neighbors`` nearest latents that have a latent's own class, averaged over ``z`` (n, D); 1: separate."""
    z = checks.latents(z)
    checks.same_length(z, y)
    y = y.cpu().numpy()
    return float((y[_nearest(z, neighbors)] == y[:, None]).mean())


def _nearest(z: Tensor, neighbors: int) -> np.ndarray:
    """Indices (n, neighbors) of each row's nearest other rows."""
    z = z.cpu().numpy()
    return NearestNeighbors(n_neighbors=neighbors).fit(z).kneighbors(return_distance=False)
