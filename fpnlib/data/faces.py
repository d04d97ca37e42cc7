"""CelebA (Liu et al. 2015, arXiv:1411.7766): aligned faces with forty attributes, all of them or as many as are there."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm.auto import tqdm

from fpnlib import checks
from fpnlib.data.dataset import Dataset
from fpnlib.store import PROJECT

WIDTH, HEIGHT = 178, 218  # of the aligned images
IMAGES, ATTRIBUTES, PARTITION = (
    "img_align_celeba",
    "list_attr_celeba.txt",
    "list_eval_partition.txt",
)
CHOSEN = "list_chosen.txt"  # ours: a file name a line
REMEDY = f"set FPN_DATA to the folder that has celeba/{IMAGES}/, celeba/{ATTRIBUTES} and celeba/{PARTITION}"


@dataclass(frozen=True)
class Faces:
    """A split of faces: their ``pixels`` (n, 3, size, size), bytes, and their attributes ``y`` (n, 40), 0 or 1."""

    pixels: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    @cached_property
    def x(self) -> Tensor:
        """The faces, (n, 3, size, size), float32 in [0, 1]; four times the memory of ``pixels``, from when it is asked for."""
        return self.pixels.float().div_(255)

    def first(self, n: int) -> Faces:
        """The first n of them, or all where there are fewer."""
        return Faces(self.pixels[:n], self.y[:n]) if n < len(self) else self

    def mirrored(self) -> Faces:
        """The same faces with left and right exchanged."""
        return Faces(self.pixels.flip(3), self.y)


def load_celeba(
    root: str | Path | None = None, size: int = 64, crop: int = 148, limit: int | None = None
) -> Dataset:
    """The images that are there, joined with the official attributes and the official split; no other files are needed.

    Where ``celeba/list_chosen.txt`` stands beside the official lists, it is those images that it names, one a line, and no
    others: so a part of CelebA is the same for everyone.

    Args:
        root: the folder that has ``celeba/``; None: $FPN_DATA, else ``data/`` in the project.
        size: pixels a side to which the crops are resized; a face takes 12 kB at 64, all of CelebA 2.5 GB.
        crop: pixels a side of the square cut from the middle, at most 178; a smaller one leaves less hair and hat.
        limit: at most so many images of each split, the first ones; None: all.

    Returns:
        A dataset whose splits are :class:`Faces` and whose classes are the forty attributes, in the official order; its
        checksum is of the files' bytes, for decoders differ in the last digit of a pixel.

    Raises:
        FileNotFoundError: no images, one that ``list_chosen.txt`` names, or a list: which, where, and how to get it.
        ValueError: a damaged list or image, an image that a list does not name, or a split without images.
    """
    checks.positive("size", size)
    if checks.positive("crop", crop) > WIDTH:
        raise ValueError(f"crop must be at most {WIDTH} pixels, the images' width, got {crop}")
    folder = Path(root or os.environ.get("FPN_DATA") or PROJECT / "data") / "celeba"
    images = _images(folder)
    attributes, partition = (
        _read_attributes(folder / ATTRIBUTES),
        _read_partition(folder / PARTITION),
    )
    for path in images:
        for name, table in ((ATTRIBUTES, attributes), (PARTITION, partition)):
            if path.name not in table.index:
                raise ValueError(f"CelebA: {name} has no row for {path.name}; get the whole list")
    names = np.array([path.name for path in images])
    part, digest, splits = (
        partition[names].to_numpy(),
        hashlib.sha256(f"{size} {crop}".encode()),
        [],
    )
    for number, split in enumerate(("training", "validation", "test")):
        rows = (part == number).nonzero()[0][:limit]
        if not len(rows):
            raise ValueError(
                f"CelebA: {folder / IMAGES} has no {split} image; add some that {PARTITION} marks {number}"
            )
        bar = tqdm(rows, desc=f"CelebA, {split}", unit="image", leave=False, dynamic_ncols=True)
        pixels = torch.empty(len(rows), 3, size, size, dtype=torch.uint8)
        for k, row in enumerate(bar):
            data = images[row].read_bytes()
            digest.update(data)
            pixels[k] = torch.from_numpy(_read_image(images[row], data, size, crop)).permute(
                2, 0, 1
            )
        y = attributes.loc[names[rows]].to_numpy(copy=True)
        digest.update(y.tobytes())
        splits.append(Faces(pixels, torch.from_numpy(y)))
    return Dataset("celeba", *splits, tuple(attributes.columns), digest.hexdigest())


def _images(folder: Path) -> list[Path]:
    """The images to read, in the order of their names."""
    chosen = folder / CHOSEN
    if chosen.is_file():
        images = [folder / IMAGES / name for name in sorted(set(chosen.read_text().split()))]
        if missing := next((path for path in images if not path.is_file()), None):
            raise FileNotFoundError(
                f"CelebA: {missing.name}, which {chosen} names, is not in {missing.parent}; {REMEDY}"
            )
    else:
        images = sorted((folder / IMAGES).glob("*.jpg"))
    if not images:
        raise FileNotFoundError(f"CelebA: no images in {folder / IMAGES}; {REMEDY}")
    return images


def _read_attributes(path: Path) -> pd.DataFrame:
    """0 and 1 for each image name (row) and attribute (column)."""
    table = _read_table(path, skiprows=1, header=0).apply(pd.to_numeric, errors="coerce")
    wrong = ~table.isin([-1, 1]).all(axis=1)
    if wrong.any() or not len(table.columns):
        where = f"the row of {wrong.idxmax()}" if wrong.any() else "its second line"
        raise ValueError(
            f"CelebA: {path} is damaged in {where}; expected a -1 or 1 for each attribute"
        )
    return (table > 0).astype(np.int64)


def _read_partition(path: Path) -> pd.Series:
    """0, 1 or 2 (training, validation, test) for each image name."""
    table = _read_table(path, header=None)
    if table.shape[1] != 1 or not table[1].isin([0, 1, 2]).all():
        raise ValueError(
            f"CelebA: {path} is damaged; expected lines like '000001.jpg 0', with 0, 1 or 2"
        )
    return table[1]


def _read_table(path: Path, **layout) -> pd.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(f"CelebA: {path.name} is not in {path.parent}; {REMEDY}")
    try:
        table = pd.read_csv(path, sep=r"\s+", index_col=0, **layout)
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(
            f"CelebA: {path} is damaged ({' '.join(str(error).split()):.120})"
        ) from None
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()][0]
        raise ValueError(f"CelebA: {path} is damaged: {twice} has two rows")
    return table


def _read_image(path: Path, data: bytes, size: int, crop: int) -> np.ndarray:
    """The middle of an image, bytes (size, size, 3), from its file's ``data``."""
    left, top = (WIDTH - crop) // 2, (HEIGHT - crop) // 2
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.size != (WIDTH, HEIGHT) or image.mode != "RGB":
                given = f"{image.width}×{image.height}, {image.mode}"
                raise ValueError(
                    f"CelebA: {path} must be {WIDTH}×{HEIGHT} pixels in RGB, got {given}"
                )
            box = (left, top, left + crop, top + crop)
            return np.array(image.resize((size, size), Image.Resampling.LANCZOS, box=box))
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(
            f"CelebA: {path} is damaged ({str(error).splitlines()[0]:.80}); replace it"
        ) from None
