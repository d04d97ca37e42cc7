"""The coupling layer in numba, either way, for 32 samples at a time; memory as ``coupling_weights.Coupling`` lays it out."""

from numba import int64, void

from fpnlib.flows.affine_kernel import affine
from fpnlib.flows.settings import EPSILON
from fpnlib.flows.vectors import (
    LANES,
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
        affine(stream, row, net, given, bias, own, step, work, row, 0, units, start, given_stop, False, False)
        for block in range(blocks):
            first = block * units
            for unit in range(units):
                value = load(stream + unit * row) * number(scale + 4 * (first + unit))
                store(hidden + unit * row, relu(value + number(shift + 4 * (first + unit))))
            affine(
                inside, row, inner + 4 * first * units, units, inner_bias + 4 * first, 0, 0, hidden, row,
                0, units, start, unit_stop, False, True,
            )  # fmt: skip
            affine(
                hidden, row, outer + 4 * first * units, units, outer_bias + 4 * first, 0, 0, inside, row,
                0, units, start, unit_stop, False, False,
            )  # fmt: skip
            for unit in range(units):
                at = first + units + unit
                gate = load(own + at * step) if extra else number(bias + 4 * at)
                store(stream + unit * row, load(stream + unit * row) + gate * load(hidden + unit * row))
        affine(outputs, row, final, units, final_bias, 0, 0, stream, row, 0, 2 * moved, start, unit_stop, False, False)
        product, exponents = splat(1.0), splat(0.0)
        for i in range(moved):
            place = values + integer(plan + 8 * (given + i)) * step + sample
            factor = softplus(load(outputs + (moved + i) * row) + 2.0)[1] + EPSILON
            add = load(outputs + i * row)
            store(place, (load(place) - add) / factor if inverts else load(place) * factor + add)
            product, exponents = multiply(product, exponents, factor)
        if not inverts:
            for i in range(features):
                x = load(values + i * step + sample) * number(gain + 4 * i)
                store(values + i * step + sample, x + number(gain + 4 * (features + i)))
        store(logs + sample, load(logs + sample) + log_of_mantissa(product) + exponents * 0.69314718)
