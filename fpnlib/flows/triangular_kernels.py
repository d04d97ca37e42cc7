"""Weights into the order of the degrees and out of it, in numba: torch takes several times as long."""

from numba import float32, float64, int64, void

from fpnlib.flows.vectors import jit

WHOLE = int64[::1]


@jit([void(x[:, ::1], WHOLE, WHOLE, WHOLE, WHOLE, x[:, ::1]) for x in (float32, float64)])
def sort(weight, rows, columns, stop, cover, out):
    """Row r, column c of ``out`` is weight[rows[r], columns[c]] where c < stop[r], 0 from there to cover[r]."""
    for row in range(len(rows)):
        line = weight[rows[row]]
        for column in range(stop[row]):
            out[row, column] = line[columns[column]]
        out[row, stop[row] : cover[row]] = 0


@jit([void(x[:, ::1], WHOLE, WHOLE, WHOLE, x[:, ::1]) for x in (float32, float64)])
def unsort(gradient, rows, columns, stop, out):
    """The other way round: ``out`` is 0 where ``sort`` took nothing from."""
    for row in range(len(rows)):
        line = out[rows[row]]
        line[:] = 0
        for column in range(stop[row]):
            line[columns[column]] = gradient[row, column]
