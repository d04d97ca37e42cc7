"""CelebA (Liu et al. 2015, arXiv:1411.7766): aligned faces with forty attributes."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm.auto import tqdm

from fpnlib import checks
from fpnlib.data.dataset import Dataset, Split
from fpnlib.data.files import data_root, entries

WIDTH, HEIGHT = 178, 218  # of the aligned images
CROP = 148  # pixels a side of the square cut from the middle
IMAGES = "img_align_celeba"
ATTRIBUTES = "list_attr_celeba.txt"
PARTITION = "list_eval_partition.txt"
CHOSEN = "list_chosen.txt"  # a file of ours: one image name a line
REMEDY = (
    f"set FPN_DATA to the folder that has celeba/{IMAGES}/, celeba/{ATTRIBUTES} "
    f"and celeba/{PARTITION}"
)


def load_celeba(
    root: str | Path | None = None,
    seed: int = 0,
    download: bool = False,
    *,
    size: int = 64,
) -> Dataset:
    """Load the images that are there, with the official attributes and the official split.

    If ``celeba/list_chosen.txt`` exists, it names the images to read, one a line. So a part of
    CelebA can be the same for everyone.

    Args:
        root: folder that has ``celeba/``; None: see :func:`data_root`.
        seed: not used; the split is CelebA's own.
        download: not used; CelebA's terms forbid an automatic download.
        size: pixels a side to which the squares of 148 pixels in the middle are resized. A face
            takes 12 kB at 64, all of CelebA 2.5 GB.

    Returns:
        A dataset whose splits hold uint8 images (n, 3, size, size) and labels (n, 40), and whose
        classes are the forty attributes in the official order. Its checksum covers the files'
        bytes, because decoders differ in the last digit of a pixel.

    Raises:
        FileNotFoundError: no images, an image that ``list_chosen.txt`` names, or a list is missing.
        ValueError: a damaged list or image, an image that a list does not name, or a split without
            images.
    """
    checks.positive("size", size)
    folder = data_root(root) / "celeba"
    images = _images(folder)
    names = [path.name for path in images]
    attributes = _rows_of(names, _read_attributes(folder / ATTRIBUTES), ATTRIBUTES)
    part_of = _rows_of(names, _read_partition(folder / PARTITION), PARTITION)
    digest = hashlib.sha256(f"{size} {CROP}".encode())
    splits = {}
    for number, split in enumerate(("train", "validation", "test")):
        rows = np.flatnonzero(part_of[1] == number)
        if not len(rows):
            raise ValueError(
                f"CelebA: {folder / IMAGES} has no {split} image; "
                f"add some that {PARTITION} marks {number}"
            )
        paths = [images[row] for row in rows]
        pixels = _read_images(paths, size, digest, f"CelebA, {split}")
        y = attributes.iloc[rows].to_numpy(copy=True)
        digest.update(y.tobytes())
        splits[split] = Split(pixels, torch.from_numpy(y))
    classes, checksum = tuple(attributes.columns), digest.hexdigest()
    return Dataset("celeba", **splits, classes=classes, checksum=checksum)


def _images(folder: Path) -> list[Path]:
    """The images to read, sorted by name."""
    chosen = folder / CHOSEN
    if chosen.is_file():
        images = [folder / IMAGES / name for name in sorted(set(chosen.read_text().split()))]
        missing = next((path for path in images if not path.is_file()), None)
        if missing:
            raise FileNotFoundError(
                f"CelebA: {missing.name}, which {chosen} names, is not in {missing.parent}; "
                f"{REMEDY}"
            )
    else:
        images = entries(folder / IMAGES, "*.jpg")
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


def _read_partition(path: Path) -> pd.DataFrame:
    """0, 1 or 2 (training, validation, test) for each image name."""
    table = _read_table(path, header=None)
    if table.shape[1] != 1 or not table[1].isin([0, 1, 2]).all():
        raise ValueError(
            f"CelebA: {path} is damaged; expected lines like '000001.jpg 0', with 0, 1 or 2"
        )
    return table


def _rows_of(names: list[str], table: pd.DataFrame, list_name: str) -> pd.DataFrame:
    """The rows of these images, in their order."""
    missing = pd.Index(names).difference(table.index)
    if len(missing):
        raise ValueError(f"CelebA: {list_name} has no row for {missing[0]}; get the whole list")
    return table.loc[names]


def _read_table(path: Path, **layout: Any) -> pd.DataFrame:
    """A list of CelebA's, indexed by image name."""
    if not path.is_file():
        raise FileNotFoundError(f"CelebA: {path.name} is not in {path.parent}; {REMEDY}")
    try:
        table = pd.read_csv(path, sep=r"\s+", index_col=0, **layout)
    except ValueError as error:  # pandas' ParserError is one
        reason = " ".join(str(error).split())
        raise ValueError(f"CelebA: {path} is damaged ({reason:.120})") from None
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()][0]
        raise ValueError(f"CelebA: {path} is damaged: {twice} has two rows")
    return table


def _read_images(paths: list[Path], size: int, digest: Any, description: str) -> Tensor:
    """The middles of images, uint8 (n, 3, size, size); adds their files' bytes to ``digest``."""
    pixels = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)
    bar = tqdm(paths, desc=description, unit="image", leave=False, dynamic_ncols=True)
    for row, path in zip(pixels, bar):
        data = path.read_bytes()
        digest.update(data)
        row[:] = torch.from_numpy(_read_image(path, data, size)).permute(2, 0, 1)
    return pixels


def _read_image(path: Path, data: bytes, size: int) -> np.ndarray:
    """The middle of one image, uint8 (size, size, 3), decoded from its file's ``data``."""
    left, top = (WIDTH - CROP) // 2, (HEIGHT - CROP) // 2
    box = (left, top, left + CROP, top + CROP)
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.size != (WIDTH, HEIGHT) or image.mode != "RGB":
                given = f"{image.width}×{image.height}, {image.mode}"
                raise ValueError(
                    f"CelebA: {path} must be {WIDTH}×{HEIGHT} pixels in RGB, got {given}"
                )
            return np.array(image.resize((size, size), Image.Resampling.LANCZOS, box=box))
    except (UnidentifiedImageError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"CelebA: {path} is damaged ({reason:.80}); replace it") from None
