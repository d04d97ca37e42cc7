"""One training step's work in the kernels: the flow's forward pass and all gradients, as one autograd function.

The weights of all layers are gathered into the kernels' order at once (masked entries from a zero), the backward pass
goes through the same ranges with transposed weights, and the gradients of the weights, products of what flows back
into a layer's rows with what its inputs were, are summed only where the masks are one and put where nflows has them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from nflows.transforms import MaskedAffineAutoregressiveTransform
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fpnlib.flows import kernels
from fpnlib.flows.packed import layout
from fpnlib.flows.vectors import LANES


def noise_and_log_det(
    inputs: Tensor, context: Tensor, layers: list[tuple[Tensor, MaskedAffineAutoregressiveTransform]]
) -> tuple[Tensor, Tensor]:
    """(noise (n, D), log|det| (n,)) of inputs (n, D), differentiable once in all that it is made of.

    Args:
        context: (n, C), as the layers take it.
        layers: of the same widths, each with the order of its inputs; no batch norm, no dropout.
    """
    orders = [order for order, _ in layers]
    return _Flow.apply(orders, inputs, context, *(p for _, layer in layers for p in _parameters(layer)))


def _parameters(layer: MaskedAffineAutoregressiveTransform) -> list[nn.Parameter]:
    """The layer's weights and biases, in the order of ``Gather.shapes``."""
    made = layer.autoregressive_net
    firsts, seconds = zip(*(block.linear_layers for block in made.blocks), strict=True)
    contexts = [made.context_layer, *(block.context_layer for block in made.blocks)]
    parts = [made.initial_layer, *firsts, *seconds, made.final_layer, *contexts]
    return [part.weight for part in parts] + [part.bias for part in parts]


class Gather(NamedTuple):
    """Where in a layer's concatenated parameters, followed by a zero and a one, the kernels' memory comes from."""

    shapes: list[torch.Size]
    offsets: list[int]
    weights: Tensor  # as Net.flat's
    biases: Tensor  # (1 + B) * H
    context: Tensor  # (1 + B) * H * (C + 1): weight and bias
    back: Tensor  # transposed: final, outer, inner, initial
    plan: Tensor  # after the order, as Net.flat's
    back_ranges: Tensor
    sort: Tensor  # (H,)
    count: Tensor  # 0, 1, …, for rows and columns in nflows' own order
    context_ranges: Tensor  # (2, H) all of C + 1


@lru_cache(maxsize=16)
def _gather(features: int, units: int, blocks: int, context: int) -> Gather:
    shape = layout(features, units)
    square = torch.Size((units, units))
    weights = [torch.Size((units, features)), *[square] * (2 * blocks), torch.Size((2 * features, units))]
    weights += [torch.Size((units, context))] * (1 + blocks)
    shapes = weights + [size[:1] for size in weights]
    offsets = torch.tensor([0, *(size.numel() for size in shapes)]).cumsum(0).tolist()
    zero, total = offsets[-1], offsets[-1]
    where = [torch.arange(total)[a:b].view(size) for a, b, size in zip(offsets, offsets[1:], shapes, strict=False)]

    rows, number = shape.sort[:, None], 2 + 2 * blocks
    weight, bias = where[: len(weights)], where[len(weights) :]

    def masked(index: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask > 0, index, zero)

    initial = masked(weight[0][shape.sort], shape.input_mask)
    inner, outer = (
        torch.stack(
            [masked(index[rows, shape.sort], shape.unit_mask) for index in weight[1 + part : 1 + part + blocks]]
        )
        for part in (0, blocks)
    )
    final = masked(weight[number - 1][:, shape.sort], shape.output_mask)
    sorted_bias = torch.stack([index[shape.sort] for index in bias[: number - 1]])
    norm = [torch.full((blocks * units,), zero + 1), torch.full((blocks * units,), zero)]
    norm += [torch.full((features,), zero + 1), torch.full((features,), zero)]
    ahead = [initial, inner, outer, sorted_bias[1 + blocks :], final, bias[number - 1], *norm]
    contexts = torch.stack([
        torch.cat([w[shape.sort], b[shape.sort, None]], 1)
        for w, b in zip(weight[number:], bias[number:], strict=True)
    ])  # fmt: skip
    return Gather(
        shapes,
        offsets,
        torch.cat([part.flatten() for part in ahead]),
        sorted_bias[: 1 + blocks].flatten(),
        contexts.flatten(),
        torch.cat([part.flatten() for part in (final.T, outer.mT, inner.mT, initial.T)]),
        torch.cat([shape.known, *shape.forward]),
        torch.cat(shape.backward),
        shape.sort,
        torch.arange(max(2 * features, units, context + 1)),
        torch.stack([torch.zeros(units), torch.full((units,), context + 1)]).long(),
    )


class _Flow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, orders, inputs, context, *parameters):
        n, features = inputs.shape
        layers, each = len(orders), len(parameters) // len(orders)
        units, blocks = len(parameters[0]), (each // 2 - 3) // 3
        where = _gather(features, units, blocks, context.shape[1])
        flat = torch.cat([
            torch.cat([*(p.flatten() for p in parameters[k : k + each]), inputs.new_tensor([0, 1])])
            for k in range(0, len(parameters), each)
        ]).view(layers, -1)  # fmt: skip
        weights, biases = flat.index_select(1, where.weights), flat.index_select(1, where.biases)
        plans = [torch.cat([order, where.plan]) for order in orders]

        columns = LANES * (-(-n // LANES) | 1)  # an odd number of vectors: rows a power of two apart share cache lines
        values, logs = inputs.new_zeros(features, columns), inputs.new_zeros(columns)
        values[:, :n] = inputs.T
        given = context.new_zeros(context.shape[1] + 1, columns)
        given[:-1, :n], given[-1, :n] = context.T, 1
        by_context = flat.index_select(1, where.context).view(-1, len(given))
        extra = (by_context @ given).view(layers, 1 + blocks, units, columns)
        extra[:, 0].relu_()
        work = values.new_empty(layers, 3 * features + (1 + 2 * blocks) * units, columns)
        for k in range(layers):
            kernels.evaluate(
                values.data_ptr(), columns, logs.data_ptr(), weights[k].data_ptr(), plans[k].data_ptr(),
                biases[k].data_ptr(), extra[k].data_ptr(), work[k].data_ptr(), 1, features, units, blocks,
            )  # fmt: skip
        ctx.shape = n, features, units, blocks, layers, columns
        ctx.kept = flat, where, weights, plans, given, by_context, extra, work
        return values[:, :n].T, logs[:n]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_noise, grad_log_det):
        n, features, units, blocks, layers, columns = ctx.shape
        flat, where, weights, plans, given, by_context, extra, work = ctx.kept
        values, logs = grad_noise.new_zeros(features, columns), grad_noise.new_zeros(columns)
        values[:, :n], logs[:n] = grad_noise.T, grad_log_det
        back, gradient = flat.index_select(1, where.back), torch.zeros_like(flat)
        grads = values.new_empty(3 * features + (2 * blocks + 2) * units, columns)
        stream = grads[2 * features :][: (blocks + 1) * units].view(blocks + 1, units, columns)
        inside = grads[2 * features + (blocks + 1) * units :][: blocks * units].view(blocks, units, columns)
        grad_given = torch.zeros_like(given) if ctx.needs_input_grad[2] else None
        for k in reversed(range(layers)):
            kernels.backpropagate(
                values.data_ptr(), columns, logs.data_ptr(), weights[k].data_ptr(), plans[k].data_ptr(),
                back[k].data_ptr(), where.back_ranges.data_ptr(), work[k].data_ptr(), grads.data_ptr(),
                features, units, blocks,
            )  # fmt: skip
            _of_parameters(gradient[k], where, grads, stream, inside, work[k], extra[k, 0] > 0, given)
            if grad_given is not None:
                at_context = torch.cat([stream[:1] * (extra[k, 0] > 0), inside]).flatten(0, 1)
                grad_given += by_context.view(layers, -1, len(given))[k].T @ at_context
        parts = [
            part.view(size)
            for layer in gradient
            for part, size in zip(
                layer.split([*(size.numel() for size in where.shapes), 2]), where.shapes, strict=False
            )
        ]
        return None, values[:, :n].T, None if grad_given is None else grad_given[:-1, :n].T, *parts


def _of_parameters(
    gradient: Tensor,
    where: Gather,
    grads: Tensor,
    stream: Tensor,
    inside: Tensor,
    work: Tensor,
    alive: Tensor,
    given: Tensor,
) -> None:
    """Fills ``gradient``, shaped as a layer's concatenated parameters, in nflows' order of units."""
    blocks, units, columns = inside.shape
    features = (len(work) - (1 + 2 * blocks) * units) // 3
    final, contexts = 1 + 2 * blocks, 2 + 2 * blocks
    number = contexts + 1 + blocks
    ranges = where.plan[features + 1 :]
    sort, count, wide = where.sort.data_ptr(), where.count.data_ptr(), len(given)

    def correlate(to, width, row_order, column_order, of, with_, rows, first, second):
        kernels.correlate(
            to.data_ptr(), width, row_order, column_order, of.data_ptr(), with_.data_ptr(), columns, rows,
            first.data_ptr(), second.data_ptr(),
        )  # fmt: skip

    def at(part: int) -> Tensor:
        return gradient[where.offsets[part] : where.offsets[part + 1]]

    rest = ranges[2 * units :]
    before, within = (
        work[features + units + part * blocks * units :][: blocks * units].view(blocks, units, columns)
        for part in (0, 1)
    )
    correlate(at(0), features, sort, count, stream[0], work, units, ranges, ranges[units:])
    for block in range(blocks):
        correlate(at(1 + block), units, sort, sort, inside[block], before[block], units, rest, rest[units:])
        correlate(
            at(1 + blocks + block), units, sort, sort, stream[block + 1], within[block], units, rest, rest[units:]
        )
    outputs = rest[2 * units :]
    correlate(at(final), units, count, sort, grads, work[features:], 2 * features, outputs, outputs[2 * features :])
    for block in range(blocks + 1):
        of = inside[block - 1] if block else stream[0] * alive
        found = of.new_zeros(units, wide)
        correlate(found, wide, sort, count, of, given, units, *where.context_ranges)
        at(contexts + block).view(units, wide - 1).copy_(found[:, :-1])
        at(number + contexts + block).copy_(found[:, -1])
        if block:
            at(number + block).copy_(found[:, -1])
    at(number)[where.sort] = stream[0].sum(1)
    for block in range(blocks):
        at(number + 1 + blocks + block)[where.sort] = stream[block + 1].sum(1)
    at(number + final).copy_(grads[: 2 * features].sum(1))
