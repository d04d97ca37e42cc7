"""The numba kernel: a flow in float32 on the CPU, for several samples abreast.

Every inner loop runs over the samples of one group, and the compiler turns it into vector
instructions. Buffers have the shape (k, rows, lanes). The names of widths are those of ``Weights``.

Helpers are inlined by LLVM (``forceinline``), which then knows the number of lanes and the buffers'
shapes. numba's own ``inline="always"`` would count references to each array in the innermost loops,
which takes as long as the arithmetic. A slice costs more than a short product, hence the indices.
"""

import numpy as np
from numba import float32, njit
from numpy.typing import NDArray as Array

from fpnlib.flows.engine.weights import EPSILON, Weights

MANY = 64  # samples abreast
FEW = 16  # samples abreast in a small batch
STEP = 4  # columns in a step of a product: weights and buffers are padded to whole steps
LOGS = 8  # scales in one product: eight float32 numbers multiply to a float64 without overflow

_options = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}
_inlined = {"forceinline": True, **_options}


@njit(**_inlined)
def _relu(x: float) -> float:
    return float32(0.0) if x < float32(0.0) else x  # noqa: FURB136 (max would lose NaN)


@njit(**_inlined)
def _add_product(
    out: Array,
    o: int,
    weight: Array,
    w: int,
    given: Array,
    g: int,
    first: int,
    last: int,
    stops: Array,
    lanes: int,
) -> None:
    """Add weight[w] @ given[g] to out[o], for the rows first … last.

    Row r of the weights is zero from column stops[r] on, and ``stops`` does not decrease. Two rows
    and four columns at a time keep vector units busy, and sums of four round less than a long one.
    """
    row = first
    while row + 2 <= last:
        _add_two_rows(out, o, weight, w, given, g, row, stops[row + 1], lanes)
        row += 2
    if row < last:
        _add_row(out, o, weight, w, given, g, row, stops[row], lanes)


@njit(**_inlined)
def _add_two_rows(
    out: Array, o: int, weight: Array, w: int, given: Array, g: int, row: int, stop: int, lanes: int
) -> None:
    """Add the products of two rows with the columns before ``stop``."""
    k = 0
    while k < stop:
        a0, a1 = weight[w, row, k], weight[w, row, k + 1]
        a2, a3 = weight[w, row, k + 2], weight[w, row, k + 3]
        b0, b1 = weight[w, row + 1, k], weight[w, row + 1, k + 1]
        b2, b3 = weight[w, row + 1, k + 2], weight[w, row + 1, k + 3]
        for s in range(lanes):
            x0, x1 = given[g, k, s], given[g, k + 1, s]
            x2, x3 = given[g, k + 2, s], given[g, k + 3, s]
            out[o, row, s] += a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3
            out[o, row + 1, s] += b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3
        k += STEP


@njit(**_inlined)
def _add_row(
    out: Array, o: int, weight: Array, w: int, given: Array, g: int, row: int, stop: int, lanes: int
) -> None:
    """Add the product of a row with the columns before ``stop``."""
    k = 0
    while k < stop:
        a0, a1 = weight[w, row, k], weight[w, row, k + 1]
        a2, a3 = weight[w, row, k + 2], weight[w, row, k + 3]
        for s in range(lanes):
            x0, x1 = given[g, k, s], given[g, k + 1, s]
            x2, x3 = given[g, k + 2, s], given[g, k + 3, s]
            out[o, row, s] += a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3
        k += STEP


@njit(**_inlined)
def _softplus(x: Array, row: int, out: Array, bits: Array, power: Array, lanes: int) -> None:
    """Set out to log(1 + exp(x[0, row])), in arithmetic that vectorises.

    With a = -|x|, exp(a) = 2^p exp(r): the power is put together from its bits, and exp(r) is a
    polynomial. Then log(1 + e) = 2 artanh(e / (e + 2)) is a series in odd powers.
    """
    for s in range(lanes):
        a = max(-abs(x[0, row, s]), float32(-87.0))
        rounded = a * float32(1.44269504) + float32(12582912.0)  # 1.5 · 2^23 cuts the fraction off
        p = rounded - float32(12582912.0)
        r = (a - p * float32(0.693359375)) + p * float32(2.12194440e-4)
        e = r * float32(1 / 5040) + float32(1 / 720)
        e = e * r + float32(1 / 120)
        e = e * r + float32(1 / 24)
        e = e * r + float32(1 / 6)
        e = e * r + float32(0.5)
        e = e * r + float32(1.0)
        out[s] = e * r + float32(1.0)
        bits[s] = (np.int32(p) + 127) << 23
    for s in range(lanes):
        e = out[s] * power[s]
        w = e / (e + float32(2.0))
        q = w * w
        log = q * float32(1 / 15) + float32(1 / 13)
        log = log * q + float32(1 / 11)
        log = log * q + float32(1 / 9)
        log = log * q + float32(1 / 7)
        log = log * q + float32(1 / 5)
        log = log * q + float32(1 / 3)
        log = log * q + float32(1.0)
        out[s] = _relu(x[0, row, s]) + float32(2.0) * w * log


@njit(**_inlined)
def _fill(out: Array, o: int, bias: Array, k: int, first: int, last: int, lanes: int) -> None:
    """Set the rows first … last of out[o] to bias[k]."""
    for r in range(first, last):
        value = bias[k, r]
        for s in range(lanes):
            out[o, r, s] = value


@njit(**_inlined)
def _apply_relu(x: Array, b: int, first: int, last: int, lanes: int) -> None:
    """Apply a relu to the rows first … last of x[b]."""
    for r in range(first, last):
        for s in range(lanes):
            x[b, r, s] = _relu(x[b, r, s])


@njit(**_inlined)
def _normalise(
    stream: Array,
    before: Array,
    b: int,
    gain: Array,
    offset: Array,
    k: int,
    first: int,
    last: int,
    lanes: int,
) -> None:
    """Set before[b] to the relu of the stream after the batch norm with gain[k] and offset[k]."""
    for r in range(first, last):
        slope, start = gain[k, r], offset[k, r]
        for s in range(lanes):
            before[b, r, s] = _relu(stream[0, r, s] * slope + start)


@njit(**_inlined)
def _transform(
    x: Array,
    inverse: bool,
    low: int,
    high: int,
    outputs: Array,
    gains: Array,
    offsets: Array,
    t: int,
    scale: Array,
    bits: Array,
    power: Array,
    products: Array,
    lanes: int,
) -> None:
    """Transform the features low … high of x; multiply their scales into ``products``."""
    for i in range(low, high):
        _softplus(outputs, 2 * i, scale, bits, power, lanes)
        gain, offset = gains[t, i], offsets[t, i]
        row = (t * gains.shape[1] + i) // LOGS
        for s in range(lanes):
            scale[s] += float32(EPSILON)
            products[row, s] *= scale[s]
            value, shift = x[0, i, s], outputs[0, 2 * i + 1, s]
            if inverse:
                x[0, i, s] = ((value - offset) / gain - shift) / scale[s]
            else:
                x[0, i, s] = (value * scale[s] + shift) * gain + offset


@njit(**_inlined)
def _load(rows: Array, begin: int, count: int, columns: Array) -> None:
    """Set columns (width, lanes) to the rows begin … begin + count (count, width)."""
    for s in range(count):
        for i in range(rows.shape[1]):
            columns[i, s] = rows[begin + s, i]


@njit(**_inlined)
def _store(columns: Array, begin: int, count: int, rows: Array) -> None:
    """Set the rows begin … begin + count to columns (width, lanes)."""
    for s in range(count):
        for i in range(rows.shape[1]):
            rows[begin + s, i] = columns[i, s]


@njit(**_inlined)
def _begin_layer(
    w: Weights, t: int, context: Array, stream: Array, inside: Array, stops: Array, lanes: int
) -> None:
    """Set stream and inside to what does not depend on x: the context's part and its biases."""
    units, blocks = len(stops), len(inside)
    _fill(stream, 0, w.first_context_bias, t, 0, units, lanes)
    _add_product(stream, 0, w.first_context, t, context, 0, 0, units, stops, lanes)
    _apply_relu(stream, 0, 0, units, lanes)
    for b in range(blocks):
        k = t * blocks + b
        _fill(inside, b, w.inner_bias, k, 0, units, lanes)
        _add_product(inside, b, w.context, k, context, 0, 0, units, stops, lanes)


@njit(**_inlined)
def _run_blocks(
    t: int,
    first: int,
    last: int,
    stream: Array,
    before: Array,
    inside: Array,
    inner: Array,
    outer: Array,
    gain: Array,
    offset: Array,
    stops: Array,
    lanes: int,
) -> None:
    """Add the residual blocks to the units first … last of the stream."""
    blocks = len(inside)
    for b in range(blocks):
        k = t * blocks + b
        _normalise(stream, before, b, gain, offset, k, first, last, lanes)
        _add_product(inside, b, inner, k, before, b, first, last, stops, lanes)
        _apply_relu(inside, b, first, last, lanes)
        _add_product(stream, 0, outer, k, inside, b, first, last, stops, lanes)


@njit(**_inlined)
def _permute(x: Array, spare: Array, order: Array, t: int, inverse: bool, lanes: int) -> None:
    """Put x into the layer's order, or out of it on the way from noise."""
    for i in range(order.shape[1]):
        for s in range(lanes):
            spare[i, s] = x[0, i, s]
    for i in range(order.shape[1]):
        source, target = (i, order[t, i]) if inverse else (order[t, i], i)
        for s in range(lanes):
            x[0, target, s] = spare[source, s]


@njit(**_inlined)
def _run(
    w: Weights, inverse: bool, values: Array, contexts: Array, out: Array, scales: Array, lanes: int
) -> None:
    # Fields are unpacked here, once, because each access counts a reference.
    order, known, input_stops, unit_stops, output_stops, initial, inner, _, outer = w[:9]
    final, final_bias, block_gain, block_offset, _, _, _, gain, offset = w[9:]
    layers, features = order.shape
    padded, blocks = inner.shape[2], len(inner) // layers
    spare = np.empty((features, lanes), np.float32)
    x = np.zeros((1, initial.shape[2], lanes), np.float32)
    context = np.zeros((1, -(-contexts.shape[1] // STEP) * STEP, lanes), np.float32)
    context_stops = np.full(inner.shape[1], context.shape[1])
    stream = np.zeros((1, padded, lanes), np.float32)
    before = np.zeros((blocks, padded, lanes), np.float32)
    inside = np.zeros((blocks, padded, lanes), np.float32)
    outputs = np.empty((1, 2 * features, lanes), np.float32)
    scale, bits = np.empty(lanes, np.float32), np.empty(lanes, np.int32)
    power = bits.view(np.float32)
    products = np.empty((scales.shape[1], lanes), np.float64)
    for begin in range(0, len(values), lanes):
        count = min(lanes, len(values) - begin)
        _load(values, begin, count, x[0])
        _load(contexts, begin, count, context[0])
        products[:] = 1.0
        before[:] = 0.0  # a product's last step reads rows that are not known yet
        for step in range(layers):
            t = layers - 1 - step if inverse else step
            if not inverse:
                _permute(x, spare, order, t, inverse, lanes)
            _begin_layer(w, t, context, stream, inside, context_stops, lanes)
            for low in range(features if inverse else 1):
                high = low + 1 if inverse else features
                first, last = known[low], known[high]
                if first < last:
                    _add_product(stream, 0, initial, t, x, 0, first, last, input_stops, lanes)
                    _run_blocks(
                        t, first, last, stream, before, inside, inner, outer,
                        block_gain, block_offset, unit_stops, lanes,
                    )  # fmt: skip
                _fill(outputs, 0, final_bias, t, 2 * low, 2 * high, lanes)
                _add_product(
                    outputs, 0, final, t, stream, 0, 2 * low, 2 * high, output_stops, lanes
                )
                _transform(
                    x, inverse, low, high, outputs, gain, offset, t,
                    scale, bits, power, products, lanes,
                )  # fmt: skip
            if inverse:
                _permute(x, spare, order, t, inverse, lanes)
        _store(x[0], begin, count, out)
        _store(products, begin, count, scales)


@njit(cache=True, **_options)
def run_many(
    w: Weights, inverse: bool, values: Array, contexts: Array, results: Array, scales: Array
) -> None:
    """Transform n samples.

    Args:
        w: the weights as arrays, their columns padded with zeros to whole steps.
        inverse: from noise to data; otherwise from data to noise.
        values: (n, D).
        contexts: (n, C); C may be 0 if the biases hold the context's part.
        results: (n, D), written.
        scales: (n, ceil(T·D / LOGS)), written: products of LOGS scales of the map to noise.
    """
    _run(w, inverse, values, contexts, results, scales, MANY)


@njit(cache=True, **_options)
def run_few(
    w: Weights, inverse: bool, values: Array, contexts: Array, results: Array, scales: Array
) -> None:
    """Transform a small batch: the same numbers as ``run_many``."""
    _run(w, inverse, values, contexts, results, scales, FEW)
