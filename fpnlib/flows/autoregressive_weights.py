"""The weights of a masked autoregressive layer with its units sorted by degree, so that its masks become ranges.

``Layout`` is what follows from the widths alone; ``pack`` gathers a layer's weights and folds what is constant in eval
mode: the masks, the batch norms (inside the network and after the layer) and the permutation before it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from nflows.transforms import BatchNorm, MaskedAffineAutoregressiveTransform
from nflows.transforms.made import MADE, MaskedResidualBlock
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import relu


class Layout(NamedTuple):
    """What the widths decide: D inputs of degrees 1 … D, H hidden units, an output i for each input i."""

    sort: Tensor  # (H,) hidden units by degree
    known: Tensor  # (D + 1,) known[i]: how many units have a degree below i; output i sees the first known[i + 1]
    input_mask: Tensor  # (H, D)
    unit_mask: Tensor  # (H, H)
    output_mask: Tensor  # (2 D, H), rows scale 0, shift 0, scale 1, …
    forward: tuple[
        Tensor, ...
    ]  # start and stop of inputs (H,), units (H,), outputs (2 D,): ranges of the masks' rows
    backward: tuple[
        Tensor, ...
    ]  # the same of the transposed masks: outputs (H,), units (H,), inputs (D,)


@lru_cache(maxsize=32)
@torch.inference_mode(mode=False)  # what is kept must serve in training too
def layout(features: int, hidden_features: int) -> Layout:
    """The layout that nflows' MADE has for these widths."""
    top = max(1, features - 1)
    degrees = torch.arange(hidden_features) % top + min(1, features - 1)
    degree, sort = degrees.sort(stable=True)
    i = torch.arange(features)
    input_mask = degree[:, None] >= (i + 1)[None]
    unit_mask = degree[:, None] >= degree[None]
    output_mask = ((i + 1)[:, None] > degree[None]).repeat_interleave(2, 0)
    known = torch.searchsorted(degree, torch.arange(features + 1))
    forward = sum((_prefix(mask) for mask in (input_mask, unit_mask, output_mask)), ())
    backward = sum((_suffix(mask.T) for mask in (output_mask, unit_mask, input_mask)), ())
    masks = (mask.float() for mask in (input_mask, unit_mask, output_mask))
    return Layout(sort, known, *masks, forward, backward)


def _prefix(mask: Tensor) -> tuple[Tensor, Tensor]:
    """(start, stop) of the ones in each row of a mask whose rows begin with them."""
    count = mask.sum(1)
    return torch.zeros_like(count), count


def _suffix(mask: Tensor) -> tuple[Tensor, Tensor]:
    """(start, stop) of the ones in each row of a mask whose rows end with them."""
    count = mask.sum(1)
    return mask.shape[1] - count, torch.full_like(count, mask.shape[1])


# What the kernels take in one piece.
PARTS = (
    "initial",
    "inner",
    "outer",
    "outer_bias",
    "final",
    "final_bias",
    "scale",
    "shift",
    "gain",
    "offset",
)


class Net(NamedTuple):
    """A layer of B blocks, units sorted by degree."""

    order: Tensor  # (D,) which feature of the data is the network's input i
    known: Tensor
    initial: Tensor  # (H, D)
    initial_bias: Tensor  # (H,)
    inner: Tensor  # (B, H, H)
    inner_bias: Tensor  # (B, H)
    outer: Tensor  # (B, H, H)
    outer_bias: Tensor  # (B, H)
    final: Tensor  # (2 D, H)
    final_bias: Tensor  # (2 D,)
    scale: Tensor  # (B, H) with shift: what a batch norm at the head of each block does
    shift: Tensor
    gain: Tensor  # (D,) with offset: what a batch norm after the layer does to output i
    offset: Tensor
    ranges: tuple[
        Tensor, ...
    ]  # start and stop of the rows' inputs: initial (H,), inner and outer (H,), final (2 D,)

    def plan(self) -> Tensor:
        """The order, the units known and the ranges, in one piece."""
        return torch.cat([self.order, self.known, *self.ranges])

    def flat(self) -> tuple[Tensor, Tensor, Tensor]:
        """The kernels' memory: weights, plan and biases, each in one piece."""
        return (
            torch.cat([getattr(self, name).flatten() for name in PARTS]),
            self.plan(),
            torch.cat([self.initial_bias[None], self.inner_bias]),
        )

    def within(self, weights: Tensor) -> Net:
        """The same net, its parts being those of its flat ``weights``."""
        own = [getattr(self, name) for name in PARTS]
        parts = weights.split([part.numel() for part in own])
        return self._replace(
            **{k: part.view_as(like) for k, part, like in zip(PARTS, parts, own, strict=True)}
        )


class Context(NamedTuple):
    """What a layer makes of the context: (1 + B, H, C) weights and (H,) the first one's bias."""

    weight: Tensor
    bias: Tensor

    def of(self, context: Tensor, out: Tensor | None = None) -> Tensor:
        """(1 + B, H, n) to be added to the initial layer and to each block's inner one."""
        added = torch.matmul(self.weight, context.T, out=out)
        added[0].add_(self.bias[:, None]).relu_()
        return added

    def flat(self) -> Tensor:
        """((1 + B)·H, C + 1), the kernels' memory: the weights, then the bias of the first H, which are for a relu."""
        bias = self.weight.new_zeros(self.weight.shape[:2])
        bias[0] = self.bias
        return torch.cat([self.weight, bias[..., None]], 2).flatten(0, 1)


def packable(transform: MaskedAffineAutoregressiveTransform) -> bool:
    """Whether this is the network that is known here: residual blocks, relu, a context."""
    net = transform.autoregressive_net
    return (
        type(transform) is MaskedAffineAutoregressiveTransform
        and type(net) is MADE
        and net.activation is relu
        and hasattr(net, "context_layer")
        and len(net.blocks) > 0
        and all(
            type(block) is MaskedResidualBlock and block.activation is relu for block in net.blocks
        )
    )


def weights_and_biases(transform: MaskedAffineAutoregressiveTransform) -> list[Parameter]:
    """The weights, then the biases, of the initial layer, each block's inner and outer one, the final and the contexts'."""
    made = transform.autoregressive_net
    inner, outer = zip(*(block.linear_layers for block in made.blocks), strict=True)
    contexts = [made.context_layer, *(block.context_layer for block in made.blocks)]
    linears = [made.initial_layer, *inner, *outer, made.final_layer, *contexts]
    return [linear.weight for linear in linears] + [linear.bias for linear in linears]


def pack(
    transform: MaskedAffineAutoregressiveTransform, order: Tensor, after: BatchNorm | None = None
) -> tuple[Net, Context]:
    """The layer in eval mode, after a permutation to ``order`` and before the batch norm ``after``, on its device."""
    made = transform.autoregressive_net
    weight = made.initial_layer.weight
    plan = layout(weight.shape[1], weight.shape[0])
    sort, input_mask, unit_mask, output_mask = (
        tensor.to(weight.device)
        for tensor in (plan.sort, plan.input_mask, plan.unit_mask, plan.output_mask)
    )
    rows = sort[:, None]
    scale, shift, inner, inner_bias, outer, outer_bias, given = [], [], [], [], [], [], []
    for block in made.blocks:
        first, second = block.linear_layers
        weights, bias, context = (
            first.weight[rows, sort] * unit_mask,
            first.bias[sort],
            block.context_layer.weight[sort],
        )
        bias = bias + block.context_layer.bias[sort]
        if block.use_batch_norm:
            (gain, offset), (inner_gain, inner_offset) = (
                batch_norm_affine(norm) for norm in block.batch_norm_layers
            )
            gain, offset, inner_gain, inner_offset = (
                t[sort] for t in (gain, offset, inner_gain, inner_offset)
            )
            weights, context = weights * inner_gain[:, None], context * inner_gain[:, None]
            bias = bias * inner_gain + inner_offset
        else:
            gain, offset = torch.ones_like(bias), torch.zeros_like(bias)
        scale.append(gain)
        shift.append(offset)
        inner.append(weights)
        inner_bias.append(bias)
        outer.append(second.weight[rows, sort] * unit_mask)
        outer_bias.append(second.bias[sort])
        given.append(context)
    net = Net(
        order,
        plan.known,
        weight[sort] * input_mask,
        made.initial_layer.bias[sort],
        *(torch.stack(tensors) for tensors in (inner, inner_bias, outer, outer_bias)),
        made.final_layer.weight[:, sort] * output_mask,
        made.final_layer.bias,
        torch.stack(scale),
        torch.stack(shift),
        *between_affine(after, len(order), weight),
        plan.forward,
    )
    context = made.context_layer
    return net, Context(torch.stack([context.weight[sort], *given]), context.bias[sort])


def batch_norm_affine(norm: torch.nn.BatchNorm1d | BatchNorm) -> tuple[Tensor, Tensor]:
    """(gain, offset) of a batch norm, torch's or nflows', in eval mode."""
    gain = norm.weight / (norm.running_var + norm.eps).sqrt()
    return gain, norm.bias - gain * norm.running_mean


def between_affine(norm: BatchNorm | None, features: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """(gain, offset) of nflows' batch norm in eval mode, or of none."""
    return (
        (like.new_ones(features), like.new_zeros(features))
        if norm is None
        else batch_norm_affine(norm)
    )


def odd_columns(n: int, width: int = 16) -> int:
    """At least n, an odd multiple of ``width``: rows a power of two apart would share cache lines."""
    return width * (-(-n // width) | 1)
