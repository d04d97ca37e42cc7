"""Runs packed layers through the numba kernels: columns of samples, split among threads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fpnlib.flows import kernels
from fpnlib.flows.packed import Context, Net
from fpnlib.flows.threads import alone
from fpnlib.flows.vectors import LANES

COLUMNS = 64 * LANES  # samples that one call of a kernel takes


class Engine:
    """A flow of packed layers, on the CPU in float32."""

    def __init__(self, layers: list[tuple[Net, Context]]):
        self.nets = [net.flat() for net, _ in layers]
        self.contexts = [context for _, context in layers]
        self.units, self.features = layers[0][0].initial.shape
        self.blocks = len(layers[0][0].inner)

    def forward(self, data: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """(noise (n, D), log|det| (n,)) of data (n, D), each row with its own context (n, C)."""
        return self._own(data, context, self._evaluate)

    def inverse(self, noise: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """(data (n, D), sum of the logs of the scales (n,)), each row with its own context (n, C)."""
        return self._own(noise, context, self._solve)

    def inverse_by_kind(self, noise: Tensor, contexts: Tensor, kind: Tensor) -> Tensor:
        """Data from noise (n, D) where row i has the context contexts[kind[i]]."""
        with alone() as each:
            counts = torch.bincount(kind, minlength=len(contexts))
            padded = -(-counts // LANES) * LANES
            ends = padded.cumsum(0)
            by_kind = kind.argsort(stable=True)
            shifts = ends - padded - counts.cumsum(0) + counts
            slots = torch.empty_like(kind)
            slots[by_kind] = torch.arange(len(kind)) + shifts.repeat_interleave(counts)
            rows = noise.new_zeros(int(ends[-1]), self.features)
            rows[slots] = noise
            biases = self._biases(contexts)

            def run(job: tuple[int, int, int]) -> None:
                k, begin, end = job
                piece = rows[begin:end].T.contiguous()
                self._solve(piece, torch.zeros(end - begin), [layer[k] for layer in biases], None)
                rows[begin:end] = piece.T

            last = zip(ends.tolist(), padded.tolist(), strict=True)
            each(run, [(k, *piece) for k, (end, size) in enumerate(last) for piece in pieces(end - size, end)])
            return rows[slots]

    def every_kind(self, data: Tensor, contexts: Tensor) -> tuple[Tensor, Tensor]:
        """(squared length of the noise (n, K), log|det| (n, K)) of data (n, D) under every context (K, C)."""
        with alone() as each:
            columns = _columns(data)
            squares, logs = (torch.zeros(len(contexts), columns.shape[1]) for _ in range(2))
            biases = self._biases(contexts)

            def run(job: tuple[int, int, int]) -> None:
                k, begin, end = job
                piece = columns[:, begin:end].clone(memory_format=torch.contiguous_format)
                self._evaluate(piece, logs[k, begin:end], [layer[k] for layer in biases], None)
                squares[k, begin:end] = piece.square_().sum(0)

            each(run, [(k, *piece) for piece in pieces(0, columns.shape[1]) for k in range(len(contexts))])
            return squares[:, : len(data)].T, logs[:, : len(data)].T

    def _own(self, values: Tensor, context: Tensor, run: Callable) -> tuple[Tensor, Tensor]:
        with alone() as each:
            columns = _columns(values)
            logs = torch.zeros(columns.shape[1])
            biases = [bias for _, _, bias in self.nets]

            def part(piece: tuple[int, int]) -> None:
                begin, end = piece
                rows = context[begin:end]
                rows = torch.nn.functional.pad(rows, (0, 0, 0, end - begin - len(rows)))
                own = columns[:, begin:end].clone(memory_format=torch.contiguous_format)
                run(own, logs[begin:end], biases, [layer.of(rows) for layer in self.contexts])
                columns[:, begin:end] = own

            each(part, pieces(0, columns.shape[1]))
            return columns[:, : len(values)].T, logs[: len(values)]

    def _biases(self, contexts: Tensor) -> list[Tensor]:
        """For each layer (K, 1 + B, H): the biases with each context's part added."""
        return [
            (layer.of(contexts).permute(2, 0, 1) + bias).contiguous()
            for layer, (_, _, bias) in zip(self.contexts, self.nets, strict=True)
        ]

    def _solve(self, values: Tensor, logs: Tensor, biases: list[Tensor], extras: list[Tensor] | None) -> None:
        work, columns = self._work(), values.shape[1]
        for layer in reversed(range(len(self.nets))):
            weights, plan, _ = self.nets[layer]
            kernels.solve(
                values.data_ptr(), columns, columns, logs.data_ptr(), weights.data_ptr(), plan.data_ptr(),
                biases[layer].data_ptr(), extras[layer].data_ptr() if extras else 0, 0, work.data_ptr(),
                self.features, self.units, self.blocks, 0, 0, self.features,
            )  # fmt: skip

    def _evaluate(self, values: Tensor, logs: Tensor, biases: list[Tensor], extras: list[Tensor] | None) -> None:
        work = self._work()
        for layer, (weights, plan, _) in enumerate(self.nets):
            kernels.evaluate(
                values.data_ptr(), values.shape[1], logs.data_ptr(), weights.data_ptr(), plan.data_ptr(),
                biases[layer].data_ptr(), extras[layer].data_ptr() if extras else 0, work.data_ptr(), 0,
                self.features, self.units, self.blocks,
            )  # fmt: skip

    def _work(self) -> Tensor:
        return torch.empty(3 * self.features + (1 + 2 * self.blocks) * self.units, LANES)


def _columns(values: Tensor) -> Tensor:
    """The rows of values as columns, padded with zeros to a whole number of vectors."""
    columns = values.new_zeros(values.shape[1], -(-len(values) // LANES) * LANES)
    columns[:, : len(values)] = values.T
    return columns


def pieces(begin: int, end: int, size: int = COLUMNS) -> list[tuple[int, int]]:
    """The columns begin … end in parts of at most ``size``."""
    return [(start, min(start + size, end)) for start in range(begin, end, size)]
