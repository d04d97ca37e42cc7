"""Sharing work among threads by pieces of the samples, not operation by operation."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor


@contextmanager
def alone() -> Iterator[Callable[[Callable, Sequence], list]]:
    """Torch takes one thread; what it had is for calling a function on each of some jobs, which is what this yields.

    Were torch to share out each operation on such small pieces, its threads would mostly wait for each other. The jobs
    run without gradients, on as many threads as are worth it (``most``; None: all that there are).
    """
    threads, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()

    def each(run: Callable, jobs: Sequence, most: int | None = None) -> list:
        results, left = [None] * len(jobs), enumerate(jobs)

        def work() -> None:
            with (
                torch.inference_mode(inference),
                torch.no_grad(),
            ):  # a thread of the pool has modes of its own
                for k, job in left:
                    results[k] = run(job)

        helpers = [
            _pool(threads, os.getpid()).submit(work)
            for _ in range(min(threads, most or threads, len(jobs)) - 1)
        ]
        try:
            work()
        finally:
            for helper in helpers:
                if not helper.cancel():  # who has not begun by now is not waited for
                    helper.result()
        return results

    torch.set_num_threads(1)
    try:
        yield each
    finally:
        torch.set_num_threads(threads)


def in_pieces(
    run: Callable[..., tuple[Tensor, ...]], size: int, *rows: Tensor
) -> tuple[Tensor, ...]:
    """What ``run`` gives for all rows of some tensors, joined: called with at most ``size`` of them at a time.

    On the CPU by threads; a GPU has enough to do with one piece.
    """
    pieces = list(zip(*(tensor.split(size) for tensor in rows), strict=True))
    with alone() as each:
        parts = (
            each(lambda piece: run(*piece), pieces)
            if rows[0].is_cpu
            else [run(*piece) for piece in pieces]
        )
        return parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts, strict=True)))


def in_turn(run: Callable[..., Tensor], size: int, *rows: Tensor) -> Tensor:
    """What ``run`` gives for all rows of some tensors, joined: called with at most ``size`` of them, one call after the other.

    A result goes to its place at once: kept by themselves they would lie between what the calls take, which then finds
    no room where it was before, and the memory would grow with the number of calls.
    """
    first, *more = zip(*(tensor.split(size) for tensor in rows), strict=True)
    result = run(*first)
    if not more:
        return result
    joined = result.new_empty(len(rows[0]), *result.shape[1:])
    joined[:size] = result
    for k, piece in enumerate(more, 1):
        joined[k * size : (k + 1) * size] = run(*piece)
    return joined


@lru_cache(maxsize=4)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)
