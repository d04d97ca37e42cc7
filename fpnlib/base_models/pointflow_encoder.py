"""PointFlow's encoder: features of each point, and their maximum (Qi et al. 2017, PointNet)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

HEAD_WIDTHS = (256, 128)  # between a cloud's features and its latent, as in PointFlow


class PointEncoder(nn.Module):
    """Clouds (n, points, 3) to latents (n, latent_dim), for any order and number of points.

    Args:
        latent_dim: width of the latents.
        widths: of a point's features; 128, 128, 256, 512 in PointFlow.
        stochastic: whether a second head gives the logarithm of the posterior's variance.
    """

    def __init__(self, latent_dim: int, widths: Sequence[int], stochastic: bool):
        super().__init__()
        self.points = nn.Sequential(*_layers((3, *widths))[:-1])  # no ReLU before the maximum
        self.mean = _head(widths[-1], latent_dim)
        self.log_variance = _head(widths[-1], latent_dim) if stochastic else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (n, latent_dim) and standard deviation; the latter 0 (1,) without a second head."""
        features = self.points(x.flatten(0, 1)).unflatten(0, x.shape[:2]).amax(1)
        mean = self.mean(features)
        if self.log_variance is None:
            return mean, mean.new_zeros(1)
        return mean, torch.exp(0.5 * self.log_variance(features))


def _head(features: int, latent_dim: int) -> nn.Sequential:
    widths = (features, *HEAD_WIDTHS)
    return nn.Sequential(*_layers(widths), nn.Linear(widths[-1], latent_dim))


def _layers(widths: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, outputs in zip(widths, widths[1:]):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    return layers
