"""A training step's work for wide networks: torch's products of masked weights, which skip what the masks put out.

With units sorted by degree a mask is a staircase, and a few rectangles cover its ones: little more than half of the
multiply-adds, forward and backward. The weights are sorted once a step, in numba, for torch takes several times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from nflows.transforms import MaskedAffineAutoregressiveTransform
from nflows.transforms.made import MADE
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad, softplus

from fpnlib.flows.autoregressive_weights import layout, odd_columns
from fpnlib.flows.settings import EPSILON
from fpnlib.flows.triangular_kernels import sort, unsort

ROWS = 64  # of a tile on the diagonal


def noise_and_log_det(
    inputs: Tensor, context: Tensor, layers: list[tuple[Tensor, MaskedAffineAutoregressiveTransform]]
) -> tuple[Tensor, Tensor]:
    """(noise (n, D), log|det| (n,)) of inputs (n, D), differentiable once in all that it is made of.

    Args:
        context: (n, C), as the layers take it.
        layers: of the same widths, each with the order of its inputs; no batch norm, no dropout.
    """
    n = len(inputs)
    values, given = (pad(rows.T, (0, odd_columns(n) - n)) for rows in (inputs, context))
    total = 0
    for order, layer in layers:
        values = values.index_select(0, order)
        outputs = _outputs(layer.autoregressive_net, values, given)
        scale = softplus(outputs[::2]) + EPSILON
        values, total = scale * values + outputs[1::2], total + scale.log().sum(0)
    return values.T[:n], total[:n]


def _outputs(made: MADE, values: Tensor, given: Tensor) -> Tensor:
    """(2 D, n): unconstrained scale and shift of each of the values (D, n), under contexts (C, n)."""
    first, hidden, last = _stairs(len(values), len(made.initial_layer.weight))

    def added(linear: nn.Linear, bias: Tensor | int = 0) -> Tensor:
        weight = linear.weight.index_select(0, hidden.rows)
        return torch.addmm((linear.bias + bias)[hidden.rows, None], weight, given)

    start = added(made.context_layer).relu_() + made.initial_layer.bias[hidden.rows, None]
    stream = _Product.apply(first, made.initial_layer.weight, values, start)
    for block in made.blocks:
        one, two = block.linear_layers
        inside = _Product.apply(hidden, one.weight, stream.relu(), added(block.context_layer, one.bias))
        stream = _Product.apply(hidden, two.weight, inside.relu_(), stream.add_(two.bias[hidden.rows, None]))
    start = made.final_layer.bias[:, None].repeat(1, values.shape[1])
    return _Product.apply(last, made.final_layer.weight, stream, start)


class Stairs(NamedTuple):
    """A mask by degree: the order of its rows and columns, how many ones each row begins with, and their cover."""

    rows: Tensor
    columns: Tensor
    stop: Tensor
    tiles: list[tuple[slice, slice]]

    def sort(self, weight: Tensor) -> Tensor:
        """The weights by degree, masked."""
        return self._moved(sort, weight)

    def unsort(self, gradient: Tensor) -> Tensor:
        """What belongs to weights by degree, masked, in the order of the weights."""
        return self._moved(unsort, gradient)

    def _moved(self, move: Callable, matrix: Tensor) -> Tensor:
        out = torch.empty(matrix.shape, dtype=matrix.dtype)
        move(*(tensor.detach().contiguous().numpy() for tensor in (matrix, self.rows, self.columns, self.stop, out)))
        return out


@lru_cache(maxsize=16)
def _stairs(features: int, units: int) -> tuple[Stairs, Stairs, Stairs]:
    """Of the initial, the inner and the final products."""
    shape = layout(features, units)
    orders = (shape.sort, torch.arange(features)), (shape.sort, shape.sort), (torch.arange(2 * features), shape.sort)
    return tuple(
        Stairs(*order, stop, [*tiles(stop.tolist())])
        for order, stop in zip(orders, shape.forward[1::2], strict=True)
    )


def tiles(stop: list[int], begin: int = 0, end: int | None = None, left: int = 0) -> Iterator[tuple[slice, slice]]:
    """Rectangles over the columns left … stop[row] of the rows begin … end, the largest ones first to be split off."""
    end = len(stop) if end is None else end
    middle = (begin + end) // 2
    if end - begin <= ROWS:
        yield slice(begin, end), slice(left, stop[end - 1])
    else:
        yield from tiles(stop, begin, middle, left)
        yield slice(middle, end), slice(left, stop[middle - 1])
        yield from tiles(stop, middle, end, stop[middle - 1])


def add_product(tiles: list[tuple[slice, slice]], weight: Tensor, given: Tensor, added: Tensor) -> Tensor:
    """``added`` (R, n), which becomes added + weight · given, for given (C, n) and weights that are 0 outside the tiles."""
    for rows, columns in tiles:
        added[rows].addmm_(weight[rows, columns], given[columns])
    return added


class _Product(torch.autograd.Function):
    """added (R, n) becomes added + weight · given, for given (C, n); both by degree."""

    @staticmethod
    def forward(ctx, stairs, weight, given, added):
        weight = stairs.sort(weight)
        ctx.stairs = stairs
        ctx.save_for_backward(weight, given)
        ctx.mark_dirty(added)
        return add_product(stairs.tiles, weight, given, added)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (weight, given), of_weight, of_given = ctx.saved_tensors, None, None
        if ctx.needs_input_grad[1]:
            of_weight = torch.empty_like(weight)
            for rows, columns in ctx.stairs.tiles:
                torch.mm(gradient[rows], given[columns].T, out=of_weight[rows, columns])
            of_weight = ctx.stairs.unsort(of_weight)
        if ctx.needs_input_grad[2]:
            of_given = torch.zeros_like(given)
            for rows, columns in ctx.stairs.tiles:
                of_given[columns].addmm_(weight[rows, columns].T, gradient[rows])
        return None, of_weight, of_given, gradient
