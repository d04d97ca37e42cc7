"""PluGeN, the nearest rival: an unconditional flow whose first coordinates are the attributes."""

from functools import partial
from typing import Any, Self

import torch
from nflows.transforms import AdditiveCouplingTransform, CompositeTransform
from torch import Tensor, nn
from torch.distributions import Normal

from fpnlib import checks
from fpnlib.latents import LatentSpace, Posteriors, standard_normal
from fpnlib.training import History, fit

SIGMA_BINARY = 0.63  # the authors' go from 0.7 to 0.7 * 0.9 in a training
SIGMA_REAL = 0.07  # theirs go from 1 to about this
# The rate is the peak of a one-cycle schedule; the authors' is 1e-4 throughout.
TRAINING: dict[str, Any] = {"epochs": 30, "batch_size": 256, "learning_rate": 1e-3}
TRAINING |= {"clip_norm": 1.0, "description": "PluGeN"}


class PluGeN(LatentSpace):
    """An attribute-wise flow for a frozen autoencoder (Wołczyk et al. 2022, arXiv:2109.09011).

    NICE, a flow of additive couplings that keep the volume, maps standardised latents to
    coordinates. Each of the first is an attribute with a density of its own; the rest are standard
    normal.

    Args:
        latent_dim: width D of the latents.
        attributes: their number A, at most D.
        real: whether attributes are quantities; otherwise they are 0 or 1.
        depth: number of couplings, and of linear layers in each coupling's network.
        hidden_features: units of each layer.

    Attributes:
        config: the constructor's arguments, JSON-able.
        history_: of the last fit.

    >>> z, y = torch.randn(100, 4), torch.arange(100)[:, None] % 2
    >>> model = PluGeN(4, 1, hidden_features=8).fit(z, y, epochs=1, progress=False)
    >>> model.sample(torch.tensor([[1.0], [0.0]])).shape
    torch.Size([2, 4])
    """

    y_loc_: Tensor
    y_scale_: Tensor

    def __init__(
        self,
        latent_dim: int,
        attributes: int,
        real: bool = False,
        *,
        depth: int = 4,
        hidden_features: int = 256,
    ):
        super().__init__(checks.positive("latent_dim", latent_dim), spread=1.0)
        if not 0 < attributes <= latent_dim:
            raise ValueError(f"attributes must be 1 to {latent_dim}, got {attributes}")
        self.attributes, self.real, self.history_ = attributes, real, History()
        self.config = {"latent_dim": latent_dim, "attributes": attributes, "real": real}
        self.config |= {"depth": depth, "hidden_features": hidden_features}
        network = partial(_Network, depth=depth, hidden_features=hidden_features)
        mask = torch.ones(latent_dim)
        mask[::2] = -1
        masks = [mask * (-1) ** step for step in range(depth)]
        self.flow = CompositeTransform([AdditiveCouplingTransform(m, network) for m in masks])
        self.register_buffer("y_loc_", torch.zeros(attributes))
        self.register_buffer("y_scale_", torch.ones(attributes))

    def fit(
        self,
        z: Tensor,
        y: Tensor,
        *,
        std: Tensor | None = None,
        validation: tuple[Tensor, Tensor] | None = None,
        **training: Any,
    ) -> Self:
        """Maximise the likelihood of latents and attributes; returns the model, in eval mode.

        Args:
            z: latents (n, D); with ``std``, the means of the encoder's posteriors.
            y: attributes (n, A), all known.
            std: standard deviations (n, D) of the posteriors; each epoch draws z anew.
            validation: held-out latents and attributes, which choose the best epoch; None: z.
            training: settings of ``training.fit`` in place of ``TRAINING``.
        """
        latents = Posteriors(z, std, self._checked(z, y))
        self.learn(latents)
        self.y_loc_.copy_(latents.values.mean(0))
        self.y_scale_.copy_(latents.values.std(0).clamp(min=1e-6))
        z_held, y_held = (z, y) if validation is None else validation
        held_out = self.standardise(z_held), self._checked(z_held, y_held)

        def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
            return self.standardise(latents.draw(generator)), latents.values

        self.history_ = fit(self, self._loss, draw, held_out, **TRAINING | training)
        return self.eval()

    def to_coordinates(self, z: Tensor) -> Tensor:
        """Return the coordinates (n, D) of latents z (n, D), the attributes' first."""
        return self.flow(self.standardise(z.to(self.loc_)))[0]

    def from_coordinates(self, coordinates: Tensor) -> Tensor:
        """Return the latents (n, D) of coordinates (n, D)."""
        return self.restore(self.flow.inverse(coordinates)[0])

    def log_prob(self, z: Tensor, y: Tensor) -> Tensor:
        """Return log p(z | y) (n,) in nats of latents z (n, D) with attributes y (n, A)."""
        y = self._checked(z, y)
        return self._log_prob(self.standardise(z.to(self.loc_)), y) - self.scale_.log().sum()

    @torch.no_grad()
    def sample(self, y: Tensor, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Draw one latent (n, D) for each row of attributes y (n, A), the same for one seed.

        NaN leaves an attribute open: a quantity then follows a normal distribution, and a binary
        attribute is there in half of the samples.
        """
        checks.sampling(temperature)
        y = self._checked(None, y)
        generator = torch.Generator(y.device).manual_seed(int(seed))
        open_values = standard_normal(y, generator)
        open_values = self.y_loc_ + self.y_scale_ * open_values if self.real else open_values > 0
        centre, sigma = self._prior(torch.where(y.isnan(), open_values.to(y), y))
        noise = standard_normal(centre, generator)
        return self.from_coordinates(centre + temperature * sigma * noise)

    @torch.no_grad()
    def edit(self, z: Tensor, y: Tensor, to: Tensor) -> Tensor:
        """Return latents (n, D) of latents z (n, D) whose attributes y (n, A) become ``to``.

        The coordinate of a changed binary attribute goes to 1 or -1, that of a quantity moves by
        the difference. An edit of half the strength takes a coordinate half of the way.
        """
        y, to = self._checked(z, y), self._checked(z, to)
        coordinates = self.to_coordinates(z)
        moved = coordinates[:, : self.attributes]
        if self.real:
            moved += (to - y) / self.y_scale_
        else:
            moved += (to - y).abs() * ((to - y).sign() - moved)
        return self.from_coordinates(coordinates)

    def _checked(self, z: Tensor | None, y: Tensor) -> Tensor:
        """Attributes (n, A) of the weights' type, as many as latents."""
        if z is not None:
            checks.same_length(checks.latents(z, self.latent_dim), y)
        y = torch.as_tensor(y)
        if y.ndim != 2 or y.shape[1] != self.attributes:
            raise ValueError(f"y must have shape (n, {self.attributes}), got {tuple(y.shape)}")
        return y.to(self.loc_)

    def _prior(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation, each (n, D), of the coordinates of latents with attributes y (n, A).

        The deviations of binary attributes let both values weigh alike in the loss.
        """
        if self.real:
            centre = (y - self.y_loc_) / self.y_scale_
            sigma = torch.full_like(centre, SIGMA_REAL)
        else:
            share = torch.where(y > 0.5, self.y_loc_, 1 - self.y_loc_)
            centre = 2 * (y > 0.5).to(y) - 1
            sigma = SIGMA_BINARY * (2 * share).clamp(min=1e-3).sqrt()
        rest = y.new_zeros(len(y), self.latent_dim - self.attributes)
        return torch.cat([centre, rest], 1), torch.cat([sigma, rest + 1], 1)

    def _log_prob(self, z: Tensor, y: Tensor) -> Tensor:
        """Log-density (n,) of standardised latents z (n, D); the flow's log_det is 0."""
        coordinates, log_det = self.flow(z)
        return Normal(*self._prior(y)).log_prob(coordinates).sum(1) + log_det

    def _loss(self, z: Tensor, y: Tensor) -> Tensor:
        """Nats per dimension."""
        return -self._log_prob(z, y).mean() / self.latent_dim


class _Network(nn.Sequential):
    """Linear layers with leaky ReLUs between, as a coupling's network."""

    def __init__(self, inputs: int, outputs: int, depth: int, hidden_features: int):
        widths = [inputs, *[hidden_features] * (depth - 1), outputs]
        modules: list[nn.Module] = []
        for before, after in zip(widths, widths[1:]):
            modules += [nn.Linear(before, after), nn.LeakyReLU(0.1)]
        super().__init__(*modules[:-1])

    def forward(self, inputs: Tensor, context: None = None) -> Tensor:
        """The shifts of a coupling; nflows passes a context, which is None."""
        return super().forward(inputs)
