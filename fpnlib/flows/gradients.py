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
from fpnlib.flows.autoregressive_kernels import ROW
from fpnlib.flows.autoregressive_weights import layout, weights_and_biases
from fpnlib.flows.engine import SHARE, groups, place, ungrouped
from fpnlib.flows.threads import alone
from fpnlib.flows.vectors import LANES

PIECE, PIECES = (
    8,
    16,
)  # groups of samples that are worth a piece of their own, and how many pieces there are at most


def noise_and_log_det(
    inputs: Tensor,
    context: Tensor,
    layers: list[tuple[Tensor, MaskedAffineAutoregressiveTransform]],
) -> tuple[Tensor, Tensor]:
    """(noise (n, D), log|det| (n,)) of inputs (n, D), differentiable once in all that it is made of.

    Args:
        context: (n, C), as the layers take it.
        layers: of the same widths, each with the order of its inputs; no batch norm, no dropout.
    """
    orders = [order for order, _ in layers]
    return _Flow.apply(
        orders, inputs, context, *(p for _, layer in layers for p in weights_and_biases(layer))
    )


class Product(NamedTuple):
    """A parameter's gradient as the kernel takes it: the rows of ``of`` times the rows of ``given``; all in bytes, or counted."""

    out: int
    width: int  # how many columns it has
    row_order: (
        int  # address of the places of its rows and of its columns, by degree; 0: as they come
    )
    column_order: int
    of: int
    kept: bool  # whether ``given`` is among what the pass kept, or of the context
    given: int
    rows: int
    stop: int  # address of how many columns the mask lets each row have; 0: all


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
    products: Tensor  # (number of parameters, 9): of each its ``Product``
    sort: Tensor  # (H,): its address, and the plan's, is in the products


@lru_cache(maxsize=16)
@torch.inference_mode(mode=False)  # what is kept must serve in training too
def _gather(features: int, units: int, blocks: int, context: int) -> Gather:
    shape = layout(features, units)
    square = torch.Size((units, units))
    weights = [
        torch.Size((units, features)),
        *[square] * (2 * blocks),
        torch.Size((2 * features, units)),
    ]
    weights += [torch.Size((units, context))] * (1 + blocks)
    shapes = weights + [size[:1] for size in weights]
    offsets = torch.tensor([0, *(size.numel() for size in shapes)]).cumsum(0).tolist()
    zero, total = offsets[-1], offsets[-1]
    where = [
        torch.arange(total)[a:b].view(size)
        for a, b, size in zip(offsets, offsets[1:], shapes, strict=False)
    ]

    rows, number = shape.sort[:, None], 2 + 2 * blocks
    weight, bias = where[: len(weights)], where[len(weights) :]

    def masked(index: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask > 0, index, zero)

    initial = masked(weight[0][shape.sort], shape.input_mask)
    inner, outer = (
        torch.stack(
            [
                masked(index[rows, shape.sort], shape.unit_mask)
                for index in weight[1 + part : 1 + part + blocks]
            ]
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
    plan = torch.cat([shape.known, *shape.forward])
    return Gather(
        shapes,
        total,
        torch.cat([part.flatten() for part in ahead]),
        sorted_bias[: 1 + blocks].flatten(),
        contexts.flatten(),
        torch.cat([part.flatten() for part in back]),
        plan,
        torch.cat(shape.backward),
        torch.tensor(
            _products(
                offsets, features, units, blocks, context, shape.sort.data_ptr(), plan.data_ptr()
            )
        ),
        shape.sort,
    )


def _products(
    offsets: list[int], features: int, units: int, blocks: int, context: int, sort: int, plan: int
) -> list[Product]:
    """In the order of ``weights_and_biases``, which begin at the offsets."""
    ranges, hidden = plan + 8 * (features + 1), ROW * units
    of_inputs, of_units, of_outputs = (
        ranges + 8 * at for at in (units, 3 * units, 4 * units + 2 * features)
    )
    stream = [2 * features * ROW + block * hidden for block in range(blocks + 1)]
    gate, *inside = (stream[-1] + (1 + block) * hidden for block in range(blocks + 1))
    kept_stream, *kept = (
        features * ROW + at * hidden for at in range(1 + 2 * blocks)
    )  # before and inside the blocks
    weights = [(features, sort, 0, stream[0], True, 0, units, of_inputs)]
    weights += [
        (units, sort, sort, of, True, at, units, of_units)
        for of, at in zip(inside + stream[1:], kept, strict=True)
    ]
    weights += [(units, 0, sort, 0, True, kept_stream, 2 * features, of_outputs)]
    weights += [(context, sort, 0, of, False, 0, units, 0) for of in (gate, *inside)]
    ones = context * ROW  # the context's last row
    biases = [(1, order, 0, of, False, ones, rows, 0) for _, order, _, of, *_, rows, _ in weights]
    return [
        Product(4 * offset, *rest) for offset, rest in zip(offsets, weights + biases, strict=False)
    ]


class Piece(NamedTuple):
    """Some groups of samples, and every layer's working rows of them (layers, rows, LANES)."""

    part: slice
    work: Tensor


class _Flow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, orders, inputs, context, *parameters):
        n, features = inputs.shape
        layers, each = len(orders), len(parameters) // len(orders)
        units, blocks = len(parameters[0]), (each // 2 - 3) // 3
        with alone() as share:
            where = _gather(features, units, blocks, context.shape[1])
            flat = torch.cat([
                torch.cat([*(p.flatten() for p in parameters[k : k + each]), inputs.new_tensor([0, 1])])
                for k in range(0, len(parameters), each)
            ]).view(layers, -1)  # fmt: skip
            weights, biases, contexts = (
                flat.index_select(1, part) for part in (where.weights, where.biases, where.contexts)
            )
            plans = [torch.cat([order, where.plan]) for order in orders]
            values, given = groups(inputs), groups(torch.cat([context, context.new_ones(n, 1)], 1))
            logs = values.new_zeros(len(values), LANES)
            rows = (
                3 * features + (2 + 2 * blocks) * units | 1
            )  # an odd number: else groups would share cache lines
            parts = _parts(len(values))
            sizes = [layers * ((part.stop - part.start) * rows + blocks * units) for part in parts]
            kept = values.new_empty(sum(sizes), LANES).split(
                sizes
            )  # in one: else the heap is given back at each step
            pieces = [
                Piece(part, work.view(layers, -1, LANES))
                for part, work in zip(parts, kept, strict=True)
            ]

            def run(piece: Piece) -> None:
                some, own, sums = values[piece.part], given[piece.part], logs[piece.part]
                for k, plan in enumerate(plans):
                    autoregressive_kernels.evaluate(
                        some.data_ptr(), ROW, ROW * features, len(some), sums.data_ptr(), weights[k].data_ptr(),
                        plan.data_ptr(), biases[k].data_ptr(), contexts[k].data_ptr(), *place(own),
                        piece.work[k].data_ptr(), ROW * rows, features, units, blocks,
                    )  # fmt: skip

            worth = max(1, flat.numel() * n // SHARE)
            share(run, pieces, worth)
        ctx.shape = n, features, units, blocks, rows, worth
        ctx.kept = where, flat, plans, given, contexts, pieces
        return ungrouped(values, n), logs.flatten()[:n]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_noise, grad_log_det):
        n, features, units, blocks, rows, worth = ctx.shape
        where, flat, plans, given, contexts, pieces = ctx.kept
        with alone() as share:
            back = flat.index_select(1, where.back)
            values, logs = groups(grad_noise), groups(grad_log_det[:, None])
            grad_given = torch.zeros_like(given) if ctx.needs_input_grad[2] else None
            left, begin = (
                2 * features + (2 + 2 * blocks) * units | 1,
                2 * features + (1 + blocks) * units,
            )

            def run(piece: Piece) -> Tensor:
                some, own, sums = values[piece.part], given[piece.part], logs[piece.part]
                gradient = values.new_zeros(len(plans), where.total)
                grads = values.new_empty(len(some) * left + units + features, LANES)
                for k in reversed(range(len(plans))):
                    gradient_kernels.backpropagate(
                        some.data_ptr(), len(some), sums.data_ptr(), plans[k].data_ptr(), back[k].data_ptr(),
                        where.back_ranges.data_ptr(), piece.work[k].data_ptr(), ROW * rows, grads.data_ptr(),
                        ROW * left, features, units, blocks,
                    )  # fmt: skip
                    gradient_kernels.of_parameters(
                        where.products.data_ptr(), len(where.products), gradient[k].data_ptr(), grads.data_ptr(),
                        ROW * left, piece.work[k].data_ptr(), ROW * rows, own.data_ptr(), ROW * own.shape[1], len(some),
                    )  # fmt: skip
                    if grad_given is not None:
                        of_context = grads[: len(some) * left].view(-1, left, LANES)[
                            :, begin : begin + (1 + blocks) * units
                        ]
                        grad_given[piece.part] += contexts[k].view(-1, own.shape[1]).T @ of_context
                return gradient

            total, *more = share(run, pieces, worth)
            for gradient in more:
                total += gradient
        sizes = [size.numel() for size in where.shapes]
        found = [
            part.view(size)
            for row in total
            for part, size in zip(row.split(sizes), where.shapes, strict=True)
        ]
        return (
            None,
            ungrouped(values, n),
            None if grad_given is None else ungrouped(grad_given, n)[:, :-1],
            *found,
        )


def _parts(groups: int) -> list[slice]:
    size = max(PIECE, -(-groups // PIECES))
    return [slice(start, min(start + size, groups)) for start in range(0, groups, size)]
