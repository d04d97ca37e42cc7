"""The simplest model of latents, which a flow should beat: Gaussians around a linear mean."""

import numpy as np
from torch import Tensor

WIDEST = 2048  # dimensions; covariances of more take longer than the fit


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
    from sklearn.covariance import LedoitWolf

    z, context = (part.double().cpu().numpy() for part in train)
    z_new, context_new = (part.double().cpu().numpy() for part in held_out)
    if z.shape[1] > WIDEST or len(z) < 2 or not len(z_new):
        return None
    weights = np.linalg.lstsq(_with_one(context), z, rcond=None)[0]
    residuals = z - _with_one(context) @ weights
    residuals_new = z_new - _with_one(context_new) @ weights
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


def _with_one(context: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(context)), context])


def _nats(residuals: np.ndarray, covariance: np.ndarray) -> float:
    """Sum of -log density of residuals (n, D) under N(0, covariance)."""
    n, dim = residuals.shape
    factor = np.linalg.cholesky(covariance + 1e-6 * np.eye(dim))
    whitened = np.linalg.solve(factor, residuals.T)
    log_det = 2 * np.log(np.diag(factor)).sum()
    return 0.5 * float(np.square(whitened).sum() + n * (log_det + dim * np.log(2 * np.pi)))
