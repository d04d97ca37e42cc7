"""One training step's work in the kernels: the flow's forward pass and all gradients, as one autograd function.

The weights of all layers are gathered into the kernels' order at once (masked entries from a zero), the backward pass
goes through the same ranges with transposed weights, and the gradients of the weights, products of what flows back
into a layer's rows with what its inputs were, are summed only where the masks are one and put where nflows has them.
Threads share the samples in pieces, which depend on how many there are and on nothing else: so do the gradients' bits.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from nflows.transforms import MaskedAffineAutoregressiveTransform
from torch import Tensor
from torch.autograd.function import once_differentiable

from fpnlib.flows import autoregressive_kernels, gradient_kernels
from fpnlib.flows.autoregressive_weights import layout, weights_and_biases
from fpnlib.flows.engine import groups, place, ungrouped
from fpnlib.flows.threads import alone
from fpnlib.flows.vectors import LANES

PIECE, PIECES = 8, 16  # groups of samples that are worth a piece of their own, and how many pieces there are at most


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


class Product(NamedTuple):
    """A parameter's gradient as the kernel takes it: rows of ``of`` times rows of ``given``, addresses and bytes."""

    out: int
    width: int
    row_order: int
    column_order: int
    of: int
    kept: bool  # whether ``given`` is among what the pass kept, or of the context
    given: int
    rows: int
    start: int
    stop: int


class Gather(NamedTuple):
    """Where in a layer's concatenated parameters, followed by a zero and a one, the kernels' memory comes from."""

    shapes: list[torch.Size]
    total: int  # of a layer's parameters
    weights: Tensor  # as Net.flat's
    biases: Tensor  # (1 + B) * H
    contexts: Tensor  # (1 + B) * H * (C + 1): weight and bias
    back: Tensor  # final, outer, inner and initial weights with rows for columns
    plan: Tensor  # after the order, as Net.flat's
    back_ranges: Tensor
    products: Tensor  # (…, 10)
    orders: tuple[Tensor, ...]  # that the products have the addresses of


@lru_cache(maxsize=16)
@torch.inference_mode(mode=False)  # what is kept must serve in training too
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
    back = [final.T, outer.mT, inner.mT, initial.T]
    plan, natural = torch.cat([shape.known, *shape.forward]), torch.arange(max(2 * features, units, context))
    ones = torch.stack([torch.zeros(max(2 * features, units)), torch.ones(max(2 * features, units))]).long()
    wide = torch.stack([torch.zeros(units), torch.full((units,), context)]).long()
    orders = shape.sort, natural, plan, ones, wide
    return Gather(
        shapes,
        total,
        torch.cat([part.flatten() for part in ahead]),
        sorted_bias[: 1 + blocks].flatten(),
        contexts.flatten(),
        torch.cat([part.flatten() for part in back]),
        plan,
        torch.cat(shape.backward),
        torch.tensor(_products(offsets, features, units, blocks, context, *orders)),
        orders,
    )


def _products(
    offsets: list[int], features: int, units: int, blocks: int, context: int,
    sort: Tensor, natural: Tensor, plan: Tensor, ones: Tensor, wide: Tensor,
) -> list[Product]:  # fmt: skip
    """Of each parameter in turn, all in the order of ``weights_and_biases``."""
    by_degree, as_is, row = sort.data_ptr(), natural.data_ptr(), 4 * LANES
    ranges = plan.data_ptr() + 8 * (features + 1)
    of_inputs, of_units, of_outputs = ranges, ranges + 16 * units, ranges + 32 * units
    hidden = units * row
    stream = [2 * features * row + block * hidden for block in range(blocks + 1)]
    gate, *inside = (stream[-1] + (1 + block) * hidden for block in range(blocks + 1))
    kept_stream = features * row
    kept_before = [kept_stream + (1 + block) * hidden for block in range(blocks)]
    kept_inside = [kept_stream + (1 + blocks + block) * hidden for block in range(blocks)]
    every, whole = (wide.data_ptr(), wide.data_ptr() + 8 * units), (ones.data_ptr(), ones.data_ptr() + 8 * ones.shape[1])
    # width, order of rows, order of columns, gradients, inputs (None: the context), number of rows, ranges
    weights = [(features, by_degree, as_is, stream[0], 0, units, (of_inputs, of_inputs + 8 * units))]
    squares = zip(inside + stream[1:], kept_before + kept_inside, strict=True)
    weights += [(units, by_degree, by_degree, of, at, units, (of_units, of_units + 8 * units)) for of, at in squares]
    weights += [(units, as_is, by_degree, 0, kept_stream, 2 * features, (of_outputs, of_outputs + 16 * features))]
    weights += [(context, by_degree, as_is, of, None, units, every) for of in (gate, *inside)]
    one = context * row  # the last row of the context
    biases = [(1, order, as_is, of, one, rows, whole) for _, order, _, of, _, rows, _ in weights]
    return [
        Product(4 * offset, 4 * width, order, columns, of, at is not None and k < len(weights), at or 0, rows, *range_)
        for k, (offset, (width, order, columns, of, at, rows, range_)) in enumerate(
            zip(offsets, weights + biases, strict=False)
        )
    ]


class _Flow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, orders, inputs, context, *parameters):
        n, features = inputs.shape
        each = len(parameters) // len(orders)
        units, blocks = len(parameters[0]), (each // 2 - 3) // 3
        with alone() as each_piece:
            where = _gather(features, units, blocks, context.shape[1])
            flat = torch.cat([
                torch.cat([*(p.flatten() for p in parameters[k : k + each]), inputs.new_tensor([0, 1])])
                for k in range(0, len(parameters), each)
            ]).view(len(orders), -1)  # fmt: skip
            weights, biases, contexts = (
                flat.index_select(1, part) for part in (where.weights, where.biases, where.contexts)
            )
            plans = [torch.cat([order, where.plan]) for order in orders]
            values, given = groups(inputs), groups(torch.cat([context, context.new_ones(n, 1)], 1))
            logs = values.new_zeros(len(values), LANES)
            rows = 3 * features + (2 + 2 * blocks) * units | 1  # an odd number: else groups would share cache lines
            pieces = _pieces(len(values))
            sizes = [len(orders) * ((piece.stop - piece.start) * rows + blocks * units) for piece in pieces]
            kept = values.new_empty(sum(sizes), LANES).split(sizes)  # in one: else the heap is given back at each step

            def run(job: tuple[slice, Tensor]) -> None:
                piece, work = job
                some, work = (values[piece], given[piece], logs[piece]), work.view(len(orders), -1, LANES)
                for k, plan in enumerate(plans):
                    autoregressive_kernels.evaluate(
                        some[0].data_ptr(), 4 * LANES, 4 * LANES * features, len(some[0]), some[2].data_ptr(),
                        weights[k].data_ptr(), plan.data_ptr(), biases[k].data_ptr(), contexts[k].data_ptr(),
                        *place(some[1]), work[k].data_ptr(), 4 * LANES * rows, features, units, blocks,
                    )  # fmt: skip

            jobs = list(zip(pieces, kept, strict=True))
            each_piece(run, jobs)
            ctx.shape = n, features, units, blocks, rows
            ctx.kept = where, flat, plans, given, contexts, jobs
            return ungrouped(values, n), logs.flatten()[:n]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_noise, grad_log_det):
        n, features, units, blocks, rows = ctx.shape
        where, flat, plans, given, contexts, jobs = ctx.kept
        with alone() as each_piece:
            back = flat.index_select(1, where.back)
            values, logs = groups(grad_noise), groups(grad_log_det[:, None])
            grad_given = torch.zeros_like(given) if ctx.needs_input_grad[2] else None
            left = 2 * features + (2 + 2 * blocks) * units | 1

            def run(job: tuple[slice, Tensor]) -> Tensor:
                piece, work = job
                some, work = (values[piece], given[piece], logs[piece]), work.view(len(plans), -1, LANES)
                groups = len(some[0])
                gradient = values.new_zeros(len(plans), where.total)
                grads = values.new_empty(groups * left + units + features, LANES)
                for k in reversed(range(len(plans))):
                    gradient_kernels.backpropagate(
                        some[0].data_ptr(), groups, some[2].data_ptr(), plans[k].data_ptr(), back[k].data_ptr(),
                        where.back_ranges.data_ptr(), work[k].data_ptr(), 4 * LANES * rows, grads.data_ptr(),
                        4 * LANES * left, features, units, blocks,
                    )  # fmt: skip
                    gradient_kernels.of_parameters(
                        where.products.data_ptr(), len(where.products), gradient[k].data_ptr(), grads.data_ptr(),
                        4 * LANES * left, work[k].data_ptr(), 4 * LANES * rows, some[1].data_ptr(),
                        4 * LANES * given.shape[1], groups,
                    )  # fmt: skip
                    if grad_given is not None:
                        of = grads[: groups * left].view(groups, left, LANES)[:, 2 * features + (1 + blocks) * units :]
                        grad_given[piece] += contexts[k].view(-1, given.shape[1]).T @ of[:, : (1 + blocks) * units]
                return gradient

            first, *more = each_piece(run, jobs)
            for gradient in more:
                first += gradient
            sizes = [size.numel() for size in where.shapes]
            parts = [part.view(size) for row in first for part, size in zip(row.split(sizes), where.shapes, strict=True)]
            return (
                None, ungrouped(values, n), None if grad_given is None else ungrouped(grad_given, n)[:, :-1], *parts
            )  # fmt: skip


def _pieces(groups: int) -> list[slice]:
    size = max(PIECE, -(-groups // PIECES))
    return [slice(start, min(start + size, groups)) for start in range(0, groups, size)]
