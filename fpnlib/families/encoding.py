"""The latents of a dataset under a frozen base model, and simple ways to draw others like them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fpnlib.base_models.frozen import Frozen
from fpnlib.baselines import ClassMixtures
from fpnlib.data import Split

Sampler = Callable[[Tensor, int], Tensor]
"""A way to draw latents: (labels (n,), seed) -> latents (n, latent_dim)."""


@dataclass(frozen=True)
class Latents:
    """The posteriors of one split.

    ``mean``, ``std`` and ``draw``, one draw from each posterior, are all (n, latent_dim); the
    labels ``y`` are (n,) or (n, attributes). Without a posterior ``std`` is zero and ``draw``
    equals ``mean``.
    """

    mean: Tensor
    std: Tensor
    draw: Tensor
    y: Tensor

    def joined(self, other: Latents) -> Latents:
        """The latents of two splits as those of one."""
        pairs = zip(vars(self).values(), vars(other).values())
        return Latents(*map(torch.cat, pairs))

    def samplers(self, kind: str, components: int, seed: int) -> dict[str, Sampler]:
        """Return the ways to draw others like these that need no plugin, by name.

        If there are posteriors, their prior is among the ways.

        Args:
            kind: what the classes are called, e.g. "class".
            components: Gaussians in each class' mixture; 0: no mixtures.
            seed: of the mixtures' fit.
        """
        samplers: dict[str, Sampler] = {}
        if self.std.any():
            samplers["unconditional"] = self._prior
        samplers[f"{kind} Gaussians"] = ClassMixtures(self.draw, self.y, 1).sample
        if components:
            mixtures = ClassMixtures(self.draw, self.y, components, seed=seed)
            samplers[f"{kind} mixtures"] = mixtures.sample
        return samplers

    def _prior(self, y: Tensor, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(len(y), self.mean.shape[1], generator=generator)


class Encoded:
    """The three splits of a dataset as latents, each computed when it is first asked for.

    Args:
        encode: the latents of a split, by the split's name.
        key: digest of what the latents depend on.
    """

    def __init__(self, encode: Callable[[str], Latents], key: str):
        self._encode, self.key_ = encode, key

    train = cached_property[Latents](lambda self: self._encode("train"))
    validation = cached_property[Latents](lambda self: self._encode("validation"))
    test = cached_property[Latents](lambda self: self._encode("test"))


def encode(base: Any, split: Split, seed: int, batch_size: int = 1000) -> Latents:
    """Encode a split in batches, and draw once from each posterior by ``seed``."""
    means, stds = zip(*map(Frozen(base).posterior, split.x.split(batch_size)))
    mean = torch.cat(means)
    std = torch.zeros_like(mean) if stds[0] is None else torch.cat(stds)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed)).to(mean)
    return Latents(mean, std, mean + std * noise, split.y.to(mean.device))
