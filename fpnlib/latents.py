"""What a plugin knows of its latents: their scale, and the box in which samples are trusted."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

FEWEST_TO_SPLIT = 10


class Posteriors(NamedTuple):
    """Training data: means (n, D), deviations (n, D) or None for plain latents, contexts (n, C)."""

    mean: Tensor
    std: Tensor | None
    context: Tensor

    def rows(self, rows: Tensor) -> Posteriors:
        """The posteriors with these indices (m,)."""
        std = None if self.std is None else self.std[rows]
        return Posteriors(self.mean[rows], std, self.context[rows])

    def draw(self, generator: torch.Generator) -> Tensor:
        """One latent (n, D) from each posterior."""
        if self.std is None:
            return self.mean
        return self.mean + self.std * standard_normal(self.mean, generator)

    def split(self, seed: int) -> tuple[Posteriors, Posteriors]:
        """Nine tenths to train on and a tenth to validate on, by seed.

        Training keeps one row of each class. Raises ValueError for fewer than ten rows.
        """
        n = len(self.mean)
        if n < FEWEST_TO_SPLIT:
            raise ValueError(
                f"validation is a tenth of z, for which {n} latents are too few;"
                f" pass validation=(z, y), or {FEWEST_TO_SPLIT} or more"
            )
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        order = order.to(self.mean.device)
        needed = torch.cat([self.context.argmax(0), self.context.argmin(0)])
        needed_last = torch.isin(order, needed).to(torch.uint8).argsort(stable=True)
        held_out, kept = order[needed_last].split([n // 10, n - n // 10])
        return self.rows(kept), self.rows(held_out)


class LatentSpace(nn.Module):
    """Latents (n, D): how they are standardised, and the box in which samples are trusted.

    A latent overflows if an entry is not finite, or lies further outside the range of the training
    latents than that range is wide.

    Args:
        latent_dim: width D of the latents.
        spread: standard deviation of standardised latents.

    Attributes:
        loc_, scale_: mean and scale (D,) of the latents.
        low_, high_: the box (D,).
        overflows_: latents that overflowed so far.
    """

    loc_: Tensor
    scale_: Tensor
    low_: Tensor
    high_: Tensor

    def __init__(self, latent_dim: int, spread: float):
        super().__init__()
        self.latent_dim, self.spread = latent_dim, spread
        self.register_buffer("loc_", torch.zeros(latent_dim))
        self.register_buffer("scale_", torch.ones(latent_dim))
        self.register_buffer("low_", torch.full((latent_dim,), -torch.inf))
        self.register_buffer("high_", torch.full((latent_dim,), torch.inf))
        self.overflows_ = 0

    @torch.no_grad()
    def learn(self, latents: Posteriors) -> None:
        """Take mean, scale and box from training latents.

        The variance is that of the aggregate posterior: the variance of the means plus the mean of
        the variances.
        """
        z = latents.mean
        std = torch.zeros_like(z) if latents.std is None else latents.std
        scale = (z.var(0, unbiased=False) + std.square().mean(0)).sqrt() / self.spread
        self.loc_.copy_(z.mean(0))
        self.scale_.copy_(torch.where(scale > 0, scale, 1.0))
        low, high = (z - 4 * std).amin(0), (z + 4 * std).amax(0)
        self.low_.copy_(low - (high - low))
        self.high_.copy_(high + (high - low))

    def standardise(self, z: Tensor) -> Tensor:
        """Standardised latents of latents z (n, D)."""
        return (z - self.loc_) / self.scale_

    def restore(self, z: Tensor) -> Tensor:
        """Latents of standardised latents z (n, D)."""
        return z * self.scale_ + self.loc_

    def overflowed(self, z: Tensor) -> Tensor:
        """Whether each latent (n, D) overflowed, bool (n,)."""
        return ~((z >= self.low_) & (z <= self.high_) & z.isfinite()).all(-1)

    def clamp(self, z: Tensor, overflowed: Tensor) -> Tensor:
        """Clamp the latents that ``overflowed`` (n,) marks to the box, and warn.

        Raises:
            FloatingPointError: there is no box before ``learn``.
        """
        count = int(overflowed.sum())
        if not count:
            return z
        if self.low_.isinf().any():
            raise FloatingPointError(
                f"{count:,} of {len(z):,} latents overflowed; fit the plugin before it samples"
            )
        self.report(count, len(z), "clamped to the range of the training latents")
        return torch.where(z.isnan(), self.loc_, z).clamp(self.low_, self.high_)

    def report(self, count: int, total: int, remedy: str) -> None:
        """Count latents that overflowed, and warn at the line that called the library."""
        self.overflows_ += count
        message = f"{count:,} of {total:,} latents overflowed in the flow and were {remedy}"
        warnings.warn(message, RuntimeWarning, stacklevel=_stacklevel())


def standard_normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise of the shape, type and device of ``like``."""
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def _stacklevel() -> int:
    """The ``stacklevel`` of the caller's warning that points at the first line outside fpnlib."""
    package = str(Path(__file__).parent)
    level = -1  # this function's own frame
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(package):
        level, frame = level + 1, frame.f_back
    return level + 1
