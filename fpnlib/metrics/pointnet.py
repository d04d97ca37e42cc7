"""An independent classifier of point clouds: it says what a generated shape shows."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fpnlib import checks
from fpnlib.base_models.pointflow_encoder import PointEncoder

AT_ONCE = 2**17  # points that go through together
# What is varied while training, at most: deviation of the points (in the cloud's own; decoded shapes are soft), degrees
# about the upright axis, share of each axis.
JITTER, TURN, STRETCH = 0.15, 10.0, 0.1


class PointNet(nn.Module):
    """Features of each point, their maximum, and a head (Qi et al. 2017, arXiv:1612.00593, without its alignment networks).

    A cloud is centred and scaled by its own deviation first, so that units don't matter.

    Args:
        num_classes: K.
        widths, head_widths: as :class:`PointEncoder` takes them.
    """

    def __init__(
        self,
        num_classes: int,
        widths: tuple[int, ...] = (64, 64, 128, 256),
        head_widths: tuple[int, ...] = (128, 64),
    ):
        super().__init__()
        self.config = {
            "num_classes": checks.positive("num_classes", num_classes),
            "widths": list(widths),
            "head_widths": list(head_widths),
            "varied": [JITTER, TURN, STRETCH],
        }
        self.net = PointEncoder(num_classes, widths, head_widths)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, K) of clouds (n, points, 3) with y up.

        Raises:
            ValueError, TypeError: clouds of another shape, with NaN, or with all points equal.
        """
        x = checks.clouds(x)
        return torch.cat([self._logits(part) for part in x.split(max(1, AT_ONCE // x.shape[1]))])

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy, a scalar. While training, clouds are turned a little, stretched, and their points jittered."""
        return cross_entropy(self._logits(x), y)

    def _logits(self, x: Tensor) -> Tensor:
        x = x - x.mean(1, keepdim=True)
        x = x / x.square().mean((1, 2), keepdim=True).sqrt()
        return self.net(_varied(x) if self.training else x)[0]


def _varied(x: Tensor) -> Tensor:
    angle = math.radians(TURN) * (2 * torch.rand(len(x), 1, device=x.device) - 1)
    right, up, depth = x.unbind(-1)
    x = torch.stack(
        [right * angle.cos() + depth * angle.sin(), up, depth * angle.cos() - right * angle.sin()],
        -1,
    )
    jitter = JITTER * torch.rand(len(x), 1, 1, device=x.device)
    return x * (
        1 + STRETCH * (2 * torch.rand(len(x), 1, 3, device=x.device) - 1)
    ) + jitter * torch.randn_like(x)
