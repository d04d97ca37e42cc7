"""PointFlow's encoder: features of each point by itself, the largest of each over the cloud (Qi et al. 2017, PointNet)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PointEncoder(nn.Module):
    """Clouds (n, points, 3) to latents (n, latent_dim), whatever the order and the number of the points.

    Args:
        latent_dim: width of the latents.
        widths: of the features of a point; PointFlow's are 128, 128, 256, 512.
        head_widths: between the cloud's features and the latents; PointFlow's are 256, 128.
        stochastic: with a second head, for the logarithm of the posterior's variance.
    """

    def __init__(
        self,
        latent_dim: int,
        widths: Sequence[int] = (128, 128, 256, 512),
        head_widths: Sequence[int] = (256, 128),
        stochastic: bool = False,
    ):
        super().__init__()
        self.points = nn.Sequential(*_layers((3, *widths))[:-1])  # no ReLU before the maximum
        self.mean = nn.Sequential(
            *_layers((widths[-1], *head_widths)), nn.Linear(head_widths[-1], latent_dim)
        )
        if stochastic:
            self.log_variance = nn.Sequential(
                *_layers((widths[-1], *head_widths)), nn.Linear(head_widths[-1], latent_dim)
            )

    def features(self, x: Tensor) -> Tensor:
        """The cloud's features (n, widths[-1])."""
        return self.points(x.flatten(0, 1)).unflatten(0, x.shape[:2]).amax(1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents, each (n, latent_dim); the latter 0 for a deterministic encoder."""
        features = self.features(x)
        mean = self.mean(features)
        return mean, torch.exp(0.5 * self.log_variance(features)) if hasattr(
            self, "log_variance"
        ) else mean.new_zeros(1)


def _layers(widths: Sequence[int]) -> list[nn.Module]:
    return [
        layer
        for inputs, outputs in zip(widths, widths[1:])
        for layer in (nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU())
    ]
