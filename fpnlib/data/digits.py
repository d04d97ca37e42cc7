"""Handwritten digits of 28×28 grey pixels: MNIST, and scikit-learn's small set for use offline."""

import hashlib
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate, pad

from fpnlib.data.dataset import Dataset, Split
from fpnlib.data.files import Root, data_root
from fpnlib.store import alone

CLASSES = tuple("0123456789")
IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
FILES = (f"train-{IMAGES}", f"train-{LABELS}", f"t10k-{IMAGES}", f"t10k-{LABELS}")
REMEDY = "set FPN_DATA to the folder that has MNIST/raw/ with the unpacked files"


def load_digits(root: Root = None, seed: int = 0, download: bool = False) -> Dataset:
    """Load scikit-learn's 1,797 handwritten digits (Alpaydin & Kaynak 1998), laid out as MNIST is.

    Each 8×8 image of counts 0…16 becomes a 20×20 one, centred in 28×28: x is (n, 1, 28, 28),
    float32 in [0, 1].

    Args:
        root: not used; the digits ship with scikit-learn.
        seed: of the stratified splits.
        download: not used.

    >>> dataset = load_digits()
    >>> dataset.test.x.shape, dataset.classes[:3]
    (torch.Size([360, 1, 28, 28]), ('0', '1', '2'))
    """
    from sklearn import datasets  # slow to import; a process that loads no digits need not

    pixels, labels = datasets.load_digits(return_X_y=True)
    x = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / 16
    # Bicubic interpolation gives smooth strokes and overshoots a little, hence the clamp.
    x = interpolate(x, size=(20, 20), mode="bicubic", align_corners=False).clamp(0, 1)
    everything = Split(pad(x, (4, 4, 4, 4)), torch.from_numpy(labels).long())
    rest, test = _stratified(everything, 360, seed)
    train, validation = _stratified(rest, 180, seed)
    used = pixels.astype(np.uint8).tobytes() + labels.astype(np.uint8).tobytes()
    checksum = hashlib.sha256(used).hexdigest()
    return Dataset("digits", train, validation, test, CLASSES, checksum)


def load_mnist(
    root: Root = None, seed: int = 0, download: bool = False, *, validation: int = 5_000
) -> Dataset:
    """Load MNIST (LeCun et al. 1998): x is (n, 1, 28, 28), float32 in [0, 1].

    The 10,000 test images stay as they are. ``validation`` of the 60,000 training images are held
    out, stratified.

    Args:
        root: folder that has ``MNIST/raw/``; None: see :func:`data_root`.
        seed: of the images held out.
        download: fetch missing files into ``root`` through torchvision; of several processes only
            one does.
        validation: images held out.

    Raises:
        FileNotFoundError: a file is missing, or could not be fetched: which, where, and how to get
            it.
        ValueError: a file is damaged.
    """
    root = data_root(root)
    everything, test = _read_mnist(root, download)
    digest = hashlib.sha256()
    for part in (everything, test):
        digest.update(part.data.numpy().tobytes())
        digest.update(part.y.to(torch.uint8).numpy().tobytes())
    train, held_out = _stratified(everything, validation, seed)
    return Dataset("mnist", train, held_out, test, CLASSES, digest.hexdigest())


def _read_mnist(root: Path, download: bool) -> list[Split]:
    """MNIST's training and test images, as their files have them."""
    raw = root / "MNIST" / "raw"
    missing = next((name for name in FILES if not (raw / name).is_file()), None)
    absent = f"MNIST: {missing} is not in {raw}"
    if missing and not download:
        raise FileNotFoundError(f"{absent}; {REMEDY}, or, with a network, pass download=True")
    from torchvision.datasets import MNIST  # slow to import, and only MNIST needs it

    try:
        # torchvision looks for the files again, so a process that waited finds what another
        # fetched.
        with alone(root / "MNIST") if missing else nullcontext():
            parts = [MNIST(root, train=train, download=bool(missing)) for train in (True, False)]
    except (OSError, RuntimeError, AssertionError, ValueError, IndexError) as error:
        if missing is None:
            raise ValueError(f"MNIST: the files in {raw} are damaged; replace them") from None
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(f"{absent} and could not be fetched ({reason}); {REMEDY}") from None
    return [Split(part.data.unsqueeze(1), part.targets.long()) for part in parts]


def _stratified(split: Split, held_out: int, seed: int) -> tuple[Split, Split]:
    """Hold out ``held_out`` objects; both parts have the class frequencies of the whole."""
    from sklearn.model_selection import train_test_split  # slow to import

    rows = np.arange(len(split))
    kept, other = train_test_split(rows, test_size=held_out, stratify=split.y, random_state=seed)
    return split.take(kept), split.take(other)
