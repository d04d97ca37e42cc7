"""The masked autoregressive layer in numba: data → noise and noise → data, for 32 samples at a time.

Memory holds a row for each feature or unit and a column for each sample, as ``autoregressive_weights.Net`` lays it out. Units are
sorted by degree, so that the inputs that a mask lets through to a row are one range, ``start[row] … stop[row]``.
The working rows of a layer are inputs (D), stream (H), before (B·H) and inside (B·H) the blocks, and outputs (2 D).
"""

from numba import int64, void

from fpnlib.flows.affine_kernel import affine
from fpnlib.flows.settings import EPSILON
from fpnlib.flows.vectors import (
    LANES,
    inlined,
    integer,
    jit,
    load,
    log_of_mantissa,
    multiply,
    number,
    relu,
    softplus,
    splat,
    store,
)


@inlined
def addresses(net, plan, work, features, units, blocks, row):
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
    inner, outer, outer_bias, _, _, scale, shift, _, _, ranges, stream, before, inside, _ = addresses(
        net, plan, work, features, units, blocks, row
    )
    square = 4 * units * units
    unit_start, unit_stop = ranges + 16 * units, ranges + 24 * units
    inputs, stream = work + column, stream + column
    affine(
        stream, row, net, features, bias, extra, extra_step, inputs, row, begin, end, ranges, ranges + 8 * units, False, False
    )
    for block in range(blocks):
        skip = block * units * row + column
        for unit in range(begin, end):
            value = load(stream + unit * row) * number(scale + 4 * (block * units + unit))
            store(before + skip + unit * row, relu(value + number(shift + 4 * (block * units + unit))))
        own = (block + 1) * units
        affine(
            inside + skip, row, inner + block * square, units, bias + 4 * own,
            extra + own * extra_step if extra else 0, extra_step, before + skip, row,
            begin, end, unit_start, unit_stop, False, True,
        )  # fmt: skip
        affine(
            stream, row, outer + block * square, units, outer_bias + 4 * block * units,
            after + block * units * extra_step if after else 0, extra_step, inside + skip, row,
            begin, end, unit_start, unit_stop, True, False,
        )  # fmt: skip


@jit(void(*(int64,) * 16))
def solve(values, columns, count, logs, net, plan, bias, extra, after, work, features, units, blocks, keep, begin, end):
    """Noise → data for the features begin … end, one after the other; adds up the logs of the scales.

    Of rows of ``columns`` samples the first ``count`` are done. Without ``keep`` noise and data are ``values``. With it
    they are rows as ``incremental.Rows`` has them, and all that lies before the plan's ranges is added up already.
    """
    step = 4 * columns
    row = step if keep else 4 * LANES
    _, _, _, final, final_bias, _, _, gain, known, ranges, stream, _, _, outputs = addresses(
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
                2 * i, 2 * i + 2, output_start, output_stop, keep, False,
            )  # fmt: skip
            scale = softplus(load(outputs + 2 * i * row + column))[0] + EPSILON
            u = (load(work + i * row + column) - number(gain + 4 * (features + i))) / number(gain + 4 * i)
            x = (u - load(outputs + (2 * i + 1) * row + column)) / scale
            store(work + i * row + column, x)
            store(values + integer(plan + 8 * i) * step + sample, x)
            product, exponents = multiply(product, exponents, scale)
        total = log_of_mantissa(product) + exponents * 0.69314718
        store(logs + sample, load(logs + sample) + total)


@jit(void(*(int64,) * 15))
def step(values, columns, count, logs, net, plan, bias, extra, after, work, features, units, blocks, begin, end):
    """``solve`` with ``keep``, each feature for all samples before the next: neighbours in memory follow each other."""
    for i in range(begin, end):
        solve(values, columns, count, logs, net, plan, bias, extra, after, work, features, units, blocks, 1, i, i + 1)


@inlined
def evaluate_some(values, step, logs, net, plan, bias, extra, extra_step, work, features, units, blocks):
    """Data → noise in place for the 32 samples that begin at these addresses; adds the logs of their scales."""
    row = 4 * LANES
    _, _, _, final, final_bias, _, _, gain, _, ranges, stream, _, _, outputs = addresses(
        net, plan, work, features, units, blocks, row
    )
    output_start, output_stop = ranges + 32 * units, ranges + 32 * units + 16 * features
    for i in range(features):
        store(work + i * row, load(values + integer(plan + 8 * i) * step))
    _hidden(net, plan, bias, extra, 0, extra_step, work, row, 0, features, units, blocks, 0, units)
    affine(
        outputs, row, final, units, final_bias, 0, 0, stream, row,
        0, 2 * features, output_start, output_stop, False, False,
    )  # fmt: skip
    product, exponents = splat(1.0), splat(0.0)
    for i in range(features):
        scale = softplus(load(outputs + 2 * i * row))[0] + EPSILON
        y = scale * load(work + i * row) + load(outputs + (2 * i + 1) * row)
        store(values + i * step, y * number(gain + 4 * i) + number(gain + 4 * (features + i)))
        product, exponents = multiply(product, exponents, scale)
    store(logs, load(logs) + log_of_mantissa(product) + exponents * 0.69314718)


@jit(void(*(int64,) * 11))
def evaluate(values, columns, logs, net, plan, bias, extra, work, features, units, blocks):
    """Data → noise in place; adds up the logs of the scales."""
    step = 4 * columns
    for sample in range(0, step, 4 * LANES):
        own = extra + sample if extra else 0
        evaluate_some(values + sample, step, logs + sample, net, plan, bias, own, step, work, features, units, blocks)
