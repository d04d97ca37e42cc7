"""Runs packed masked autoregressive layers through their kernels."""

from __future__ import annotations

from torch import Tensor

from fpnlib.flows import autoregressive_kernels
from fpnlib.flows.engine import Engine, place
from fpnlib.flows.vectors import LANES


class AutoregressiveEngine(Engine):
    """The engine for layers of ``autoregressive_weights``."""

    def _solve(self, values: Tensor, logs: Tensor, given: Tensor) -> None:
        work = self._work(values)
        for (weights, plan, bias), by_context in reversed(
            [*zip(self.nets, self.by_context, strict=True)]
        ):
            autoregressive_kernels.solve(
                values.data_ptr(), values.shape[1], logs.data_ptr(), weights.data_ptr(), plan.data_ptr(),
                bias.data_ptr(), by_context.data_ptr(), *place(given), work.data_ptr(),
                self.features, self.units, self.blocks,
            )  # fmt: skip

    def _evaluate(
        self, values: Tensor, logs: Tensor, given: Tensor | None, biases: list[Tensor] | None = None
    ) -> None:
        work, columns = self._work(values), values.shape[1]
        layers = zip(self.nets, biases or self.biases, self.by_context, strict=True)
        for (weights, plan, _), bias, by_context in layers:
            autoregressive_kernels.evaluate(
                values.data_ptr(), 4 * columns, 4 * LANES, columns // LANES, logs.data_ptr(), weights.data_ptr(),
                plan.data_ptr(), bias.data_ptr(), by_context.data_ptr(), *place(given),
                work.data_ptr(), 0, self.features, self.units, self.blocks,
            )  # fmt: skip

    def _work(self, like: Tensor) -> Tensor:
        return like.new_empty(3 * self.features + (2 + 3 * self.blocks) * self.units, LANES)
