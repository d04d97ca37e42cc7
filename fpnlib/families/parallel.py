"""Run jobs in worker processes that share the cores."""

import io
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from warnings import WarningMessage, catch_warnings

from joblib import Parallel, delayed, parallel_config
from tqdm.auto import tqdm

from fpnlib.latents import warn


def run_in_processes(function: Callable[..., None], jobs: Sequence[tuple], workers: int) -> None:
    """Call ``function(*job)`` for every job, in worker processes of one thread each.

    What the workers print is dropped; their warnings are said here. They end when this process
    is killed.
    """
    settings = {"n_jobs": min(len(jobs), workers), "inner_max_num_threads": 1}
    calls = [delayed(_run_quietly)(function, job) for job in jobs]
    parent = (os.getpid(),)
    with parallel_config("loky", **settings, initializer=_end_with, initargs=parent):
        done = Parallel(return_as="generator_unordered")(calls)
        for caught in tqdm(done, total=len(jobs), desc="side by side", unit="model"):
            for warning in caught:
                warn(str(warning.message), warning.category)


def _run_quietly(function: Callable[..., None], job: tuple) -> list[WarningMessage]:
    """Call the function without its output, because the bars of several workers would mix."""
    hidden = io.StringIO()
    with redirect_stdout(hidden), redirect_stderr(hidden), catch_warnings(record=True) as caught:
        function(*job)
    return caught


def _end_with(parent: int) -> None:
    """End this process when its parent is gone; it would go on for hours and hold locks."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
