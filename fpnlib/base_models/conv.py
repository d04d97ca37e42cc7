"""The paper's base models for 28×28 digits: a convolutional autoencoder and a VAE (5.1.1)."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss, one_hot

from fpnlib import checks

CHANNELS, SIZE = 1, 28
FEATURES = 64  # of an image after the encoder's convolutions


class _Conv(nn.Module):
    """The convolutions of both models. Names follow the authors' state dict (enc.disc, dec.gen).

    Attributes:
        config: the constructor's arguments, JSON-able.
    """

    def __init__(self, latent_dim: int = 40):
        super().__init__()
        self.latent_dim = checks.positive("latent_dim", latent_dim)
        self.config = {"latent_dim": latent_dim}
        self.enc = nn.Sequential(OrderedDict(disc=_encoder()))
        self.dec = nn.Sequential(OrderedDict(gen=_decoder(latent_dim)))
        self.to(memory_format=torch.channels_last)  # a fifth faster on the CPU

    def decode(self, z: Tensor) -> Tensor:
        """Images (n, 1, 28, 28) in [0, 1] of latents z (n, latent_dim).

        Raises:
            ValueError: latents of another width, or NaN or infinite ones.
        """
        return torch.sigmoid(self._logits(checks.latents(z, self.latent_dim, keep=True)))

    def check_input(self, x: Tensor, *labels: Tensor) -> None:
        """Raise as :meth:`encode` does for images that the loss cannot take."""
        checks.images(x, CHANNELS, SIZE)

    def _features(self, x: Tensor) -> Tensor:
        return self.enc(x.to(next(self.parameters()))).flatten(1)

    def _logits(self, z: Tensor) -> Tensor:
        return self.dec(z[:, :, None, None].to(next(self.parameters())))


class ConvAE(_Conv):
    """Convolutional autoencoder of images (n, 1, 28, 28) in [0, 1].

    ``load_state_dict`` also takes the authors' weights, whose ``fc`` is called ``bottleneck``.

    Args:
        latent_dim: width of the latents; 40 in the paper.

    Examples:
        >>> model = ConvAE(latent_dim=8).eval()
        >>> z = model.encode(torch.rand(2, 1, 28, 28))
        >>> z.shape, model.decode(z).shape
        (torch.Size([2, 8]), torch.Size([2, 1, 28, 28]))
    """

    def __init__(self, latent_dim: int = 40):
        super().__init__(latent_dim)
        self.fc = nn.Linear(FEATURES, latent_dim)
        self.register_load_state_dict_pre_hook(_rename_bottleneck)

    def encode(self, x: Tensor) -> Tensor:
        """Latents (n, latent_dim) of images x (n, 1, 28, 28) in [0, 1].

        Raises:
            TypeError: bytes instead of floats.
            ValueError: images of another size or range, or NaN in them.
        """
        return self.fc(self._features(checks.images(x, CHANNELS, SIZE)))

    def loss(self, x: Tensor) -> Tensor:
        """Mean squared error of the reconstructions of x (n, 1, 28, 28), a scalar."""
        return mse_loss(torch.sigmoid(self._logits(self.fc(self._features(x)))), x)


class ConvVAE(_Conv):
    """Convolutional VAE (Kingma & Welling 2014) of images (n, 1, 28, 28) in [0, 1].

    The prior is a standard normal: ``decode(torch.randn(n, latent_dim))`` draws unconditional
    images.

    Args:
        latent_dim: width of the latents; 40 in the paper.

    Examples:
        >>> model = ConvVAE(latent_dim=8).eval()
        >>> mean, std = model.posterior(torch.rand(2, 1, 28, 28))
        >>> mean.shape, bool((std > 0).all())
        (torch.Size([2, 8]), True)
    """

    def __init__(self, latent_dim: int = 40):
        super().__init__(latent_dim)
        self.fc_mu = nn.Linear(FEATURES, latent_dim)
        self.fc_logvar = nn.Linear(FEATURES, latent_dim)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z | x), each (n, latent_dim).

        Args:
            x: images (n, 1, 28, 28) in [0, 1].

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
        """Negative evidence lower bound in nats, averaged over images.

        Each image x (n, 1, 28, 28) takes one posterior draw from torch's global generator.
        """
        return _negative_bound(x, *self._moments(x), self._logits)

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self._features(x)
        return self.fc_mu(features), self.fc_logvar(features)


class ConditionalVAE(nn.Module):
    """A ConvVAE whose encoder and decoder are given the class (Sohn et al. 2015).

    It is trained from scratch to generate images of a class, where a plugin leaves a trained model
    as it is. The encoder gets each class as an image of ones among images of zeros.

    Args:
        latent_dim: width of the latents.
        classes: number of classes.

    Examples:
        >>> ConditionalVAE(latent_dim=8).eval().sample(torch.tensor([7, 7])).shape
        torch.Size([2, 1, 28, 28])
    """

    def __init__(self, latent_dim: int = 40, classes: int = 10):
        super().__init__()
        self.config = {"latent_dim": latent_dim, "classes": classes}
        self.latent_dim = checks.positive("latent_dim", latent_dim)
        self.classes = checks.positive("classes", classes)
        self.enc = _encoder(CHANNELS + classes)
        self.moments = nn.Linear(FEATURES, 2 * latent_dim)
        self.dec = _decoder(latent_dim + classes)
        self.to(memory_format=torch.channels_last)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Negative evidence lower bound in nats of images x (n, 1, 28, 28) of classes y (n,)."""
        planes = self._given(y)[:, :, None, None].expand(-1, -1, SIZE, SIZE)
        features = self.enc(torch.cat([x, planes], 1)).flatten(1)
        mean, log_variance = self.moments(features).chunk(2, 1)
        return _negative_bound(x, mean, log_variance, lambda z: self._logits(z, y))

    @torch.no_grad()
    def sample(self, y: Tensor, seed: int = 0) -> Tensor:
        """Draw an image (n, 1, 28, 28) in [0, 1] for each class in y (n,)."""
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(len(y), self.latent_dim, generator=generator)
        parts = [self._logits(*part) for part in zip(z.split(1000), y.split(1000))]
        return torch.cat(parts).sigmoid()

    def _given(self, y: Tensor) -> Tensor:
        return one_hot(y, self.classes).to(self.moments.weight)

    def _logits(self, z: Tensor, y: Tensor) -> Tensor:
        given = self._given(y)
        return self.dec(torch.cat([z.to(given), given], 1)[:, :, None, None])


def _negative_bound(
    x: Tensor, mean: Tensor, log_variance: Tensor, logits: Callable[[Tensor], Tensor]
) -> Tensor:
    """Negative evidence lower bound in nats, averaged over images x (n, 1, 28, 28)."""
    z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
    # From logits, the cross-entropy stays finite if a pixel saturates.
    reconstruction = binary_cross_entropy_with_logits(logits(z), x, reduction="sum")
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
    return (reconstruction + divergence) / len(x)


def _rename_bottleneck(module: nn.Module, state: dict, prefix: str, *_: Any) -> None:
    """Give the authors' linear layer our name in a state dict."""
    for name in list(state):
        if name.startswith(f"{prefix}bottleneck."):
            state[f"{prefix}fc.{name.rpartition('.')[2]}"] = state.pop(name)


def _encoder(channels: int = CHANNELS) -> nn.Sequential:
    """(n, channels, 28, 28) → (n, 64, 1, 1)."""
    return nn.Sequential(
        _down(channels, 16),
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
