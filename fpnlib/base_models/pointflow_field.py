"""The field that moves points (Yang et al. 2019, section 4): a small network of *concatsquash* layers, and its divergence.

The divergence is pushed forward beside the points: with J the field's Jacobian, the product Jv follows from the layers in
one more pass, without a graph. One random v gives Hutchinson's estimate vᵀJv, the three unit vectors give the trace.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

DIMENSIONS = 3
START_TIME = 0.5  # PointFlow's T before training
GAIN = 3.0  # of the first weights: the gates halve what passes, and a field that is nearly linear learns slowly


class ConcatSquash(nn.Module):
    """(Wx + b) · sigmoid(gate(t, z)) + bias(t, z): time and latent squash and shift each unit, alike for all points."""

    def __init__(self, inputs: int, outputs: int, latent_dim: int):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.gate = nn.Linear(1 + latent_dim, outputs)
        self.bias = nn.Linear(1 + latent_dim, outputs, bias=False)

    def context(self, z: Tensor) -> tuple[Tensor, ...]:
        """What gate and bias owe to z (n, latent_dim), worked out once for a whole solve, and their weights for t."""
        (gate_t, gate_z), (bias_t, bias_z) = (
            part.weight.split([1, z.shape[1]], 1) for part in (self.gate, self.bias)
        )
        return z @ gate_z.T + self.gate.bias, gate_t[:, 0], z @ bias_z.T, bias_t[:, 0]


class Field(nn.Module):
    """dx/ds = T · f(x, sT, z) for points x, with s from 0 (the shape) to 1 (the noise) and a learned end time T.

    Args:
        hidden: widths of the hidden layers.
        latent_dim: width of z.
    """

    def __init__(self, hidden: Sequence[int], latent_dim: int):
        super().__init__()
        widths = (DIMENSIONS, *hidden, DIMENSIONS)
        self.layers = nn.ModuleList(
            ConcatSquash(*pair, latent_dim) for pair in zip(widths, widths[1:])
        )
        with torch.no_grad():
            for layer in self.layers[:-1]:
                layer.linear.weight.mul_(GAIN)
        self.sqrt_end_time = nn.Parameter(torch.tensor(START_TIME).sqrt())

    @property
    def end_time(self) -> Tensor:
        """T > 0, a scalar."""
        return self.sqrt_end_time**2

    def context(self, z: Tensor, ndim: int = 3) -> list[tuple[Tensor, ...]]:
        """What the layers need to know of z (n, latent_dim), shaped to meet points of ``ndim`` dimensions (n, …, 3)."""
        ones = (1,) * (ndim - 2)
        return [
            (gate.unflatten(0, (-1, *ones)), gate_t, bias.unflatten(0, (-1, *ones)), bias_t)
            for gate, gate_t, bias, bias_t in (layer.context(z) for layer in self.layers)
        ]

    def velocity(self, s: Tensor, x: Tensor, context: list[tuple[Tensor, ...]]) -> Tensor:
        """dx/ds, of the shape of x (n, …, 3); s is a scalar or broadcasts against x."""
        return self._push(s, x, None, context)[0]

    def with_divergence(
        self, s: Tensor, x: Tensor, probe: Tensor | None, context: list[tuple[Tensor, ...]]
    ) -> tuple[Tensor, Tensor]:
        """dx/ds (n, points, 3) and its divergence (n, points, 1): Hutchinson's with a ``probe`` like x, exact without."""
        if probe is not None:
            dx, pushed = self._push(s, x, probe[None], context)
            return dx, (probe * pushed[0]).sum(-1, keepdim=True)
        unit = torch.eye(DIMENSIONS, dtype=x.dtype, device=x.device)
        dx, pushed = self._push(s, x, unit[:, None, None].expand(-1, *x.shape), context)
        return dx, torch.einsum("i...i->...", pushed).unsqueeze(-1)

    def _push(self, s, x, tangents, context) -> tuple[Tensor, Tensor | None]:
        """dx/ds, and the Jacobian's products with ``tangents`` (k, n, points, 3)."""
        time = s * self.end_time
        last = len(self.layers) - 1
        for depth, (layer, (gate, gate_t, bias, bias_t)) in enumerate(zip(self.layers, context)):
            gate, bias = torch.sigmoid(gate + time * gate_t), bias + time * bias_t
            linear = layer.linear(x)
            x = torch.addcmul(bias, linear, gate, out=None if torch.is_grad_enabled() else linear)
            if tangents is not None:
                tangents = tangents @ layer.linear.weight.T * gate
            if depth < last:
                x = (
                    torch.tanh(x) if torch.is_grad_enabled() else x.tanh_()
                )  # in place: half the memory's traffic
                if tangents is not None:
                    tangents = tangents * (1 - x * x)
        return self.end_time * x, None if tangents is None else self.end_time * tangents
