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

ROW = 4 * LANES  # bytes


@jit(void(*(int64,) * 15))
def couple(
    values,
    columns,
    logs,
    net,
    plan,
    bias,
    by_context,
    given,
    context,
    work,
    inverts,
    known,
    units,
    blocks,
    moved,
):
    """A coupling layer in place, data → noise or the other way (``inverts``); adds up the logs of the scales.

    ``known`` features are read and ``moved`` features change. ``bias`` holds the initial layer's biases and each block's
    gates. ``given`` is 0 or, in groups of 32 samples, the ``context`` rows of each sample's own, of which the weights
    ``by_context`` make what is added to the former, and the latter.
    """
    step, features = 4 * columns, known + moved
    inner = net + 4 * units * known
    inner_bias = inner + 4 * blocks * units * units
    outer = inner_bias + 4 * blocks * units
    outer_bias = outer + 4 * blocks * units * units
    final = outer_bias + 4 * blocks * units
    final_bias = final + 8 * moved * units
    scale = final_bias + 8 * moved
    shift = scale + 4 * blocks * units
    gain = shift + 4 * blocks * units
    stream = work + known * ROW
    hidden = stream + units * ROW
    inside = hidden + units * ROW
    outputs = inside + units * ROW
    extra = outputs + 2 * moved * ROW if given else 0
    gates = extra + units * ROW
    for sample in range(0, step, ROW):
        if given:
            own = given + sample * context
            affine(
                extra,
                ROW,
                by_context,
                context,
                0,
                0,
                0,
                own,
                ROW,
                0,
                (1 + blocks) * units,
                0,
                0,
                False,
                False,
            )
            for at in range(gates, gates + blocks * units * ROW, ROW):
                store(at, softplus(load(at))[1])
        if inverts:
            for i in range(features):
                x = load(values + i * step + sample) - number(gain + 4 * (features + i))
                store(values + i * step + sample, x / number(gain + 4 * i))
        for i in range(known):
            store(work + i * ROW, load(values + integer(plan + 8 * i) * step + sample))
        affine(stream, ROW, net, known, bias, extra, ROW, work, ROW, 0, units, 0, 0, False, False)
        for block in range(blocks):
            first = block * units
            for unit in range(units):
                value = load(stream + unit * ROW) * number(scale + 4 * (first + unit))
                store(hidden + unit * ROW, relu(value + number(shift + 4 * (first + unit))))
            affine(
                inside, ROW, inner + 4 * first * units, units, inner_bias + 4 * first, 0, 0, hidden, ROW,
                0, units, 0, 0, False, True,
            )  # fmt: skip
            affine(
                hidden, ROW, outer + 4 * first * units, units, outer_bias + 4 * first, 0, 0, inside, ROW,
                0, units, 0, 0, False, False,
            )  # fmt: skip
            for unit in range(units):
                at = first + unit
                gate = load(gates + at * ROW) if given else number(bias + 4 * (units + at))
                store(
                    stream + unit * ROW,
                    load(stream + unit * ROW) + gate * load(hidden + unit * ROW),
                )
        affine(
            outputs,
            ROW,
            final,
            units,
            final_bias,
            0,
            0,
            stream,
            ROW,
            0,
            2 * moved,
            0,
            0,
            False,
            False,
        )
        product, exponents = splat(1.0), splat(0.0)
        for i in range(moved):
            place = values + integer(plan + 8 * (known + i)) * step + sample
            factor = softplus(load(outputs + (moved + i) * ROW) + 2.0)[1] + EPSILON
            add = load(outputs + i * ROW)
            store(place, (load(place) - add) / factor if inverts else load(place) * factor + add)
            product, exponents = multiply(product, exponents, factor)
        if not inverts:
            for i in range(features):
                x = load(values + i * step + sample) * number(gain + 4 * i)
                store(values + i * step + sample, x + number(gain + 4 * (features + i)))
        store(
            logs + sample, load(logs + sample) + log_of_mantissa(product) + exponents * 0.69314718
        )
