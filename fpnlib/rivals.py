"""Simple densities of the latents of each class, which a flow should beat."""

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from fpnlib import checks
from fpnlib.latents import draw_again

POOLED = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of the pooled covariance to choose from."""
FLOOR = 1e-6  # added to variances, as by scikit-learn's mixtures


class _ClassDensities:
    """M weighted Gaussians for each of K classes.

    Attributes:
        weights, means, factors: (K, M), (K, M, D), and the covariances' lower Cholesky factors
            (K, M, D, D), on the CPU.
    """

    weights: Tensor
    means: Tensor
    factors: Tensor

    def sample(
        self,
        y: Tensor,
        seed: int = 0,
        *,
        temperature: float = 1.0,
        confidence: float = 0.0,
        read_back: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Draw one latent (n, D) for each class index of y (n,), the same for the same seed.

        Args:
            y: class indices (n,).
            seed: of the draws.
            temperature: stretches each Gaussian's deviations.
            confidence: latents whose class has a smaller posterior probability are drawn again, up
                to ten times.
            read_back: as in ``FlowPlugin.sample``.

        Raises:
            ValueError: a class out of range, or as ``FlowPlugin.sample``.
        """
        checks.sampling(temperature, confidence)
        y = checks.labels(y, range(len(self.means))).cpu()
        generator = torch.Generator().manual_seed(int(seed))

        def draw(rows: Tensor) -> tuple[Tensor, Tensor]:
            of = y[rows]
            component = torch.multinomial(self.weights[of], 1, generator=generator).squeeze(1)
            noise = torch.randn(len(of), self.means.shape[-1], 1, generator=generator)
            noise = temperature * noise.to(self.means)
            scaled = (self.factors[of, component] @ noise).squeeze(-1)
            z = self.means[of, component] + scaled
            if not confidence:
                return z, torch.zeros(len(z))
            seen = read_back(z) if read_back else z
            return z, self.log_prob(seen).softmax(1).gather(1, of[:, None])[:, 0]

        return draw_again(draw, torch.arange(len(y)), confidence)[0]

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z | class) (n, K) in nats of latents z (n, D)."""
        z = checks.latents(z, self.means.shape[-1]).to(self.means)
        of_classes = []
        for weights, means, factors in zip(self.weights, self.means, self.factors):
            gaussians = MultivariateNormal(means, scale_tril=factors, validate_args=False)
            of_classes.append((weights.log() + gaussians.log_prob(z[:, None])).logsumexp(1))
        return torch.stack(of_classes, 1)


class ClassGaussians(_ClassDensities):
    """A Gaussian for each of K classes, whose covariance is partly that of all classes.

    Its classes by Bayes' rule are regularised discriminant analysis (Friedman 1989).

    Args:
        z: latents (n, D).
        y: class indices (n,), 0…K-1.
        pooled: share of the covariance within all classes; 0: each class has its own.

    Raises:
        ValueError: latents with NaN, lengths that differ, a class with fewer than two samples, or
            a share outside of [0, 1].

    >>> z, y = torch.randn(100, 2), torch.arange(100) % 2
    >>> ClassGaussians(z, y, pooled=0.5).log_prob(z[:3]).shape
    torch.Size([3, 2])
    """

    def __init__(self, z: Tensor, y: Tensor, pooled: float = 0.0):
        z, y = _of_classes(z, y)
        if not 0 <= pooled <= 1:
            raise ValueError(f"pooled must be between 0 and 1, got {pooled:g}")
        counts = y.bincount()
        means = torch.stack([z[y == k].mean(0) for k in range(len(counts))])
        covariances = torch.stack([z[y == k].T.cov(correction=0) for k in range(len(counts))])
        shares = (counts / counts.sum()).to(z)
        within = (shares[:, None, None] * covariances).sum(0)
        covariances = torch.lerp(covariances, within.expand_as(covariances), pooled)
        covariances = covariances + FLOOR * torch.eye(z.shape[1]).to(z)
        self.weights, self.means = torch.ones(len(counts), 1).to(z), means[:, None]
        self.factors = torch.linalg.cholesky(covariances)[:, None]


class ClassMixtures(_ClassDensities):
    """A mixture of M Gaussians with full covariances for each of K classes.

    Fitted by expectation maximisation; ``components=1`` is the Gaussian of largest likelihood.

    Args:
        z: latents (n, D).
        y: class indices (n,), 0…K-1.
        components: M.
        seed: of the fit.

    Raises:
        ValueError: latents with NaN, lengths that differ, or a class with too few samples.

    >>> z, y = torch.randn(100, 2), torch.arange(100) % 2
    >>> ClassMixtures(z, y, components=3).sample(torch.tensor([0, 1, 1])).shape
    torch.Size([3, 2])
    """

    def __init__(self, z: Tensor, y: Tensor, components: int = 10, seed: int = 0):
        from sklearn.exceptions import ConvergenceWarning  # slow to import
        from sklearn.mixture import GaussianMixture

        checks.positive("components", components)
        z, y = _of_classes(z, y, components)
        mixtures = []
        for k in range(int(y.max()) + 1):
            mixture = GaussianMixture(components, random_state=seed)
            # A hundred steps suffice: the likelihood's last digits do not show in samples.
            with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
                mixtures.append(mixture.fit(z[y == k].double().numpy()))

        def stacked(name: str) -> Tensor:
            values = np.stack([getattr(mixture, name) for mixture in mixtures])
            return torch.from_numpy(values).to(z)

        self.weights, self.means = stacked("weights_"), stacked("means_")
        self.factors = torch.linalg.cholesky(stacked("covariances_"))


def likeliest(
    fit: Callable[[Any], _ClassDensities], options: Iterable, z: Tensor, y: Tensor
) -> tuple[Any, _ClassDensities]:
    """Return the option whose densities give validation latents the largest likelihood.

    The search ends at the first option that is worse than the one before.

    Args:
        fit: densities for an option.
        options: in an order in which the likelihood rises, then falls.
        z: validation latents (n, D).
        y: their class indices (n,).

    Returns:
        The option and its densities.

    >>> z, y = torch.randn(200, 2), torch.arange(200) % 2
    >>> share, gaussians = likeliest(lambda share: ClassGaussians(z, y, share), POOLED, z, y)
    >>> share
    0.0
    """
    best, chosen = -math.inf, None
    for option in options:
        densities = fit(option)
        log_prob = densities.log_prob(z).gather(1, y.cpu()[:, None]).mean().item()
        if log_prob <= best:
            break
        best, chosen = log_prob, (option, densities)
    if chosen is None:
        raise ValueError("no option gives the validation latents a finite likelihood")
    return chosen


def _of_classes(z: Tensor, y: Tensor, components: int = 1) -> tuple[Tensor, Tensor]:
    """Checked latents and class indices on the CPU, with enough samples of every class."""
    z, y = checks.latents(z).detach().cpu(), checks.class_indices(y).cpu()
    checks.same_length(z, y)
    fewest = max(2, components)
    for k, count in enumerate(y.bincount().tolist()):
        if count < fewest:
            needed = f"{components} Gaussians a class need {fewest} or more"
            raise ValueError(f"class {k} has {count} samples; {needed}")
    return z, y
