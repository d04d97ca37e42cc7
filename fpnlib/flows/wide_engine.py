"""The engine for wide layers, whose work is mostly large matrix products: torch's, and in the inverse a kernel's steps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

from fpnlib.flows import autoregressive_kernels
from fpnlib.flows.autoregressive_engine import AutoregressiveEngine
from fpnlib.flows.autoregressive_weights import Context, Net, odd_columns
from fpnlib.flows.incremental import Incremental, Rows
from fpnlib.flows.settings import EPSILON
from fpnlib.flows.triangular import add_product, parts, tiles
from fpnlib.flows.vectors import LANES


class WideEngine(AutoregressiveEngine):
    """The engine that multiplies by rectangles of the masked weights; its inverse is ``Incremental``."""

    size = 17 * LANES  # with which torch's products are near their best

    def __init__(self, layers: list[tuple[Net, Context]]):
        super().__init__(layers)
        self.incremental = _Blocks(layers, self.nets)
        nets = [net for net, _ in self.incremental.layers]
        self.normed = any(bool((net.scale != 1).any() or net.shift.any()) for net in nets)
        first, hidden, last = ([*tiles(stop.tolist())] for stop in nets[0].ranges[1::2])
        self.layers = [
            (
                net,
                parts(net.initial, first),
                [parts(weight, hidden) for weight in net.inner],
                [parts(weight, hidden) for weight in net.outer],
                parts(net.final, last),
            )
            for net in nets
        ]

    def inverse(self, noise: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """As ``Engine.inverse``."""
        return self.incremental.inverse(noise, context)

    def _at_once(self, samples: int) -> int:
        return (
            self.size
        )  # for any number of threads: torch's products round by the number of columns

    def _given(self, context: Tensor) -> Tensor:
        return pad(context, (0, 0, 0, -len(context) % LANES))

    def _kinds(self, columns: int) -> int:
        return max(1, self.size // columns)

    def _evaluate(
        self, values: Tensor, logs: Tensor, given: Tensor | None, biases: list[Tensor] | None = None
    ) -> None:
        rows = values.new_empty(3, self.units, odd_columns(values.shape[1]))
        stream, before, inside = rows[..., : values.shape[1]]
        for layer, (net, initial, inner, outer, final) in enumerate(self.layers):
            bias = (biases or self.biases)[layer].view(-1, 1 + self.blocks, self.units)
            extra = values.new_empty(0) if given is None else self.contexts[layer].of(given)
            inputs = values[net.order]
            add_product(initial, inputs, _begin(stream, bias[:, 0], extra[:1]))
            for k in range(self.blocks):
                if self.normed:
                    torch.mul(stream, net.scale[k, :, None], out=before).add_(
                        net.shift[k, :, None]
                    ).relu_()
                else:
                    torch.clamp_min(stream, 0, out=before)
                add_product(
                    inner[k], before, _begin(inside, bias[:, k + 1], extra[k + 1 : k + 2])
                ).relu_()
                add_product(outer[k], inside, stream.add_(net.outer_bias[k, :, None]))
            outputs = add_product(final, stream, net.final_bias[:, None].repeat(1, values.shape[1]))
            scale = softplus(outputs[::2]) + EPSILON
            noise = torch.addcmul(outputs[1::2], scale, inputs)
            torch.mul(noise, net.gain[:, None], out=values).add_(net.offset[:, None])
            logs += scale.log_().sum(0)


def _begin(out: Tensor, bias: Tensor, extra: Tensor) -> Tensor:
    """``out`` (H, n), of which K equal parts side by side become their biases (K, H), plus the extra (1, H, n), if any."""
    out.unflatten(1, (len(bias), -1)).copy_(bias.T[..., None])
    return out.add_(extra[0]) if len(extra) else out


class _Blocks(Incremental):
    """The incremental inverse whose steps are a kernel's."""

    few = LANES

    def __init__(
        self, layers: list[tuple[Net, Context]], nets: list[tuple[Tensor, Tensor, Tensor]]
    ):
        # The weights are large: the products take them from the kernels' memory.
        super().__init__(
            [
                (net.within(flat), given)
                for (net, given), (flat, _, _) in zip(layers, nets, strict=True)
            ]
        )
        plans = [self._from_block_on(net).plan() for net, _ in layers]
        self.nets = [
            (weights, plan, biases) for (weights, _, biases), plan in zip(nets, plans, strict=True)
        ]

    def _from_block_on(self, net: Net) -> Net:
        """The net with ranges that begin at the block that a row is in."""
        features = torch.arange(len(net.order))
        first = features - features % self.block
        degree = features.repeat_interleave(net.known.diff())
        starts = first[degree], net.known[first][degree], net.known[first].repeat_interleave(2)
        return net._replace(ranges=sum(zip(starts, net.ranges[1::2], strict=True), ()))

    def _inverse(self, noise: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        more = (0, 0, 0, -len(noise) % LANES)
        data, logs = super()._inverse(*(pad(rows, more) for rows in (noise, context)))
        return data[: len(noise)], logs[: len(noise)]

    def _apart(self, n: int) -> int:
        return odd_columns(n)

    def _step(self, layer: int, rows: Rows, begin: int, end: int) -> None:
        (units, features), (weights, plan, biases) = (
            self.layers[layer][0].initial.shape,
            self.nets[layer],
        )
        autoregressive_kernels.step(
            rows.data.data_ptr(), rows.data.stride(0), len(rows.logs), rows.logs.data_ptr(), weights.data_ptr(),
            plan.data_ptr(), biases.data_ptr(), rows.added.data_ptr(), rows.after.data_ptr(), rows.work.data_ptr(),
            features, units, len(rows.after), begin, end,
        )  # fmt: skip
