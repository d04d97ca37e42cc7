"""What a plugin knows of its latents: their scale, and the box in which samples are trusted."""

import functools
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils import _contextlib

MAX_REDRAWS = 10


class Posteriors(NamedTuple):
    """Training data: means (n, D), deviations (n, D) or None for plain latents, values (n, V)."""

    mean: Tensor
    std: Tensor | None
    values: Tensor

    def rows(self, rows: Tensor) -> Self:
        """The posteriors with these indices (m,)."""
        std = None if self.std is None else self.std[rows]
        return self._replace(mean=self.mean[rows], std=std, values=self.values[rows])

    def draw(self, generator: torch.Generator) -> Tensor:
        """One latent (n, D) from each posterior."""
        if self.std is None:
            return self.mean
        return self.mean + self.std * standard_normal(self.mean, generator)

    def split(self, context: Tensor, seed: int) -> tuple[Self, Self]:
        """A tenth to validate on, by seed, and the rest to train on.

        Training keeps one row of each class and of each value of an attribute. If that needs all
        rows, they serve for validation too, and a warning says so.

        Args:
            context: of each row (n, C).
            seed: of the split.
        """
        n = len(self.mean)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        order = order.to(self.mean.device)
        binary = context[:, ((context == 0) | (context == 1)).all(0)]
        needed = torch.cat([binary.argmax(0), binary.argmin(0)]) if binary.shape[1] else order[:1]
        needed_last = torch.isin(order, needed).to(torch.uint8).argsort(stable=True)
        free = n - len(needed.unique())
        count = min(max(1, n // 10), free)
        if not count:
            warn(f"nothing is held out: training needs all {n:,} latents, also to choose the epoch")
            return self, self
        held_out, kept = order[needed_last].split([count, n - count])
        return self.rows(kept), self.rows(held_out)


def inference(method: Callable) -> Callable:
    """Run a method in eval mode, without gradients and autocast; then put the modes back.

    In train mode batch norm would learn from contexts that are only tried out.
    """

    @functools.wraps(method)
    def inferred(self: Any, *args: Any, **kwargs: Any) -> Any:
        training = []
        if self.training or self.flow.training:  # walking a thousand modules takes time
            training = [module for module in self.modules() if module.training]
        for module in training:
            module.training = False
        try:
            with torch.no_grad(), torch.autocast(self.loc_.device.type, enabled=False):
                return method(self, *args, **kwargs)
        finally:
            for module in training:
                module.training = True

    return inferred


class LatentSpace(nn.Module):
    """Latents (n, D): how they are standardised, and the box in which samples are trusted.

    A latent overflows if an entry is not finite, or lies further outside the range of the training
    latents than that range is wide. A dimension that is constant in training is so in all samples.

    Args:
        latent_dim: width D of the latents.
        spread: standard deviation of standardised latents.

    Attributes:
        loc_, scale_: mean and scale (D,) of the latents.
        low_, high_: the box (D,).
        overflows_: latents that overflowed so far.
        redrawn_: samples that were drawn again so far because they were not read as asked.
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
        self.overflows_ = self.redrawn_ = 0

    @torch.no_grad()
    def learn(self, latents: Posteriors) -> None:
        """Take mean, scale and box from training latents.

        The variance is that of the aggregate posterior: the variance of the means plus the mean of
        the variances.
        """
        z = latents.mean
        std = torch.zeros_like(z) if latents.std is None else latents.std
        scale = (z.var(0, unbiased=False) + std.square().mean(0)).sqrt() / self.spread
        low, high = (z - 4 * std).amin(0), (z + 4 * std).amax(0)
        self.loc_.copy_(torch.where(low < high, z.mean(0), low))
        self.scale_.copy_(torch.where(scale > 0, scale, 1.0))
        self.low_.copy_(low - (high - low))
        self.high_.copy_(high + (high - low))

    def standardise(self, z: Tensor) -> Tensor:
        """Standardised latents of latents z (n, D)."""
        return (z - self.loc_) / self.scale_

    def restore(self, z: Tensor) -> Tensor:
        """Latents of standardised latents z (n, D)."""
        return torch.where(self.low_ == self.high_, self.loc_, z * self.scale_ + self.loc_)

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
            said = f"{count:,} of {len(z):,} latents overflowed"
            raise FloatingPointError(f"{said}; fit the plugin first")
        self.report(count, len(z), "clamped to the range of the training latents")
        return torch.where(z.isnan(), self.loc_, z).clamp(self.low_, self.high_)

    def report(self, count: int, total: int, remedy: str) -> None:
        """Count latents that overflowed, and warn at the line that called the library."""
        self.overflows_ += count
        message = f"{count:,} of {total:,} latents overflowed in the flow and were {remedy}"
        warn(message, RuntimeWarning)

    def report_draws(self, first: Tensor, kept: Tensor, confidence: float) -> None:
        """Count the latents that were drawn again, and warn of some.

        Args:
            first: how surely the first draws (n,) are read as asked; below 0 if they overflowed.
            kept: the same of the draws that were kept.
            confidence: below which latents were drawn again.
        """
        redrawn = int((first < 0).sum() - (kept < 0).sum())
        if redrawn > 0:
            self.report(redrawn, len(kept), "drawn again")
        self.redrawn_ += int(((first >= 0) & (first < confidence)).sum())
        unsure = int(((kept >= 0) & (kept < confidence)).sum())
        self.report_unsure(unsure, len(kept), confidence)

    def report_unsure(self, count: int, total: int, confidence: float) -> None:
        """Warn if some latents are not read as asked."""
        if count:
            said = f"{count:,} of {total:,} latents are read as asked"
            warn(f"{said} with less than the confidence of {confidence:g}; ask for less of it")


def draw_again(
    draw: Callable[[Tensor], tuple[Tensor, Tensor]], rows: Tensor, enough: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw latents, and up to ten times again those with too small a score; keep the best.

    Args:
        draw: latents (m, D) and their scores (m,) for rows (m,).
        rows: 0 to n-1.
        enough: score from which nothing is drawn again.

    Returns:
        Latents (n, D), the scores of the first draws (n,) and those of the latents (n,).
    """
    z, score = draw(rows)
    first = score.clone()
    for _ in range(MAX_REDRAWS):
        again = rows[score < enough]
        if not len(again):
            break
        drawn, found = draw(again)
        better = found >= score[again]
        z[again[better]], score[again[better]] = drawn[better], found[better]
    return z, first, score


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line that called the library."""
    inside = str(Path(__file__).parent), _contextlib.__file__  # torch's decorators are no caller
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(inside):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def standard_normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise of the shape, type and device of ``like``."""
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)
