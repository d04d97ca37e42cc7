"""The paper's two base models for 28×28 digits: a convolutional autoencoder and its variational twin (section 5.1.1)."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from fpnlib import checks

CHANNELS, SIZE = 1, 28
FEATURES = 64  # what the encoder's convolutions leave of an image


class _Conv(nn.Module):
    """The convolutions that both share. Parameters carry the names of the authors' state dict (enc.disc, dec.gen)."""

    def __init__(self, latent_dim: int = 40):
        super().__init__()
        self.latent_dim = checks.positive("latent_dim", latent_dim)
        self.enc = nn.Sequential(OrderedDict(disc=_encoder()))
        self.dec = nn.Sequential(OrderedDict(gen=_decoder(latent_dim)))
        self.to(
            memory_format=torch.channels_last
        )  # a training step takes a fifth less time on the CPU

    @property
    def config(self) -> dict:
        """The constructor's arguments, JSON-able."""
        return {"latent_dim": self.latent_dim}

    def decode(self, z: Tensor) -> Tensor:
        """Images (n, 1, 28, 28) in [0, 1] of latents (n, latent_dim).

        Raises:
            ValueError: latents of another width, or NaN or infinite ones.
        """
        return torch.sigmoid(self._logits(checks.latents(z, self.latent_dim)))

    def _features(self, x: Tensor) -> Tensor:
        return self.enc(x.to(next(self.parameters()))).flatten(
            1
        )  # on its device, in its floating type

    def _logits(self, z: Tensor) -> Tensor:
        return self.dec(z[:, :, None, None].to(next(self.parameters())))


class ConvAE(_Conv):
    """Convolutional autoencoder of images (n, 1, 28, 28) in [0, 1].

    Args:
        latent_dim: width of the latent space; the paper's is 40.
    """

    def __init__(self, latent_dim: int = 40):
        super().__init__(latent_dim)
        self.fc = nn.Linear(FEATURES, latent_dim)

    def encode(self, x: Tensor) -> Tensor:
        """Latents (n, latent_dim) of images (n, 1, 28, 28) in [0, 1].

        Raises:
            TypeError: bytes instead of floats.
            ValueError: images of another size or range, or NaN in them.
        """
        return self.fc(self._features(checks.images(x, CHANNELS, SIZE)))

    def loss(self, x: Tensor) -> Tensor:
        """Mean squared error of the reconstruction, a scalar: the mean over images and pixels."""
        return mse_loss(torch.sigmoid(self._logits(self.fc(self._features(x)))), x)


class ConvVAE(_Conv):
    """Convolutional variational autoencoder (Kingma & Welling 2014) of images (n, 1, 28, 28) in [0, 1].

    The prior is a standard normal, so ``decode(torch.randn(n, latent_dim))`` draws unconditional images.

    Args:
        latent_dim: width of the latent space; the paper's is 40.
    """

    def __init__(self, latent_dim: int = 40):
        super().__init__(latent_dim)
        self.fc_mu = nn.Linear(FEATURES, latent_dim)
        self.fc_logvar = nn.Linear(FEATURES, latent_dim)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z | x), each (n, latent_dim), of images (n, 1, 28, 28) in [0, 1].

        Raises:
            TypeError: bytes instead of floats.
            ValueError: images of another size or range, or NaN in them.
        """
        mean, log_variance = self._moments(checks.images(x, CHANNELS, SIZE))
        return mean, torch.exp(0.5 * log_variance)

    def encode(self, x: Tensor) -> Tensor:
        """The posterior means (n, latent_dim). Raises as :meth:`posterior` does."""
        return self.posterior(x)[0]

    def loss(self, x: Tensor) -> Tensor:
        """Negative evidence lower bound in nats, a scalar: summed over pixels and latents, averaged over images.

        One posterior draw an image, from torch's global generator.
        """
        mean, log_variance = self._moments(x)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        # On logits: the cross-entropy stays finite where a pixel saturates.
        reconstruction = binary_cross_entropy_with_logits(self._logits(z), x, reduction="sum")
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
        return (reconstruction + divergence) / len(x)

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self._features(x)
        return self.fc_mu(features), self.fc_logvar(features)


def _encoder() -> nn.Sequential:
    """(n, 1, 28, 28) → (n, 64, 1, 1)."""
    return nn.Sequential(
        _down(CHANNELS, 16),
        _down(16, 32),
        nn.Sequential(nn.Conv2d(32, FEATURES, kernel_size=4, stride=2)),
    )


def _decoder(latent_dim: int) -> nn.Sequential:
    """(n, latent_dim, 1, 1) → logits (n, 1, 28, 28)."""
    return nn.Sequential(
        _up(latent_dim, 256, kernel_size=3, stride=2),
        _up(256, 128, kernel_size=4, stride=1),
        _up(128, 64, kernel_size=3, stride=2),
        nn.Sequential(nn.ConvTranspose2d(64, CHANNELS, kernel_size=4, stride=2)),
    )


def _down(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel_size=4, stride=2)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2))


def _up(inputs: int, outputs: int, kernel_size: int, stride: int) -> nn.Sequential:
    convolution = nn.ConvTranspose2d(inputs, outputs, kernel_size, stride)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())
