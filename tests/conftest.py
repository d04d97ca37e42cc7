"""One thread and one core, so that no number depends on the machine; the folder of shared data."""

import os
from pathlib import Path

import pytest

# Models are made in the test's own process: workers take longer to start than to train them.
os.environ["LOKY_MAX_CPU_COUNT"] = "1"
# Threads that wait for a core keep it busy: two processes of two threads each take three times the
# work of one thread each.
for library in ("OMP", "MKL", "OPENBLAS", "NUMBA"):
    os.environ[f"{library}_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """One thread for torch, which the process that distributes the tests need not import."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_seed() -> None:
    """The same random numbers in whatever order the tests run."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the checkout: outputs of the original systems, and real data."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder shared/ beside the checkout")
    return folder
