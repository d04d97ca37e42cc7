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

from fpnlib.flows.autoregressive_weights import pack, packable
from fpnlib.flows.compiled import compiled
from fpnlib.flows.incremental import Incremental
from fpnlib.flows.stack import Layer, Stack, add_norm

WIDE = 640  # hidden units from which on large matrix products outrun the kernels
WIDE_STEP = (
    WIDE if torch.backends.cpu.get_cpu_capability() == "AVX512" else 448
)  # the same for a step of training


class AutoregressiveStack(Stack):
    """Permutations, masked affine autoregressive transforms and batch norms."""

    def _layers(self) -> list[Layer] | None:
        layers, order = [], None
        for transform in self._transforms:
            if isinstance(transform, Permutation) and transform._dim == 1:
                order = transform._permutation if order is None else order[transform._permutation]
            elif isinstance(transform, MaskedAffineAutoregressiveTransform) and packable(transform):
                made = transform.autoregressive_net
                if order is None:
                    order = torch.arange(
                        transform.features, device=made.initial_layer.weight.device
                    )
                layers.append(Layer(transform, made, order))
                order = None
            elif (
                not isinstance(transform, BatchNorm)
                or order is not None
                or not add_norm(layers, transform)
            ):
                return None
        return layers if order is None and len({layer.widths for layer in layers}) == 1 else None

    def _pack(self, layer: Layer) -> tuple[Any, Any]:
        return pack(layer.transform, layer.order, layer.norm)

    def _kernels(self, layers: list[Layer]) -> tuple[str, str]:
        if layers[0].widths.units >= WIDE:
            return "wide_engine", "WideEngine"
        return "autoregressive_engine", "AutoregressiveEngine"

    def _incremental(self, inputs: Tensor) -> Callable:
        on_gpu = compiled("incremental_gpu") if inputs.device.type == "cuda" else None
        return Incremental if on_gpu is None else on_gpu.IncrementalGPU

    def _trainer(self, layers: list[Layer], inputs: Tensor, context: Tensor) -> Callable | None:
        if layers[0].widths.units >= WIDE_STEP:
            fits, name = (
                self._fits(inputs, context, precisions=(torch.float32, torch.float64)),
                "triangular",
            )
        else:
            fits, name = self._fits(inputs, context), "gradients"
        module = compiled(name) if fits else None
        return module and partial(
            module.noise_and_log_det, layers=[(layer.order, layer.transform) for layer in layers]
        )
