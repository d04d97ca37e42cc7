"""The latents of a dataset under a frozen base model, and simple ways to draw others like them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

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


@torch.no_grad()
def encode(base: Any, split: Split, seed: int, batch_size: int = 1000) -> Latents:
    """Encode a split in batches, and draw once from each posterior by ``seed``."""
    device = next(base.parameters()).device
    means, stds = [], []
    for x in split.x.split(batch_size):
        if hasattr(base, "posterior"):
            mean, std = base.posterior(x.to(device))
        else:
            mean = base.encode(x.to(device))
            std = torch.zeros_like(mean)
        means.append(mean)
        stds.append(std)
    mean, std = torch.cat(means), torch.cat(stds)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed)).to(mean)
    return Latents(mean, std, mean + std * noise, split.y.to(device))


def join(first: Latents, second: Latents) -> Latents:
    """Return the latents of two splits as those of one."""
    pairs = zip(vars(first).values(), vars(second).values())
    return Latents(*map(torch.cat, pairs))


def latent_samplers(train: Latents, kind: str, components: int, seed: int) -> dict[str, Sampler]:
    """Return the ways to draw latents that need no plugin, by name.

    Args:
        train: training latents. If they have posteriors, their prior is among the ways.
        kind: what the classes are called, e.g. "class".
        components: Gaussians in each class' mixture; 0: no mixtures.
        seed: of the mixtures' fit.
    """
    samplers: dict[str, Sampler] = {}

    def prior(y: Tensor, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(len(y), train.mean.shape[1], generator=generator)

    if train.std.any():
        samplers["unconditional"] = prior
    samplers[f"{kind} Gaussians"] = ClassMixtures(train.draw, train.y, 1).sample
    if components:
        mixtures = ClassMixtures(train.draw, train.y, components, seed=seed)
        samplers[f"{kind} mixtures"] = mixtures.sample
    return samplers
