"""Two lamps as bright as their attributes: a network whose pictures are known without training."""

from types import SimpleNamespace

import torch

from fpnlib.conditions import Attributes


class Lamps:
    """A base model whose latents are the lamps' brightness, and a plugin without noise."""

    loc_ = torch.zeros(2)

    def __init__(self, exclusive=()):
        self.condition = Attributes(["left_lit", "right_lit"], exclusive)

    def encode(self, x):
        return torch.stack([x[:, 0, :, :8].mean((1, 2)), x[:, 0, :, 8:].mean((1, 2))], 1)

    def decode(self, z):
        return z[:, None, None, :].repeat_interleave(8, 3).expand(-1, 3, 16, 16).clamp(0, 1)

    def to_noise(self, z, y):
        return torch.zeros_like(z)

    def from_noise(self, u, context):
        return u + 0.2 + 0.6 * context


def lamps(exclusive=()):
    """Network, faces and attributes for ``AttributeEditor``; ``exclusive`` as in ``Attributes``."""
    both, y = Lamps(exclusive), torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    network = SimpleNamespace(plugin=both, encode=both.encode, decode=both.decode)
    network.classify = lambda x: (both.encode(x) > 0.5).float()
    return network, both.decode(both.from_noise(0, y)), y
