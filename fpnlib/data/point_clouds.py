"""Point clouds from disk, in PointFlow's layout of ShapeNet: ``<category>/<split>/<shape>.npy``.

Every cloud comes back with y up, in the units of its file. Its points are in no order, so the first
points of a cloud are a smaller cloud of the same shape. They are the pool from which each epoch of
a training draws some anew.
"""

import hashlib
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from fpnlib import checks
from fpnlib.data.dataset import Dataset, Split
from fpnlib.data.files import Root, data_root, entries

SHAPENET, MODELNET = "ShapeNetCore.v2.PC15k", "modelnet"
SPLITS = ("train", "val", "test")
HELD_OUT = {"val": 0.1, "test": 0.2}  # shares of a category's shapes, if the split is not there
# The columns that become x, y and z if this axis is up, and their signs: turns that mirror nothing.
UPRIGHT: dict[str, tuple[list[int], list[int]]] = {
    "x": ([1, 0, 2], [-1, 1, 1]),
    "y": ([0, 1, 2], [1, 1, 1]),
    "z": ([0, 2, 1], [1, 1, -1]),
}
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
    root: Root = None, seed: int = 0, download: bool = False, *, points: int = 2048, up: str = "y"
) -> Dataset:
    """Load ShapeNet (Chang et al. 2015, arXiv:1512.03012) as PointFlow sampled it.

    Args:
        root: folder that has ``ShapeNetCore.v2.PC15k/``; None: see :func:`data_root`.
        seed: of the shapes held out in a category without ``val``, or without any split.
        download: not used; PointFlow's README links to the data.
        points: at most so many points are kept of each cloud. PointFlow draws from all 15,000,
            which takes 9 GB for the 55 categories.
        up: the axis that points up in the files: "x", "y" or "z".

    Returns:
        A dataset with clouds x (n, points, 3), float32, and classes y (n,). If no cloud has
        ``points`` points, x has as many as the largest; a cloud of fewer points repeats its own.

    Raises:
        FileNotFoundError: the folder, a category, its train or its test is missing.
        ValueError: no category; an empty split; a damaged cloud, or one of another shape, with NaN,
            or with all points equal; an unknown axis.
    """
    folder = _folder(root, SHAPENET, "ShapeNet", "(PointFlow's README links to it)")
    folders = {}
    for name, synset in SYNSETS.items():
        folders[name] = folder / (synset if (folder / synset).is_dir() else name)
    return _read_clouds("shapenet", folders, points, seed, up)


def load_modelnet(
    root: Root = None, seed: int = 0, download: bool = False, *, points: int = 2048, up: str = "z"
) -> Dataset:
    """Load ModelNet (Wu et al. 2015, arXiv:1406.5670) from ``modelnet/``, with z up on disk.

    Clouds of your own serve too: ``modelnet/<category>/<shape>.npy``, with or without folders of
    splits. The categories are in alphabetical order. A folder without clouds is left out, with a
    warning. Arguments and errors are those of :func:`load_shapenet`.
    """
    folder = _folder(root, MODELNET, "ModelNet", "with <category>/<split>/<shape>.npy in it")
    return _read_clouds("modelnet", _categories(folder), points, seed, up)


def draw_points(x: Tensor, points: int, generator: torch.Generator) -> Tensor:
    """Draw ``points`` points of each cloud (n, pool, 3), the same rows of every cloud.

    No point is drawn twice before all of the pool are drawn.

    Returns:
        Clouds (n, points, 3).
    """
    rows = torch.randperm(x.shape[1], generator=generator, device=generator.device)
    rows = rows.repeat(-(-checks.positive("points", points) // len(rows)))[:points]
    return x[:, rows.to(x.device)]


def _folder(root: Root, name: str, title: str, hint: str) -> Path:
    folder = data_root(root) / name
    if folder.is_dir():
        return folder
    remedy = f"set FPN_DATA to the folder that has {name}/ {hint}"
    raise FileNotFoundError(f"{title}: no folder {folder}; {remedy}")


def _categories(folder: Path) -> dict[str, Path]:
    """The folders of the categories by name. Raises ValueError for a cloud outside of them."""
    found, clouds = {}, set()
    for path in filter(Path.is_dir, entries(folder, "*")):
        splits = entries(path, *SPLITS)
        files = entries(path, *[f"{split}/*.npy" for split in SPLITS] if splits else ["*.npy"])
        if path.name not in SPLITS and (splits or files):
            found[path.name] = path
            clouds.update(files)
        elif not entries(path, "*.npy", "*/*.npy"):
            warnings.warn(f"{path} has no .npy files and is left out", stacklevel=3)
    # Arrays beside the categories may be something else, like PointFlow's means.
    everything = entries(folder, *[] if found else ["*.npy"], "*/*.npy", "*/*/*.npy")
    stray = next((path for path in everything if path not in clouds), None)
    if stray or not found:
        said = f"{stray} would not be read" if stray else f"{folder} has no category"
        layout = "<category>/<shape>.npy or <category>/<train, val or test>/<shape>.npy"
        raise ValueError(f"{said}; expected {layout}")
    return found


def _read_clouds(name: str, folders: dict[str, Path], points: int, seed: int, up: str) -> Dataset:
    """The dataset of the categories in ``folders``; ``up`` is the upright axis on disk."""
    checks.positive("points", points)
    checks.known("axis", up, UPRIGHT)
    found = [_split_files(category, folder, seed) for category, folder in folders.items()]
    paths, labels, ends = [], [], []
    for split in SPLITS:
        for label, files in enumerate(found):
            paths += files[split]
            labels += [label] * len(files[split])
        ends.append(len(paths))
    pool, sizes = np.empty((len(paths), points, 3), np.float32), []
    look = {"unit": "cloud", "disable": None, "dynamic_ncols": True}  # None: not into a file
    for path, row in zip(tqdm(paths, name, **look), pool):
        cloud = _read_cloud(path, points)
        row[:] = np.resize(cloud, row.shape)  # repeats the points of a smaller cloud
        sizes.append(len(cloud))
    most = max(sizes)
    if min(sizes) < most:
        said = f"{name}: the clouds have {min(sizes):,} to {most:,} points"
        warnings.warn(f"{said}; those of the smaller ones repeat", stacklevel=3)
    digest, splits = hashlib.sha256(), []
    columns, signs = UPRIGHT[up]
    for x, y in zip(np.split(pool[:, :most], ends[:2]), np.split(labels, ends[:2])):
        digest.update(x.tobytes())
        upright = x[..., columns]
        upright *= np.array(signs, np.float32)
        splits.append(Split(torch.from_numpy(upright), torch.from_numpy(y)))
    train, validation, test = splits
    return Dataset(name, train, validation, test, tuple(folders), digest.hexdigest())


def _read_cloud(path: Path, points: int) -> np.ndarray:
    """At most ``points`` points (m, 3) of a file; a ValueError names a bad file."""
    try:
        # np.load would also open an archive.
        cloud: np.ndarray = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError):
        raise ValueError(f"{path} is damaged or no array") from None
    if cloud.ndim != 2 or cloud.shape[1] != 3 or cloud.dtype.kind != "f" or not len(cloud):
        given = f"{cloud.dtype} of shape {cloud.shape}"
        raise ValueError(f"{path} must hold floats of shape (points, 3), got {given}")
    if len(cloud) != points:  # a part of points that lie in some order would be a part of the shape
        cloud = cloud[np.random.default_rng(0).permutation(len(cloud))[:points]]
    kept = np.asarray(cloud, np.float32)
    if not np.isfinite(kept).all():
        raise ValueError(f"{path} has NaN or infinite coordinates")
    if points > 1 and (kept == kept[0]).all():
        raise ValueError(f"{path} is degenerate: all its points are equal")
    return kept


def _split_files(category: str, folder: Path, seed: int) -> dict[str, list[Path]]:
    """The files of each split. What has no folder is held out of train, at least one shape each."""
    files = {split: entries(folder / split, "*.npy") for split in SPLITS}
    flat = not any((folder / split).is_dir() for split in SPLITS)
    if flat:
        files["train"] = entries(folder, "*.npy")
    for split in ("train",) if flat else ("train", "test"):
        place = folder if flat else folder / split
        if not place.is_dir():
            raise FileNotFoundError(f"category '{category}' has no {split}: {place} is missing")
        if not files[split]:
            raise ValueError(f"category '{category}' is empty: no .npy in {place}")
    missing = [split for split in HELD_OUT if not files[split]]
    pool = np.array(files["train"], dtype=object)
    if len(pool) <= len(missing):
        few = f"category '{category}' has too few shapes, {len(pool)}, in {pool[0].parent}"
        raise ValueError(f"{few}: none can be held out for {' and '.join(missing)}")
    order = np.random.default_rng([seed, len(pool)]).permutation(len(pool))
    for split in missing:
        count = max(1, round(HELD_OUT[split] * len(pool)))
        files[split], order = sorted(pool[order[:count]]), order[count:]
    files["train"] = sorted(pool[order])
    return files
