"""The gradients of the masked autoregressive layer in numba, from what ``autoregressive_kernels.evaluate`` kept.

All memory is in groups of 32 samples, as ``evaluate`` keeps it, of each sample's own context what that adds to the
initial layer (H). The way back leaves the gradients at the outputs (2 D), in the stream from its beginning to its end
(B + 1 times H), at what the context adds to the initial layer (H) and inside the blocks (B·H).
"""

from numba import int64, void

from fpnlib.flows.affine_kernel import affine
from fpnlib.flows.autoregressive_kernels import ROW, addresses
from fpnlib.flows.settings import EPSILON
from fpnlib.flows.vectors import (
    FEW,
    inlined,
    integer,
    jit,
    load,
    load_few,
    softplus,
    splat,
    splat_few,
    store,
    store_total,
    where_positive,
)


@inlined
def _gate(activation, gradient):
    return where_positive(activation, gradient, splat(0.0))


@jit(void(*(int64,) * 13))
def backpropagate(
    grad_values,
    groups,
    grad_logs,
    plan,
    back,
    back_ranges,
    work,
    size,
    grads,
    grads_size,
    features,
    units,
    blocks,
):
    """Gradient at the noise → at the data, in place; ``work`` is what ``evaluate`` kept there.

    ``back`` has the transposed weights (final, outer, inner, initial) and ``back_ranges`` what their masks let through.
    ``grads`` takes, ``grads_size`` bytes for each group, the gradients at what is inside; what else it needs for a group
    lies where the next group's will come.
    """
    _, _, _, _, _, _, _, _, _, _, _, before, inside, outputs = addresses(
        0, 0, work, features, units, blocks, ROW
    )
    gate = outputs + 2 * features * ROW
    square, rows = 4 * units * units, units * ROW
    outer = back + 8 * features * units
    inner = outer + blocks * square
    initial = inner + blocks * square
    unit_start, unit_stop = back_ranges + 16 * units, back_ranges + 24 * units
    stream = grads + 2 * features * ROW
    gated = stream + (blocks + 1) * rows
    within = gated + rows
    ahead = within + blocks * rows
    inputs = ahead + rows
    for group in range(groups):
        kept, left = group * size, group * grads_size
        for i in range(features):
            scale, slope = softplus(load(outputs + kept + 2 * i * ROW))
            scale = scale + EPSILON
            y = load(grad_values + i * ROW)
            by_scale = y * load(work + kept + i * ROW) + load(grad_logs) / scale
            store(grads + left + 2 * i * ROW, by_scale * slope)
            store(grads + left + (2 * i + 1) * ROW, y)
            store(inputs + left + i * ROW, y * scale)
        affine(
            stream + left + blocks * rows, ROW, back, 2 * features, 0, 0, 0, grads + left, ROW,
            0, units, back_ranges, back_ranges + 8 * units, False, False,
        )  # fmt: skip
        for block in range(blocks - 1, -1, -1):
            own, behind = left + block * rows, kept + block * rows
            affine(
                within + own, ROW, outer + block * square, units, 0, 0, 0, stream + own + rows, ROW,
                0, units, unit_start, unit_stop, False, False,
            )  # fmt: skip
            for unit in range(0, rows, ROW):
                store(
                    within + own + unit,
                    _gate(load(inside + behind + unit), load(within + own + unit)),
                )
            affine(
                ahead + left, ROW, inner + block * square, units, 0, 0, 0, within + own, ROW,
                0, units, unit_start, unit_stop, False, False,
            )  # fmt: skip
            for unit in range(0, rows, ROW):
                ungated = _gate(load(before + behind + unit), load(ahead + left + unit))
                store(stream + own + unit, load(stream + own + rows + unit) + ungated)
        for unit in range(0, rows, ROW):
            store(gated + left + unit, _gate(load(gate + kept + unit), load(stream + left + unit)))
        affine(
            inputs + left, ROW, initial, units, 0, 0, 0, stream + left, ROW, 0, features,
            back_ranges + 32 * units, back_ranges + 32 * units + 8 * features, True, False,
        )  # fmt: skip
        for i in range(features):
            store(grad_values + integer(plan + 8 * i) * ROW, load(inputs + left + i * ROW))
        grad_values += features * ROW
        grad_logs += ROW


@inlined
def _at(order, index):
    return integer(order + 8 * index) if order else index


@inlined
def _put(line, column_order, low, stop, a, b, c):
    if low < stop:
        store_total(line + 4 * _at(column_order, low), a)
    if low + 1 < stop:
        store_total(line + 4 * _at(column_order, low + 1), b)
    if low + 2 < stop:
        store_total(line + 4 * _at(column_order, low + 2), c)


@inlined
def _correlate(
    out, width, row_order, column_order, of, of_size, given, given_size, groups, rows, stop
):
    """out[row_order[r], column_order[c]] = of[r] · given[c], summed over the samples, for c < stop[r].

    Twelve sums at a time: with what they are made of they fit in sixteen registers.
    """
    for r0 in range(0, rows, 4):
        r1, r2, r3 = min(r0 + 1, rows - 1), min(r0 + 2, rows - 1), min(r0 + 3, rows - 1)
        line0, line1 = out + 4 * width * _at(row_order, r0), out + 4 * width * _at(row_order, r1)
        line2, line3 = out + 4 * width * _at(row_order, r2), out + 4 * width * _at(row_order, r3)
        stop0, stop1 = _at(stop, r0) if stop else width, _at(stop, r1) if stop else width
        stop2, stop3 = _at(stop, r2) if stop else width, _at(stop, r3) if stop else width
        for low in range(0, stop3, 3):
            x, y, z = (
                given + low * ROW,
                given + min(low + 1, stop3 - 1) * ROW,
                given + min(low + 2, stop3 - 1) * ROW,
            )
            g0, g1, g2, g3 = of + r0 * ROW, of + r1 * ROW, of + r2 * ROW, of + r3 * ROW
            x0, x1, x2, x3 = splat_few(0.0), splat_few(0.0), splat_few(0.0), splat_few(0.0)
            y0, y1, y2, y3 = splat_few(0.0), splat_few(0.0), splat_few(0.0), splat_few(0.0)
            z0, z1, z2, z3 = splat_few(0.0), splat_few(0.0), splat_few(0.0), splat_few(0.0)
            for _ in range(groups):
                for sample in range(0, ROW, 4 * FEW):
                    a, b, c = load_few(x + sample), load_few(y + sample), load_few(z + sample)
                    g = load_few(g0 + sample)
                    x0, y0, z0, g = x0 + g * a, y0 + g * b, z0 + g * c, load_few(g1 + sample)
                    x1, y1, z1, g = x1 + g * a, y1 + g * b, z1 + g * c, load_few(g2 + sample)
                    x2, y2, z2, g = x2 + g * a, y2 + g * b, z2 + g * c, load_few(g3 + sample)
                    x3, y3, z3 = x3 + g * a, y3 + g * b, z3 + g * c
                x, y, z = x + given_size, y + given_size, z + given_size
                g0, g1, g2, g3 = g0 + of_size, g1 + of_size, g2 + of_size, g3 + of_size
            _put(line0, column_order, low, stop0, x0, y0, z0)
            _put(line1, column_order, low, stop1, x1, y1, z1)
            _put(line2, column_order, low, stop2, x2, y2, z2)
            _put(line3, column_order, low, stop3, x3, y3, z3)


@jit(void(*(int64,) * 10))
def of_parameters(products, count, out, grads, grads_size, work, size, given, given_size, groups):
    """The gradients of a layer's weights and biases at ``out``: ``count`` products, as ``gradients.Product`` has them."""
    for at in range(products, products + 72 * count, 72):
        place, width, row_order, column_order = (
            integer(at),
            integer(at + 8),
            integer(at + 16),
            integer(at + 24),
        )
        of, kept, with_, rows, stop = (
            integer(at + 32), integer(at + 40), integer(at + 48), integer(at + 56), integer(at + 64)
        )  # fmt: skip
        _correlate(
            out + place, width, row_order, column_order, grads + of, grads_size, (work if kept else given) + with_,
            size if kept else given_size, groups, rows, stop,
        )  # fmt: skip
