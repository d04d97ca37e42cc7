"""Sharing work among threads by pieces of the samples, not operation by operation."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache

import torch


@contextmanager
def alone() -> Iterator[Callable[[Callable, Sequence], None]]:
    """Torch takes one thread; what it had is for calling a function on each of some jobs, which is what this yields.

    Were torch to share out each operation on such small pieces, its threads would mostly wait for each other.
    """
    threads = torch.get_num_threads()

    def each(run: Callable, jobs: Sequence) -> None:
        several = min(threads, len(jobs)) > 1
        list(_pool(threads, os.getpid()).map(run, jobs) if several else map(run, jobs))

    torch.set_num_threads(1)
    try:
        yield each
    finally:
        torch.set_num_threads(threads)


@lru_cache(maxsize=4)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)
