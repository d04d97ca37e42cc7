"""A matrix product in numba, of rows of weights that a mask lets through in one range each, for 32 samples at a time."""

from fpnlib.flows.vectors import ROWS, fma, inlined, integer, load, number, relu, splat, store


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
def _end(out, total, positive):
    store(out, relu(total) if positive else total)


@inlined
def affine(
    out,
    out_step,
    weight,
    width,
    bias,
    extra,
    extra_step,
    given,
    step,
    begin,
    end,
    start,
    stop,
    add,
    positive,
):
    """out[r] = weight[r] · given + bias[r] + extra[r] for the rows r of begin … end; + out[r] to ``add``, relu if ``positive``.

    All but ``width`` (of a weight's row), ``begin``, ``end`` and the last two are addresses and steps between rows, in
    bytes; 0 stands for no bias, no extra, and no mask.
    """
    line = 4 * width
    row = begin
    while row < end:
        rows = 4 if ROWS == 4 and row + 4 <= end else (2 if row + 2 <= end else 1)
        o, w = out + row * out_step, weight + row * line
        b = bias + 4 * row if bias else 0
        e = extra + row * extra_step if extra else 0
        low, high = (
            integer(start + 8 * row) if start else 0,
            integer(stop + 8 * (row + rows - 1)) if stop else width,
        )
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
            _end(o, sum0, positive)
            _end(o + out_step, sum1, positive)
            _end(o + 2 * out_step, sum2, positive)
            _end(o + 3 * out_step, sum3, positive)
        elif rows == 2:
            sum0 = _begin(o, b, e, add)
            sum1 = _begin(o + out_step, b + 4 if b else 0, e + extra_step if e else 0, add)
            while w < last:
                value = load(x)
                sum0 = fma(w, value, sum0)
                sum1 = fma(w + line, value, sum1)
                w += 4
                x += step
            _end(o, sum0, positive)
            _end(o + out_step, sum1, positive)
        else:
            sum0, sum1 = _begin(o, b, e, add), splat(0.0)
            while w + 4 < last:
                sum0 = fma(w, load(x), sum0)
                sum1 = fma(w + 4, load(x + step), sum1)
                w += 8
                x += 2 * step
            if w < last:
                sum0 = fma(w, load(x), sum0)
            _end(o, sum0 + sum1, positive)
        row += rows
