"""MSP: a variational autoencoder factorised by matrix subspace projection (section 5.1.3).

X. Li, C. Lin, R. Li, C. Wang, F. Guerin. Latent space factorisation and manipulation via matrix
subspace projection. arXiv:1907.12385, 2020. A learned matrix M (attributes, latent) reads the
attributes off a latent: M z ≈ y with y in {-1, 1}. What M does not see is free of them.
"""

import torch
from torch import Tensor, nn

from fpnlib import checks

CHANNELS = 3


class MSP(nn.Module):
    """The factorised autoencoder of images (n, 3, size, size) in [0, 1].

    Inside, images lie in [-1, 1] and attributes are -1 or 1, as in the original. Names follow its
    state dict.

    Args:
        attributes: number A of attributes.
        size: pixels a side, a power of two from 8 on; 256 in the published weights.
        features: channels of the first layer, doubled at each halving of the image; published: 64.
        decoder_features: channels before the decoder's last layer; None: as many as ``features``.

    Attributes:
        latent_dim: width D of the latents: features · size / 8.
        config: the constructor's arguments, JSON-able.

    Raises:
        ValueError, TypeError: a count that is not a positive whole number, or another size.

    Examples:
        >>> model = MSP(attributes=3, size=16, features=4).eval()
        >>> z = model.encode(torch.rand(2, 3, 16, 16))
        >>> z.shape, model.read(z).shape, model.decode(z).shape
        (torch.Size([2, 8]), torch.Size([2, 3]), torch.Size([2, 3, 16, 16]))
    """

    def __init__(
        self,
        attributes: int,
        size: int = 64,
        features: int = 16,
        decoder_features: int | None = None,
    ):
        super().__init__()
        self.config = {"attributes": attributes, "size": size, "features": features}
        self.config["decoder_features"] = features if decoder_features is None else decoder_features
        for name, count in self.config.items():
            checks.positive(name, count)
        self.attributes, self.size = attributes, size
        if size < 8 or size & (size - 1):
            raise ValueError(f"size must be a power of two from 8 on, got {size}")
        self.latent_dim = features * size // 8
        if attributes > self.latent_dim:
            said = f"{attributes} attributes do not fit a latent of {self.latent_dim}"
            raise ValueError(f"{said}; take more features")
        widths = _widths(size, self.config["decoder_features"])[::-1]
        self.encoder = nn.ModuleDict({"main": _encoder(_widths(size, features))})
        self.decoder = nn.ModuleDict({"main": _decoder(self.latent_dim, widths)})
        self.fc1 = nn.Linear(self.latent_dim, self.latent_dim)  # mean
        self.fc2 = nn.Linear(self.latent_dim, self.latent_dim)  # log variance
        # Orthonormal rows, because the loss drives M there.
        self.M = nn.Parameter(nn.init.orthogonal_(torch.empty(attributes, self.latent_dim)))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z | x), each (n, D).

        Args:
            x: images (n, 3, size, size) in [0, 1].

        Raises:
            TypeError: bytes instead of floats.
            ValueError: images of another size or range, with an alpha channel, or NaN in them.
        """
        shape = tuple(getattr(x, "shape", ()))
        if len(shape) == 4 and shape[1] == 4:
            raise ValueError(f"x has an alpha channel, got shape {shape}; pass x[:, :3]")
        x = checks.images(x, CHANNELS, self.size)
        mean, log_variance = self._moments(2 * x.to(self.M) - 1)
        return mean, torch.exp(0.5 * log_variance)

    def encode(self, x: Tensor) -> Tensor:
        """The posterior means (n, D). Raises as :meth:`posterior` does."""
        return self.posterior(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Images (n, 3, size, size) in [0, 1] of latents z (n, D).

        Raises:
            ValueError: latents of another width, or NaN or infinite ones.
        """
        return (self._decoded(checks.latents(z, self.latent_dim, keep=True).to(self.M)) + 1) / 2

    def check_input(self, x: Tensor, *labels: Tensor) -> None:
        """Raise as :meth:`encode` does for faces that the loss cannot take."""
        checks.images(x, CHANNELS, self.size)

    def read(self, z: Tensor) -> Tensor:
        """M z (n, A), about -1 or 1, of latents z (n, D). Raises as :meth:`decode` does."""
        return checks.latents(z, self.latent_dim, keep=True).to(self.M) @ self.M.T

    def set(self, z: Tensor, values: Tensor, chosen: Tensor) -> Tensor:
        """MSP's own editing: move latents along M's rows to set entries of M z.

        The edit is exact if M's rows are orthonormal, as training makes them nearly.

        Args:
            z: latents (n, D).
            values: (n, A); -1 stands for an attribute's absence, 1 for its presence.
            chosen: the entries to set, bool, (n, A) or (A,).

        Returns:
            The moved latents (n, D).

        Raises:
            ValueError: as :meth:`decode`, or values of another width.
        """
        read = self.read(z)
        checks.array(values, ("n", self.attributes), "values")
        return z + torch.where(chosen, values - read, 0.0) @ self.M

    def loss(self, x: Tensor, y: Tensor, fidelity: float = 0.0) -> Tensor:
        """The training loss, a scalar: the sum of :meth:`losses`, averaged over images.

        Each image takes one posterior draw from torch's global generator.

        Args:
            x: images (n, 3, size, size) in [0, 1].
            y: attributes (n, A), 0 or 1.
            fidelity: weight of a further term, absolute differences of the reconstructions. Squares
                hardly see a faint texture on a flat colour; these do. 0: the published loss.
        """
        x, y = 2 * x - 1, 2 * y.to(x) - 1
        mean, log_variance = self._moments(x)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        decoded = self._decoded(z)
        terms = [*self.losses(x, decoded, y, z, mean, log_variance).values()]
        if fidelity:
            terms.append(fidelity * (decoded - x).abs().sum())
        return torch.stack(terms).sum() / len(x)

    def losses(
        self, x: Tensor, decoded: Tensor, y: Tensor, z: Tensor, mean: Tensor, log_variance: Tensor
    ) -> dict[str, Tensor]:
        """The published loss's terms, each summed over the batch.

        ``projection`` is weighted by an image's elements over those of y and z, so that neither
        drowns the other.

        Args:
            x: images (n, 3, size, size) in [-1, 1].
            decoded: their reconstructions.
            y: their attributes (n, A), -1 or 1.
            z: posterior draws (n, D).
            mean: of the posteriors (n, D).
            log_variance: of the posteriors (n, D).

        Returns:
            ``reconstruction`` (sum of squares), ``divergence`` from the unit normal in nats, and
            ``projection``, ‖Mz - y‖² + ‖Mᵀy - z‖².
        """
        weight = x[0].numel() / (self.attributes + self.latent_dim)
        projection = (z @ self.M.T - y).square().sum() + (y @ self.M - z).square().sum()
        return {
            "reconstruction": (decoded - x).square().sum(),
            "divergence": 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(),
            "projection": weight * projection,
        }

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder["main"](x).flatten(1)
        return self.fc1(features), self.fc2(features)

    def _decoded(self, z: Tensor) -> Tensor:
        return self.decoder["main"](z[:, :, None, None])


def _widths(size: int, features: int) -> list[int]:
    """Channels at each size from size/2 down to 4."""
    halvings = size.bit_length() - 3
    return [features * 2**k for k in range(halvings)]


def _encoder(widths: list[int]) -> nn.Sequential:
    """(n, 3, size, size) → (n, widths[-1], 1, 1)."""
    layers = [nn.Conv2d(CHANNELS, widths[0], 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for inputs, outputs in zip(widths, widths[1:]):
        convolution = nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], widths[-1], 4, bias=False))


def _decoder(latent_dim: int, widths: list[int]) -> nn.Sequential:
    """(n, latent_dim, 1, 1) → (n, 3, size, size) in [-1, 1]."""
    first = nn.ConvTranspose2d(latent_dim, widths[0], 4, bias=False)
    layers = [first, nn.BatchNorm2d(widths[0]), nn.ReLU()]
    for inputs, outputs in zip(widths, widths[1:]):
        convolution = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
    last = nn.ConvTranspose2d(widths[-1], CHANNELS, 4, 2, 1, bias=False)
    return nn.Sequential(*layers, last, nn.Tanh())
