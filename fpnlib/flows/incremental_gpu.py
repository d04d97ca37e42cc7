"""The incremental inverse on a GPU: a block's steps in one launch of a Triton kernel, for which torch would take hundreds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from threading import Timer

import torch
import triton
import triton.language as tl
from torch import Tensor

from fpnlib.flows.autoregressive_weights import Context, Net
from fpnlib.flows.incremental import Incremental, Rows
from fpnlib.flows.settings import EPSILON

SAMPLES = 16  # in one program of the kernel: few, for a step is long and a GPU runs hundreds of programs at a time
MOST = 64  # units of one degree that a program holds; where there are more, there are few degrees, so few of torch's steps


class IncrementalGPU(Incremental):
    """``Incremental`` whose steps are the kernel's."""

    def __init__(self, layers: list[tuple[Net, Context]]):
        super().__init__(
            [(net._replace(known=net.known.to(net.order.device)), given) for net, given in layers]
        )
        self.most = max(after - before for known in self.known for before, after in pairwise(known))

    def _apart(self, n: int) -> int:
        return triton.cdiv(n, SAMPLES) * SAMPLES  # so that every row begins where a cache line does

    def _step(self, layer: int, rows: Rows, begin: int, end: int) -> None:
        if self.most > MOST:
            return super()._step(layer, rows, begin, end)
        net, n = self.layers[layer][0], len(rows.logs)
        (units, features), tile = net.initial.shape, triton.next_power_of_2(self.most)
        numbers = n, rows.data.stride(0), begin, end, self.known[layer][begin], features, units
        with torch.cuda.device_of(rows.logs):
            _launch(triton.cdiv(n, SAMPLES), [*rows[1:], *net[:-1], *numbers], len(net.inner), tile)


_launched: set[tuple] = set()


def _launch(programs: int, given: list[Tensor | int], blocks: int, tile: int) -> None:
    """Run ``step``, with a word where it has to be compiled."""
    sizes = dict(BLOCKS=blocks, UNITS=tile, SAMPLES=SAMPLES, EPSILON=EPSILON)
    key = *given[-2:], blocks, tile, given[0].dtype, given[0].device
    with nullcontext() if key in _launched else _announced():
        step[(programs,)](
            *given, **sizes, num_warps=min(4, max(1, tile // 2)), enable_fp_fusion=True
        )
    _launched.add(key)


@contextmanager
def _announced() -> Iterator[None]:
    """Has it said that the kernel is being compiled where that takes over a second; Triton keeps what it compiles."""
    said = "Compiling the flows' kernel for this GPU, once …"
    timer = Timer(1, print, [said], {"file": sys.stderr, "flush": True})
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@triton.jit
def _relu(value):
    return tl.where(value < 0, 0.0, value)  # tl.maximum would take NaN to 0


@triton.jit
def _add_product(total, weights, width, rows, mine, values, row, at, there, low, stop):
    """total (U, S) + weights[rows, low … stop] · values[low … stop, at]."""
    for known in tl.range(low, stop, loop_unroll_factor=4):
        weight = tl.load(weights + rows * width + known, mask=mine, other=0.0)
        total += weight * tl.load(values + known * row + at, mask=there, other=0.0)
    return total


@triton.jit(do_not_specialize=["n", "begin", "end", "low"])
def step(
    inputs, stream, before, inside, outputs, added, after, data, logs,
    order, known, initial, initial_bias, inner, inner_bias, outer, outer_bias, final, final_bias, scale, shift, gain, offset,
    n, row, begin, end, low, features, units,
    BLOCKS: tl.constexpr, UNITS: tl.constexpr, SAMPLES: tl.constexpr, EPSILON: tl.constexpr,
):  # fmt: skip
    """The features begin … end of a layer, one after the other, for as many samples as one program takes.

    The first line are ``Rows`` without its first, the second a ``Net``; ``low`` is known[begin],
    and ``row`` numbers lie between two rows. What one thread stores another loads, hence the barriers.
    """
    at = (tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES))[None, :]
    there, one = at < n, tl.zeros([1, 1], tl.int32)
    log_scales = tl.load(logs + at, mask=there, other=0.0)
    for i in range(begin, end):
        noise = tl.load(
            inputs + i * row + at, mask=there, other=0.0
        )  # before the barriers, for one thread overwrites it
        new, stop = tl.load(known + i).to(tl.int32), tl.load(known + i + 1).to(tl.int32)
        rows = new + tl.arange(0, UNITS)[:, None]
        mine = rows < stop
        here, both = rows * row + at, mine & there
        value = tl.load(added + here, mask=both, other=0.0) + tl.load(
            initial_bias + rows, mask=mine, other=0.0
        )
        value = _add_product(value, initial, features, rows, mine, inputs, row, at, there, begin, i)
        for k in range(BLOCKS):
            unit, skip = rows + k * units, k * units * row
            normed = value * tl.load(scale + unit, mask=mine, other=0.0) + tl.load(
                shift + unit, mask=mine, other=0.0
            )
            tl.store(before + skip + here, _relu(normed), mask=both)
            tl.debug_barrier()
            total = tl.load(added + units * row + skip + here, mask=both, other=0.0)
            total += tl.load(inner_bias + unit, mask=mine, other=0.0)
            total = _add_product(
                total, inner, units, unit, mine, before + skip, row, at, there, low, stop
            )
            tl.store(inside + skip + here, _relu(total), mask=both)
            tl.debug_barrier()
            value += tl.load(after + skip + here, mask=both, other=0.0)
            value += tl.load(outer_bias + unit, mask=mine, other=0.0)
            value = _add_product(
                value, outer, units, unit, mine, inside + skip, row, at, there, low, stop
            )
        tl.store(stream + here, value, mask=both)
        tl.debug_barrier()
        unconstrained = tl.load(outputs + 2 * i * row + at, mask=there, other=0.0) + tl.load(
            final_bias + 2 * i
        )
        unconstrained = _add_product(
            unconstrained, final, units, 2 * i + one, one == 0, stream, row, at, there, low, stop
        )
        move = tl.load(outputs + (2 * i + 1) * row + at, mask=there, other=0.0) + tl.load(
            final_bias + 2 * i + 1
        )
        move = _add_product(
            move, final, units, 2 * i + 1 + one, one == 0, stream, row, at, there, low, stop
        )
        wide = unconstrained.to(
            tl.float64
        )  # in which the GPU's quick exponential and logarithm are not used
        wide = tl.where(wide > 20, wide, tl.log(1 + tl.exp(wide))) + EPSILON  # torch's softplus
        found = ((noise - tl.load(offset + i)) / tl.load(gain + i) - move) / wide.to(move.dtype)
        tl.store(inputs + i * row + at, found, mask=there)
        tl.store(data + tl.load(order + i) * row + at, found, mask=there)
        log_scales += tl.log(wide).to(log_scales.dtype)
        tl.debug_barrier()
    tl.store(logs + at, log_scales, mask=there)


def try_out(device: str) -> None:
    """Launch the kernel for no features: whatever keeps it from being compiled or launched there is raised."""
    number, index = torch.zeros(1, device=device), torch.zeros(1, dtype=torch.long, device=device)
    _launch(1, [*[number] * 9, *[index] * 2, *[number] * 12, 1, SAMPLES, 0, 0, 0, 1, 1], 1, 1)
    number.item()  # waits for it


if torch.cuda.is_available():
    try_out("cuda")
