"""PointFlow's networks: the encoder of sets, and the field that moves points.

The encoder takes the maximum over the features of a cloud's points (Qi et al. 2017, PointNet).

The field's divergence (Yang et al. 2019, section 4) is pushed forward beside the points. With J the
field's Jacobian, one more pass through the layers gives J v, without a graph. A random v gives
Hutchinson's estimate vᵀ J v; the three unit vectors give the trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

DIMENSIONS = 3
HEAD_WIDTHS = (256, 128)  # between a cloud's features and its latent, as in PointFlow
START_TIME = 0.5  # PointFlow's T before training
GAIN = 3.0  # of the first weights, because the gates halve what passes

# What a layer's gate and bias take from z, and their weights for the time.
LayerContext = tuple[Tensor, Tensor, Tensor, Tensor]


class PointEncoder(nn.Module):
    """Clouds (n, points, 3) to latents (n, latent_dim), for any order and number of points.

    Args:
        latent_dim: width of the latents.
        widths: of a point's features; 128, 128, 256, 512 in PointFlow.
        stochastic: whether a second head gives the logarithm of the posterior's variance.
    """

    def __init__(self, latent_dim: int, widths: Sequence[int], stochastic: bool):
        super().__init__()
        self.points = nn.Sequential(*_layers((3, *widths))[:-1])  # no ReLU before the maximum
        self.mean = _head(widths[-1], latent_dim)
        self.log_variance = _head(widths[-1], latent_dim) if stochastic else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (n, latent_dim) and standard deviation; the latter 0 (1,) without a second head."""
        features = self.points(x.flatten(0, 1)).unflatten(0, x.shape[:2]).amax(1)
        mean = self.mean(features)
        if self.log_variance is None:
            return mean, mean.new_zeros(1)
        return mean, torch.exp(0.5 * self.log_variance(features))


class ConcatSquash(nn.Module):
    """(W x + b) · sigmoid(gate(t, z)) + bias(t, z): time and latent scale and shift each unit."""

    def __init__(self, inputs: int, outputs: int, latent_dim: int):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.gate = nn.Linear(1 + latent_dim, outputs)
        self.bias = nn.Linear(1 + latent_dim, outputs, bias=False)

    def context(self, z: Tensor) -> LayerContext:
        """Everything that depends on z (n, latent_dim), computed once for a whole solve."""
        gate_t, gate_z = self.gate.weight.split([1, z.shape[1]], 1)
        bias_t, bias_z = self.bias.weight.split([1, z.shape[1]], 1)
        return z @ gate_z.T + self.gate.bias, gate_t[:, 0], z @ bias_z.T, bias_t[:, 0]


class Field(nn.Module):
    """dx/ds = T · f(x, sT, z), with s from 0 (the shape) to 1 (the noise) and a learned end time T.

    Args:
        hidden: widths of the hidden layers.
        latent_dim: width of z.
    """

    def __init__(self, hidden: Sequence[int], latent_dim: int):
        super().__init__()
        widths = (DIMENSIONS, *hidden, DIMENSIONS)
        layers = [ConcatSquash(*pair, latent_dim) for pair in zip(widths, widths[1:])]
        with torch.no_grad():
            for layer in layers[:-1]:
                layer.linear.weight.mul_(GAIN)
        self.layers: Any = nn.ModuleList(layers)
        self.sqrt_end_time = nn.Parameter(torch.tensor(START_TIME).sqrt())

    @property
    def end_time(self) -> Tensor:
        """T > 0, a scalar."""
        return self.sqrt_end_time**2

    def context(self, z: Tensor, ndim: int = 3) -> list[LayerContext]:
        """The layers' contexts of z (n, latent_dim), for points (n, …, 3) of so many dimensions."""
        shape = (-1, *(1,) * (ndim - 2))
        contexts = []
        for layer in self.layers:
            gate, gate_t, bias, bias_t = layer.context(z)
            contexts.append((gate.unflatten(0, shape), gate_t, bias.unflatten(0, shape), bias_t))
        return contexts

    def velocity(self, s: Tensor, x: Tensor, context: list[LayerContext]) -> Tensor:
        """dx/ds, of the shape of x (n, …, 3); s is a scalar or broadcasts against x."""
        return self._push(s, x, None, context)[0]

    def with_divergence(
        self, s: Tensor, x: Tensor, probe: Tensor | None, context: list[LayerContext]
    ) -> tuple[Tensor, Tensor]:
        """dx/ds (n, points, 3) and its divergence (n, points, 1).

        Args:
            s: scalar.
            x: points (n, points, 3).
            probe: like x, for Hutchinson's estimate; None: the exact divergence.
            context: of the latents.
        """
        if probe is not None:
            dx, pushed = self._push(s, x, probe[None], context)
            return dx, (probe * pushed[0]).sum(-1, keepdim=True)
        unit = torch.eye(DIMENSIONS, dtype=x.dtype, device=x.device)
        dx, pushed = self._push(s, x, unit[:, None, None].expand(-1, *x.shape), context)
        return dx, torch.einsum("i...i->...", pushed).unsqueeze(-1)

    def _push(
        self, s: Tensor, x: Tensor, tangents: Tensor | None, contexts: list[LayerContext]
    ) -> tuple[Tensor, Tensor]:
        """dx/ds, and the Jacobian's products with ``tangents`` (k, n, points, 3); None: of none."""
        time, last = s * self.end_time, len(self.layers) - 1
        graph = torch.is_grad_enabled()
        pushed = x.new_zeros(0, *x.shape) if tangents is None else tangents
        for depth, (layer, context) in enumerate(zip(self.layers, contexts)):
            gate = torch.sigmoid(context[0] + time * context[1])
            bias = context[2] + time * context[3]
            linear = layer.linear(x)
            x = torch.addcmul(bias, linear, gate, out=None if graph else linear)
            if tangents is not None:
                pushed = pushed @ layer.linear.weight.T * gate
            if depth < last:
                x = torch.tanh(x) if graph else x.tanh_()  # in place: half the memory's traffic
                if tangents is not None:
                    pushed = pushed * (1 - x * x)
        return self.end_time * x, self.end_time * pushed


def _head(features: int, latent_dim: int) -> nn.Sequential:
    widths = (features, *HEAD_WIDTHS)
    return nn.Sequential(*_layers(widths), nn.Linear(widths[-1], latent_dim))


def _layers(widths: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, outputs in zip(widths, widths[1:]):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    return layers
