"""How real and sampled latents compare: in a picture (UMAP) and in numbers (nearest neighbours)."""

import warnings
from contextlib import suppress

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from fpnlib import checks


def embed(real: Tensor, sampled: Tensor, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embed both sets of latents (n, D) and (m, D) in one plane by UMAP (arXiv:1802.03426).

    Returns:
        Points (n, 2) and (m, 2). A seed needs one thread; other machines may still give another
        picture.
    """
    from umap import UMAP, umap_  # takes seconds to import

    for kernel in (umap_.smooth_knn_dist, umap_.compute_membership_strengths):
        with suppress(RuntimeError):  # numba finds no folder that it can write to
            kernel.enable_caching()  # else each process compiles them, for ten seconds
    real = checks.latents(real, name="real")
    sampled = checks.latents(sampled, real.shape[1], "sampled").to(real)
    z = torch.cat([real, sampled]).float().numpy(force=True)
    neighbors = min(15, len(z) - 1)
    # scikit-learn finds the neighbours, because UMAP's own search takes 9 s to compile.
    distances, nearest = NearestNeighbors(n_neighbors=neighbors).fit(z).kneighbors(z)
    known = nearest, distances.astype(z.dtype), None
    umap = UMAP(n_neighbors=neighbors, precomputed_knn=known, random_state=seed, n_jobs=1)
    with warnings.catch_warnings():
        # UMAP warns that it cannot embed further points; nobody asks for that.
        warnings.filterwarnings("ignore", message=r"precomputed_knn\[2\]")
        points = umap.fit_transform(z)
    return points[: len(real)], points[len(real) :]


def two_sample_accuracy(real: Tensor, sampled: Tensor) -> float:
    """How often the nearest other latent tells real latents (n, D) from sampled ones (n, D).

    1/2 is chance: the sets look alike. 1: they can always be told apart (Lopez-Paz & Oquab 2016,
    arXiv:1610.06545). Well below 1/2: the samples are copies.

    Raises:
        ValueError: sets of different lengths, for which chance would not be 1/2.

    >>> real = torch.randn(100, 3)
    >>> two_sample_accuracy(real, real + 100)
    1.0
    """
    real = checks.latents(real, name="real")
    sampled = checks.latents(sampled, real.shape[1], "sampled")
    checks.same_length(real, sampled, ("real", "sampled"))
    origin = np.repeat([0, 1], len(real))
    nearest = _nearest(torch.cat([real, sampled.to(real)]), 1)[:, 0]
    return float((origin[nearest] == origin).mean())


def class_separation(z: Tensor, y: Tensor) -> float:
    """Share of a latent's five nearest others that have its class, averaged over z (n, D).

    If there are fewer others, all of them count.
    """
    z, y = checks.latents(z), checks.class_indices(y)
    checks.same_length(z, y)
    classes = y.cpu().numpy()
    return float((classes[_nearest(z, min(5, len(z) - 1))] == classes[:, None]).mean())


def _nearest(z: Tensor, neighbors: int) -> np.ndarray:
    """Indices (n, neighbors) of each row's nearest other rows."""
    found = NearestNeighbors(n_neighbors=neighbors).fit(z.float().numpy(force=True))
    return found.kneighbors(return_distance=False)
