"""A patch discriminator that sharpens MSP's faces, as the published weights had beside them (Isola et al. 2017, PatchGAN)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from fpnlib import checks
from fpnlib.base_models.msp import CHANNELS, MSP


class PatchDiscriminator(nn.Module):
    """Says of each patch of an image how real it looks: logits (n, h, w) of images (n, 3, size, size) in [-1, 1].

    Args:
        features: channels of the first layer, doubled each time the image is halved.
        halvings: 2 for patches of 22 pixels, 3 for 46.
    """

    def __init__(self, features: int = 16, halvings: int = 2):
        super().__init__()
        checks.positive("features", features)
        checks.positive("halvings", halvings)
        widths = [features * 2**k for k in range(halvings)]
        layers = [nn.Conv2d(CHANNELS, features, 4, 2, 1), nn.LeakyReLU(0.2)]
        for inputs, outputs in zip(widths, widths[1:]):
            layers += [
                nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.LeakyReLU(0.2),
            ]
        self.main = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)[:, 0]


class SharpenedMSP(nn.Module):
    """MSP and a discriminator that train against each other under one loss, for ``training.fit``.

    The discriminator learns to tell images from reconstructions, and the gradient that comes back from it to the decoder is
    turned round (Ganin & Lempitsky 2015, arXiv:1409.7495): so the decoder learns to be mistaken for real.

    Args:
        msp: what is wanted afterwards; its own parameters are trained.
        discriminator: None: one of the default shape.
        weight: of the adversarial term, whose gradient is a mean over patches, beside MSP's sums over pixels.
        fidelity: of MSP's loss.
    """

    def __init__(
        self,
        msp: MSP,
        discriminator: PatchDiscriminator | None = None,
        weight: float = 10.0,
        fidelity: float = 0.0,
    ):
        super().__init__()
        self.msp, self.discriminator = msp, discriminator or PatchDiscriminator()
        self.weight, self.fidelity = weight, fidelity

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """MSP's loss of images (n, 3, size, size) in [0, 1] and attributes (n, A), 0 or 1; while training, the game as well.

        In eval mode the game is left out: who wins says nothing about which weights are best.
        """
        terms, decoded = self.msp.terms(x, y, self.fidelity)
        loss = sum(terms.values()) / len(x)
        if not self.training:
            return loss
        real, fake = (
            self.discriminator(2 * x - 1),
            self.discriminator(_turned_round(decoded, self.weight)),
        )
        return loss + softplus(-real).mean() + softplus(fake).mean()


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * gradient, None


def _turned_round(x: Tensor, weight: float) -> Tensor:
    return _Reversal.apply(x, weight)
