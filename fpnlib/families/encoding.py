"""The latents of a dataset under a frozen base model, and simple ways to draw others like them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Self

import torch
from torch import Tensor

from fpnlib.base_models.frozen import Frozen
from fpnlib.data import Split
from fpnlib.rivals import POOLED, ClassGaussians, ClassMixtures, likeliest

Sampler = Callable[..., Tensor]
"""A way to draw latents: (labels (n,), seed=…, confidence=…, …) -> latents (n, latent_dim)."""


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

    def joined(self, other: Self) -> Self:
        """The latents of two splits as those of one."""
        pairs = zip(vars(self).values(), vars(other).values())
        return type(self)(*map(torch.cat, pairs))


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


def gaussian_samplers(
    latents: Encoded, kind: str, components: int, seed: int
) -> dict[str, Sampler]:
    """Return Gaussians and mixtures as ways to draw latents of classes, by name.

    Validation latents choose the pooled share of the covariances, and the number of Gaussians in
    the mixtures.

    Args:
        latents: of the three splits.
        kind: what the classes are called, e.g. "class".
        components: at most so many Gaussians in each class' mixture; 0: no mixtures.
        seed: of the mixtures' fit.
    """
    train, held_out = latents.train, (latents.validation.draw, latents.validation.y)
    samplers: dict[str, Sampler] = {}
    gaussians = partial(ClassGaussians, train.draw, train.y)
    share, pooled = likeliest(gaussians, POOLED, *held_out)
    samplers[f"{kind} Gaussians"] = gaussians().sample
    samplers[f"{kind} Gaussians, pooled"] = pooled.sample
    chosen = f"chosen on validation: {share:.0%} of the covariances pooled"
    if components:
        most = min(components, int(train.y.bincount().min()))
        options = [2**power for power in range(most.bit_length())]
        mixtures = partial(ClassMixtures, train.draw, train.y, seed=seed)
        count, mixture = likeliest(mixtures, options, *held_out)
        samplers[f"{kind} mixtures"] = mixture.sample
        chosen += f", mixtures of {count}"
    print(chosen)
    return samplers
