"""A stack of masked autoregressive layers that does one pass's work in either direction, exactly.

A layer turns x into u, u_i = s_i x_i + m_i, where a network gives s_i and m_i from x_1 … x_{i-1}; nflows inverts it by
running the whole network D times, each time to learn one more x_i. But the network is masked: each hidden unit has a
degree d and sees, directly or through other units, only x_1 … x_d, and all its hidden layers share one set of degrees.

1. A unit of degree d is final as soon as x_1 … x_d are known; it never changes afterwards.
2. s_i and m_i need just the units of degree below i.
3. So once x_i is found, only the units of degree i are computed, in every layer, from units that are known already;
   then s_{i+1} and m_{i+1} from them; then x_{i+1} = (u_{i+1} - m_{i+1}) / s_{i+1}.

Each unit is computed once: the work of one forward pass, of which the masks cut off half, and nothing is approximated;
only the order of sums differs. With units sorted by degree "those known already" are a range, so the same sorting lets
the forward pass and the gradients skip the masked half. In eval mode batch norms are affine maps and fold into their
neighbours, permutations into the order of the rows, and the context's part is added up before the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from nflows.transforms import BatchNorm, MaskedAffineAutoregressiveTransform
from nflows.transforms.permutations import Permutation
from torch import Tensor

from fpnlib.flows.incremental import Incremental
from fpnlib.flows.packed import pack, packable
from fpnlib.flows.stack import Layer, Stack, add_norm

WIDE = 640  # hidden units from which on large matrix products outrun the kernels


class AutoregressiveStack(Stack):
    """Permutations, masked affine autoregressive transforms and batch norms."""

    inverts_in_torch = True

    def _layers(self) -> list[Layer] | None:
        layers, order, widths = [], None, set()
        for transform in self._transforms:
            if isinstance(transform, Permutation) and transform._dim == 1:
                order = transform._permutation if order is None else order[transform._permutation]
            elif isinstance(transform, MaskedAffineAutoregressiveTransform) and packable(transform):
                made = transform.autoregressive_net
                widths.add((*made.initial_layer.weight.shape, len(made.blocks)))
                if order is None:
                    order = torch.arange(transform.features, device=made.initial_layer.weight.device)
                layers.append(Layer(transform, order))
                order = None
            elif not isinstance(transform, BatchNorm) or order is not None or not add_norm(layers, transform):
                return None
        return layers if order is None and len(widths) == 1 else None

    def _make(self, layers: list[Layer], compiles: bool) -> tuple[Any, Tensor]:
        packed = [pack(layer.transform, layer.order, layer.norm) for layer in layers]
        constant = sum(net.gain.log().sum() for net, _ in packed)
        if not compiles:
            return Incremental(packed), constant
        if _is_wide(layers):
            from fpnlib.flows.wide_engine import WideEngine as Engine
        else:
            from fpnlib.flows.engine import Engine
        return Engine(packed), constant

    def _trainer(self, layers: list[Layer], inputs: Tensor, context: Tensor) -> Callable:
        if _is_wide(layers) and self._compiles(layers, inputs, context, precisions=(torch.float32, torch.float64)):
            from fpnlib.flows.triangular import noise_and_log_det
        elif self._compiles(layers, inputs, context):
            from fpnlib.flows.gradients import noise_and_log_det
        else:
            return super()._trainer(layers, inputs, context)
        return partial(noise_and_log_det, layers=[(layer.order, layer.transform) for layer in layers])


def _is_wide(layers: list[Layer]) -> bool:
    return len(layers[0].transform.autoregressive_net.initial_layer.weight) >= WIDE
