"""A patch discriminator that sharpens MSP's faces (PatchGAN, Isola et al. 2017)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from fpnlib.base_models.msp import CHANNELS, MSP, halving

FEATURES = 16  # channels of the discriminator's first layer


class SharpenedMSP(nn.Module):
    """MSP and a discriminator that train against each other under one loss, for ``training.fit``.

    The discriminator learns to tell images from reconstructions. Its gradient reaches the decoder
    with the opposite sign (Ganin & Lempitsky 2015, arXiv:1409.7495), so that the decoder learns to
    pass.

    Args:
        msp: the model to train.
        weight: of the adversarial term, a mean over patches, beside MSP's sums over pixels.
        fidelity: of MSP's loss.
    """

    def __init__(self, msp: MSP, weight: float = 10.0, fidelity: float = 0.0):
        super().__init__()
        self.msp, self.discriminator = msp, _patch_discriminator()
        self.weight, self.fidelity = weight, fidelity

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """MSP's loss; in train mode with the adversarial terms.

        Those say nothing about the best weights, so that evaluation leaves them out.

        Args:
            x: images (n, 3, size, size) in [0, 1].
            y: attributes (n, A), 0 or 1.
        """
        terms, decoded = self.msp.terms(x, y, self.fidelity)
        loss = sum(terms.values(), torch.zeros(())) / len(x)
        if not self.training:
            return loss
        real = self.discriminator(2 * x - 1)
        fake = self.discriminator(_Reversal.apply(decoded, self.weight))
        return loss + softplus(-real).mean() + softplus(fake).mean()


def _patch_discriminator() -> nn.Sequential:
    """Images (n, 3, ·, ·) in [-1, 1] → logits (n, 1, ·, ·): how real patches of 22 pixels look."""
    first = nn.Conv2d(CHANNELS, FEATURES, 4, 2, 1)
    last = nn.Conv2d(2 * FEATURES, 1, 4)
    return nn.Sequential(first, nn.LeakyReLU(0.2), *halving(FEATURES, 2 * FEATURES), last)


class _Reversal(torch.autograd.Function):
    """The identity, whose gradient is multiplied by -weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * gradient, None
