"""Datasets by name, each with its embedded stand-in, all returned as one type."""

from pathlib import Path

from fpnlib import checks
from fpnlib.data.dataset import Dataset, Split
from fpnlib.data.digits import load_digits, load_mnist
from fpnlib.data.drawn.faces import load_drawn_faces
from fpnlib.data.drawn.shapes import load_drawn_shapes
from fpnlib.data.faces import load_celeba
from fpnlib.data.point_clouds import load_modelnet, load_shapenet

# name: loader(root, seed, download)
DATASETS = {
    "digits": lambda root, seed, download: load_digits(seed),  # ships with scikit-learn
    "mnist": load_mnist,
    "drawn_faces": lambda root, seed, download: load_drawn_faces(seed),  # drawn by the library
    "celeba": lambda root, seed, download: load_celeba(root),
    "shapes": lambda root, seed, download: load_drawn_shapes(seed),  # drawn by the library
    "modelnet": lambda root, seed, download: load_modelnet(root, seed),
    "shapenet": lambda root, seed, download: load_shapenet(root, seed),
}


def load(
    name: str, root: str | Path | None = None, seed: int = 0, download: bool = False
) -> Dataset:
    """The dataset called ``name``, its splits drawn by ``seed``.

    Args:
        root: folder of the data; None: the environment variable FPN_DATA, else ``data/`` in the project.
        download: fetch what is missing, where that is possible.

    Raises:
        ValueError: an unknown name, with the nearest one; or damaged files.
        FileNotFoundError: a missing file: which, where it should be, how to get it.
    """
    if name not in DATASETS:
        raise checks.unknown("dataset", name, DATASETS)
    return DATASETS[name](root, seed, download)


__all__ = [
    "DATASETS",
    "Dataset",
    "Split",
    "load",
    "load_celeba",
    "load_digits",
    "load_drawn_faces",
    "load_drawn_shapes",
    "load_mnist",
    "load_modelnet",
    "load_shapenet",
]
