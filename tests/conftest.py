"""What the tests share: one thread (numbers don't depend on the machine's cores) and the data beside it."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the checkout with outputs of the original systems (``reference``) and real data (``data``)."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(
            "needs the folder shared/ beside the checkout: outputs of the original systems and real data"
        )
    return folder
