"""The forward direction with gradients, in plain torch and with fewer passes over memory.

nflows computes scales and shifts as interleaved columns, which torch's softplus reads one number
at a time; here they are two products. The context's part begins each sum, and a product adds the
residual itself.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, relu, softplus

from fpnlib.flows.engine.weights import EPSILON, Layer


def forward_with_gradients(
    layers: list[Layer], data: Tensor, context: Tensor
) -> tuple[Tensor, Tensor]:
    """Return (noise (n, D), log|det| (n,)) of data (n, D) under contexts (n, C).

    The layers must not have batch norms. Dropout is at work if the layers are in training mode.
    """
    log_det = data.new_zeros(len(data))
    for layer in layers:
        data = data.index_select(1, layer.order.to(data.device))
        scale, shift = _scale_and_shift(layer.transform.autoregressive_net, data, context)
        data = torch.addcmul(shift, scale, data)
        log_det = log_det + scale.log().sum(1)
    return data, log_det


def _scale_and_shift(made: Any, data: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    initial, final = made.initial_layer, made.final_layer
    hidden = linear(data, initial.weight * initial.mask, initial.bias)
    hidden.add_(relu(made.context_layer(context)))
    for block in made.blocks:
        _add_block(block, hidden, context)
    weight, bias = final.weight * final.mask, final.bias
    scale = softplus(linear(hidden, weight[::2], bias[::2])) + EPSILON
    return scale, linear(hidden, weight[1::2], bias[1::2])


def _add_block(block: Any, hidden: Tensor, context: Tensor) -> None:
    """Add a residual block's outputs to its inputs, in place."""
    inner, outer = block.linear_layers
    inside = linear(context, block.context_layer.weight, block.context_layer.bias + inner.bias)
    inside.addmm_(relu(hidden), (inner.weight * inner.mask).T).relu_()
    inside = block.dropout(inside)
    hidden.addmm_(inside, (outer.weight * outer.mask).T).add_(outer.bias)
