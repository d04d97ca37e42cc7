"""A training step's work for wide networks: torch's products of masked weights, which skip what the masks put out.

With units sorted by degree a mask is a staircase, and a few rectangles cover its ones: little more than half of the
multiply-adds, forward and backward. The weights are sorted once a step, in numba, for torch takes several times as long.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from nflows.transforms import MaskedAffineAutoregressiveTransform
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad, softplus

from fpnlib.flows.autoregressive_weights import layout, odd_columns, weights_and_biases
from fpnlib.flows.settings import EPSILON
from fpnlib.flows.triangular_kernels import sort, unsort

ROWS = 64  # of a tile on the diagonal


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
    n = len(inputs)
    values, given = (pad(rows.T, (0, odd_columns(n) - n)) for rows in (inputs, context))
    given, total = torch.cat([given, given.new_ones(1, given.shape[1])]), 0
    for order, layer in layers:
        values = values.index_select(0, order)
        outputs = _Network.apply(values, given, *weights_and_biases(layer))
        scale = softplus(outputs[::2]) + EPSILON
        values, total = scale * values + outputs[1::2], total + scale.log().sum(0)
    return values.T[:n], total[:n]


class Stairs(NamedTuple):
    """A mask by degree: the order of its rows and columns, how many ones each row begins with, and their cover."""

    rows: Tensor
    columns: Tensor
    stop: Tensor
    cover: Tensor  # how many columns of each row the tiles cover
    tiles: list[tuple[slice, slice]]

    def sort(self, weight: Tensor) -> Tensor:
        """The weights by degree, masked; what lies outside the tiles is not filled in."""
        return self._moved(sort, weight, self.cover)

    def product_back(self, weight: Tensor, gradient: Tensor, out: Tensor) -> Tensor:
        """``out`` (C, n) becomes weightᵀ · gradient, for weights by degree and a gradient (R, n)."""
        begun = 0  # a tile on the diagonal comes before all others over its columns
        for rows, columns in self.tiles:
            out[columns].addmm_(
                weight[rows, columns].T, gradient[rows], beta=int(columns.start < begun)
            )
            begun = max(begun, columns.stop)
        out[begun:] = 0
        return out

    def of_weight(self, gradient: Tensor, given: Tensor) -> Tensor:
        """gradient · givenᵀ where the mask is 1, and 0 elsewhere, in the order of the weights."""
        product = gradient.new_empty(len(gradient), len(given))
        for rows, columns in self.tiles:
            torch.mm(gradient[rows], given[columns].T, out=product[rows, columns])
        return self._moved(unsort, product)

    def of_rows(self, gradient: Tensor) -> Tensor:
        """The rows of a gradient by degree, in the order of the weights' rows."""
        return torch.empty_like(gradient).index_copy_(0, self.rows, gradient)

    def _moved(self, move: Callable, matrix: Tensor, *more: Tensor) -> Tensor:
        out = torch.empty(matrix.shape, dtype=matrix.dtype)
        given = matrix, self.rows, self.columns, self.stop, *more, out
        move(*(tensor.detach().contiguous().numpy() for tensor in given))
        return out


@lru_cache(maxsize=16)
def _stairs(features: int, units: int) -> tuple[Stairs, Stairs, Stairs]:
    """Of the initial, the inner and the final products."""
    shape = layout(features, units)
    orders = (
        (shape.sort, torch.arange(features)),
        (shape.sort, shape.sort),
        (torch.arange(2 * features), shape.sort),
    )
    return tuple(
        _stair(*order, stop) for order, stop in zip(orders, shape.forward[1::2], strict=True)
    )


def _stair(rows: Tensor, columns: Tensor, stop: Tensor) -> Stairs:
    cover, found = torch.zeros_like(stop), [*tiles(stop.tolist())]
    for some, among in found:
        cover[some].clamp_min_(among.stop)
    return Stairs(rows, columns, stop, cover, found)


def tiles(
    stop: list[int], begin: int = 0, end: int | None = None, left: int = 0
) -> Iterator[tuple[slice, slice]]:
    """Rectangles over the columns left … stop[row] of the rows begin … end, the largest ones first to be split off."""
    end = len(stop) if end is None else end
    if end - begin <= ROWS:
        yield slice(begin, end), slice(left, stop[end - 1])
    else:
        half = (begin + end) // 2
        step = bisect_left(stop, stop[half])  # where the degree of the row in the middle begins
        middle = step if step > begin else half
        yield from tiles(stop, begin, middle, left)
        yield slice(middle, end), slice(left, stop[middle - 1])
        yield from tiles(stop, middle, end, stop[middle - 1])


class Part(NamedTuple):
    """A rectangle of some weights, and where it lies."""

    rows: slice
    columns: slice
    weight: Tensor


def parts(weight: Tensor, rectangles: list[tuple[slice, slice]]) -> list[Part]:
    """Of weights that are 0 outside the rectangles."""
    return [Part(rows, columns, weight[rows, columns]) for rows, columns in rectangles]


def add_product(of: list[Part], given: Tensor, added: Tensor) -> Tensor:
    """``added`` (R, n), which becomes added + weight · given, for the parts of the weights and given (C, n)."""
    for rows, columns, weight in of:
        added[rows].addmm_(weight, given[columns])
    return added


class _Network(torch.autograd.Function):
    """(2 D, n): unconstrained scale and shift of each of the values (D, n), under contexts (C + 1, n) whose last row is 1.

    All that is kept has its units by degree. Where it can be, what is large is changed in place: memory is the bottleneck.
    """

    @staticmethod
    def forward(ctx, values, given, *linears):
        blocks = (len(linears) // 2 - 3) // 3
        weights, biases = linears[: len(linears) // 2], linears[len(linears) // 2 :]
        first, hidden, last = stairs = _stairs(len(values), len(weights[0]))
        initial, *squares, final = (
            part.sort(weight)
            for part, weight in zip([first, *[hidden] * 2 * blocks, last], weights, strict=False)
        )
        bias = [b[hidden.rows, None] for b in biases[: 1 + 2 * blocks]]
        contexts = [
            torch.cat([w, b[:, None]], 1).index_select(0, hidden.rows)
            for w, b in zip(weights[2 + 2 * blocks :], biases[2 + 2 * blocks :], strict=True)
        ]
        gate = (contexts[0] @ given).relu_()
        stream, kept = add_product(parts(initial, first.tiles), values, gate + bias[0]), []
        for k in range(blocks):
            before, inside = stream.relu(), torch.addmm(bias[1 + k], contexts[1 + k], given)
            add_product(parts(squares[k], hidden.tiles), before, inside).relu_()
            add_product(
                parts(squares[blocks + k], hidden.tiles), inside, stream.add_(bias[1 + blocks + k])
            )
            kept += [before, inside]
        ctx.stairs, ctx.blocks = stairs, blocks
        ctx.save_for_backward(
            values, given, gate, stream, *kept, initial, *squares, final, *contexts
        )
        outputs = biases[1 + 2 * blocks][:, None].repeat(1, values.shape[1])
        return add_product(parts(final, last.tiles), stream, outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (first, hidden, last), blocks = ctx.stairs, ctx.blocks
        values, given, gate, stream, *more = ctx.saved_tensors
        kept, (initial, *squares), final = (
            more[: 2 * blocks],
            more[2 * blocks : 1 + 4 * blocks],
            more[1 + 4 * blocks],
        )
        contexts = more[2 + 4 * blocks :]
        of_final, of_final_bias = last.of_weight(gradient, stream), gradient.sum(1)
        of_squares, of_outer_biases, of_contexts = (
            [None] * 2 * blocks,
            [None] * blocks,
            [None] * (1 + blocks),
        )
        of_given = torch.zeros_like(given) if ctx.needs_input_grad[1] else None

        def of_context(k: int, gradient: Tensor) -> None:
            of_contexts[k] = hidden.of_rows(gradient @ given.T)
            if of_given is not None:
                of_given.addmm_(contexts[k].T, gradient)

        of_inside, of_before = torch.empty_like(stream), torch.empty_like(stream)
        of_stream = last.product_back(final, gradient, torch.empty_like(stream))
        for k in reversed(range(blocks)):
            before, inside = kept[2 * k : 2 * k + 2]
            of_squares[blocks + k] = hidden.of_weight(of_stream, inside)
            of_outer_biases[k] = hidden.of_rows(of_stream.sum(1))
            _of_relu(hidden.product_back(squares[blocks + k], of_stream, of_inside), inside)
            of_squares[k] = hidden.of_weight(of_inside, before)
            of_context(1 + k, of_inside)
            of_stream += _of_relu(hidden.product_back(squares[k], of_inside, of_before), before)
        of_initial, of_initial_bias = (
            first.of_weight(of_stream, values),
            hidden.of_rows(of_stream.sum(1)),
        )
        of_values = (
            first.product_back(initial, of_stream, torch.empty_like(values))
            if ctx.needs_input_grad[0]
            else None
        )
        of_context(0, _of_relu(of_stream, gate))
        context_weights, context_biases = zip(
            *((both[:, :-1], both[:, -1]) for both in of_contexts), strict=True
        )
        of_weights = [of_initial, *of_squares, of_final, *context_weights]
        of_biases = [
            of_initial_bias,
            *context_biases[1:],
            *of_outer_biases,
            of_final_bias,
            *context_biases,
        ]
        return of_values, of_given, *of_weights, *of_biases


def _of_relu(gradient: Tensor, values: Tensor) -> Tensor:
    """The gradient, in place, of what relu gave these values of."""
    return torch.ops.aten.threshold_backward.grad_input(gradient, values, 0, grad_input=gradient)
