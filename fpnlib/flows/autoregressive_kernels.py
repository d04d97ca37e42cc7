"""The masked autoregressive layer in numba: data → noise and noise → data, for 32 samples at a time.

Memory holds a row for each feature or unit and a column for each sample, as ``autoregressive_weights.Net`` lays it out. Units are
sorted by degree, so that the inputs that a mask lets through to a row are one range, ``start[row] … stop[row]``.
The working rows of a layer are inputs (D), stream (H), before (B·H) and inside (B·H) the blocks, outputs (2 D), and
what each sample's own context adds, if it has one: to the initial layer and to each block's inner one ((1 + B)·H).
Contexts lie in groups of 32 samples, a group's rows one behind the other, the last of ones: a group stays in the
nearest cache, where rows of all samples would lie a page apart.
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

ROW = 4 * LANES  # bytes


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
def _by_context(net, given, context, out, units, blocks):
    """What the contexts of 32 samples add, with the last row's biases, at ``out``; relu of it to the initial layer."""
    affine(out, ROW, net, context, 0, 0, 0, given, ROW, 0, units, 0, 0, False, True)
    affine(
        out, ROW, net, context, 0, 0, 0, given, ROW, units, (1 + blocks) * units, 0, 0, False, False
    )


@inlined
def _hidden(
    net, plan, bias, extra, after, extra_step, work, row, features, units, blocks, begin, end
):
    """The hidden layers for the units begin … end, whose inputs are known; ``extra`` and ``after`` as in ``step``."""
    inner, outer, outer_bias, _, _, scale, shift, _, _, ranges, stream, before, inside, _ = (
        addresses(net, plan, work, features, units, blocks, row)
    )
    square = 4 * units * units
    unit_start, unit_stop = ranges + 16 * units, ranges + 24 * units
    affine(
        stream,
        row,
        net,
        features,
        bias,
        extra,
        extra_step,
        work,
        row,
        begin,
        end,
        ranges,
        ranges + 8 * units,
        False,
        False,
    )
    for block in range(blocks):
        skip = block * units * row
        for unit in range(begin, end):
            value = load(stream + unit * row) * number(scale + 4 * (block * units + unit))
            store(
                before + skip + unit * row, relu(value + number(shift + 4 * (block * units + unit)))
            )
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


@inlined
def _find(
    values,
    step,
    logs,
    net,
    plan,
    bias,
    extra,
    after,
    extra_step,
    work,
    row,
    features,
    units,
    blocks,
    add,
    begin,
    end,
):
    """Noise → data for the features begin … end of 32 samples, one after the other; adds the logs of their scales."""
    _, _, _, final, final_bias, _, _, gain, known, ranges, stream, _, _, outputs = addresses(
        net, plan, work, features, units, blocks, row
    )
    output_start, output_stop = ranges + 32 * units, ranges + 32 * units + 16 * features
    product, exponents = splat(1.0), splat(0.0)
    for i in range(begin, end):
        low, high = integer(known + 8 * i), integer(known + 8 * i + 8)
        if low < high:
            _hidden(
                net,
                plan,
                bias,
                extra,
                after,
                extra_step,
                work,
                row,
                features,
                units,
                blocks,
                low,
                high,
            )
        affine(
            outputs, row, final, units, final_bias, 0, 0, stream, row,
            2 * i, 2 * i + 2, output_start, output_stop, add, False,
        )  # fmt: skip
        scale = softplus(load(outputs + 2 * i * row))[0] + EPSILON
        u = (load(work + i * row) - number(gain + 4 * (features + i))) / number(gain + 4 * i)
        x = (u - load(outputs + (2 * i + 1) * row)) / scale
        store(work + i * row, x)
        store(values + integer(plan + 8 * i) * step, x)
        product, exponents = multiply(product, exponents, scale)
    store(logs, load(logs) + log_of_mantissa(product) + exponents * 0.69314718)


@inlined
def _transform(values, step, logs, net, plan, bias, extra, work, features, units, blocks):
    """Data → noise in place for 32 samples; adds the logs of their scales."""
    _, _, _, final, final_bias, _, _, gain, _, ranges, stream, _, _, outputs = addresses(
        net, plan, work, features, units, blocks, ROW
    )
    output_start, output_stop = ranges + 32 * units, ranges + 32 * units + 16 * features
    for i in range(features):
        store(work + i * ROW, load(values + integer(plan + 8 * i) * step))
    _hidden(net, plan, bias, extra, 0, ROW, work, ROW, features, units, blocks, 0, units)
    affine(
        outputs, ROW, final, units, final_bias, 0, 0, stream, ROW,
        0, 2 * features, output_start, output_stop, False, False,
    )  # fmt: skip
    product, exponents = splat(1.0), splat(0.0)
    for i in range(features):
        scale = softplus(load(outputs + 2 * i * ROW))[0] + EPSILON
        y = scale * load(work + i * ROW) + load(outputs + (2 * i + 1) * ROW)
        store(values + i * step, y * number(gain + 4 * i) + number(gain + 4 * (features + i)))
        product, exponents = multiply(product, exponents, scale)
    store(logs, load(logs) + log_of_mantissa(product) + exponents * 0.69314718)


@jit(void(*(int64,) * 13))
def solve(
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
    features,
    units,
    blocks,
):
    """Noise → data in place; adds up the logs of the scales.

    ``given`` are ``context`` rows of each sample's own context, to be multiplied with the weights ``by_context``.
    """
    step = 4 * columns
    extra = work + (3 * features + (1 + 2 * blocks) * units) * ROW
    for sample in range(0, step, ROW):
        _by_context(by_context, given + sample * context, context, extra, units, blocks)
        for i in range(features):
            store(work + i * ROW, load(values + i * step + sample))
        _find(
            values + sample, step, logs + sample, net, plan, bias, extra, 0, ROW, work, ROW,
            features, units, blocks, False, 0, features,
        )  # fmt: skip


@jit(void(*(int64,) * 15))
def step(
    values,
    columns,
    count,
    logs,
    net,
    plan,
    bias,
    extra,
    after,
    work,
    features,
    units,
    blocks,
    begin,
    end,
):
    """``solve`` for the features begin … end of the first ``count`` samples; what lies before the plan's ranges is added up.

    The rows are ``incremental.Rows``. Each feature comes for all samples before the next one, for neighbours in memory
    to follow each other.
    """
    row = 4 * columns
    for i in range(begin, end):
        for sample in range(0, 4 * count, ROW):
            _find(
                values + sample, row, logs + sample, net, plan, bias, extra + sample, after + sample, row, work + sample,
                row, features, units, blocks, True, i, i + 1,
            )  # fmt: skip


@jit(void(*(int64,) * 16))
def evaluate(
    values,
    step,
    next_values,
    groups,
    logs,
    net,
    plan,
    bias,
    by_context,
    given,
    context,
    work,
    next_work,
    features,
    units,
    blocks,
):
    """Data → noise in place; adds up the logs of the scales; ``given`` as in ``solve``, or 0: then ``bias`` has it all.

    ``step`` bytes lie between the rows of the values, ``next_values`` and ``next_work`` between those of one group of
    samples and of the next. Where the latter is 0 each group overwrites the working rows. Where it is not, they are kept
    for the gradients, but for what the context gives a block's inner layer: there the next group's begin.
    """
    rest = work + (3 * features + (1 + 2 * blocks) * units) * ROW
    for group in range(groups):
        own, extra = work + group * next_work, rest + group * next_work if given else 0
        if given:
            _by_context(by_context, given + group * context * ROW, context, extra, units, blocks)
        _transform(
            values + group * next_values,
            step,
            logs + group * ROW,
            net,
            plan,
            bias,
            extra,
            own,
            features,
            units,
            blocks,
        )
