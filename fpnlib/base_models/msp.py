"""MSP: a variational autoencoder whose latent is factorised by matrix subspace projection (section 5.1.3).

X. Li, C. Lin, R. Li, C. Wang, F. Guerin. Latent space factorisation and manipulation via matrix subspace projection.
arXiv:1907.12385, 2020. A learned matrix M (attributes, latent) reads the attributes off a latent, M z ≈ y with y in
{-1, 1}, and what M does not see is left free of them.
"""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from zipfile import BadZipFile

import torch
from torch import Tensor, nn

from fpnlib import checks

CHANNELS = 3


class MSP(nn.Module):
    """The factorised autoencoder of images (n, 3, size, size) in [0, 1].

    Within, images are in [-1, 1] and attributes -1 or 1, as in the original; parameters carry the names of its state dict.

    Args:
        attributes: number A of attributes.
        size: pixels a side, a power of two from 8 on; the published weights have 256.
        features: channels of the first layer, doubled each time the image is halved; published: 64.
        decoder_features: channels before the decoder's last layer; None: the encoder's mirror, as published.

    Attributes:
        latent_dim: width D of the latent space, the encoder's last: features · size / 8.

    Raises:
        ValueError, TypeError: a count that is not a positive whole number, or another size.
    """

    def __init__(
        self,
        attributes: int,
        size: int = 64,
        features: int = 16,
        decoder_features: int | None = None,
    ):
        super().__init__()
        self.attributes = checks.positive("attributes", attributes)
        self.size, self.features = (
            checks.positive("size", size),
            checks.positive("features", features),
        )
        self.decoder_features = checks.positive("decoder_features", decoder_features or features)
        if size < 8 or size & (size - 1):
            raise ValueError(f"size must be a power of two from 8 on, got {size}")
        halvings = int(math.log2(size)) - 2  # down to 4×4
        widths, decoder_widths = (
            [first * 2**k for k in range(halvings)] for first in (features, self.decoder_features)
        )
        self.latent_dim = widths[-1]
        if attributes > self.latent_dim:
            raise ValueError(
                f"{attributes} attributes do not fit a latent of {self.latent_dim}; take more features"
            )
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.main, self.decoder.main = (
            _encoder(widths),
            _decoder(self.latent_dim, decoder_widths[::-1]),
        )
        self.fc1 = nn.Linear(self.latent_dim, self.latent_dim)  # mean
        self.fc2 = nn.Linear(self.latent_dim, self.latent_dim)  # log variance
        # Orthonormal rows, which is where the loss takes M.
        self.M = nn.Parameter(nn.init.orthogonal_(torch.empty(attributes, self.latent_dim)))

    @classmethod
    def from_published(cls, path: str | Path) -> MSP:
        """The model in a checkpoint of the original's, e.g. ``MSP_CelebA.tch``: a bare state dict, whose shapes tell the size.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a damaged file, or one that holds another architecture; one line.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing; expected a checkpoint of MSP, such as MSP_CelebA.tch"
            )
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError, BadZipFile) as error:
            raise ValueError(
                f"{path} is damaged or no checkpoint ({str(error).splitlines()[0]:.80})"
            ) from None
        try:
            convolutions = [
                name for name in state if name.startswith("encoder.main") and state[name].ndim == 4
            ]
            size, features = 2 ** (len(convolutions) + 1), len(state["encoder.main.0.weight"])
            decoder_features = state["decoder.main.0.weight"].shape[1] * 8 // size
            model = cls(len(state["M"]), size, features, decoder_features)
            model.load_state_dict(state)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} holds another architecture than MSP: {reason:.200}") from None
        return model.eval()

    @property
    def config(self) -> dict:
        """The constructor's arguments, JSON-able."""
        names = ("attributes", "size", "features", "decoder_features")
        return {name: getattr(self, name) for name in names}

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z | x), each (n, D), of images (n, 3, size, size) in [0, 1].

        Raises:
            TypeError: bytes instead of floats.
            ValueError: images of another size or range, with an alpha channel, or NaN in them.
        """
        mean, log_variance = self._moments(2 * self._checked(x).to(self.M) - 1)
        return mean, torch.exp(0.5 * log_variance)

    def encode(self, x: Tensor) -> Tensor:
        """The posterior means (n, D). Raises as :meth:`posterior` does."""
        return self.posterior(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Images (n, 3, size, size) in [0, 1] of latents (n, D).

        Raises:
            ValueError: latents of another width, or NaN or infinite ones.
        """
        return (self._decoded(checks.latents(z, self.latent_dim).to(self.M)) + 1) / 2

    def read(self, z: Tensor) -> Tensor:
        """What M reads off latents (n, D): M z (n, A), about -1 or 1. Raises as :meth:`decode` does."""
        return checks.latents(z, self.latent_dim) @ self.M.T

    def set(self, z: Tensor, values: Tensor, chosen: Tensor) -> Tensor:
        """MSP's own editing: latents (n, D) moved along M's rows so that the chosen entries of M z become ``values``.

        Exactly so where M's rows are orthonormal, as training makes them nearly.

        Args:
            z: latents (n, D).
            values: (n, A); -1 and 1 stand for an attribute's absence and presence.
            chosen: which entries to set, bool, (n, A) or (A,).

        Raises:
            ValueError: as :meth:`decode`, or values of another width.
        """
        read = self.read(z)
        if values.shape[-1] != self.attributes:
            raise ValueError(
                f"values must have shape (n, {self.attributes}), got {tuple(values.shape)}"
            )
        return z + torch.where(chosen, values - read, 0.0) @ self.M

    def loss(self, x: Tensor, y: Tensor, fidelity: float = 0.0) -> Tensor:
        """The loss to train with, a scalar: :meth:`terms` added up, over images (n, 3, size, size) and attributes (n, A) 0 or 1.

        One posterior draw an image, from torch's global generator.
        """
        return sum(self.terms(x, y, fidelity)[0].values()) / len(x)

    def terms(
        self, x: Tensor, y: Tensor, fidelity: float = 0.0
    ) -> tuple[dict[str, Tensor], Tensor]:
        """:meth:`losses` of images in [0, 1] and attributes 0 or 1, and the reconstructions in [-1, 1].

        Args:
            fidelity: weight of a further term, the ``absolute`` differences of the reconstructions: squares hardly see a
                faint texture on a flat colour, these do. 0: the published loss.
        """
        x, y = 2 * x - 1, 2 * y.to(x) - 1
        mean, log_variance = self._moments(x)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        decoded = self._decoded(z)
        terms = self.losses(x, decoded, y, z, mean, log_variance)
        return terms | (
            {"absolute": fidelity * (decoded - x).abs().sum()} if fidelity else {}
        ), decoded

    def losses(
        self, x: Tensor, decoded: Tensor, y: Tensor, z: Tensor, mean: Tensor, log_variance: Tensor
    ) -> dict[str, Tensor]:
        """The terms of the loss, each summed over the batch: of images, their reconstructions and attributes in [-1, 1].

        ``reconstruction`` (sum of squares), ``divergence`` from the unit normal in nats, and ``projection``, ‖Mz - y‖² +
        ‖Mᵀy - z‖², weighted by an image's elements over those of y and z, so that neither drowns the other.
        """
        weight = x[0].numel() / (self.attributes + self.latent_dim)
        projection = (z @ self.M.T - y).square().sum() + (y @ self.M - z).square().sum()
        return {
            "reconstruction": (decoded - x).square().sum(),
            "divergence": 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(),
            "projection": weight * projection,
        }

    def _checked(self, x: Tensor) -> Tensor:
        if getattr(x, "ndim", 0) == 4 and x.shape[1] == 4:
            raise ValueError(
                f"x has an alpha channel (shape {tuple(x.shape)}); expected (n, 3, {self.size}, {self.size})"
            )
        return checks.images(x, CHANNELS, self.size)

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder.main(x).flatten(1)
        return self.fc1(features), self.fc2(features)

    def _decoded(self, z: Tensor) -> Tensor:
        return self.decoder.main(z[:, :, None, None])


def _encoder(widths: list[int]) -> nn.Sequential:
    """(n, 3, size, size) → (n, widths[-1], 1, 1): halved down to 4×4, then seen as a whole."""
    layers = [nn.Conv2d(CHANNELS, widths[0], 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for inputs, outputs in zip(widths, widths[1:]):
        layers += [
            nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.LeakyReLU(0.2),
        ]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], widths[-1], 4, bias=False))


def _decoder(latent_dim: int, widths: list[int]) -> nn.Sequential:
    """(n, latent_dim, 1, 1) → (n, 3, size, size) in [-1, 1], the encoder's mirror but for its widths."""
    layers = [
        nn.ConvTranspose2d(latent_dim, widths[0], 4, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(),
    ]
    for inputs, outputs in zip(widths, widths[1:]):
        layers += [
            nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(
        *layers, nn.ConvTranspose2d(widths[-1], CHANNELS, 4, 2, 1, bias=False), nn.Tanh()
    )
