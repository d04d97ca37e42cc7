"""Ways to draw latents for labels: (labels (n,), seed) -> latents (n, latent_dim)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fpnlib.baselines import ClassMixtures
from fpnlib.families.encoding import Latents
from fpnlib.plugin import FlowPlugin

Sampler = Callable[[Tensor, int], Tensor]


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


def plugin_sampler(plugin: FlowPlugin) -> Sampler:
    """Return a plugin's way to draw latents."""
    return lambda y, seed: plugin.sample(y, seed=seed)
