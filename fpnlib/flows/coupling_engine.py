"""Runs packed coupling layers through their kernel."""

from __future__ import annotations

from torch import Tensor

from fpnlib.flows.coupling_kernels import couple
from fpnlib.flows.coupling_weights import Coupling, Gates
from fpnlib.flows.engine import Engine, place
from fpnlib.flows.vectors import LANES


class CouplingEngine(Engine):
    """The engine for coupling layers: biases and extras hold what the context adds at first and each block's gates."""

    def __init__(self, layers: list[tuple[Coupling, Gates]]):
        super().__init__(layers)
        self.moved = [len(net.moved) for net, _ in layers]

    def _solve(self, values: Tensor, logs: Tensor, given: Tensor) -> None:
        for layer in reversed(range(len(self.nets))):
            self._couple(1, layer, values, logs, given, self.biases[layer])

    def _evaluate(
        self, values: Tensor, logs: Tensor, given: Tensor | None, biases: list[Tensor] | None = None
    ) -> None:
        for layer, bias in enumerate(biases or self.biases):
            self._couple(0, layer, values, logs, given, bias)

    def _couple(self, inverts, layer, values, logs, given, bias) -> None:
        (weights, plan, _), moved = self.nets[layer], self.moved[layer]
        read = self.features - moved
        work = values.new_empty(read + (4 + self.blocks) * self.units + 2 * moved, LANES)
        couple(
            values.data_ptr(), values.shape[1], logs.data_ptr(), weights.data_ptr(), plan.data_ptr(),
            bias.data_ptr(), self.by_context[layer].data_ptr(), *place(given), work.data_ptr(),
            inverts, read, self.units, self.blocks, moved,
        )  # fmt: skip
