"""PointFlow (Yang et al. 2019, arXiv:1906.12320): the base model for 3D shapes (section 5.1.2)."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from fpnlib import checks
from fpnlib.base_models.pointflow_cnf import DIMENSIONS, PointCNF, Solver

AT_ONCE = 2**17  # points that go through the networks together: bounds the memory
NOISE_SEED = 2**31  # added to the seeds of points, so that they differ from a latent's by that seed
TIMES = 8  # of flow matching, for each cloud and step
FLOOR = 1e-4  # of the largest variance, added to all, because some directions hardly vary
HEAD_WIDTHS = (256, 128)  # between a cloud's features and its latent
PAIRED = 64  # points paired with noise together, because pairing takes the cube of their number


class PointFlow(nn.Module):
    """Autoencoder of point clouds (n, points, 3): a set encoder, and a flow as decoder.

    Given a latent, a cloud's points are independent draws from a density. So the model encodes
    clouds of any size, and decodes any number of points. Points are in the data's units: the model
    subtracts ``mean_`` (3,) and divides by ``std_`` (1,), which :meth:`standardise` learns, and
    undoes both on the way out.

    Args:
        latent_dim: width of the latents; 128 in PointFlow.
        hidden: widths of the decoder's field.
        encoder_widths: of the encoder's features of a point.
        num_blocks: fields in a row.
        stochastic: whether clouds are encoded to Gaussian posteriors; the paper's base is
            deterministic.
        points: the number that :meth:`decode` draws for each cloud.
        seen: points that the encoder sees together. The latent of a larger cloud is the mean over
            its parts, because maxima over more points than in training are larger. None: all, as in
            PointFlow.
        truncated: deviations within which :meth:`decode` draws its noise, an option of PointFlow's
            code: the farther ones become stray points. None: all noise.
        solver: settings of :class:`Solver` (method, tolerance, steps).

    Raises:
        ValueError: a width below 1, no deviations, or an unknown solver.

    Examples:
        >>> shape = {"hidden": (8,), "encoder_widths": (4, 4, 4, 8)}
        >>> model = PointFlow(latent_dim=3, **shape, method="rk4", steps=2).eval()
        >>> z = model.encode(torch.randn(2, 30, 3))
        >>> z.shape, model.decode(z, points=50).shape
        (torch.Size([2, 3]), torch.Size([2, 50, 3]))
    """

    mean_: Tensor
    std_: Tensor

    def __init__(
        self,
        latent_dim: int = 128,
        hidden: Sequence[int] = (512, 512, 512),
        encoder_widths: Sequence[int] = (128, 128, 256, 512),
        num_blocks: int = 1,
        stochastic: bool = False,
        points: int = 2048,
        seen: int | None = None,
        truncated: float | None = None,
        **solver: Any,
    ):
        super().__init__()
        self.latent_dim = checks.positive("latent_dim", latent_dim)
        self.num_points = checks.positive("points", points)
        self.seen = None if seen is None else checks.positive("seen", seen)
        self.truncated = truncated
        self.solver = Solver(**solver)
        widths = {"hidden": list(hidden), "encoder_widths": list(encoder_widths)}
        for name, values in widths.items():
            checks.widths(name, values)
        self.config = {"latent_dim": latent_dim, **widths, "num_blocks": num_blocks}
        self.config |= {"stochastic": stochastic, "points": points, "seen": seen, **solver}
        if truncated is not None:
            if not truncated > 0:
                raise ValueError(f"truncated must be above 0, or None, got {truncated}")
            self.config["truncated"] = truncated
        self.encoder = _PointEncoder(latent_dim, encoder_widths, stochastic)
        self.decoder = PointCNF(latent_dim, hidden, checks.positive("num_blocks", num_blocks))
        self.register_buffer("mean_", torch.zeros(DIMENSIONS))
        self.register_buffer("std_", torch.ones(1))

    def standardise(self, x: Tensor) -> Self:
        """Learn mean and deviation from clouds x (n, points, 3); returns self."""
        x = checks.clouds(x).double()
        mean = x.mean((0, 1))
        self.mean_.copy_(mean)
        self.std_.copy_((x - mean).square().mean().sqrt())
        return self

    @torch.no_grad()
    def whiten(self, x: Tensor) -> Self:
        """Make the latents of clouds x (n, points, 3) uncorrelated and of unit deviation.

        Returns self. The change of basis goes into the linear maps before and after the latents,
        so that the reconstructions stay. A flow fits such latents better, because its couplings
        split their entries.

        Raises:
            ValueError: a stochastic encoder, whose posteriors would no longer be products.
        """
        if self.config["stochastic"]:
            raise ValueError("latents of a stochastic encoder are not whitened")
        variances, directions = torch.linalg.eigh(torch.cov(self.encode(x).double().T))
        scales = (variances + FLOOR * variances.max()).sqrt()
        for parameter in self.encoder.mean[-1].parameters():
            parameter.copy_((directions / scales).T @ parameter.double())
        for field in self.decoder.fields:
            for layer in field.layers:
                for part in (layer.gate, layer.bias):
                    weight = part.weight[:, 1:]
                    weight.copy_(weight.double() @ (directions * scales))
        return self

    def encode(self, x: Tensor) -> Tensor:
        """Latents (n, latent_dim) of clouds; the means of a stochastic encoder's posteriors.

        Args:
            x: clouds (n, points, 3) in the data's units.

        Raises:
            TypeError: not numbers.
            ValueError: clouds of another shape, with NaN, or with all points equal.
        """
        return self.posterior(x)[0]

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of q(z | x), each (n, latent_dim); 0 for a deterministic encoder."""
        x = (checks.clouds(x).to(self.mean_) - self.mean_) / self.std_
        means, deviations = zip(*_in_batches(self._posterior, x.shape[1], x))
        return torch.cat(means), torch.cat(deviations)

    @torch.no_grad()
    def decode(self, z: Tensor, points: int | None = None, seed: int = 0) -> Tensor:
        """Clouds (n, points, 3), in the data's units, of latents z (n, latent_dim).

        Args:
            z: latents (n, latent_dim).
            points: of each cloud; None: the model's own number.
            seed: of the noise that becomes the points.

        Raises:
            ValueError: latents of another width, NaN or infinite ones, or points below 1.
            FloatingPointError: the solver could not hold its tolerance.
        """
        z = checks.latents(z, self.latent_dim, keep=True).to(self.mean_)
        points = self.num_points if points is None else checks.positive("points", points)
        generator = torch.Generator(z.device).manual_seed(NOISE_SEED + seed)
        shape = (len(z), points, DIMENSIONS)
        noise = torch.randn(shape, generator=generator, device=z.device, dtype=z.dtype)
        if not len(z):
            return noise
        if self.truncated:
            limits = {"a": -self.truncated, "b": self.truncated}
            nn.init.trunc_normal_(noise, **limits, generator=generator)
        solve = partial(self.decoder.inverse, solver=self.solver)
        parts = _in_batches(solve, points, noise, z)
        return torch.cat(parts) * self.std_ + self.mean_

    @torch.no_grad()
    def log_prob(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """log p(x | z) (n, points) in nats: the density of each point, in the data's units.

        Args:
            x: clouds (n, points, 3).
            z: latents (n, latent_dim); None: the encoder's.

        Raises:
            ValueError, TypeError: bad clouds or bad latents.
            FloatingPointError: the solver could not hold its tolerance.
        """
        x = checks.clouds(x).to(self.mean_)
        z = self.encode(x) if z is None else checks.latents(z, self.latent_dim, keep=True).to(x)
        checks.same_length(x, z, ("x", "z"))
        if not len(x):
            return x[..., 0]
        density = partial(self.decoder.log_prob, solver=self.solver)
        parts = _in_batches(density, x.shape[1], (x - self.mean_) / self.std_, z)
        return torch.cat(parts) - DIMENSIONS * self.std_.log()

    def loss(self, x: Tensor, points: int | None = None) -> Tensor:
        """Negative log-likelihood of a point in nats, in standardised units, a scalar.

        As in PointFlow, by Hutchinson's trace and the adjoint method. For a stochastic encoder it
        is the negative evidence lower bound with a standard normal prior, per point.

        Args:
            x: clouds (n, ·, 3).
            points: how many of each cloud, from the first, the decoder is trained on; None: all.
                The encoder sees all, at little cost.
        """
        x, z, divergence = self._with_latents(x, points)
        probe = torch.randint(0, 2, x.shape, device=x.device).to(x) * 2 - 1
        log_prob = self.decoder.log_prob(x, z, self.solver, probe)
        return divergence / x.shape[1] - log_prob.mean()

    def matching_loss(self, x: Tensor, points: int | None = None) -> Tensor:
        """Squared error of the field against straight ways from points to noise, a scalar.

        Flow matching (Lipman et al. 2023, arXiv:2210.02747) trains the same field in one pass,
        without solving it. Pairing points with near noise (Pooladian et al. 2023, arXiv:2304.14772)
        makes the ways cross less, so that a few steps solve the field.

        Args:
            x: clouds (n, ·, 3).
            points: as for :meth:`loss`.

        Raises:
            ValueError: a model of several fields, between which no straight way leads.
        """
        if len(self.decoder.fields) > 1:
            fields = len(self.decoder.fields)
            raise ValueError(f"flow matching trains one field; this model has {fields}; use loss")
        field, (first, last) = self.decoder.fields[0], self.decoder.norms
        x, z, divergence = self._with_latents(x, points)
        with torch.no_grad():  # a norm that learns would shrink the points to shrink the error
            x = first(x)
            u = _paired(last.inverse(torch.randn_like(x)), x)
        times = math.gcd(TIMES, x.shape[1])  # a time for each group of points
        groups = torch.arange(times, device=x.device)
        s = (groups + torch.rand(len(x), times, device=x.device)) / times
        s = s[..., None, None].to(x)
        x, u = x.unflatten(1, (times, -1)), u.unflatten(1, (times, -1))
        velocity = field.velocity(s, torch.lerp(x, u, s), field.context(z, ndim=4))
        return (velocity - (u - x)).square().mean() + divergence / (times * x.shape[2])

    def _posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation (n, latent_dim), averaged over parts of x (n, points, 3)."""
        count = -(-x.shape[1] // (self.seen or x.shape[1]))
        # Every k-th point, because points may come in some order.
        means, deviations = zip(*[self.encoder(x[:, k::count]) for k in range(count)])
        mean, std = torch.stack(means).mean(0), torch.stack(deviations).mean(0)
        return mean, std.expand_as(mean)

    def _with_latents(self, x: Tensor, points: int | None) -> tuple[Tensor, Tensor, Tensor | float]:
        """What the losses take of clouds x (n, ·, 3).

        Returns:
            The first ``points`` of each, standardised; draws from the posteriors (n, latent_dim);
            and the posteriors' mean divergence from N(0, I).
        """
        x = (x - self.mean_) / self.std_
        mean, std = self.encoder(x)
        if not self.config["stochastic"]:
            return x[:, :points], mean, 0.0
        divergence = 0.5 * (mean.square() + std.square() - 1).sum(1) - std.log().sum(1)
        return x[:, :points], mean + std * torch.randn_like(mean), divergence.mean()


class _PointEncoder(nn.Module):
    """Clouds (n, points, 3) to latents (n, latent_dim), for any order and number of points.

    It takes the maximum over the features of a cloud's points (Qi et al. 2017, PointNet).

    Args:
        latent_dim: width of the latents.
        widths: of a point's features; 128, 128, 256, 512 in PointFlow.
        stochastic: whether a second head gives the logarithm of the posterior's variance.
    """

    def __init__(self, latent_dim: int, widths: Sequence[int], stochastic: bool):
        super().__init__()
        self.points = nn.Sequential(*dense_layers((3, *widths))[:-1])  # no ReLU before the maximum
        self.mean = _head(widths[-1], latent_dim)
        self.log_variance = _head(widths[-1], latent_dim) if stochastic else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (n, latent_dim) and standard deviation; the latter 0 (1,) without a second head."""
        features = self.points(x.flatten(0, 1)).unflatten(0, x.shape[:2]).amax(1)
        mean = self.mean(features)
        if self.log_variance is None:
            return mean, mean.new_zeros(1)
        return mean, torch.exp(0.5 * self.log_variance(features))


def _paired(u: Tensor, x: Tensor) -> Tensor:
    """Noise u (n, points, 3), reordered for the shortest ways to the points x (n, points, 3).

    The sum of squared lengths is minimal within every ``PAIRED`` points, by scipy's assignment
    solver.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import

    groups = []
    for noise, points in zip(u.split(PAIRED, 1), x.split(PAIRED, 1)):
        products = (points @ noise.mT).cpu().numpy()  # the largest sum gives the least squares
        order = np.stack([linear_sum_assignment(matrix, maximize=True)[1] for matrix in products])
        indices = torch.from_numpy(order).to(noise.device)[..., None]
        groups.append(noise.take_along_dim(indices, 1))
    return torch.cat(groups, 1)


def _in_batches(function: Callable[..., Any], points: int, *tensors: Tensor) -> list[Any]:
    """What a function returns for batches of clouds that have so many points each."""
    rows = max(1, AT_ONCE // points)
    return list(map(function, *[tensor.split(rows) for tensor in tensors]))


def _head(features: int, latent_dim: int) -> nn.Sequential:
    widths = (features, *HEAD_WIDTHS)
    return nn.Sequential(*dense_layers(widths), nn.Linear(widths[-1], latent_dim))


def dense_layers(widths: Sequence[int]) -> list[nn.Module]:
    """Linear layers between widths, each with a batch norm and a ReLU."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(widths, widths[1:]):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    return layers
