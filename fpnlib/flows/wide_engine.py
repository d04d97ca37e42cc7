"""The engine for wide layers, whose inverse is mostly large matrix products: torch's, with a kernel's steps between them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from fpnlib.flows import autoregressive_kernels
from fpnlib.flows.autoregressive_engine import AutoregressiveEngine
from fpnlib.flows.autoregressive_weights import Context, Net, odd_columns
from fpnlib.flows.engine import pieces
from fpnlib.flows.incremental import Incremental, Rows
from fpnlib.flows.vectors import LANES


class WideEngine(AutoregressiveEngine):
    """The engine whose inverse is ``Incremental``; all else is fast enough as it is."""

    sorts = False  # the context's part is too little of the work

    def __init__(self, layers: list[tuple[Net, Context]]):
        super().__init__(layers)
        self.incremental = _Blocks(layers, self.nets)

    def inverse(self, noise: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """As ``Engine.inverse``."""
        return self.incremental.inverse(noise, context)


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
        for first, last in pieces(0, columns, 8 * LANES):  # as many as fit in the cache with the block's weights
            data, logs, added, after, work = (
                tensor.data_ptr() + 4 * first for tensor in (rows.data, rows.logs, rows.added, rows.after, rows.work)
            )
            autoregressive_kernels.step(
                data, columns, last - first, logs, weights.data_ptr(), plan.data_ptr(), biases.data_ptr(),
                added, after, work, features, units, len(rows.after), begin, end,
            )  # fmt: skip
