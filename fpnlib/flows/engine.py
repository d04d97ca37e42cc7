"""Runs packed layers through numba kernels: columns of samples, split among threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from fpnlib.flows.threads import alone, in_pieces
from fpnlib.flows.vectors import LANES

SHARE = 1 << 27  # weights times samples: less than this is not worth a second thread


class Engine:
    """A flow of packed layers, each a pair of weights and what it makes of the context, on the CPU in float32."""

    size = (
        65 * LANES
    )  # samples that one call of a kernel takes; an odd number, as in ``odd_columns``

    def __init__(self, layers: list[tuple[Any, Any]]):
        self.nets = [net.flat() for net, _ in layers]
        self.biases = [bias for _, _, bias in self.nets]
        self.contexts = [context for _, context in layers]
        self.features = len(layers[0][0].gain)
        self.units, self.blocks = len(layers[0][0].initial), len(layers[0][0].inner)
        self.constant = sum(
            net.gain.log().sum() for net, _ in layers
        )  # the part of log|det| that no input changes

    @cached_property
    def by_context(self) -> list[Tensor]:
        return [context.flat() for context in self.contexts]

    def forward(self, data: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """(noise (n, D), log|det| (n,)) of data (n, D), each row with its own context (n, C)."""
        noise, logs = self._own(self._evaluate, data, context)
        return noise, logs + self.constant

    def inverse(self, noise: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """(data (n, D), log|det| (n,)) of noise (n, D), each row with its own context (n, C)."""
        data, logs = self._own(self._solve, noise, context)
        return data, -logs - self.constant

    def every_kind(self, data: Tensor, contexts: Tensor) -> tuple[Tensor, Tensor]:
        """(squared length of the noise (n, K), log|det| (n, K)) of data (n, D) under every context (K, C)."""
        with alone() as each:
            columns = _columns(data)
            squares, logs = (columns.new_empty(len(contexts), columns.shape[1]) for _ in range(2))
            biases, several = self._biases(contexts), self._kinds(columns.shape[1])

            def run(job: tuple[slice, slice]) -> None:
                kinds, part = job
                piece = columns[:, part].repeat(1, len(contexts[kinds]))
                sums = piece.new_zeros(piece.shape[1])
                self._evaluate(piece, sums, None, [layer[kinds] for layer in biases])
                squares[kinds, part] = piece.square_().sum(0).view(-1, part.stop - part.start)
                logs[kinds, part] = sums.view(-1, part.stop - part.start)

            parts = [slice(*piece) for piece in pieces(0, columns.shape[1], self.size)]
            each(
                run,
                [
                    (slice(*kinds), part)
                    for part in parts
                    for kinds in pieces(0, len(contexts), several)
                ],
            )
            return squares[:, : len(data)].T, logs[:, : len(data)].T + self.constant

    def _kinds(self, columns: int) -> int:
        """How many contexts are looked at together, side by side, each with as many columns."""
        return 1

    def _own(self, run: Callable, values: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """What ``run`` makes of the values, and the sums of the logs of the scales."""

        def part(values: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
            columns = _columns(values)
            logs = columns.new_zeros(columns.shape[1])
            run(columns, logs, self._given(context))
            return columns[:, : len(values)].T, logs[: len(values)]

        return in_pieces(part, self._at_once(len(values)), values, context)

    def _at_once(self, samples: int) -> int:
        """How many of the samples one call takes, each with a context of its own: work for each thread, where it pays."""
        worth = SHARE / sum(len(weights) for weights, _, _ in self.nets)
        return min(self.size, LANES * ceil(max(samples / torch.get_num_threads(), worth) / LANES))

    def _given(self, context: Tensor) -> Tensor:
        """The contexts (n, C), each one sample's, as ``_solve`` and ``_evaluate`` take them."""
        return groups(torch.cat([context, context.new_ones(len(context), 1)], 1))

    def _biases(self, contexts: Tensor) -> list[Tensor]:
        """For each layer (K, 1 + B, H): the biases with each context's part added."""
        return [
            (layer.of(contexts).permute(2, 0, 1) + bias).contiguous()
            for layer, bias in zip(self.contexts, self.biases, strict=True)
        ]

    def _solve(self, values: Tensor, logs: Tensor, given: Tensor) -> None:
        """Noise → data in columns, in place; adds up the logs of the scales. ``given`` is each column's context."""
        raise NotImplementedError

    def _evaluate(
        self, values: Tensor, logs: Tensor, given: Tensor | None, biases: list[Tensor] | None = None
    ) -> None:
        """Data → noise, as ``_solve``; or with the layers' ``biases`` (K, 1 + B, H), which have K contexts' part in them."""
        raise NotImplementedError


def _columns(values: Tensor) -> Tensor:
    """The rows of values as columns, padded with zeros to a whole number of vectors."""
    columns = values.new_zeros(values.shape[1], -(-len(values) // LANES) * LANES)
    columns[:, : len(values)] = values.T
    return columns


def groups(rows: Tensor) -> Tensor:
    """(G, W, LANES) of rows (n, W), with zeros for what the last group lacks."""
    padded = pad(rows, (0, 0, 0, -len(rows) % LANES))
    return padded.view(-1, LANES, rows.shape[1]).transpose(1, 2).contiguous()


def ungrouped(given: Tensor, n: int) -> Tensor:
    """The n rows that ``groups`` was given."""
    return given.transpose(1, 2).reshape(-1, given.shape[1])[:n]


def place(given: Tensor | None) -> tuple[int, int]:
    """Address and width of groups; 0 where there are none."""
    return (0, 0) if given is None else (given.data_ptr(), given.shape[1])


def pieces(begin: int, end: int, size: int) -> list[tuple[int, int]]:
    """The columns begin … end in parts of at most ``size``."""
    return [(start, min(start + size, end)) for start in range(begin, end, size)]
