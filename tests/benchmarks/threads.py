"""What a second thread does to a small training while another process is busy.

Three ways, in turn, in one run: one thread; two threads as ``training.fit`` uses them; two threads
without its bound. Run: python tests/benchmarks/threads.py
"""

import contextlib
import io
import multiprocessing
import statistics
import time
from unittest import mock

import torch

from fpnlib import training
from fpnlib.conditions import Classes
from fpnlib.plugin import FlowPlugin

REPEATS = 3
WAYS = {  # name -> (torch's threads, multiplications a step up to which fit takes one thread)
    "one thread": (1, training.ONE_THREAD_WORK),
    "two threads, as fit takes them": (2, training.ONE_THREAD_WORK),
    "two threads throughout": (2, 0),
}


def spin() -> None:
    while True:
        pass


def seconds(threads: int, bound: float) -> float:
    """Wall time of a plugin's fit on 1,257 latents of 20 dimensions, 40 epochs."""
    torch.manual_seed(0)
    y = torch.arange(1257) % 10
    z = torch.randn(1257, 20) + y[:, None]
    plugin = FlowPlugin(20, Classes(range(10)))
    torch.set_num_threads(threads)
    with mock.patch.object(training, "ONE_THREAD_WORK", bound):
        start = time.perf_counter()
        with contextlib.redirect_stderr(io.StringIO()):  # the progress bar
            plugin.fit(z, y)
        return time.perf_counter() - start


def main() -> None:
    busy = multiprocessing.Process(target=spin, daemon=True)
    busy.start()
    times = {name: [] for name in WAYS}
    for _ in range(REPEATS):
        for name, way in WAYS.items():
            times[name].append(seconds(*way))
    busy.terminate()
    alone = statistics.median(times["one thread"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:32}{median:7.1f} s{median / alone:7.2f} times one thread's", flush=True)


if __name__ == "__main__":
    main()
