"""Runs packed layers through the numba kernels: columns of samples, split among threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch
from torch import Tensor

from fpnlib.flows import kernels
from fpnlib.flows.coupling import Coupling, Gates
from fpnlib.flows.incremental import Incremental, Rows
from fpnlib.flows.packed import Context, Net
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
        counts = torch.bincount(kind, minlength=len(contexts))
        padded = -(-counts // LANES) * LANES
        ends = padded.cumsum(0)
        by_kind = kind.argsort(stable=True)
        slots = torch.empty_like(kind)
        slots[by_kind] = torch.arange(len(kind)) + (ends - padded - counts.cumsum(0) + counts).repeat_interleave(counts)
        rows = noise.new_zeros(int(ends[-1]), self.features)
        rows[slots] = noise
        biases = self._biases(contexts)

        def run(job: tuple[int, int, int]) -> None:
            k, begin, end = job
            piece = rows[begin:end].T.contiguous()
            self._solve(piece, torch.zeros(end - begin), [layer[k] for layer in biases], None)
            rows[begin:end] = piece.T

        last = zip(ends.tolist(), padded.tolist(), strict=True)
        _spread(run, [(k, *piece) for k, (end, size) in enumerate(last) for piece in _pieces(end - size, end)])
        return rows[slots]

    def every_kind(self, data: Tensor, contexts: Tensor) -> tuple[Tensor, Tensor]:
        """(squared length of the noise (n, K), log|det| (n, K)) of data (n, D) under every context (K, C)."""
        columns = _columns(data)
        squares, logs = (torch.zeros(len(contexts), columns.shape[1]) for _ in range(2))
        biases = self._biases(contexts)

        def run(job: tuple[int, int, int]) -> None:
            k, begin, end = job
            piece = columns[:, begin:end].clone(memory_format=torch.contiguous_format)
            self._evaluate(piece, logs[k, begin:end], [layer[k] for layer in biases], None)
            squares[k, begin:end] = piece.square_().sum(0)

        _spread(run, [(k, *piece) for piece in _pieces(0, columns.shape[1]) for k in range(len(contexts))])
        return squares[:, : len(data)].T, logs[:, : len(data)].T

    def _own(self, values: Tensor, context: Tensor, run: Callable) -> tuple[Tensor, Tensor]:
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

        _spread(part, _pieces(0, columns.shape[1]))
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


class WideEngine(Engine):
    """The same for wide layers, whose inverse is mostly large matrix products, which torch multiplies faster."""

    def __init__(self, layers: list[tuple[Net, Context]]):
        super().__init__(layers)
        self.incremental = _Blocks(layers, self.nets)

    def inverse(self, noise: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """As ``Engine.inverse``."""
        return self.incremental.inverse(noise, context)

    def inverse_by_kind(self, noise: Tensor, contexts: Tensor, kind: Tensor) -> None:
        """There is no shorter way: the context's part is little of the work."""


class _Blocks(Incremental):
    """The incremental inverse whose steps are a kernel's."""

    def __init__(self, layers: list[tuple[Net, Context]], nets: list[tuple[Tensor, Tensor, Tensor]]):
        super().__init__(layers)
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
        more = (0, 0, 0, LANES * (-(-len(noise) // LANES) | 1) - len(noise))  # an odd number, as in training
        data, logs = super()._inverse(*(torch.nn.functional.pad(rows, more) for rows in (noise, context)))
        return data[: len(noise)], logs[: len(noise)]

    def _step(self, layer: int, rows: Rows, begin: int, end: int) -> None:
        (units, features), (weights, plan, biases) = self.layers[layer][0].initial.shape, self.nets[layer]
        columns = len(rows.logs)

        def run(piece: tuple[int, int]) -> None:
            data, logs, added, after, work = (
                tensor.data_ptr() + 4 * piece[0] for tensor in (rows.data, rows.logs, rows.added, rows.after, rows.work)
            )
            kernels.step(
                data, columns, piece[1] - piece[0], logs, weights.data_ptr(), plan.data_ptr(), biases.data_ptr(),
                added, after, work, features, units, len(rows.after), begin, end,
            )  # fmt: skip

        _spread(run, _pieces(0, columns, 8 * LANES))


class CouplingEngine(Engine):
    """The same for coupling layers: biases and extras hold what the context adds at first and each block's gates."""

    def __init__(self, layers: list[tuple[Coupling, Gates]]):
        self.nets = [net.flat() for net, _ in layers]
        self.contexts = [context for _, context in layers]
        self.units, self.blocks = len(layers[0][0].initial), len(layers[0][0].inner)
        self.features = len(layers[0][0].gain)
        self.moved = [len(net.final) // 2 for net, _ in layers]

    def _solve(self, values: Tensor, logs: Tensor, biases: list[Tensor], extras: list[Tensor] | None) -> None:
        for layer in reversed(range(len(self.nets))):
            self._couple(1, layer, values, logs, biases, extras)

    def _evaluate(self, values: Tensor, logs: Tensor, biases: list[Tensor], extras: list[Tensor] | None) -> None:
        for layer in range(len(self.nets)):
            self._couple(0, layer, values, logs, biases, extras)

    def _couple(self, inverts, layer, values, logs, biases, extras) -> None:
        (weights, plan, _), moved = self.nets[layer], self.moved[layer]
        given = self.features - moved
        work = torch.empty(given + 3 * self.units + 2 * moved, LANES)
        extra = extras[layer].data_ptr() if extras else 0
        kernels.couple(
            values.data_ptr(), values.shape[1], logs.data_ptr(), weights.data_ptr(), plan.data_ptr(),
            biases[layer].data_ptr(), extra, work.data_ptr(), inverts, given, self.units, self.blocks, moved,
        )  # fmt: skip


def _columns(values: Tensor) -> Tensor:
    """The rows of values as columns, padded with zeros to a whole number of vectors."""
    columns = values.new_zeros(values.shape[1], -(-len(values) // LANES) * LANES)
    columns[:, : len(values)] = values.T
    return columns


def _pieces(begin: int, end: int, size: int = COLUMNS) -> list[tuple[int, int]]:
    return [(start, min(start + size, end)) for start in range(begin, end, size)]


def _spread(run: Callable, jobs: Sequence) -> None:
    """Calls ``run`` on each job, on as many threads as torch may use."""
    threads = min(torch.get_num_threads(), len(jobs))
    if threads > 1:
        list(_pool(threads, os.getpid()).map(run, jobs))
    else:
        for job in jobs:
            run(job)


@lru_cache(maxsize=4)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)
