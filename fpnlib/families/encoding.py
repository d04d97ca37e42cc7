"""The latents of a dataset under a frozen base model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from fpnlib.data import Split
from fpnlib.store import Cache, Key

SPLITS = ("train", "validation", "test")


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

    @cached_property
    def train(self) -> Latents:
        """The training split."""
        return self._encode("train")

    @cached_property
    def validation(self) -> Latents:
        """The validation split."""
        return self._encode("validation")

    @cached_property
    def test(self) -> Latents:
        """The test split."""
        return self._encode("test")


@torch.no_grad()
def encode(base: nn.Module, split: Split, seed: int, batch_size: int = 1000) -> Latents:
    """Encode a split in batches, and draw once from each posterior by ``seed``."""
    device = next(base.parameters()).device
    parts = [_posterior(base, x.to(device)) for x in split.x.split(batch_size)]
    mean = torch.cat([mean for mean, _ in parts])
    std = torch.cat([std for _, std in parts])
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed)).to(mean)
    return Latents(mean, std, mean + std * noise, split.y.to(device))


def keep_means(
    cache: Cache, name: str, key: Key, encode_split: Callable[[str], Latents]
) -> Callable[[str], Latents]:
    """Return a source of latents that keeps the posterior means of all splits in one file."""

    def make() -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for split in SPLITS:
            latents = encode_split(split)
            tensors |= {f"{split}.mean": latents.mean, f"{split}.y": latents.y}
        return tensors

    def load(split: str) -> Latents:
        tensors = cache.tensors(name, key, make)
        mean, y = (tensors[f"{split}.{part}"].to(cache.device) for part in ("mean", "y"))
        return Latents(mean, torch.zeros_like(mean), mean, y)

    return load


def concatenate(latents: Iterable[Latents]) -> Latents:
    """Join the latents of several splits, one behind the other."""
    fields = zip(*((part.mean, part.std, part.draw, part.y) for part in latents), strict=True)
    return Latents(*(torch.cat(tensors) for tensors in fields))


def _posterior(base: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    if hasattr(base, "posterior"):
        return base.posterior(x)
    z = base.encode(x)
    return z, torch.zeros_like(z)
