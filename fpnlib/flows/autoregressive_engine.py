"""Runs packed masked autoregressive layers through their kernels."""

from __future__ import annotations

from torch import Tensor

from fpnlib.flows import autoregressive_kernels
from fpnlib.flows.engine import Engine, place
from fpnlib.flows.vectors import LANES


class AutoregressiveEngine(Engine):
    """The engine for layers of ``autoregressive_weights``."""

    def _solve(self, values: Tensor, logs: Tensor, biases: list[Tensor], given: Tensor | None) -> None:
        work = self._work(values)
        for layer in reversed(range(len(self.nets))):
            weights, plan, _ = self.nets[layer]
            autoregressive_kernels.solve(
                values.data_ptr(), values.shape[1], logs.data_ptr(), weights.data_ptr(), plan.data_ptr(),
                biases[layer].data_ptr(), self.by_context[layer].data_ptr(), *place(given), work.data_ptr(),
                self.features, self.units, self.blocks,
            )  # fmt: skip

    def _evaluate(self, values: Tensor, logs: Tensor, biases: list[Tensor], given: Tensor | None) -> None:
        work, columns = self._work(values), values.shape[1]
        for layer, (weights, plan, _) in enumerate(self.nets):
            autoregressive_kernels.evaluate(
                values.data_ptr(), 4 * columns, 4 * LANES, columns // LANES, logs.data_ptr(), weights.data_ptr(),
                plan.data_ptr(), biases[layer].data_ptr(), self.by_context[layer].data_ptr(), *place(given),
                work.data_ptr(), 0, self.features, self.units, self.blocks,
            )  # fmt: skip

    def _work(self, like: Tensor) -> Tensor:
        return like.new_empty(3 * self.features + (2 + 3 * self.blocks) * self.units, LANES)
