"""The incremental inverse by halves of the features: where one half is found, one product adds up all that it gives the other."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from fpnlib.flows.autoregressive_weights import Context, Net
from fpnlib.flows.settings import EPSILON
from fpnlib.flows.threads import in_pieces

UNITS = (
    64  # hidden units in a block of features: more make longer steps, fewer make smaller products
)
NUMBERS = {
    "cpu": 1 << 24,
    "cuda": 1 << 28,
}  # in the working rows of one piece of the samples: bounds the memory


class Rows(NamedTuple):
    """The working rows of n samples in a layer of D features and B blocks of H units."""

    work: Tensor  # (3 D + (2 + 4 B) H, n): in one piece what follows, but for data and logs
    inputs: Tensor  # (D, n): the noise until a feature is found
    stream: Tensor  # (H, n)
    before: Tensor  # (B, H, n): what each block's two products multiply, with inside
    inside: Tensor
    outputs: Tensor  # (2 D, n): what the known units have added so far, with added and after
    added: Tensor  # (1 + B, H, n): to the initial and to each block's inner product, by the context at first
    after: Tensor  # (B, H, n): to each block's outer product
    data: Tensor  # (D, n): the features found, in the data's order
    logs: Tensor  # (n,): the sum of the logs of the scales


class Incremental:
    """A flow of packed layers in plain torch: for float64, and where numba, or on a GPU Triton, does not compile."""

    few = (
        1 << 15
    )  # samples that it does not pay to share among threads: of small operations Python runs one at a time

    def __init__(self, layers: list[tuple[Net, Context]]):
        self.layers = layers
        self.known = [net.known.tolist() for net, _ in layers]
        (units, features), blocks = layers[0][0].initial.shape, len(layers[0][0].inner)
        self.block = max(1, UNITS // -(-units // features))
        self.row = (2 + 4 * blocks) * units + 4 * features
        self.constant = sum(net.gain.log().sum() for net, _ in layers)

    def inverse(self, noise: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """(data (n, D), log|det| (n,)) of noise (n, D), each row with its own context (n, C)."""
        size = NUMBERS.get(noise.device.type, NUMBERS["cpu"]) // self.row
        if noise.device.type == "cpu":
            size = min(size, max(self.few, -(-len(noise) // torch.get_num_threads())))
        data, logs = in_pieces(self._inverse, max(1, size), noise, context)
        return data, -logs - self.constant

    def _inverse(self, noise: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """The data, and the sum of the logs of the scales."""
        rows = self._rows(noise)
        rows.data.copy_(noise.T)
        for layer in reversed(range(len(self.layers))):
            rows.inputs.copy_(rows.data)
            rows.outputs[: 2 * self.block].zero_()
            rows.after[:, : self.known[layer][min(self.block, len(rows.data))]].zero_()
            self.layers[layer][1].of(context, out=rows.added)
            self._find(layer, rows, 0, len(rows.data))
        return rows.data.T, rows.logs

    def _rows(self, noise: Tensor) -> Rows:
        (units, features), blocks, n = (
            self.layers[0][0].initial.shape,
            len(self.layers[0][0].inner),
            len(noise),
        )
        apart = self._apart(n)
        # All in one piece: small results kept between would leave holes in the memory, so that it grows with the pieces.
        work = noise.new_empty(self.row - features, apart)[:, :n]
        sizes = [
            features,
            units,
            2 * blocks * units,
            2 * features,
            (1 + blocks) * units,
            blocks * units,
        ]
        inputs, stream, hidden, outputs, added, after = work.split(sizes)
        before, inside = hidden.view(2, blocks, units, n)
        added, after = added.view(1 + blocks, units, n), after.view(blocks, units, n)
        data, logs = noise.new_empty(features, apart)[:, :n], noise.new_zeros(n)
        return Rows(work, inputs, stream, before, inside, outputs, added, after, data, logs)

    def _apart(self, n: int) -> int:
        """How many numbers lie between the beginnings of two working rows of n."""
        return n

    def _find(self, layer: int, rows: Rows, begin: int, end: int) -> None:
        """The features begin … end, where those before have added all that they give."""
        if end - begin <= self.block:
            return self._step(layer, rows, begin, end)
        net, known = self.layers[layer][0], self.known[layer]
        middle = begin + self.block * -(-(end - begin) // (2 * self.block))
        self._find(layer, rows, begin, middle)
        old, new = slice(known[begin], known[middle]), slice(known[middle], known[end])
        beta = min(
            begin, 1
        )  # nothing has been added to these rows where the features before are the first ones
        if new.start < new.stop:
            rows.added[0, new].addmm_(net.initial[new, begin:middle], rows.inputs[begin:middle])
            for k in range(len(net.inner)):
                rows.added[1 + k, new].addmm_(net.inner[k, new, old], rows.before[k, old])
                rows.after[k, new].addmm_(net.outer[k, new, old], rows.inside[k, old], beta=beta)
        outputs = slice(2 * middle, 2 * end)
        rows.outputs[outputs].addmm_(net.final[outputs, old], rows.stream[old], beta=beta)
        self._find(layer, rows, middle, end)

    def _step(self, layer: int, rows: Rows, begin: int, end: int) -> None:
        """The same, one feature after the other."""
        net, known = self.layers[layer][0], self.known[layer]
        low = known[begin]
        for i in range(begin, end):
            new, old = slice(known[i], known[i + 1]), slice(low, known[i + 1])
            if new.start < new.stop:
                value = rows.added[0, new] + net.initial_bias[new, None]
                value.addmm_(net.initial[new, begin:i], rows.inputs[begin:i])
                for k in range(len(net.inner)):
                    rows.before[k, new] = (
                        value * net.scale[k, new, None] + net.shift[k, new, None]
                    ).relu_()
                    inner = rows.added[1 + k, new] + net.inner_bias[k, new, None]
                    rows.inside[k, new] = inner.addmm_(
                        net.inner[k, new, old], rows.before[k, old]
                    ).relu_()
                    value += rows.after[k, new] + net.outer_bias[k, new, None]
                    value.addmm_(net.outer[k, new, old], rows.inside[k, old])
                rows.stream[new] = value
            at = slice(2 * i, 2 * i + 2)
            output = rows.outputs[at] + net.final_bias[at, None]
            unconstrained, shift = output.addmm_(net.final[at, old], rows.stream[old])
            scale = softplus(unconstrained) + EPSILON
            rows.inputs[i] = ((rows.inputs[i] - net.offset[i]) / net.gain[i] - shift) / scale
            rows.logs.add_(scale.log())
        rows.data[net.order[begin:end]] = rows.inputs[begin:end]
