"""The engine for wide layers, whose work is mostly large matrix products: torch's, and in the inverse a kernel's steps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

from fpnlib.flows import autoregressive_kernels
from fpnlib.flows.autoregressive_engine import AutoregressiveEngine
from fpnlib.flows.autoregressive_weights import Context, Net, odd_columns
from fpnlib.flows.engine import pieces
from fpnlib.flows.incremental import Incremental, Rows
from fpnlib.flows.settings import EPSILON
from fpnlib.flows.triangular import add_product, tiles
from fpnlib.flows.vectors import LANES

FEW = 8 * LANES  # samples whose working rows fit in the cache beside the weights in use


class WideEngine(AutoregressiveEngine):
    """The engine that multiplies by rectangles of the masked weights; its inverse is ``Incremental``."""

    sorts = False  # the context's part is too little of the work

    def __init__(self, layers: list[tuple[Net, Context]]):
        super().__init__(layers)
        self.incremental = _Blocks(layers, self.nets)
        self.parts = [net for net, _ in self.incremental.layers]
        self.tiles = [[*tiles(stop.tolist())] for stop in self.parts[0].ranges[1::2]]

    def inverse(self, noise: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """As ``Engine.inverse``."""
        return self.incremental.inverse(noise, context)

    def _evaluate(self, values: Tensor, logs: Tensor, biases: list[Tensor], extras: list[Tensor] | None) -> None:
        for begin, end in pieces(0, values.shape[1], FEW):
            for layer, net in enumerate(self.parts):
                added = biases[layer][..., None].repeat(1, 1, end - begin)
                if extras:
                    added += extras[layer][..., begin:end]
                inputs = values[net.order, begin:end]
                unconstrained, shift = self._outputs(net, inputs, added)
                scale = softplus(unconstrained) + EPSILON
                noise = torch.addcmul(shift, scale, inputs)
                values[:, begin:end] = torch.addcmul(net.offset[:, None], net.gain[:, None], noise)
                logs[begin:end] += scale.log_().sum(0)

    def _outputs(self, net: Net, inputs: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
        """Unconstrained scale and shift (D, n) of inputs (D, n); overwrites ``added`` (1 + B, H, n), as ``Rows`` has it."""
        first, hidden, last = self.tiles
        stream = add_product(first, net.initial, inputs, added[0])
        for k in range(len(net.inner)):
            before = torch.addcmul(net.shift[k, :, None], net.scale[k, :, None], stream).relu_()
            inside = add_product(hidden, net.inner[k], before, added[1 + k]).relu_()
            add_product(hidden, net.outer[k], inside, stream.add_(net.outer_bias[k, :, None]))
        outputs = net.final_bias[:, None].repeat(1, inputs.shape[1])
        add_product(last, net.final, stream, outputs)
        return outputs[::2], outputs[1::2]


class _Blocks(Incremental):
    """The incremental inverse whose steps are a kernel's."""

    few = LANES

    def __init__(self, layers: list[tuple[Net, Context]], nets: list[tuple[Tensor, Tensor, Tensor]]):
        # The weights are large: the products take them from the kernels' memory.
        super().__init__([(net.within(flat), given) for (net, given), (flat, _, _) in zip(layers, nets, strict=True)])
        plans = [self._from_block_on(net).plan() for net, _ in layers]
        self.nets = [(weights, plan, biases) for (weights, _, biases), plan in zip(nets, plans, strict=True)]

    def _from_block_on(self, net: Net) -> Net:
        """The net with ranges that begin at the block that a row is in."""
        features = torch.arange(len(net.order))
        first = features - features % self.block
        degree = features.repeat_interleave(net.known.diff())
        starts = first[degree], net.known[first][degree], net.known[first].repeat_interleave(2)
        return net._replace(ranges=sum(zip(starts, net.ranges[1::2], strict=True), ()))

    def _inverse(self, noise: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        more = (0, 0, 0, odd_columns(len(noise), LANES) - len(noise))
        data, logs = super()._inverse(*(pad(rows, more) for rows in (noise, context)))
        return data[: len(noise)], logs[: len(noise)]

    def _step(self, layer: int, rows: Rows, begin: int, end: int) -> None:
        (units, features), (weights, plan, biases) = self.layers[layer][0].initial.shape, self.nets[layer]
        columns = len(rows.logs)
        for first, last in pieces(0, columns, FEW):
            data, logs, added, after, work = (
                tensor.data_ptr() + 4 * first for tensor in (rows.data, rows.logs, rows.added, rows.after, rows.work)
            )
            autoregressive_kernels.step(
                data, columns, last - first, logs, weights.data_ptr(), plan.data_ptr(), biases.data_ptr(),
                added, after, work, features, units, len(rows.after), begin, end,
            )  # fmt: skip
