"""Runs packed layers through numba kernels: columns of samples, split among threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from fpnlib.flows.threads import alone, in_pieces
from fpnlib.flows.vectors import LANES

COLUMNS = 64 * LANES  # samples that one call of a kernel takes


class Engine:
    """A flow of packed layers, each a pair of weights and what it makes of the context, on the CPU in float32."""

    sorts = True  # samples that share their contexts are cheaper together

    def __init__(self, layers: list[tuple[Any, Any]]):
        self.nets = [net.flat() for net, _ in layers]
        self.contexts = [context for _, context in layers]
        self.features = len(layers[0][0].gain)
        self.units, self.blocks = len(layers[0][0].initial), len(layers[0][0].inner)
        self.constant = sum(net.gain.log().sum() for net, _ in layers)  # the part of log|det| that no input changes

    def forward(self, data: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """(noise (n, D), log|det| (n,)) of data (n, D), each row with its own context (n, C)."""
        noise, logs = self._own(data, context, self._evaluate)
        return noise, logs + self.constant

    def inverse(self, noise: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """(data (n, D), log|det| (n,)) of noise (n, D), each row with its own context (n, C)."""
        data, logs = self._own(noise, context, self._solve)
        return data, -logs - self.constant

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
                self._solve(piece, piece.new_zeros(end - begin), [layer[k] for layer in biases], None)
                rows[begin:end] = piece.T

            last = zip(ends.tolist(), padded.tolist(), strict=True)
            each(run, [(k, *piece) for k, (end, size) in enumerate(last) for piece in pieces(end - size, end)])
            return rows[slots]

    def every_kind(self, data: Tensor, contexts: Tensor) -> tuple[Tensor, Tensor]:
        """(squared length of the noise (n, K), log|det| (n, K)) of data (n, D) under every context (K, C)."""
        with alone() as each:
            columns = _columns(data)
            squares, logs = (columns.new_zeros(len(contexts), columns.shape[1]) for _ in range(2))
            biases = self._biases(contexts)

            def run(job: tuple[int, int, int]) -> None:
                k, begin, end = job
                piece = columns[:, begin:end].clone(memory_format=torch.contiguous_format)
                self._evaluate(piece, logs[k, begin:end], [layer[k] for layer in biases], None)
                squares[k, begin:end] = piece.square_().sum(0)

            each(run, [(k, *piece) for piece in pieces(0, columns.shape[1]) for k in range(len(contexts))])
            return squares[:, : len(data)].T, logs[:, : len(data)].T + self.constant

    def _own(self, values: Tensor, context: Tensor, run: Callable) -> tuple[Tensor, Tensor]:
        """What ``run`` makes of the values, and the sums of the logs of the scales."""
        biases = [bias for _, _, bias in self.nets]

        def part(values: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
            columns = _columns(values)
            logs = columns.new_zeros(columns.shape[1])
            rows = pad(context, (0, 0, 0, len(logs) - len(context)))
            run(columns, logs, biases, [layer.of(rows) for layer in self.contexts])
            return columns[:, : len(values)].T, logs[: len(values)]

        return in_pieces(part, COLUMNS, values, context)

    def _biases(self, contexts: Tensor) -> list[Tensor]:
        """For each layer (K, 1 + B, H): the biases with each context's part added."""
        return [
            (layer.of(contexts).permute(2, 0, 1) + bias).contiguous()
            for layer, (_, _, bias) in zip(self.contexts, self.nets, strict=True)
        ]

    def _solve(self, values: Tensor, logs: Tensor, biases: list[Tensor], extras: list[Tensor] | None) -> None:
        """Noise → data in columns, in place; adds up the logs of the scales.

        ``biases`` are each layer's, with the context's part where all columns share it; ``extras`` that of each column.
        """
        raise NotImplementedError

    def _evaluate(self, values: Tensor, logs: Tensor, biases: list[Tensor], extras: list[Tensor] | None) -> None:
        """Data → noise, as ``_solve``."""
        raise NotImplementedError


def _columns(values: Tensor) -> Tensor:
    """The rows of values as columns, padded with zeros to a whole number of vectors."""
    columns = values.new_zeros(values.shape[1], -(-len(values) // LANES) * LANES)
    columns[:, : len(values)] = values.T
    return columns


def pieces(begin: int, end: int, size: int = COLUMNS) -> list[tuple[int, int]]:
    """The columns begin … end in parts of at most ``size``."""
    return [(start, min(start + size, end)) for start in range(begin, end, size)]
