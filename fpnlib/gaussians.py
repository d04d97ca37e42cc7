"""The simplest model of latents, which a flow should beat: Gaussians around a linear mean."""

import numpy as np
from threadpoolctl import threadpool_limits
from torch import Tensor

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
    groups = context.argmax(1) if classes else np.zeros(len(z), int)
    groups_new = context_new.argmax(1) if classes else np.zeros(len(z_new), int)
    total = 0.0
    with threadpool_limits(1):  # while other processes work, more threads take 20 times as long
        mean = LinearRegression().fit(context, z)
        residuals, residuals_new = z - mean.predict(context), z_new - mean.predict(context_new)
        shared = LedoitWolf(assume_centered=True).fit(residuals).covariance_
        for group in np.unique(groups_new):
            covariance, own = shared, residuals[groups == group]
            if len(own) > 1:
                covariance = LedoitWolf(assume_centered=True).fit(own).covariance_
            total += _nats(residuals_new[groups_new == group], covariance)
    return total / z_new.size


def _nats(residuals: np.ndarray, covariance: np.ndarray) -> float:
    """Sum of -log density of residuals (n, D) under N(0, covariance)."""
    from scipy.stats import Covariance, multivariate_normal

    factor = np.linalg.cholesky(covariance + FLOOR * np.eye(len(covariance)))
    density = multivariate_normal(cov=Covariance.from_cholesky(factor))
    return -float(density.logpdf(residuals).sum())
