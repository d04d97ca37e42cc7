"""Point clouds from disk, in PointFlow's layout of ShapeNet: ``<category>/<split>/<shape>.npy``.

Every cloud comes back with y up, in the units of its file. The points of a file are in no order, so
the first points of a cloud are a smaller cloud of the same shape. They are the pool from which each
epoch of a training draws some anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from fpnlib import checks
from fpnlib.data.dataset import Dataset, Split
from fpnlib.data.files import data_root, entries

SHAPENET, MODELNET = "ShapeNetCore.v2.PC15k", "modelnet"
SPLITS = ("train", "val", "test")
HELD_OUT = 0.1  # share of train held out for validation if there is no val
# The 55 categories of the paper, alphabetical by name, with the synsets that name ShapeNet's
# folders.
_SYNSETS = """
    airplane 02691156, bag 02773838, basket 02801938, bathtub 02808440, bed 02818832, bench
    02828884, birdhouse 02843684, bookshelf 02871439, bottle 02876657, bowl 02880940, bus 02924116,
    cabinet 02933112, camera 02942699, can 02747177, cap 02954340, car 02958343, cellphone 02992529,
    chair 03001627, clock 03046257, dishwasher 03207941, earphone 03261776, faucet 03325088, file
    03337140, guitar 03467517, helmet 03513137, jar 03593526, keyboard 03085013, knife 03624134,
    lamp 03636649, laptop 03642806, mailbox 03710193, microphone 03759954, microwave 03761084,
    monitor 03211117, motorcycle 03790512, mug 03797390, piano 03928116, pillow 03938244, pistol
    03948459, pot 03991062, printer 04004475, remote_control 04074963, rifle 04090263, rocket
    04099429, skateboard 04225987, sofa 04256520, speaker 03691459, stove 04330267, table 04379243,
    telephone 04401088, tin_can 02946921, tower 04460130, train 04468005, vessel 04530566, washer
    04554684
"""
SYNSETS = dict(pair.split() for pair in _SYNSETS.split(","))


def load_shapenet(
    root: str | Path | None = None,
    seed: int = 0,
    download: bool = False,
    *,
    categories: Iterable[str] | None = None,
    points: int = 2048,
) -> Dataset:
    """Load ShapeNet (Chang et al. 2015, arXiv:1512.03012) as PointFlow sampled it.

    Args:
        root: folder that has ``ShapeNetCore.v2.PC15k/``; None: see :func:`data_root`.
        seed: of the shapes held out of train in a category without ``val``.
        download: not used; PointFlow's README links to the data.
        categories: names among the 55 of ``SYNSETS``, in the order of their class indices; None:
            all.
        points: points kept of each cloud, from which :func:`draw_points` draws. PointFlow draws
            from all 15,000, which takes 9 GB for the 55 categories.

    Returns:
        A dataset with clouds x (n, points, 3), float32, and classes y (n,).

    Raises:
        FileNotFoundError: the folder, a category, its train or its test is missing.
        TypeError: ``categories`` is a name, not a list of names.
        ValueError: an unknown category, or one named twice; an empty split; a damaged cloud, or one
            of another shape, with too few points, with NaN, or with all points equal.
    """
    names = chosen(categories, SYNSETS)
    folder = data_root(root) / SHAPENET
    if not folder.is_dir():
        raise FileNotFoundError(
            f"ShapeNet: no folder {folder}; set FPN_DATA to the folder that has {SHAPENET}/ "
            "(PointFlow's README links to it)"
        )
    folders = {}
    for name in names:
        synset = folder / SYNSETS[name]
        folders[name] = synset if synset.is_dir() else folder / name
    return _read_clouds("shapenet", folders, points, seed)


def load_modelnet(
    root: str | Path | None = None,
    seed: int = 0,
    download: bool = False,
    *,
    categories: Iterable[str] | None = None,
    points: int = 2048,
) -> Dataset:
    """Load ModelNet (Wu et al. 2015, arXiv:1406.5670) from ``modelnet/``, with z up on disk.

    A tenth of train is held out for validation. If ``categories`` is None, all folders are read, in
    alphabetical order. The other arguments and the errors are those of :func:`load_shapenet`.
    """
    folder = data_root(root) / MODELNET
    if not folder.is_dir():
        raise FileNotFoundError(
            f"ModelNet: no folder {folder}; set FPN_DATA to the folder that has "
            f"{MODELNET}/<category>/<split>/"
        )
    found = [path.name for path in entries(folder) if path.is_dir()]
    folders = {name: folder / name for name in chosen(categories, found)}
    return _read_clouds("modelnet", folders, points, seed, up="z")


def chosen(categories: Iterable[str] | None, known: Iterable[str]) -> tuple[str, ...]:
    """The categories asked for, in that order; all ``known`` ones if ``categories`` is None.

    Raises:
        TypeError, ValueError: as :func:`load_shapenet`.
    """
    if isinstance(categories, str):
        raise TypeError(f"categories must be a list of names, got the name '{categories}'")
    known = tuple(known)
    names = known if categories is None else tuple(categories)
    for name in names:
        if name not in known:
            raise checks.unknown("category", name, known)
        if names.count(name) > 1:
            raise ValueError(f"category '{name}' is named twice")
    if not names:
        raise ValueError("categories must name one or more")
    return names


def draw_points(x: Tensor, points: int, generator: torch.Generator) -> Tensor:
    """Draw ``points`` points of each cloud (n, pool, 3) without replacement.

    Returns:
        Clouds (n, points, 3); the same rows of every cloud.

    Raises:
        ValueError: more points than the clouds have.
    """
    if checks.positive("points", points) > x.shape[1]:
        raise ValueError(f"the clouds have {x.shape[1]:,} points; {points:,} were asked for")
    rows = torch.randperm(x.shape[1], generator=generator, device=generator.device)[:points]
    return x[:, rows.to(x.device)]


def _read_clouds(
    name: str, folders: dict[str, Path], points: int, seed: int, up: str = "y"
) -> Dataset:
    """The dataset of the categories in ``folders``; ``up`` is the upright axis on disk."""
    checks.positive("points", points)
    files: dict[str, list[tuple[Path, int]]] = {split: [] for split in SPLITS}
    for y, (category, folder) in enumerate(folders.items()):
        for split, paths in _split_files(category, folder, seed).items():
            files[split] += [(path, y) for path in paths]
    digest, splits = hashlib.sha256(), {}
    total = sum(map(len, files.values()))
    with tqdm(total=total, desc=name, unit="cloud", dynamic_ncols=True) as progress:
        for split in SPLITS:
            x = np.empty((len(files[split]), points, 3), np.float32)
            for row, (path, _) in zip(x, files[split]):
                row[:] = _read_cloud(path, points)
                progress.update()
            digest.update(x.tobytes())
            if up == "z":  # a turn about x, which mirrors nothing
                x = np.stack([x[..., 0], x[..., 2], -x[..., 1]], -1)
            labels = torch.tensor([y for _, y in files[split]])
            splits[split] = Split(torch.from_numpy(x), labels)
    train, validation, test = splits.values()
    return Dataset(name, train, validation, test, tuple(folders), digest.hexdigest())


def _read_cloud(path: Path, points: int) -> np.ndarray:
    """The first ``points`` points (points, 3) of a file; a ValueError names a bad file."""
    try:
        cloud = np.lib.format.open_memmap(path, mode="r")  # np.load would also open an archive
    except (OSError, ValueError, EOFError):
        raise ValueError(f"{path} is damaged or no array") from None
    if cloud.ndim != 2 or cloud.shape[1] != 3 or cloud.dtype.kind != "f":
        given = f"{cloud.dtype} of shape {cloud.shape}"
        raise ValueError(f"{path} must hold floats of shape (points, 3), got {given}")
    if len(cloud) < points:
        raise ValueError(f"{path} has {len(cloud):,} points; {points:,} were asked for")
    kept = np.asarray(cloud[:points], np.float32)
    if not np.isfinite(kept).all():
        raise ValueError(f"{path} has NaN or infinite coordinates")
    if points > 1 and (kept == kept[0]).all():
        raise ValueError(f"{path} is degenerate: all its points are equal")
    return kept


def _split_files(category: str, folder: Path, seed: int) -> dict[str, list[Path]]:
    """The files of each split. If there is no val, a part of train is held out, at least one."""
    files = {}
    for split in SPLITS:
        files[split] = entries(folder / split, "*.npy")
        if files[split] or split == "val":
            continue
        if not (folder / split).is_dir():
            raise FileNotFoundError(
                f"category '{category}' has no {split}: {folder / split} is missing"
            )
        raise ValueError(f"category '{category}' is empty: no .npy in {folder / split}")
    if files["val"]:
        return files
    train = files["train"]
    if len(train) < 2:
        raise ValueError(
            f"category '{category}' has one shape in {folder / 'train'}; "
            "none can be held out to validate"
        )
    order = np.random.default_rng([seed, len(train)]).permutation(len(train))
    count = max(1, round(HELD_OUT * len(train)))
    files["val"] = sorted(train[k] for k in order[:count])
    files["train"] = sorted(train[k] for k in order[count:])
    return files
