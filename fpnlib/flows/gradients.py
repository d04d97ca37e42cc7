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
from torch import Tensor
from torch.autograd.function import once_differentiable

from fpnlib.flows import autoregressive_kernels, gradient_kernels
from fpnlib.flows.autoregressive_weights import layout, odd_columns, weights_and_biases
from fpnlib.flows.threads import alone
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
    return _Flow.apply(orders, inputs, context, *(p for _, layer in layers for p in weights_and_biases(layer)))


class Gather(NamedTuple):
    """Where in a layer's concatenated parameters, followed by a zero and a one, the kernels' memory comes from."""

    shapes: list[torch.Size]
    offsets: list[int]
    weights: Tensor  # as Net.flat's
    biases: Tensor  # (1 + B) * H
    context: Tensor  # (1 + B) * H * (C + 1): weight and bias
    bias_to: Tensor  # where each bias' gradient goes, and bias_from: which row of the gradients it is the sum of
    bias_from: Tensor
    plan: Tensor  # after the order, as Net.flat's
    back_ranges: Tensor
    sort: Tensor  # (H,)
    count: Tensor  # 0, 1, …, for rows and columns in nflows' own order
    context_ranges: Tensor  # (2, H): 0 and C


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
    row = 2 * features + torch.arange((2 * blocks + 2) * units)  # rows of what ``backpropagate`` leaves
    stream, inside, stream_gated = row.split([(blocks + 1) * units, blocks * units, units])
    stream = stream.view(blocks + 1, units)
    return Gather(
        shapes,
        offsets,
        torch.cat([part.flatten() for part in ahead]),
        sorted_bias[: 1 + blocks].flatten(),
        contexts.flatten(),
        torch.cat(
            [index[shape.sort] for index in bias[: number - 1]]
            + [bias[number - 1]]
            + [index[shape.sort] for index in bias[number:]]
        ),
        torch.cat([stream[0], inside, stream[1:].flatten(), torch.arange(2 * features), stream_gated, inside]),
        torch.cat([shape.known, *shape.forward]),
        torch.cat(shape.backward),
        shape.sort,
        torch.arange(max(2 * features, units, context + 1)),
        torch.stack([torch.zeros(units), torch.full((units,), context)]).long(),
    )


class _Flow(torch.autograd.Function):
    @staticmethod
    @alone()
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

        columns = odd_columns(n, LANES)
        values, logs = inputs.new_zeros(features, columns), inputs.new_zeros(columns)
        values[:, :n] = inputs.T
        given = context.new_zeros(context.shape[1] + 1, columns)
        given[:-1, :n], given[-1, :n] = context.T, 1
        by_context = flat.index_select(1, where.context).view(-1, len(given))
        extra = (by_context @ given).view(layers, 1 + blocks, units, columns)
        extra[:, 0].relu_()
        work = values.new_empty(layers, 3 * features + (1 + 2 * blocks) * units, columns)
        for k in range(layers):
            autoregressive_kernels.evaluate(
                values.data_ptr(), columns, logs.data_ptr(), weights[k].data_ptr(), plans[k].data_ptr(),
                biases[k].data_ptr(), extra[k].data_ptr(), work[k].data_ptr(), 1, features, units, blocks,
            )  # fmt: skip
        ctx.shape = n, features, units, blocks, layers, columns
        ctx.kept = where, weights, plans, given, by_context, extra, work
        return values[:, :n].T, logs[:n]

    @staticmethod
    @once_differentiable
    @alone()
    def backward(ctx, grad_noise, grad_log_det):
        n, features, units, blocks, layers, columns = ctx.shape
        where, weights, plans, given, by_context, extra, work = ctx.kept
        values, logs = grad_noise.new_zeros(features, columns), grad_noise.new_zeros(columns)
        values[:, :n], logs[:n] = grad_noise.T, grad_log_det
        gradient = values.new_zeros(layers, where.offsets[-1])
        grads = values.new_empty(3 * features + (2 * blocks + 2) * units, columns)
        stream, inside, gated, _ = grads[2 * features :].split([(blocks + 1) * units, blocks * units, units, features])
        grad_given = torch.zeros_like(given) if ctx.needs_input_grad[2] else None
        for k in reversed(range(layers)):
            back = _transposed(weights[k], features, units, blocks)
            gradient_kernels.backpropagate(
                values.data_ptr(), columns, logs.data_ptr(), weights[k].data_ptr(), plans[k].data_ptr(),
                back.data_ptr(), where.back_ranges.data_ptr(), work[k].data_ptr(), grads.data_ptr(),
                features, units, blocks,
            )  # fmt: skip
            torch.mul(stream[:units], extra[k, 0] > 0, out=gated)
            _of_weights(gradient[k], where, grads, work[k], given, features, units, blocks)
            gradient[k].index_copy_(0, where.bias_to, grads.sum(1).index_select(0, where.bias_from))
            if grad_given is not None:
                grad_given += by_context.view(layers, -1, len(given))[k].T @ torch.cat([gated, inside])
        sizes = [size.numel() for size in where.shapes]
        parts = [part.view(size) for row in gradient for part, size in zip(row.split(sizes), where.shapes, strict=True)]
        return None, values[:, :n].T, None if grad_given is None else grad_given[:-1, :n].T, *parts


def _transposed(weights: Tensor, features: int, units: int, blocks: int) -> Tensor:
    """Final, outer, inner and initial weights with rows for columns."""
    sizes = [units * features, blocks * units * units, blocks * units * units, blocks * units, 2 * features * units]
    initial, inner, outer, _, final = weights[: sum(sizes)].split(sizes)
    squares = (part.view(blocks, units, units).mT.flatten() for part in (outer, inner))
    return torch.cat([final.view(-1, units).T.flatten(), *squares, initial.view(units, -1).T.flatten()])


def _of_weights(
    gradient: Tensor, where: Gather, grads: Tensor, work: Tensor, given: Tensor, features: int, units: int, blocks: int
) -> None:
    """Fills in the weights' part of ``gradient``, a layer's concatenated parameters, in nflows' order of units."""
    columns, row = grads.shape[1], 4 * grads.shape[1]
    sort, count, to = where.sort.data_ptr(), where.count.data_ptr(), gradient.data_ptr()
    inputs = where.plan.data_ptr() + 8 * (features + 1)
    square, outputs = inputs + 16 * units, inputs + 32 * units
    stream = grads.data_ptr() + 2 * features * row
    inside = stream + (blocks + 1) * units * row
    gated = inside + blocks * units * row
    kept_stream = work.data_ptr() + features * row
    kept_before = kept_stream + units * row
    kept_inside = kept_before + blocks * units * row

    def correlate(part, width, row_order, column_order, of, with_, rows, start, stop):
        at = to + 4 * where.offsets[part]
        gradient_kernels.correlate(at, width, row_order, column_order, of, with_, columns, rows, start, stop)

    correlate(0, features, sort, count, stream, work.data_ptr(), units, inputs, inputs + 8 * units)
    for block in range(blocks):
        skip, stop = block * units * row, square + 8 * units
        correlate(1 + block, units, sort, sort, inside + skip, kept_before + skip, units, square, stop)
        of = stream + skip + units * row
        correlate(1 + blocks + block, units, sort, sort, of, kept_inside + skip, units, square, stop)
    stop, final = outputs + 16 * features, 1 + 2 * blocks
    correlate(final, units, count, sort, grads.data_ptr(), kept_stream, 2 * features, outputs, stop)
    wide, everything = len(given) - 1, where.context_ranges.data_ptr()
    for block in range(blocks + 1):
        of = inside + (block - 1) * units * row if block else gated
        correlate(final + 1 + block, wide, sort, count, of, given.data_ptr(), units, everything, everything + 8 * units)
