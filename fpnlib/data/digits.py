"""Handwritten digits, 28×28 and grey: MNIST, and the small set inside scikit-learn that stands in for it offline."""

import hashlib
import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from sklearn import datasets
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn.functional import interpolate, pad

from fpnlib.data.dataset import Dataset, Split
from fpnlib.store import PROJECT, alone

CLASSES = tuple("0123456789")
REMEDY = "set FPN_DATA to the folder that has MNIST/raw/ with the unpacked files"
MNIST_FILES = [
    f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
]


def load_digits(seed: int = 0, test: int = 360, validation: int = 180) -> Dataset:
    """scikit-learn's 1,797 handwritten digits (Alpaydin & Kaynak 1998), laid out as MNIST is.

    Each 8×8 image of counts 0…16 becomes a 20×20 one, centred in 28×28; float32 in [0, 1], shape (n, 1, 28, 28).
    The splits are stratified and drawn by ``seed``.
    """
    pixels, labels = datasets.load_digits(return_X_y=True)
    x = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / 16
    # Bicubic for smooth strokes; it overshoots a little, hence the clamp.
    x = pad(
        interpolate(x, size=(20, 20), mode="bicubic", align_corners=False).clamp(0, 1), (4, 4, 4, 4)
    )
    y = torch.from_numpy(labels).long()
    rest, held_out = _split(np.arange(len(y)), y, test, seed)
    train, validation_rows = _split(rest, y[rest], validation, seed)
    splits = (Split(x[rows], y[rows]) for rows in (train, validation_rows, held_out))
    return Dataset(
        "digits", *splits, CLASSES, _checksum(pixels.astype(np.uint8), labels.astype(np.uint8))
    )


def load_mnist(
    root: str | Path | None = None, seed: int = 0, download: bool = False, validation: int = 5_000
) -> Dataset:
    """MNIST (LeCun et al. 1998): float32 in [0, 1], shape (n, 1, 28, 28).

    The 10,000 test images stay as they are; ``validation`` of the 60,000 training images are held out of train,
    stratified and drawn by ``seed``.

    Args:
        root: the folder that has ``MNIST/raw/``; None: $FPN_DATA, else ``data/`` in the project.
        download: fetch through torchvision what is missing, into ``root``; of several processes one does.

    Raises:
        FileNotFoundError: a file is missing, or could not be fetched: which, where, and how to get it.
        ValueError: a file is damaged.
    """
    from torchvision.datasets import MNIST  # heavy, and only MNIST needs it

    root = Path(root or os.environ.get("FPN_DATA") or PROJECT / "data")
    raw = root / "MNIST" / "raw"
    missing = next((name for name in MNIST_FILES if not (raw / name).is_file()), None)
    if missing and not download:
        raise FileNotFoundError(
            f"MNIST: {missing} is not in {raw}; {REMEDY}, or, with a network, pass download=True"
        )
    try:
        with (
            alone(root / "MNIST") if missing else nullcontext()
        ):  # torchvision looks again: whoever waited finds it
            parts = [
                MNIST(root, train=train, download=missing is not None) for train in (True, False)
            ]
    except (OSError, RuntimeError, AssertionError, ValueError, IndexError) as error:
        if missing is None:
            raise ValueError(f"MNIST: the files in {raw} are damaged; replace them") from None
        reason = str(error).splitlines()[0]
        said = f"MNIST: {missing} is not in {raw} and could not be fetched ({reason}); {REMEDY}"
        raise FileNotFoundError(said) from None
    (x, y), (x_test, y_test) = ((_scaled(part.data), part.targets.long()) for part in parts)
    train, held_out = _split(np.arange(len(y)), y, validation, seed)
    checksum = _checksum(
        *(array.numpy() for part in parts for array in (part.data, part.targets.to(torch.uint8)))
    )
    splits = Split(x[train], y[train]), Split(x[held_out], y[held_out]), Split(x_test, y_test)
    return Dataset("mnist", *splits, CLASSES, checksum)


def _scaled(pixels: Tensor) -> Tensor:
    return pixels.unsqueeze(1).float().div_(255)


def _split(rows: np.ndarray, y: Tensor, held_out: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two parts of ``rows``, the second of ``held_out``, each with y's class frequencies."""
    return train_test_split(rows, test_size=held_out, stratify=y.numpy(), random_state=seed)


def _checksum(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
