"""The weights of nflows' masked autoregressive layers, with hidden units sorted by degree.

A hidden unit of degree d sees the inputs 0 … d-1, directly or through other units. nflows enforces
this by masks. After sorting by degree every mask is a prefix: row r of a weight matrix is zero from
some column ``stops[r]`` on. In eval mode, batch norms are affine maps. Those inside the network
fold into their neighbours; one after a layer becomes its ``gain`` and ``offset``. The biases that a
network adds to its residual stream fold into what reads the stream.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from nflows.transforms import BatchNorm, MaskedAffineAutoregressiveTransform
from nflows.transforms.made import MADE, MaskedResidualBlock
from nflows.transforms.permutations import Permutation
from torch import Tensor
from torch.nn.functional import relu

EPSILON = 1e-3  # nflows adds this to every scale


class Layer(NamedTuple):
    """A masked affine autoregressive transform, with what stands around it.

    ``order[i]`` is the feature of the data that the transform takes as its input i. ``norm`` is the
    batch norm of its outputs, or None.
    """

    transform: Any
    order: Tensor
    norm: Any


class Weights(NamedTuple):
    """T layers of B blocks with H hidden units, D features and C context features.

    The fields are tensors for the torch path and NumPy arrays for the numba path.
    """

    order: Tensor  # (T, D)
    known: Tensor  # (D + 1,): the units of degree i are known[i] … known[i + 1]
    input_stops: Tensor  # (H,): how many inputs each unit sees
    unit_stops: Tensor  # (H,): how many units of the same or a lower degree there are
    output_stops: Tensor  # (2 D,): how many units each output sees
    initial: Tensor  # (T, H, D)
    inner: Tensor  # (T·B, H, H), block b of layer t at t·B + b
    inner_bias: Tensor  # (T·B, H)
    outer: Tensor  # (T·B, H, H), the second
    final: Tensor  # (T, 2 D, H), rows: scale 0, shift 0, scale 1, …
    final_bias: Tensor  # (T, 2 D), with the stream's bias
    block_gain: Tensor  # (T·B, H), the batch norm at the head of each block
    block_offset: Tensor  # (T·B, H), with the stream's bias
    first_context: Tensor  # (T, H, C), the context's part of the initial layer, for a relu
    first_context_bias: Tensor  # (T, H)
    context: Tensor  # (T·B, H, C), the context's part of each block's inner layer
    gain: Tensor  # (T, D), the batch norm after each layer
    offset: Tensor  # (T, D)


def find_layers(transforms: Iterable[Any]) -> list[Layer] | None:
    """Return the layers of a flow, or None if it holds anything that the engine does not know.

    The engine knows permutations, masked affine autoregressive transforms of equal widths whose
    networks are residual, take a context and use relu, and a batch norm after such a transform.
    """
    layers: list[Layer] = []
    order = None
    for transform in transforms:
        if isinstance(transform, Permutation) and transform._dim == 1:
            permutation = transform._permutation
            order = permutation if order is None else order[permutation]
        elif _is_known(transform):
            if order is None:
                order = torch.arange(transform.features)
            layers.append(Layer(transform, order, None))
            order = None
        elif type(transform) is BatchNorm and order is None and layers and layers[-1].norm is None:
            layers[-1] = layers[-1]._replace(norm=transform)
        else:
            return None
    widths = {_widths(layer.transform) for layer in layers}
    return layers if order is None and len(widths) == 1 else None


def _is_known(transform: Any) -> bool:
    if type(transform) is not MaskedAffineAutoregressiveTransform:
        return False
    made = transform.autoregressive_net
    return (
        type(made) is MADE
        and made.activation is relu
        and hasattr(made, "context_layer")
        and len(made.blocks) > 0
        and all(type(block) is MaskedResidualBlock for block in made.blocks)
    )


def _widths(transform: Any) -> tuple[int, int, int, int]:
    made = transform.autoregressive_net
    context_layer = made.context_layer
    return (
        transform.features,
        context_layer.in_features,
        context_layer.out_features,
        len(made.blocks),
    )


@torch.no_grad()
def pack(layers: list[Layer]) -> Weights:
    """Gather the weights of all layers as they are in eval mode, contiguous, on their device."""
    made = layers[0].transform.autoregressive_net
    degrees, sort = made.initial_layer.degrees.sort(stable=True)
    features = len(made.final_layer.weight) // 2
    known = torch.searchsorted(degrees, torch.arange(features + 1, device=degrees.device))
    fields: dict[str, list[Tensor]] = {}
    for layer in layers:
        for part in _fields_of(layer, sort):
            for name, tensor in part.items():
                fields.setdefault(name, []).append(tensor)
    return Weights(
        known=known,
        input_stops=degrees,
        unit_stops=known[degrees + 1],
        output_stops=known[1:].repeat_interleave(2),
        **{name: torch.stack(tensors).contiguous() for name, tensors in fields.items()},
    )


def _fields_of(layer: Layer, sort: Tensor) -> Iterator[dict[str, Tensor]]:
    """Yield the fields of ``Weights`` of each residual block, then those of the layer itself."""
    made = layer.transform.autoregressive_net
    initial, final = made.initial_layer, made.final_layer
    bias = initial.bias  # of the stream, as far as it has come
    for block in made.blocks:
        yield _block_fields(block, sort, bias)
        bias = bias + block.linear_layers[1].bias
    final_weight = final.weight * final.mask
    gain, offset = _affine(layer.norm, final.bias[::2])
    yield {
        "order": layer.order.to(sort.device),
        "initial": (initial.weight * initial.mask)[sort],
        "final": final_weight[:, sort],
        "final_bias": final.bias + final_weight @ bias,
        "first_context": made.context_layer.weight[sort],
        "first_context_bias": made.context_layer.bias[sort],
        "gain": gain,
        "offset": offset,
    }


def _block_fields(block: Any, sort: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """What a residual block adds to the fields of ``Weights``, if the stream lacks its ``bias``."""
    inner, outer = block.linear_layers
    first_norm, second_norm = block.batch_norm_layers if block.use_batch_norm else (None, None)
    block_gain, block_offset = _affine(first_norm, inner.bias)
    gain, offset = _affine(second_norm, inner.bias)
    inner_weight = inner.weight * inner.mask * gain[:, None]
    inner_bias = (inner.bias + block.context_layer.bias) * gain + offset
    context = block.context_layer.weight * gain[:, None]
    return {
        "inner": inner_weight[sort][:, sort],
        "inner_bias": inner_bias[sort],
        "outer": (outer.weight * outer.mask)[sort][:, sort],
        "block_gain": block_gain[sort],
        "block_offset": (block_offset + block_gain * bias)[sort],
        "context": context[sort],
    }


def _affine(norm: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return (gain, offset) of a batch norm in eval mode; of the identity for None."""
    if norm is None:
        return torch.ones_like(like), torch.zeros_like(like)
    gain = norm.weight / (norm.running_var + norm.eps).sqrt()
    return gain, norm.bias - gain * norm.running_mean
