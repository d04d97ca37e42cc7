"""The gradients of the masked autoregressive layer in numba, from what ``autoregressive_kernels.evaluate`` kept."""

from numba import int64, void

from fpnlib.flows.affine_kernel import affine
from fpnlib.flows.autoregressive_kernels import addresses
from fpnlib.flows.settings import EPSILON
from fpnlib.flows.vectors import LANES, inlined, integer, jit, load, softplus, splat, store, store_total, where_positive


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
    _, _, _, _, _, _, _, _, _, _, _, before, inside, outputs = addresses(net, plan, work, features, units, blocks, step)
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
            0, units, back_ranges, back_ranges + 8 * units, False, False,
        )  # fmt: skip
        for block in range(blocks - 1, -1, -1):
            own = block * rows + sample
            affine(
                within + own, step, outer + block * square, units, 0, 0, 0, stream + own + rows, step,
                0, units, unit_start, unit_stop, False, False,
            )  # fmt: skip
            for unit in range(0, rows, step):
                store(within + own + unit, _gate(load(inside + own + unit), load(within + own + unit)))
            affine(
                ahead + sample, step, inner + block * square, units, 0, 0, 0, within + own, step,
                0, units, unit_start, unit_stop, False, False,
            )  # fmt: skip
            for unit in range(0, rows, step):
                gated = _gate(load(before + own + unit), load(ahead + sample + unit))
                store(stream + own + unit, load(stream + own + rows + unit) + gated)
        affine(
            inputs + sample, step, initial, units, 0, 0, 0, stream + sample, step, 0, features,
            back_ranges + 32 * units, back_ranges + 32 * units + 8 * features, True, False,
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
