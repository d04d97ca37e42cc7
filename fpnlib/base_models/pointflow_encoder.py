"""PointFlow's encoder: features of each point, and their maximum (Qi et al. 2017, PointNet)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PointEncoder(nn.Module):
    """Clouds (n, points, 3) to latents (n, latent_dim), for any order and number of points.

    Args:
        latent_dim: width of the latents.
        widths: of a point's features; 128, 128, 256, 512 in PointFlow.
        head_widths: between the cloud's features and the latents; 256, 128 in PointFlow.
        stochastic: whether a second head gives the logarithm of the posterior's variance.
    """

    def __init__(
        self,
        latent_dim: int,
        widths: Sequence[int] = (128, 128, 256, 512),
        head_widths: Sequence[int] = (256, 128),
        stochastic: bool = False,
    ):
        super().__init__()
        head = (widths[-1], *head_widths)
        self.points = nn.Sequential(*_layers((3, *widths))[:-1])  # no ReLU before the maximum
        self.mean = nn.Sequential(*_layers(head), nn.Linear(head[-1], latent_dim))
        self.log_variance: nn.Module | None = None
        if stochastic:
            self.log_variance = nn.Sequential(*_layers(head), nn.Linear(head[-1], latent_dim))

    def features(self, x: Tensor) -> Tensor:
        """Features (n, widths[-1]) of clouds x (n, points, 3)."""
        return self.points(x.flatten(0, 1)).unflatten(0, x.shape[:2]).amax(1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (n, latent_dim) and standard deviation; the latter 0 (1,) without a second head."""
        features = self.features(x)
        mean = self.mean(features)
        if self.log_variance is None:
            return mean, mean.new_zeros(1)
        return mean, torch.exp(0.5 * self.log_variance(features))


def _layers(widths: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, outputs in zip(widths, widths[1:]):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    return layers
