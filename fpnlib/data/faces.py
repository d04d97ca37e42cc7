"""CelebA (Liu et al. 2015, arXiv:1411.7766): aligned faces with forty attributes."""

import hashlib
import io
import re
import warnings
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm.auto import tqdm

from fpnlib import checks
from fpnlib.data.dataset import Dataset, Split
from fpnlib.data.files import Root, data_root, entries
from fpnlib.store import read_json, write, write_json

WIDTH, HEIGHT = 178, 218  # of the aligned images
CROP = 148  # pixels a side of the square cut from the middle
IMAGES = "img_align_celeba"
ATTRIBUTES, PARTITION = "list_attr_celeba", "list_eval_partition"  # .txt, or Kaggle's .csv
CHOSEN = "list_chosen.txt"  # a file of ours: one image name a line
HELD_OUT = 0.1  # of your own faces, for validation and again for test
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
PREPARED = "prepared.json"  # beside prepared images: how they were made
REMEDY = (
    f"set FPN_DATA to the folder that has celeba/{IMAGES}/, celeba/{ATTRIBUTES}.txt "
    f"and celeba/{PARTITION}.txt"
)


def load_celeba(
    root: Root = None, seed: int = 0, download: bool = False, *, size: int = 64
) -> Dataset:
    """Load the images that are there, with the official attributes and the official split.

    A prepared copy of the images is read instead if its size fits: see :func:`prepare_celeba`.
    The layout may be the official one or Kaggle's (lists as CSV, images a folder deeper, PNG).
    If ``celeba/list_chosen.txt`` exists, it names the images to read, one a line. So a part of
    CelebA can be the same for everyone.

    Your own faces serve too, as images of size × size pixels in ``img_align_celeba/``. Without a
    list of attributes they have none. Without a partition a tenth each is held out for validation
    and test.

    Args:
        root: folder that has ``celeba/``; None: see :func:`data_root`.
        seed: of the split of your own faces; CelebA has one of its own.
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
    folder = data_root(root) / "celeba"
    prepared = _prepared(folder, checks.positive("size", size))
    images = prepared or _images(folder, IMAGES)
    own = not prepared and _has_size(images[0], size)
    names = [path.stem for path in images]
    attributes = _read_attributes(folder, names, own)
    parts = _read_partition(folder, names, own, seed)
    digest = hashlib.sha256(f"{size} {CROP}".encode())
    splits = {}
    for number, split in enumerate(("train", "validation", "test")):
        rows = np.flatnonzero(parts == number)
        if not len(rows):
            remedy = f"add some that {PARTITION} marks {number}"
            raise ValueError(f"CelebA: {images[0].parent} has no {split} image; {remedy}")
        pixels = _read_images([images[row] for row in rows], size, digest, f"CelebA, {split}")
        y = attributes.iloc[rows].to_numpy(np.int64, copy=True)
        digest.update(y.tobytes())
        splits[split] = Split(pixels, torch.from_numpy(y))
    classes, checksum = tuple(attributes.columns), digest.hexdigest()
    return Dataset("celeba", **splits, classes=classes, checksum=checksum)


def prepare_celeba(root: Root = None, size: int = 64) -> Path:
    """Copy the images as :func:`load_celeba` needs them, so that no run resizes them again.

    The same command resumes a copy that was interrupted. Only a complete one is read.

    Args:
        root: folder that has ``celeba/``; None: see :func:`data_root`.
        size: pixels a side.

    Returns:
        The folder of the copies: ``celeba/img_align_celeba_<size>``.

    Raises:
        FileNotFoundError, ValueError: as :func:`load_celeba`; images that have this size already.
        OSError: the folder cannot be written to.
    """
    folder = data_root(root) / "celeba"
    target = folder / f"{IMAGES}_{checks.positive('size', size)}"
    images = _images(folder, IMAGES)
    if _has_size(images[0], size):
        said = f"have {size}×{size} pixels already; no copy is needed"
        raise ValueError(f"CelebA: the images in {images[0].parent} {said}")
    bar = tqdm(images, "preparing", unit="image", dynamic_ncols=True)
    Parallel(n_jobs=-1)(delayed(_prepare)(path, target, size) for path in bar)
    write_json(target / PREPARED, {"from": IMAGES, "crop": CROP, "size": size})
    return target


def _prepare(path: Path, target: Path, size: int) -> None:
    """Copy an image into the folder ``target`` if its copy is not there."""
    copy = target / f"{path.stem}.png"
    if not copy.is_file():
        data = io.BytesIO()
        Image.fromarray(_read_image(path, path.read_bytes(), size)).save(data, format="png")
        write(copy, data.getvalue())


def _prepared(folder: Path, size: int) -> list[Path]:
    """The images of a complete prepared copy of this size, if there is one.

    Warns if images were added to the originals since.
    """
    name = f"{IMAGES}_{size}"
    about = folder / name / PREPARED
    how: Any = read_json(about) if about.is_file() else {}
    fits = (how.get("crop"), how.get("size")) == (CROP, size)
    images = _images(folder, name) if fits else []
    with suppress(FileNotFoundError):  # the originals need not be there
        stem = attrgetter("stem")
        lacking = set(map(stem, _images(folder, IMAGES))) - set(map(stem, images))
        if fits and lacking:
            said = f"CelebA: {name} has no copies of {len(lacking):,} images"
            remedy = f"python -m fpnlib data celeba --size {size} adds them"
            warnings.warn(f"{said}; {remedy}", stacklevel=3)
    return images


def _images(folder: Path, name: str) -> list[Path]:
    """The images to read in the folder ``name``, sorted. They may lie a folder deeper."""
    images: list[Path] = []
    for place in (name, f"*/{name}"):
        found = entries(folder, f"{place}/*", f"{place}/*/*")
        images = images or [path for path in found if path.suffix.lower() in SUFFIXES]
    if not images:
        raise FileNotFoundError(f"CelebA: no images in {folder / name}; {REMEDY}")
    chosen = folder / CHOSEN
    if not chosen.is_file():
        return images
    by_name, wanted = {path.stem: path for path in images}, []
    lines = map(str.strip, chosen.read_text(encoding="utf-8-sig").splitlines())
    for name in sorted(set(filter(None, lines))):
        if Path(name).stem not in by_name:
            fault = f"{name}, which {chosen} names, is not in {images[0].parent}"
            raise FileNotFoundError(f"CelebA: {fault}; {REMEDY}")
        wanted.append(by_name[Path(name).stem])
    if not wanted:
        raise ValueError(f"CelebA: {chosen} names no image; delete it, or write one name a line")
    return wanted


def _has_size(path: Path, size: int) -> bool:
    try:
        with Image.open(path) as image:
            return image.size == (size, size)
    except OSError:  # it is named when it is read
        return False


def _read_attributes(folder: Path, images: list[str], own: bool) -> pd.DataFrame:
    """0 and 1 for each image (row) and attribute (column); none if your own faces have no list."""
    path = _list(folder, ATTRIBUTES, own)
    if path is None:
        return pd.DataFrame(index=images)
    table = _rows_of(images, _read_table(path), path).apply(pd.to_numeric, errors="coerce")
    if pd.api.types.is_integer_dtype(table.columns):
        raise ValueError(f"CelebA: {path} has no line of attributes' names above its rows")
    wrong = ~table.isin([-1, 0, 1]).all(axis=1)
    if wrong.any() or not len(table.columns):
        where = f"the row of {wrong.idxmax()}" if wrong.any() else "its second line"
        raise ValueError(f"CelebA: {path} is damaged in {where}; expected only -1 and 1")
    return (table > 0).astype(np.int64)


def _read_partition(folder: Path, images: list[str], own: bool, seed: int) -> np.ndarray:
    """0, 1 or 2 (training, validation, test) for each image (n,)."""
    path = _list(folder, PARTITION, own)
    if path is None:
        parts = np.zeros(len(images), int)
        held_out = max(1, round(HELD_OUT * len(images)))
        order = np.random.default_rng(seed).permutation(len(images))
        parts[order[:held_out]], parts[order[held_out : 2 * held_out]] = 1, 2
        return parts
    table = _read_table(path)
    if table.shape[1] != 1 or not table.isin(["0", "1", "2"]).all(axis=None):
        raise ValueError(f"CelebA: {path} is damaged; expected '000001.jpg 0' or 1 or 2 a line")
    return _rows_of(images, table, path).iloc[:, 0].to_numpy(int)


def _rows_of(images: list[str], table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The rows of these images, in their order."""
    names = pd.Index(images)
    if not names.is_unique:
        twice = names[names.duplicated()][0]
        raise ValueError(f"CelebA: two images are called {twice}, for which {path} has one row")
    missing = names.difference(table.index)
    if len(missing):
        said = f"has no row for {missing[0]} but rows like {table.index[0]}; get the whole list"
        raise ValueError(f"CelebA: {path} {said}")
    return table.loc[images]


def _list(folder: Path, name: str, optional: bool) -> Path | None:
    """The file of one of CelebA's lists; None if it is not there and need not be."""
    found = entries(folder, f"{name}.txt", f"{name}.csv", f"*/{name}.txt", f"*/{name}.csv")
    if not found and not optional:
        raise FileNotFoundError(f"CelebA: {name}.txt is not in {folder}; {REMEDY}")
    return found[0] if found else None


def _read_table(path: Path) -> pd.DataFrame:
    """A list of CelebA's as text, indexed by the images' names without their endings.

    It may be laid out officially, with spaces and perhaps a count in the first line, or with
    commas, semicolons or tabs.
    """
    layout: dict[str, Any] = {"index_col": 0, "dtype": str, "skipinitialspace": True}
    try:
        with path.open(encoding="utf-8-sig") as file:
            lines = [file.readline(), file.readline()]
            layout["skiprows"] = int(lines[0].strip().isdigit())
            first = lines[layout["skiprows"]]
            separators = list(filter(first.__contains__, ",;\t"))
            layout["sep"] = separators[0] if separators else r"\s+"
            last = re.split(r"[\s,;]+", first.strip())[-1]
            layout["header"] = None if last.lstrip("-").isdigit() else 0
            file.seek(0)
            table = pd.read_csv(file, **layout)
    except ValueError as error:  # pandas' ParserError is one, and so is another encoding
        reason = " ".join(str(error).split())
        raise ValueError(
            f"CelebA: {path} is damaged ({reason:.99}); expected CSV in UTF-8"
        ) from None
    table.index = table.index.astype(str).str.strip().str.replace(r"\.\w+$", "", regex=True)
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()][0]
        raise ValueError(f"CelebA: {path} is damaged: {twice} has two rows")
    return table


def _read_images(paths: list[Path], size: int, digest: Any, description: str) -> Tensor:
    """The images, uint8 (n, 3, size, size); adds their files' bytes to ``digest``."""
    pixels = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)
    look = {"leave": False, "disable": None, "dynamic_ncols": True}  # None: not into a file
    bar = tqdm(paths, desc=description, unit="image", **look)
    for row, path in zip(pixels, bar):
        data = path.read_bytes()
        digest.update(data)
        row[:] = torch.from_numpy(_read_image(path, data, size)).permute(2, 0, 1)
    return pixels


def _read_image(path: Path, data: bytes, size: int) -> np.ndarray:
    """One image, uint8 (size, size, 3), decoded from ``data``; of an aligned one the middle."""
    left, top = (WIDTH - CROP) // 2, (HEIGHT - CROP) // 2
    box = (left, top, left + CROP, top + CROP)
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode == "RGB" and image.size == (size, size):
                return np.array(image)
            if image.mode == "RGB" and image.size == (WIDTH, HEIGHT):
                return np.array(image.resize((size, size), Image.Resampling.LANCZOS, box=box))
            given = f"{image.width}×{image.height}, {image.mode}"
    except (UnidentifiedImageError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"CelebA: {path} is damaged ({reason:.80}); replace it") from None
    wanted = f"{WIDTH}×{HEIGHT} or {size}×{size} pixels in RGB"
    raise ValueError(f"CelebA: {path} must be {wanted}, got {given}")
