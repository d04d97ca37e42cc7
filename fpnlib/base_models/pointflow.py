"""PointFlow (Yang et al. 2019, arXiv:1906.12320): the paper's base model for 3D shapes (section 5.1.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import contextmanager

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from fpnlib import checks
from fpnlib.base_models.pointflow_cnf import PointCNF, Solver, log_normal
from fpnlib.base_models.pointflow_encoder import PointEncoder
from fpnlib.base_models.pointflow_field import DIMENSIONS

AT_ONCE = 2**17  # points that go through the networks together: it bounds the memory
NOISE_SEED = (
    2**31
)  # is added to the seeds of points, or a latent and its points drawn by one seed would be kin
TIMES = 8  # flow matching's times for each cloud and step
FLOOR = 1e-4  # of the largest variance, added to all: a direction in which latents hardly differ is not blown up
PAIRED = (
    64  # points that are paired with noise together: exact pairing takes the cube of their number
)


class PointFlow(nn.Module):
    """Autoencoder of point clouds (n, points, 3): a permutation-invariant encoder, and a flow of points as decoder.

    Given a latent, the points of a cloud are independent draws from a density, so that a cloud of any size is encoded
    and any number of points decoded. Points come and go in the data's units: ``mean_`` (3,) per axis and one ``std_``
    (1,), which :meth:`standardise` learns, are taken off on the way in and put back on the way out.

    Args:
        latent_dim: width of the latents; PointFlow's is 128.
        hidden: widths of the decoder's field.
        encoder_widths: of the encoder's features of a point.
        num_blocks: fields in a row.
        stochastic: encode to a Gaussian posterior, whose mean :meth:`encode` gives; the paper's base is deterministic.
        points: that :meth:`decode` draws of each cloud.
        seen: points that the encoder sees together; the latents of a cloud that has more are the mean over its parts. The
            largest of a feature over more points than it was trained with is larger. None: all, as PointFlow does.
        solver: settings of :class:`Solver` (method, tolerance, steps).

    Raises:
        ValueError: a width below 1, or an unknown solver.
    """

    def __init__(
        self,
        latent_dim: int = 128,
        hidden: Sequence[int] = (512, 512, 512),
        encoder_widths: Sequence[int] = (128, 128, 256, 512),
        num_blocks: int = 1,
        stochastic: bool = False,
        points: int = 2048,
        seen: int | None = None,
        **solver,
    ):
        super().__init__()
        self.latent_dim = checks.positive("latent_dim", latent_dim)
        self.num_points = checks.positive("points", points)
        self.seen = None if seen is None else checks.positive("seen", seen)
        self.solver = Solver(**solver)
        self.config = {
            "latent_dim": latent_dim,
            "hidden": list(hidden),
            "encoder_widths": list(encoder_widths),
            "num_blocks": num_blocks,
            "stochastic": stochastic,
            "points": points,
            "seen": seen,
            **solver,
        }
        self.encoder = PointEncoder(latent_dim, encoder_widths, stochastic=stochastic)
        self.decoder = PointCNF(latent_dim, hidden, checks.positive("num_blocks", num_blocks))
        self.register_buffer("mean_", torch.zeros(DIMENSIONS))
        self.register_buffer("std_", torch.ones(1))

    def standardise(self, x: Tensor) -> PointFlow:
        """Learn from clouds (n, points, 3) the mean of each axis and one deviation for all; returns self."""
        x = checks.clouds(x).double()
        mean = x.mean((0, 1))
        self.mean_.copy_(mean)
        self.std_.copy_((x - mean).square().mean().sqrt())
        return self

    @torch.no_grad()
    def whiten(self, x: Tensor) -> PointFlow:
        """Make the latents of clouds (n, points, 3) uncorrelated, and each of unit deviation; returns self.

        Turned and scaled is the latent space alone, within the linear maps that lead into it and out of it: what is decoded
        from a cloud's latent stays as it is. A flow fits such latents better, for its couplings split their entries.

        Raises:
            ValueError: a stochastic encoder, whose posteriors would no longer be products.
        """
        if self.config["stochastic"]:
            raise ValueError(
                "latents of a stochastic encoder are not whitened: its prior says how they lie"
            )
        variances, directions = torch.linalg.eigh(torch.cov(self.encode(x).double().T))
        scales = (variances + FLOOR * variances.max()).sqrt()
        head = self.encoder.mean[-1]
        for parameter in (head.weight, head.bias):
            parameter.copy_((directions / scales).T @ parameter.double())
        for layer in (layer for field in self.decoder.fields for layer in field.layers):
            for part in (layer.gate, layer.bias):
                part.weight[:, 1:] = part.weight[:, 1:].double() @ (directions * scales)
        return self

    def encode(self, x: Tensor) -> Tensor:
        """Latents (n, latent_dim) of clouds (n, points, 3) in the data's units; of a stochastic encoder the means.

        Raises:
            TypeError: no numbers.
            ValueError: clouds of another shape, with NaN, or with all points equal.
        """
        return self.posterior(x)[0]

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of q(z | x), each (n, latent_dim); the deviation of a deterministic encoder is 0."""
        x = (checks.clouds(x).to(self.mean_) - self.mean_) / self.std_
        of_clouds = [self._posterior(clouds) for clouds in x.split(_rows(x.shape[1]))]
        mean, std = (torch.cat(tensors) for tensors in zip(*of_clouds))
        return mean, std

    @torch.no_grad()
    def decode(self, z: Tensor, points: int | None = None, seed: int = 0) -> Tensor:
        """Clouds (n, points, 3), in the data's units, of latents (n, latent_dim).

        Args:
            points: of each cloud; None: the model's own number.
            seed: of the noise that becomes the points: the same latents give the same points.

        Raises:
            ValueError: latents of another width, NaN or infinite ones, or points below 1.
            FloatingPointError: the solver could not hold its tolerance.
        """
        z = checks.latents(z, self.latent_dim).to(self.mean_)
        points = self.num_points if points is None else checks.positive("points", points)
        generator = torch.Generator(z.device).manual_seed(NOISE_SEED + seed)
        shape = (len(z), points, DIMENSIONS)
        noise = torch.randn(shape, generator=generator, device=z.device, dtype=z.dtype)
        rows = _rows(points)
        parts = [
            self.decoder.inverse(u, c, self.solver)
            for u, c in zip(noise.split(rows), z.split(rows))
        ]
        return torch.cat(parts) * self.std_ + self.mean_ if parts else noise

    @torch.no_grad()
    def log_prob(
        self, x: Tensor, z: Tensor | None = None, trace: str = "exact", probe: Tensor | None = None
    ) -> Tensor:
        """log p(x | z) (n, points) in nats: the density of each point of clouds (n, points, 3), in the data's units.

        Args:
            z: latents (n, latent_dim); None: the encoder's of x.
            trace: "exact", or "hutchinson" for the unbiased estimate in half the work.
            probe: like x; in the place of Hutchinson's random one.

        Raises:
            ValueError, TypeError: bad clouds, bad latents, or an unknown trace.
            FloatingPointError: the solver could not hold its tolerance.
        """
        x = checks.clouds(x).to(self.mean_)
        z = self.encode(x) if z is None else checks.latents(z, self.latent_dim).to(x)
        checks.same_length(x, z, ("x", "z"))
        rows, densities = _rows(x.shape[1]), []
        probes = (None for _ in x) if probe is None else probe.split(rows)
        for part, c, e in zip(x.split(rows), z.split(rows), probes):
            u, log_det = self.decoder((part - self.mean_) / self.std_, c, self.solver, trace, e)
            densities.append(log_normal(u) + log_det - DIMENSIONS * self.std_.log())
        return torch.cat(densities) if densities else x[..., 0]

    def loss(self, x: Tensor, points: int | None = None) -> Tensor:
        """Negative log-likelihood of a point in nats, in standardised units: the mean over clouds (n, ·, 3), a scalar.

        As PointFlow is trained, by Hutchinson's trace and the adjoint method; for a stochastic encoder the negative
        evidence lower bound with a standard normal prior, per point.

        Args:
            points: the decoder answers for the first so many of each cloud, whose order is chance; the encoder sees all,
                which costs it little. None: for all.
        """
        with self._drawing(x):
            x = (x - self.mean_) / self.std_
            z, divergence = self._latents(x)
            x = x[:, :points]
            u, log_det = self.decoder(x, z, self.solver)
            return -(log_normal(u) + log_det).mean() + divergence / x.shape[1]

    def matching_loss(self, x: Tensor, points: int | None = None) -> Tensor:
        """Squared error of the field against straight ways from points to noise: the mean over clouds (n, ·, 3).

        Flow matching (Lipman et al. 2023, arXiv:2210.02747) trains the same field without solving for it: one pass
        where a solve takes dozens. Points and noise are paired so that the ways are short (multisample flow matching:
        Pooladian et al. 2023, arXiv:2304.14772): they hardly cross then, and a few steps solve the field. It carries noise
        to points as the likelihood's does. ``points`` as for :meth:`loss`.

        Raises:
            ValueError: a model of several fields, for which there is no one way.
        """
        if len(self.decoder.fields) > 1:
            raise ValueError(
                f"flow matching trains one field; this model has {len(self.decoder.fields)}; use loss"
            )
        field, (first, last) = self.decoder.fields[0], self.decoder.norms
        with self._drawing(x):
            x = (x - self.mean_) / self.std_
            z, divergence = self._latents(x)
            x = x[:, :points]
            with (
                torch.no_grad()
            ):  # a norm that could learn would shrink the points to shrink the error
                x = first(x)
                u = paired(last.inverse(torch.randn_like(x)), x)
            times = math.gcd(TIMES, x.shape[1])  # a time for each group of points
            s = (
                torch.arange(times, device=x.device) + torch.rand(len(x), times, device=x.device)
            ) / times
            s, x, u = (
                s[..., None, None].to(x),
                x.unflatten(1, (times, -1)),
                u.unflatten(1, (times, -1)),
            )
            velocity = field.velocity(s, torch.lerp(x, u, s), field.context(z, ndim=4))
            return (velocity - (u - x)).square().mean() + divergence / (times * x.shape[2])

    def _posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation (n, latent_dim) of the posteriors, over parts of x (n, points, 3) in standardised units."""
        parts = -(-x.shape[1] // (self.seen or x.shape[1]))
        of_parts = [
            self.encoder(x[:, k::parts]) for k in range(parts)
        ]  # every k-th point: whatever their order
        mean, std = (torch.stack(tensors).mean(0) for tensors in zip(*of_parts))
        return mean, std.expand_as(mean)

    def _latents(self, x: Tensor) -> tuple[Tensor, Tensor | float]:
        """Draws from the posteriors (n, latent_dim), and their mean divergence from N(0, I): 0 if there are none."""
        mean, std = self.encoder(x)
        if not self.config["stochastic"]:
            return mean, 0.0
        divergence = 0.5 * (mean.square() + std.square() - 1).sum(1) - std.log().sum(1)
        return mean + std * torch.randn_like(mean), divergence.mean()

    @contextmanager
    def _drawing(self, x: Tensor):
        """In eval mode the random numbers of a loss are always the same, so that epochs compare."""
        devices = [x.device] if x.device.type == "cuda" else []
        with torch.random.fork_rng(devices, enabled=not self.training):
            if not self.training:
                torch.manual_seed(0)
            yield


def paired(u: Tensor, x: Tensor) -> Tensor:
    """Noise u (n, points, 3), reordered within every ``PAIRED`` points so that its way to x (n, points, 3) is shortest.

    The sum of the squared ways is; exact, by scipy's assignment solver.
    """
    groups = []
    for noise, points in zip(u.split(PAIRED, 1), x.split(PAIRED, 1)):
        products = (points @ noise.mT).cpu().numpy()  # the squares add the same for any order
        order = np.stack([linear_sum_assignment(matrix, maximize=True)[1] for matrix in products])
        groups.append(noise.take_along_dim(torch.from_numpy(order).to(noise.device)[..., None], 1))
    return torch.cat(groups, 1)


def _rows(points: int) -> int:
    """Clouds that go through the networks together."""
    return max(1, AT_ONCE // points)
