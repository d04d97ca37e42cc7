"""The numba kernel: a flow in float32 on the CPU, for 64 samples abreast.

Every inner loop runs over the samples of one group, and the compiler turns it into vector
instructions. Buffers have the shape (k, rows, LANES). The names of widths are those of ``Weights``.
"""

from __future__ import annotations

import numpy as np
from numba import float32, njit
from numpy.typing import NDArray

from fpnlib.flows.engine.weights import EPSILON, Weights

LANES = 64  # samples abreast
LOGS = 8  # scales in one product: eight float32 numbers multiply to a float64 without overflow

_options = {"cache": True, "nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}


@njit(**_options)
def _relu(x: float) -> float:
    return float32(0.0) if x < float32(0.0) else x  # noqa: FURB136 (max would lose NaN)


@njit(inline="always", **_options)
def _add_product(
    out: NDArray,
    o: int,
    weight: NDArray,
    w: int,
    given: NDArray,
    g: int,
    first: int,
    last: int,
    stops: NDArray,
) -> None:
    """Add weight[w] @ given[g] to out[o], for the rows first … last.

    Row r of the weights is zero from column stops[r] on, and ``stops`` does not decrease. Two rows
    and four columns at a time keep the vector units busy. The arguments are whole arrays and
    indices, because a slice costs more than a short product.
    """
    row = first
    while row + 2 <= last:
        k = 0
        while k + 4 <= stops[row + 1]:
            a0, a1 = weight[w, row, k], weight[w, row, k + 1]
            a2, a3 = weight[w, row, k + 2], weight[w, row, k + 3]
            b0, b1 = weight[w, row + 1, k], weight[w, row + 1, k + 1]
            b2, b3 = weight[w, row + 1, k + 2], weight[w, row + 1, k + 3]
            for s in range(LANES):
                x0, x1 = given[g, k, s], given[g, k + 1, s]
                x2, x3 = given[g, k + 2, s], given[g, k + 3, s]
                out[o, row, s] += a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3
                out[o, row + 1, s] += b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3
            k += 4
        while k < stops[row + 1]:
            a0, b0 = weight[w, row, k], weight[w, row + 1, k]
            for s in range(LANES):
                out[o, row, s] += a0 * given[g, k, s]
                out[o, row + 1, s] += b0 * given[g, k, s]
            k += 1
        row += 2
    if row < last:
        k = 0
        while k + 4 <= stops[row]:
            a0, a1 = weight[w, row, k], weight[w, row, k + 1]
            a2, a3 = weight[w, row, k + 2], weight[w, row, k + 3]
            for s in range(LANES):
                x0, x1 = given[g, k, s], given[g, k + 1, s]
                x2, x3 = given[g, k + 2, s], given[g, k + 3, s]
                out[o, row, s] += a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3
            k += 4
        while k < stops[row]:
            a0 = weight[w, row, k]
            for s in range(LANES):
                out[o, row, s] += a0 * given[g, k, s]
            k += 1


@njit(**_options)
def _softplus(x: NDArray, row: int, out: NDArray, bits: NDArray) -> None:
    """Set out to log(1 + exp(x[0, row])), in arithmetic that vectorises.

    With a = -|x|, exp(a) = 2^p exp(r): the power is put together from its bits, and exp(r) is a
    polynomial. Then log(1 + e) = 2 artanh(e / (e + 2)) is a series in odd powers.
    """
    for s in range(LANES):
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
    power = bits.view(np.float32)
    for s in range(LANES):
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


@njit(inline="always", **_options)
def _fill(out: NDArray, o: int, bias: NDArray, k: int, first: int, last: int) -> None:
    """Set the rows first … last of out[o] to bias[k]."""
    for r in range(first, last):
        for s in range(LANES):
            out[o, r, s] = bias[k, r]


@njit(inline="always", **_options)
def _apply_relu(out: NDArray, o: int, first: int, last: int) -> None:
    for r in range(first, last):
        for s in range(LANES):
            out[o, r, s] = _relu(out[o, r, s])


@njit(inline="always", **_options)
def _add_bias(out: NDArray, o: int, bias: NDArray, k: int, first: int, last: int) -> None:
    for r in range(first, last):
        for s in range(LANES):
            out[o, r, s] += bias[k, r]


@njit(inline="always", **_options)
def _normalise(
    stream: NDArray,
    before: NDArray,
    b: int,
    gain: NDArray,
    offset: NDArray,
    k: int,
    first: int,
    last: int,
) -> None:
    """Set before[b] to the relu of the stream after the batch norm with gain[k] and offset[k]."""
    for r in range(first, last):
        for s in range(LANES):
            before[b, r, s] = _relu(stream[0, r, s] * gain[k, r] + offset[k, r])


@njit(inline="always", **_options)
def _transform(
    x: NDArray,
    inverse: bool,
    low: int,
    high: int,
    outputs: NDArray,
    gains: NDArray,
    offsets: NDArray,
    t: int,
    scale: NDArray,
    bits: NDArray,
    products: NDArray,
) -> None:
    """Transform the features low … high of x; multiply their scales into ``products``."""
    for i in range(low, high):
        _softplus(outputs, 2 * i, scale, bits)
        gain, offset = gains[t, i], offsets[t, i]
        row = (t * x.shape[1] + i) // LOGS
        for s in range(LANES):
            scale[s] += float32(EPSILON)
            products[row, s] *= scale[s]
            value, shift = x[0, i, s], outputs[0, 2 * i + 1, s]
            if inverse:
                x[0, i, s] = ((value - offset) / gain - shift) / scale[s]
            else:
                x[0, i, s] = (value * scale[s] + shift) * gain + offset


@njit(inline="always", **_options)
def _load(rows: NDArray, begin: int, count: int, columns: NDArray) -> None:
    """Set columns (width, LANES) to the rows begin … begin + count (count, width)."""
    for s in range(count):
        for i in range(len(columns)):
            columns[i, s] = rows[begin + s, i]


@njit(inline="always", **_options)
def _store(columns: NDArray, begin: int, count: int, rows: NDArray) -> None:
    """Set the rows begin … begin + count to columns (width, LANES)."""
    for s in range(count):
        for i in range(len(columns)):
            rows[begin + s, i] = columns[i, s]


@njit(**_options)
def run(
    w: Weights,
    inverse: bool,
    values: NDArray,
    contexts: NDArray,
    results: NDArray,
    scales: NDArray,
    start: int,
    stop: int,
) -> None:
    """Transform the samples start … stop.

    The inverse computes the units of degree i, then feature i, for each i in turn. The forward
    direction computes all units, then all features. So both are the same stages, D of them or one.

    Args:
        w: the weights as arrays.
        inverse: from noise to data; otherwise from data to noise.
        values: (n, D).
        contexts: (n, C).
        results: (n, D), written.
        scales: (n, ceil(T·D / LOGS)), written: products of up to LOGS scales of the map from data
            to noise.
        start: the first sample.
        stop: the sample after the last.
    """
    layers, features = w.order.shape
    units, blocks = w.initial.shape[1], len(w.inner) // layers
    data = np.zeros((features, LANES), np.float32)
    x = np.zeros((1, features, LANES), np.float32)
    context = np.zeros((1, contexts.shape[1], LANES), np.float32)
    stream = np.empty((1, units, LANES), np.float32)
    before = np.empty((blocks, units, LANES), np.float32)
    inside = np.empty((blocks, units, LANES), np.float32)
    outputs = np.empty((1, 2 * features, LANES), np.float32)
    scale, bits = np.empty(LANES, np.float32), np.empty(LANES, np.int32)
    products = np.empty((scales.shape[1], LANES), np.float64)
    stages = features if inverse else 1
    for begin in range(start, stop, LANES):
        count = min(LANES, stop - begin)
        _load(values, begin, count, data)
        _load(contexts, begin, count, context[0])
        products[:] = 1.0
        for step in range(layers):
            t = layers - 1 - step if inverse else step
            for i in range(features):
                source = i if inverse else w.order[t, i]
                for s in range(LANES):
                    x[0, i, s] = data[source, s]
            for low in range(stages):
                high = low + 1 if inverse else features
                first, last = w.known[low], w.known[high]
                _fill(stream, 0, w.first_context_bias, t, first, last)
                _add_product(
                    stream, 0, w.first_context, t, context, 0, first, last, w.context_stops
                )
                _apply_relu(stream, 0, first, last)
                _add_bias(stream, 0, w.initial_bias, t, first, last)
                _add_product(stream, 0, w.initial, t, x, 0, first, last, w.input_stops)
                for b in range(blocks):
                    k = t * blocks + b
                    _normalise(stream, before, b, w.block_gain, w.block_offset, k, first, last)
                    _fill(inside, b, w.inner_bias, k, first, last)
                    _add_product(inside, b, w.context, k, context, 0, first, last, w.context_stops)
                    _add_product(inside, b, w.inner, k, before, b, first, last, w.unit_stops)
                    _apply_relu(inside, b, first, last)
                    _add_bias(stream, 0, w.outer_bias, k, first, last)
                    _add_product(stream, 0, w.outer, k, inside, b, first, last, w.unit_stops)
                _fill(outputs, 0, w.final_bias, t, 2 * low, 2 * high)
                _add_product(outputs, 0, w.final, t, stream, 0, 2 * low, 2 * high, w.output_stops)
                _transform(
                    x, inverse, low, high, outputs, w.gain, w.offset, t, scale, bits, products
                )
            for i in range(features):
                target = w.order[t, i] if inverse else i
                for s in range(LANES):
                    data[target, s] = x[0, i, s]
        _store(data, begin, count, results)
        _store(products, begin, count, scales)
