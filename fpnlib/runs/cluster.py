"""The workers of a sweep: processes on this machine, or those of a Dask cluster."""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from joblib import cpu_count

from fpnlib import checks
from fpnlib.runs.kernel import jobs

PATIENCE = 10, 60
"""Seconds in which a scheduler has to answer, and then in which a worker has to join it."""


@contextmanager
def client_of(points: int, workers: int | None, scheduler: str | None) -> Iterator[Any]:
    """A client of the cluster at ``scheduler``, or of processes on this machine.

    Args:
        points: how many runs there are to do.
        workers: how many processes on this machine; None: one a core, or one on a GPU.
        scheduler: address of a Dask cluster; None: processes on this machine.

    Raises:
        OSError: no scheduler at that address, or none with workers.
    """
    from distributed import Client, LocalCluster  # heavy, and only sweeps need it

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # the error says it
    if scheduler is not None:
        with _joined(scheduler) as client:
            yield client
        return
    count = min(points, jobs() if workers is None else checks.positive("workers", workers))
    # The workers inherit that a Ctrl-C is this process's, which ends them in order.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        cluster = LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            env={"LOKY_MAX_CPU_COUNT": str(max(1, cpu_count() // count))},
            memory_limit=None,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )
    finally:
        signal.signal(signal.SIGINT, handler)
    with cluster, Client(cluster) as client:
        yield client


@contextmanager
def _joined(scheduler: str) -> Iterator[Any]:
    from distributed import Client

    for_scheduler, for_workers = PATIENCE
    try:
        client = Client(scheduler, timeout=for_scheduler)
    except (OSError, ValueError) as error:
        remedy = "start one with 'dask scheduler', or leave --scheduler out for processes"
        said = f"no Dask scheduler answers at {scheduler} ({' '.join(str(error).split())})"
        raise OSError(f"{said}; {remedy} on this machine") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=for_workers)
        except TimeoutError:
            said = f"the Dask scheduler at {scheduler} has had no worker for {for_workers:g} s"
            remedy = f"start some with 'dask worker {scheduler} --nthreads 1'"
            raise OSError(f"{said}; {remedy}") from None
        yield client
