"""Torch's number of threads, for a while."""

from contextlib import contextmanager

import torch


@contextmanager
def threads(count):
    """Let torch use this many threads; then put its setting back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
