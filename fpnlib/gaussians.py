"""The simplest model of latents, which a flow should beat: Gaussians around a linear mean."""

import numpy as np
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

WIDEST = 2048  # dimensions; covariances of more take longer than the fit
FLOOR = 1e-6  # added to variances


def gaussian_loss(
    train: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], classes: bool
) -> float | None:
    """Nats per dimension of held-out latents under Gaussians fitted to training latents.

    The mean is linear in the context; for one-hot contexts it is that of each class. Covariances
    are shrunk (Ledoit & Wolf 2004); classes with two samples or more have one each, and the rest
    shares one.

    Args:
        train: latents (n, D) and contexts (n, C).
        held_out: the same of other samples.
        classes: whether contexts are one-hot.

    Returns:
        Mean of -log p(z | y) / D, or None for more than 2,048 dimensions or too few latents.
    """
    from sklearn.covariance import LedoitWolf  # slow to import
    from sklearn.linear_model import LinearRegression

    z, context = (part.double().cpu().numpy() for part in train)
    z_new, context_new = (part.double().cpu().numpy() for part in held_out)
    if z.shape[1] > WIDEST or len(z) < 2 or not len(z_new):
        return None
    mean = LinearRegression().fit(context, z)
    residuals, residuals_new = z - mean.predict(context), z_new - mean.predict(context_new)
    groups = context.argmax(1) if classes else np.zeros(len(z), int)
    groups_new = context_new.argmax(1) if classes else np.zeros(len(z_new), int)
    shared = LedoitWolf(assume_centered=True).fit(residuals).covariance_
    total = 0.0
    for group in np.unique(groups_new):
        covariance, own = shared, residuals[groups == group]
        if len(own) > 1:
            covariance = LedoitWolf(assume_centered=True).fit(own).covariance_
        total += _nats(residuals_new[groups_new == group], covariance)
    return total / z_new.size


def _nats(residuals: np.ndarray, covariance: np.ndarray) -> float:
    """Sum of -log density of residuals (n, D) under N(0, covariance)."""
    dim = len(covariance)
    matrix = torch.from_numpy(covariance + FLOOR * np.eye(dim))
    gaussian = MultivariateNormal(torch.zeros(dim).double(), matrix)
    return -gaussian.log_prob(torch.from_numpy(residuals)).sum().item()
