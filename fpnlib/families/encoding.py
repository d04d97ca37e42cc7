"""The latents of a dataset under a frozen base model, and simple ways to draw others like them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Self

import torch
from torch import Tensor

from fpnlib.base_models.frozen import Frozen
from fpnlib.data import Split
from fpnlib.plugin import FlowPlugin
from fpnlib.rivals import POOLED, ClassGaussians, ClassMixtures, likeliest

Sampler = Callable[..., Tensor]
"""A way to draw latents: (labels (n,), seed, confidence=…) -> latents (n, latent_dim)."""


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


def simple_samplers(latents: Encoded, kind: str, components: int, seed: int) -> dict[str, Sampler]:
    """Return the ways to draw latents of classes that need no plugin, by name.

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


def sampler(plugin: FlowPlugin) -> Sampler:
    """Return a plugin as a way to draw latents."""
    return lambda y, seed, **settings: plugin.sample(y, seed=seed, **settings)


def prior_sampler(latents: Encoded) -> dict[str, Sampler]:
    """Return the posteriors' prior as a way to draw latents, or nothing if there are none."""
    width = latents.train.mean.shape[1]

    def draw(y: Tensor, seed: int) -> Tensor:
        return torch.randn(len(y), width, generator=torch.Generator().manual_seed(seed))

    return {"unconditional": draw} if latents.train.std.any() else {}


def drawn_again(samplers: Mapping[str, Sampler], confidence: float) -> dict[str, Sampler]:
    """Return the ways to draw latents, with what they do not read as asked drawn again.

    Args:
        samplers: by name.
        confidence: probability with which latents must be read as asked; 0: return nothing.
    """
    again: dict[str, Sampler] = {}
    for name, sample in samplers.items():
        if confidence:
            again[f"{name}, drawn again"] = partial(sample, confidence=confidence)
    return again
