"""The simplest generators of latents for a class, to hold a flow against: Gaussians and mixtures of them."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from fpnlib import checks


@dataclass(frozen=True)
class ClassMixtures:
    """A mixture of M Gaussians for each of K classes in D dimensions.

    ``weights`` (K, M), ``means`` (K, M, D) and ``factors`` (K, M, D, D), the covariances' lower Cholesky factors, live
    on the CPU.
    """

    weights: Tensor
    means: Tensor
    factors: Tensor

    def sample(self, y: Tensor, seed: int = 0) -> Tensor:
        """One latent for each class index in ``y`` (n,): (n, D), the same for the same seed.

        Raises:
            ValueError: a class out of range.
        """
        y = torch.as_tensor(y).cpu()
        outside = y[(y < 0) | (y >= len(self.means))]
        if len(outside):
            raise ValueError(
                f"class {outside[0].item()} is out of range; expected 0 to {len(self.means) - 1}"
            )
        generator = torch.Generator().manual_seed(seed)
        component = torch.multinomial(self.weights[y], 1, generator=generator).squeeze(1)
        noise = torch.randn(len(y), self.means.shape[-1], 1, generator=generator)
        return self.means[y, component] + (self.factors[y, component] @ noise).squeeze(-1)


def class_gaussians(z: Tensor, y: Tensor, **settings) -> ClassMixtures:
    """The Gaussian of greatest likelihood for each class. Settings and errors are those of :func:`class_mixtures`."""
    return class_mixtures(z, y, components=1, **settings)


def class_mixtures(
    z: Tensor, y: Tensor, components: int = 10, num_classes: int | None = None, seed: int = 0
) -> ClassMixtures:
    """A mixture of Gaussians with full covariances for each class, fitted by expectation maximisation.

    Args:
        z: latents (n, D).
        y: class indices (n,), 0…K-1.
        components: Gaussians a class.
        num_classes: K; None: the largest index in ``y``, plus one.

    Raises:
        ValueError: latents with NaN, lengths that differ, or a class with fewer samples than components.
    """
    z, y = checks.latents(z).cpu(), torch.as_tensor(y).cpu()
    checks.same_length(z, y)
    checks.positive("components", components)
    counts = y.bincount(minlength=num_classes or 0).tolist()
    needed = max(2, components)
    for k, count in enumerate(counts):
        if count < needed:
            raise ValueError(
                f"class {k} has {count} samples; {components} Gaussians a class need {needed} or more"
            )
    mixtures = [_fit(z[y == k].double().numpy(), components, seed) for k in range(len(counts))]
    weights, means, covariances = (
        torch.from_numpy(np.stack([getattr(mixture, name) for mixture in mixtures])).to(z)
        for name in ("weights_", "means_", "covariances_")
    )
    return ClassMixtures(weights, means, torch.linalg.cholesky(covariances))


def _fit(z: np.ndarray, components: int, seed: int) -> GaussianMixture:
    with warnings.catch_warnings():
        # A hundred steps do; the last digits of the likelihood don't show in samples.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianMixture(components, random_state=seed).fit(z)
