"""Point clouds from disk, in the layout of PointFlow's ShapeNetCore.v2.PC15k: ``<category>/<split>/<shape>.npy``.

Every cloud comes back with y up, in the units of its file. The points of a file are in no order, so any part of them is
a smaller cloud of the same shape, and its first points are a pool of which each epoch of a training draws some anew.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from fpnlib import checks
from fpnlib.data.dataset import Dataset, Split
from fpnlib.store import PROJECT

SHAPENET, MODELNET = "ShapeNetCore.v2.PC15k", "modelnet"
SPLITS = ("train", "val", "test")
HELD_OUT = 0.1  # share of train that validates where there is no val
# The 55 categories of the paper, alphabetical by name, with the synsets that ShapeNet's folders are called by.
SYNSETS = {
    name: synset
    for name, synset in (
        pair.split()
        for pair in """
        airplane 02691156, bag 02773838, basket 02801938, bathtub 02808440, bed 02818832, bench 02828884,
        birdhouse 02843684, bookshelf 02871439, bottle 02876657, bowl 02880940, bus 02924116, cabinet 02933112,
        camera 02942699, can 02747177, cap 02954340, car 02958343, cellphone 02992529, chair 03001627, clock 03046257,
        dishwasher 03207941, earphone 03261776, faucet 03325088, file 03337140, guitar 03467517, helmet 03513137,
        jar 03593526, keyboard 03085013, knife 03624134, lamp 03636649, laptop 03642806, mailbox 03710193,
        microphone 03759954, microwave 03761084, monitor 03211117, motorcycle 03790512, mug 03797390, piano 03928116,
        pillow 03938244, pistol 03948459, pot 03991062, printer 04004475, remote_control 04074963, rifle 04090263,
        rocket 04099429, skateboard 04225987, sofa 04256520, speaker 03691459, stove 04330267, table 04379243,
        telephone 04401088, tin_can 02946921, tower 04460130, train 04468005, vessel 04530566, washer 04554684
        """.split(",")
    )
}


def load_shapenet(
    root: str | Path | None = None,
    seed: int = 0,
    *,
    categories: Iterable[str] | None = None,
    points: int = 2048,
) -> Dataset:
    """ShapeNet (Chang et al. 2015, arXiv:1512.03012) as PointFlow sampled it: 15,000 points a shape.

    Args:
        root: the folder that has ``ShapeNetCore.v2.PC15k/``; None: $FPN_DATA, else ``data/`` in the project.
        seed: of what is held out of train where a category has no ``val``.
        categories: names among the 55 of ``SYNSETS``, in the order their indices shall have; None: all.
        points: kept of each cloud, the pool that :func:`draw_points` draws from; x is (n, points, 3), float32. PointFlow
            draws from all 15,000: for the 55 categories 9 GB.

    Raises:
        FileNotFoundError: the folder, a category, its train or its test is missing: which, and where it should be.
        TypeError: categories that are a name, not a list of names.
        ValueError: an unknown category, or one named twice; an empty split; a damaged cloud, or one of another shape,
            with fewer points than asked for, with NaN, or with all points equal.
    """
    names = chosen(categories, SYNSETS)
    folder = _root(root) / SHAPENET
    if not folder.is_dir():
        raise FileNotFoundError(
            f"ShapeNet: no folder {folder}; set FPN_DATA to the folder that has {SHAPENET}/ (PointFlow's README links to it)"
        )
    folders = {
        name: folder / (SYNSETS[name] if (folder / SYNSETS[name]).is_dir() else name)
        for name in names
    }
    return read_clouds("shapenet", folders, points, seed)


def load_modelnet(
    root: str | Path | None = None,
    seed: int = 0,
    *,
    categories: Iterable[str] | None = None,
    points: int = 2048,
) -> Dataset:
    """ModelNet (Wu et al. 2015, arXiv:1406.5670) in the same folders, called by name, with z up on disk.

    A tenth of train is held out for validation. Arguments and errors are those of :func:`load_shapenet`, but that
    ``None`` for the categories means those that are there, alphabetically.
    """
    folder = _root(root) / MODELNET
    if not folder.is_dir():
        raise FileNotFoundError(
            f"ModelNet: no folder {folder}; set FPN_DATA to the folder that has {MODELNET}/<category>/<split>/"
        )
    there = sorted(path.name for path in folder.iterdir() if path.is_dir())
    return read_clouds(
        "modelnet",
        {name: folder / name for name in chosen(categories, there)},
        points,
        seed,
        up="z",
    )


def chosen(categories: Iterable[str] | None, there: Iterable[str]) -> tuple[str, ...]:
    """The categories asked for, in that order; None: all that are there. Errors as of :func:`load_shapenet`."""
    if isinstance(categories, str):
        raise TypeError(f"categories must be a list of names, got the name '{categories}'")
    there = tuple(there)
    names = there if categories is None else tuple(categories)
    for name in names:
        if name not in there:
            raise checks.unknown("category", name, there)
        if names.count(name) > 1:
            raise ValueError(f"category '{name}' is named twice")
    if not names:
        raise ValueError("categories must name one or more")
    return names


def read_clouds(
    name: str, folders: dict[str, Path], points: int, seed: int = 0, up: str = "y"
) -> Dataset:
    """The dataset of the categories in ``folders`` (name → folder of the splits), as :func:`load_shapenet` describes it.

    Args:
        up: the axis that is up on disk, "y" or "z"; the clouds returned have y up.
    """
    checks.positive("points", points)
    if up not in ("y", "z"):
        raise checks.unknown("axis", up, ("y", "z"))
    files: dict[str, list[tuple[Path, int]]] = {split: [] for split in SPLITS}
    for y, (category, folder) in enumerate(folders.items()):
        for split, paths in _splits(category, folder, seed).items():
            files[split] += [(path, y) for path in paths]
    digest, parts = hashlib.sha256(), []
    progress = tqdm(
        total=sum(map(len, files.values())), desc=name, unit="cloud", dynamic_ncols=True
    )
    with progress:
        for split in SPLITS:
            x = np.empty((len(files[split]), points, 3), np.float32)
            for row, (path, _) in zip(x, files[split]):
                row[:] = read_cloud(path, points)
                progress.update()
            digest.update(x.tobytes())
            if up == "z":
                x = np.stack(
                    [x[..., 0], x[..., 2], -x[..., 1]], -1
                )  # a turn about x: no mirror image
            parts.append(Split(torch.from_numpy(x), torch.tensor([y for _, y in files[split]])))
    return Dataset(name, *parts, tuple(folders), digest.hexdigest())


def read_cloud(path: Path, points: int) -> np.ndarray:
    """The first ``points`` points (points, 3) of a file. Raises ValueError, with the path, for what is no such cloud."""
    try:
        cloud = np.lib.format.open_memmap(
            path, mode="r"
        )  # np.load would open an archive under that name, too
    except (OSError, ValueError, EOFError):
        raise ValueError(f"{path} is damaged or no array") from None
    if cloud.ndim != 2 or cloud.shape[1] != 3 or cloud.dtype.kind != "f":
        raise ValueError(
            f"{path} must hold floats of shape (points, 3), got {cloud.dtype} of shape {cloud.shape}"
        )
    if len(cloud) < points:
        raise ValueError(f"{path} has {len(cloud):,} points; {points:,} were asked for")
    cloud = np.asarray(cloud[:points], np.float32)
    if not np.isfinite(cloud).all():
        raise ValueError(f"{path} has NaN or infinite coordinates")
    if points > 1 and (cloud == cloud[0]).all():
        raise ValueError(f"{path} is degenerate: all its points are equal")
    return cloud


def draw_points(x: Tensor, points: int, generator: torch.Generator) -> Tensor:
    """``points`` points of each cloud (n, pool, 3), drawn without replacement: (n, points, 3), the same rows of every cloud.

    Raises:
        ValueError: more points than the clouds have.
    """
    if checks.positive("points", points) > x.shape[1]:
        raise ValueError(f"the clouds have {x.shape[1]:,} points; {points:,} were asked for")
    return x[
        :,
        torch.randperm(x.shape[1], generator=generator, device=generator.device)[:points].to(
            x.device
        ),
    ]


def _root(root: str | Path | None) -> Path:
    return Path(root or os.environ.get("FPN_DATA") or PROJECT / "data")


def _splits(category: str, folder: Path, seed: int) -> dict[str, list[Path]]:
    """The files of each split, in order; where there is no val, a part of train by ``seed``, one shape at least."""
    files = {}
    for split in SPLITS:
        if not (folder / split).is_dir():
            if split == "val":
                continue
            raise FileNotFoundError(
                f"category '{category}' has no {split}: {folder / split} is missing"
            )
        files[split] = sorted((folder / split).glob("*.npy"))
        if not files[split] and split != "val":
            raise ValueError(f"category '{category}' is empty: no .npy in {folder / split}")
    if not files.get("val"):
        train = files["train"]
        if len(train) < 2:
            raise ValueError(
                f"category '{category}' has one shape in {folder / 'train'}; none can be held out to validate"
            )
        order = np.random.default_rng([seed, len(train)]).permutation(len(train))
        held_out = set(order[: max(1, round(HELD_OUT * len(train)))].tolist())
        files["val"] = [path for k, path in enumerate(train) if k in held_out]
        files["train"] = [path for k, path in enumerate(train) if k not in held_out]
    return files
