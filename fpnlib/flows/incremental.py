"""The incremental inverse in plain torch: for float64, for CUDA, and where numba does not compile."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from fpnlib.flows.packed import Context, Net

EPSILON = 1e-3  # nflows adds this to each scale
BLOCK = 16  # features between two products with all that is known


class Incremental:
    """A flow of packed layers, on any device and in any precision."""

    def __init__(self, layers: list[tuple[Net, Context]]):
        self.layers = [(net, context, net.known.tolist()) for net, context in layers]

    def inverse(self, noise: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """(data (n, D), sum of the logs of the scales (n,)) of noise (n, D), each row with its own context (n, C)."""
        values, total = noise.T, torch.zeros_like(noise[:, 0])
        for net, contexts, known in reversed(self.layers):
            solved, logs = _solve(net, known, (values - net.offset[:, None]) / net.gain[:, None], contexts.of(context))
            values = torch.empty_like(solved)
            values[net.order] = solved
            total = total + logs
        return values.T, total


def _solve(net: Net, known: list[int], noise: Tensor, extra: Tensor) -> tuple[Tensor, Tensor]:
    """The layer's inputs (D, n), in its own order, from its outputs; what the context adds is (1 + B, H, n)."""
    blocks, features = len(net.inner), len(noise)
    inputs, logs = torch.empty_like(noise), torch.zeros_like(noise[0])
    stream = torch.empty_like(extra[0])
    before, inside = torch.empty_like(extra[1:]), torch.empty_like(extra[1:])
    for begin in range(0, features, BLOCK):
        end = min(begin + BLOCK, features)
        low, high = known[begin], known[end]
        # What is known before this block of degrees is multiplied once, for all of the block's rows.
        own = slice(low, high)
        to_stream = net.initial[own, :begin] @ inputs[:begin] + net.initial_bias[own, None] + extra[0, own]
        to_inside = net.inner[:, own, :low] @ before[:, :low] + net.inner_bias[:, own, None] + extra[1:, own]
        to_after = net.outer[:, own, :low] @ inside[:, :low] + net.outer_bias[:, own, None]
        to_outputs = net.final[2 * begin : 2 * end, :low] @ stream[:low] + net.final_bias[2 * begin : 2 * end, None]
        for i in range(begin, end):
            first, last = known[i], known[i + 1]
            if first < last:
                new, row = slice(first, last), slice(first - low, last - low)
                value = to_stream[row] + net.initial[new, begin:i] @ inputs[begin:i]
                for block in range(blocks):
                    before[block, new] = relu(value * net.scale[block, new, None] + net.shift[block, new, None])
                    inner = to_inside[block, row] + net.inner[block, new, low:last] @ before[block, low:last]
                    inside[block, new] = relu(inner)
                    value = value + to_after[block, row] + net.outer[block, new, low:last] @ inside[block, low:last]
                stream[new] = value
            at = 2 * (i - begin)
            unconstrained, shift = to_outputs[at : at + 2] + net.final[2 * i : 2 * i + 2, low:last] @ stream[low:last]
            scale = softplus(unconstrained) + EPSILON
            inputs[i] = (noise[i] - shift) / scale
            logs += scale.log()
    return inputs, logs
