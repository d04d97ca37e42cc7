"""The masked autoregressive layer in numba: data → noise, noise → data, and gradients, for 32 samples at a time.

Memory holds a row for each feature or unit and a column for each sample, as ``packed.Net`` lays it out. Units are
sorted by degree, so that the inputs that a mask lets through to a row are one range, ``start[row] … stop[row]``.
The working rows of a layer are inputs (D), stream (H), before (B·H) and inside (B·H) the blocks, and outputs (2 D).
Each group of samples overwrites them (``keep`` = 0), or they keep what is in them for the gradients (``keep`` = 1).
"""

from numba import int64, void

from fpnlib.flows.packed import EPSILON
from fpnlib.flows.vectors import (
    LANES,
    exponent,
    fma,
    inlined,
    integer,
    jit,
    load,
    log_of_mantissa,
    mantissa,
    number,
    relu,
    softplus,
    splat,
    store,
    store_total,
    where_positive,
)


@inlined
def _begin(out, bias, extra, add):
    total = splat(0.0)
    if bias:
        total = total + number(bias)
    if extra:
        total = total + load(extra)
    if add:
        total = total + load(out)
    return total


@inlined
def affine(out, out_step, weight, width, bias, extra, extra_step, given, step, begin, end, start, stop, add):
    """out[r] = weight[r] · given + bias[r] + extra[r] (+ out[r]) for the rows r of begin … end.

    All but ``width`` (of a weight's row), ``begin``, ``end`` and ``add`` are addresses and steps between rows, in bytes;
    0 stands for no bias and no extra.
    """
    line = 4 * width
    row = begin
    while row < end:
        rows = 4 if row + 4 <= end else (2 if row + 2 <= end else 1)
        o, w = out + row * out_step, weight + row * line
        b = bias + 4 * row if bias else 0
        e = extra + row * extra_step if extra else 0
        low, high = integer(start + 8 * row), integer(stop + 8 * (row + rows - 1))
        x = given + low * step
        w += 4 * low
        last = w + 4 * (high - low)
        if rows == 4:
            sum0 = _begin(o, b, e, add)
            sum1 = _begin(o + out_step, b + 4 if b else 0, e + extra_step if e else 0, add)
            sum2 = _begin(o + 2 * out_step, b + 8 if b else 0, e + 2 * extra_step if e else 0, add)
            sum3 = _begin(o + 3 * out_step, b + 12 if b else 0, e + 3 * extra_step if e else 0, add)
            while w < last:
                value = load(x)
                sum0 = fma(w, value, sum0)
                sum1 = fma(w + line, value, sum1)
                sum2 = fma(w + 2 * line, value, sum2)
                sum3 = fma(w + 3 * line, value, sum3)
                w += 4
                x += step
            store(o, sum0)
            store(o + out_step, sum1)
            store(o + 2 * out_step, sum2)
            store(o + 3 * out_step, sum3)
        elif rows == 2:
            sum0 = _begin(o, b, e, add)
            sum1 = _begin(o + out_step, b + 4 if b else 0, e + extra_step if e else 0, add)
            while w < last:
                value = load(x)
                sum0 = fma(w, value, sum0)
                sum1 = fma(w + line, value, sum1)
                w += 4
                x += step
            store(o, sum0)
            store(o + out_step, sum1)
        else:
            sum0, sum1 = _begin(o, b, e, add), splat(0.0)
            while w + 4 < last:
                sum0 = fma(w, load(x), sum0)
                sum1 = fma(w + 4, load(x + step), sum1)
                w += 8
                x += 2 * step
            if w < last:
                sum0 = fma(w, load(x), sum0)
            store(o, sum0 + sum1)
        row += rows


@inlined
def _addresses(net, plan, work, features, units, blocks, row):
    """Where the parts of a packed layer, of its plan and of the working rows begin."""
    inner = net + 4 * units * features
    outer = inner + 4 * blocks * units * units
    outer_bias = outer + 4 * blocks * units * units
    final = outer_bias + 4 * blocks * units
    final_bias = final + 8 * features * units
    scale = final_bias + 8 * features
    shift = scale + 4 * blocks * units
    gain = shift + 4 * blocks * units
    known = plan + 8 * features
    ranges = known + 8 * (features + 1)
    stream = work + features * row
    before = stream + units * row
    inside = before + blocks * units * row
    outputs = inside + blocks * units * row
    return (
        inner,
        outer,
        outer_bias,
        final,
        final_bias,
        scale,
        shift,
        gain,
        known,
        ranges,
        stream,
        before,
        inside,
        outputs,
    )


@inlined
def _hidden(net, plan, bias, extra, after, extra_step, work, row, column, features, units, blocks, begin, end):
    """The hidden layers for the units begin … end, whose inputs are known; ``extra`` and ``after`` as in ``solve``."""
    inner, outer, outer_bias, _, _, scale, shift, _, _, ranges, stream, before, inside, _ = _addresses(
        net, plan, work, features, units, blocks, row
    )
    square = 4 * units * units
    unit_start, unit_stop = ranges + 16 * units, ranges + 24 * units
    inputs, stream = work + column, stream + column
    affine(
        stream, row, net, features, bias, extra, extra_step, inputs, row, begin, end, ranges, ranges + 8 * units, False
    )
    for block in range(blocks):
        skip = block * units * row + column
        for unit in range(begin, end):
            value = load(stream + unit * row) * number(scale + 4 * (block * units + unit))
            store(before + skip + unit * row, relu(value + number(shift + 4 * (block * units + unit))))
        own = (block + 1) * units
        affine(
            inside + skip, row, inner + block * square, units, bias + 4 * own,
            extra + own * extra_step if extra else 0, extra_step, before + skip, row, begin, end, unit_start, unit_stop, False,
        )  # fmt: skip
        for unit in range(begin, end):
            store(inside + skip + unit * row, relu(load(inside + skip + unit * row)))
        affine(
            stream, row, outer + block * square, units, outer_bias + 4 * block * units,
            after + block * units * extra_step if after else 0, extra_step, inside + skip, row,
            begin, end, unit_start, unit_stop, True,
        )  # fmt: skip


@inlined
def _multiply(product, exponents, scale):
    """The running product of the scales as mantissa and exponent: one logarithm serves all; infinity stays."""
    product = product * scale
    return mantissa(product), exponents + exponent(product) + (scale - scale)


@jit(void(*(int64,) * 16))
def solve(values, columns, count, logs, net, plan, bias, extra, after, work, features, units, blocks, keep, begin, end):
    """Noise → data for the features begin … end, one after the other; adds up the logs of the scales.

    Of rows of ``columns`` samples the first ``count`` are done. Without ``keep`` noise and data are ``values``. With it
    they are rows as ``incremental.Rows`` has them, and all that lies before the plan's ranges is added up already.
    """
    step = 4 * columns
    row = step if keep else 4 * LANES
    _, _, _, final, final_bias, _, _, gain, known, ranges, stream, _, _, outputs = _addresses(
        net, plan, work, features, units, blocks, row
    )
    output_start, output_stop = ranges + 32 * units, ranges + 32 * units + 16 * features
    for sample in range(0, 4 * count, 4 * LANES):
        column = sample if keep else 0
        own, later = extra + sample if extra else 0, after + sample if after else 0
        if not keep:
            for i in range(features):
                store(work + i * row, load(values + i * step + sample))
        product, exponents = splat(1.0), splat(0.0)
        for i in range(begin, end):
            low, high = integer(known + 8 * i), integer(known + 8 * i + 8)
            if low < high:
                _hidden(net, plan, bias, own, later, step, work, row, column, features, units, blocks, low, high)
            affine(
                outputs + column, row, final, units, final_bias, 0, 0, stream + column, row,
                2 * i, 2 * i + 2, output_start, output_stop, keep,
            )  # fmt: skip
            scale = softplus(load(outputs + 2 * i * row + column))[0] + EPSILON
            u = (load(work + i * row + column) - number(gain + 4 * (features + i))) / number(gain + 4 * i)
            x = (u - load(outputs + (2 * i + 1) * row + column)) / scale
            store(work + i * row + column, x)
            store(values + integer(plan + 8 * i) * step + sample, x)
            product, exponents = _multiply(product, exponents, scale)
        total = log_of_mantissa(product) + exponents * 0.69314718
        store(logs + sample, load(logs + sample) + total)


@jit(void(*(int64,) * 15))
def step(values, columns, count, logs, net, plan, bias, extra, after, work, features, units, blocks, begin, end):
    """``solve`` with ``keep``, each feature for all samples before the next: neighbours in memory follow each other."""
    for i in range(begin, end):
        solve(values, columns, count, logs, net, plan, bias, extra, after, work, features, units, blocks, 1, i, i + 1)


@jit(void(*(int64,) * 12))
def evaluate(values, columns, logs, net, plan, bias, extra, work, keep, features, units, blocks):
    """Data → noise in place; adds up the logs of the scales."""
    step = 4 * columns
    row = step if keep else 4 * LANES
    _, _, _, final, final_bias, _, _, gain, _, ranges, stream, _, _, outputs = _addresses(
        net, plan, work, features, units, blocks, row
    )
    output_start, output_stop = ranges + 32 * units, ranges + 32 * units + 16 * features
    for sample in range(0, step, 4 * LANES):
        column = sample if keep else 0
        own = extra + sample if extra else 0
        for i in range(features):
            store(work + i * row + column, load(values + integer(plan + 8 * i) * step + sample))
        _hidden(net, plan, bias, own, 0, step, work, row, column, features, units, blocks, 0, units)
        affine(
            outputs + column, row, final, units, final_bias, 0, 0, stream + column, row,
            0, 2 * features, output_start, output_stop, False,
        )  # fmt: skip
        product, exponents = splat(1.0), splat(0.0)
        for i in range(features):
            scale = softplus(load(outputs + 2 * i * row + column))[0] + EPSILON
            y = scale * load(work + i * row + column) + load(outputs + (2 * i + 1) * row + column)
            store(values + i * step + sample, y * number(gain + 4 * i) + number(gain + 4 * (features + i)))
            product, exponents = _multiply(product, exponents, scale)
        total = log_of_mantissa(product) + exponents * 0.69314718
        store(logs + sample, load(logs + sample) + total)


@inlined
def _gate(activation, gradient):
    return where_positive(activation, gradient, splat(0.0))


@jit(void(*(int64,) * 12))
def backpropagate(grad_values, columns, grad_logs, net, plan, back, back_ranges, work, grads, features, units, blocks):
    """Gradient at the noise → at the data, in place; ``work`` is what ``evaluate`` left there with ``keep``.

    ``back`` has the transposed weights (final, outer, inner, initial) and ``back_ranges`` what their masks let through.
    ``grads`` takes the gradients at the outputs (2 D), in the stream from its beginning to its end (B + 1 times H),
    inside the blocks (B·H), before the last block done (H) and at the inputs (D).
    """
    step = 4 * columns
    _, _, _, _, _, _, _, _, _, _, _, before, inside, outputs = _addresses(
        net, plan, work, features, units, blocks, step
    )
    square, rows = 4 * units * units, units * step
    outer = back + 8 * features * units
    inner = outer + blocks * square
    initial = inner + blocks * square
    unit_start, unit_stop = back_ranges + 16 * units, back_ranges + 24 * units
    stream = grads + 2 * features * step
    within = stream + (blocks + 1) * rows
    ahead = within + blocks * rows
    inputs = ahead + rows
    for sample in range(0, step, 4 * LANES):
        for i in range(features):
            scale, slope = softplus(load(outputs + 2 * i * step + sample))
            scale = scale + EPSILON
            y = load(grad_values + i * step + sample)
            by_scale = y * load(work + i * step + sample) + load(grad_logs + sample) / scale
            store(grads + 2 * i * step + sample, by_scale * slope)
            store(grads + (2 * i + 1) * step + sample, y)
            store(inputs + i * step + sample, y * scale)
        affine(
            stream + blocks * rows + sample, step, back, 2 * features, 0, 0, 0, grads + sample, step,
            0, units, back_ranges, back_ranges + 8 * units, False,
        )  # fmt: skip
        for block in range(blocks - 1, -1, -1):
            own = block * rows + sample
            affine(
                within + own, step, outer + block * square, units, 0, 0, 0, stream + own + rows, step,
                0, units, unit_start, unit_stop, False,
            )  # fmt: skip
            for unit in range(0, rows, step):
                store(within + own + unit, _gate(load(inside + own + unit), load(within + own + unit)))
            affine(
                ahead + sample, step, inner + block * square, units, 0, 0, 0, within + own, step,
                0, units, unit_start, unit_stop, False,
            )  # fmt: skip
            for unit in range(0, rows, step):
                gated = _gate(load(before + own + unit), load(ahead + sample + unit))
                store(stream + own + unit, load(stream + own + rows + unit) + gated)
        affine(
            inputs + sample, step, initial, units, 0, 0, 0, stream + sample, step, 0, features,
            back_ranges + 32 * units, back_ranges + 32 * units + 8 * features, True,
        )  # fmt: skip
        for i in range(features):
            store(grad_values + integer(plan + 8 * i) * step + sample, load(inputs + i * step + sample))


@inlined
def _put(out, width, row_order, column_order, stop, row, low, next_low, a, b):
    line = out + 4 * width * integer(row_order + 8 * row)
    if low < integer(stop + 8 * row):
        store_total(line + 4 * integer(column_order + 8 * low), a)
    if next_low < integer(stop + 8 * row):
        store_total(line + 4 * integer(column_order + 8 * next_low), b)


@jit(void(*(int64,) * 10))
def correlate(out, width, row_order, column_order, of, given, columns, rows, start, stop):
    """out[row_order[r], column_order[c]] = of[r] · given[c], summed over the samples, where the mask has a one."""
    step = 4 * columns
    for row in range(0, rows, 4):
        r1, r2, r3 = min(row + 1, rows - 1), min(row + 2, rows - 1), min(row + 3, rows - 1)
        g0, g1, g2, g3 = of + row * step, of + r1 * step, of + r2 * step, of + r3 * step
        high = integer(stop + 8 * r3)
        for low in range(integer(start + 8 * row), high, 2):
            next_low = min(low + 1, high - 1)
            a, b = given + low * step, given + next_low * step
            a0, a1, a2, a3 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
            b0, b1, b2, b3 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
            for sample in range(0, step, 4 * LANES):
                x, y, g = load(a + sample), load(b + sample), load(g0 + sample)
                a0, b0, g = a0 + g * x, b0 + g * y, load(g1 + sample)
                a1, b1, g = a1 + g * x, b1 + g * y, load(g2 + sample)
                a2, b2, g = a2 + g * x, b2 + g * y, load(g3 + sample)
                a3, b3 = a3 + g * x, b3 + g * y
            _put(out, width, row_order, column_order, stop, row, low, next_low, a0, b0)
            _put(out, width, row_order, column_order, stop, r1, low, next_low, a1, b1)
            _put(out, width, row_order, column_order, stop, r2, low, next_low, a2, b2)
            _put(out, width, row_order, column_order, stop, r3, low, next_low, a3, b3)


@jit(void(*(int64,) * 13))
def couple(values, columns, logs, net, plan, bias, extra, work, inverts, given, units, blocks, moved):
    """A coupling layer in place, data → noise or the other way (``inverts``); adds up the logs of the scales.

    ``given`` features are read and ``moved`` features change. ``bias`` holds the initial layer's biases and each block's
    gates, ``extra`` what the context adds to the one and the gates themselves, where it differs between samples.
    """
    step, row, features = 4 * columns, 4 * LANES, given + moved
    inner = net + 4 * units * given
    inner_bias = inner + 4 * blocks * units * units
    outer = inner_bias + 4 * blocks * units
    outer_bias = outer + 4 * blocks * units * units
    final = outer_bias + 4 * blocks * units
    final_bias = final + 8 * moved * units
    scale = final_bias + 8 * moved
    shift = scale + 4 * blocks * units
    gain = shift + 4 * blocks * units
    start = plan + 8 * features
    given_stop = start + 8 * max(units, 2 * moved)
    unit_stop = given_stop + 8 * units
    stream = work + given * row
    hidden = stream + units * row
    inside = hidden + units * row
    outputs = inside + units * row
    for sample in range(0, step, row):
        if inverts:
            for i in range(features):
                x = load(values + i * step + sample) - number(gain + 4 * (features + i))
                store(values + i * step + sample, x / number(gain + 4 * i))
        for i in range(given):
            store(work + i * row, load(values + integer(plan + 8 * i) * step + sample))
        own = extra + sample if extra else 0
        affine(stream, row, net, given, bias, own, step, work, row, 0, units, start, given_stop, False)
        for block in range(blocks):
            first = block * units
            for unit in range(units):
                value = load(stream + unit * row) * number(scale + 4 * (first + unit))
                store(hidden + unit * row, relu(value + number(shift + 4 * (first + unit))))
            affine(
                inside, row, inner + 4 * first * units, units, inner_bias + 4 * first, 0, 0, hidden, row,
                0, units, start, unit_stop, False,
            )  # fmt: skip
            for unit in range(units):
                store(inside + unit * row, relu(load(inside + unit * row)))
            affine(
                hidden, row, outer + 4 * first * units, units, outer_bias + 4 * first, 0, 0, inside, row,
                0, units, start, unit_stop, False,
            )  # fmt: skip
            for unit in range(units):
                at = first + units + unit
                gate = load(own + at * step) if extra else number(bias + 4 * at)
                store(stream + unit * row, load(stream + unit * row) + gate * load(hidden + unit * row))
        affine(outputs, row, final, units, final_bias, 0, 0, stream, row, 0, 2 * moved, start, unit_stop, False)
        product, exponents = splat(1.0), splat(0.0)
        for i in range(moved):
            place = values + integer(plan + 8 * (given + i)) * step + sample
            factor = softplus(load(outputs + (moved + i) * row) + 2.0)[1] + EPSILON
            add = load(outputs + i * row)
            store(place, (load(place) - add) / factor if inverts else load(place) * factor + add)
            product, exponents = _multiply(product, exponents, factor)
        if not inverts:
            for i in range(features):
                x = load(values + i * step + sample) * number(gain + 4 * i)
                store(values + i * step + sample, x + number(gain + 4 * (features + i)))
        store(logs + sample, load(logs + sample) + log_of_mantissa(product) + exponents * 0.69314718)
