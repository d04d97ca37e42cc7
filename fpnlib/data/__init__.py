"""Datasets by name; every loader returns a :class:`Dataset`.

A loader is a function ``loader(root, seed, download) -> Dataset``. ``DATASETS`` names those of the
library. Add your own there, or name it as "module:function" wherever a dataset's name is taken.
"""

from collections.abc import Callable
from importlib import import_module
from inspect import signature
from typing import Any

from fpnlib import checks
from fpnlib.data.dataset import Dataset, Split
from fpnlib.data.digits import load_digits, load_mnist
from fpnlib.data.drawn.faces import load_drawn_faces
from fpnlib.data.drawn.shapes import load_drawn_shapes
from fpnlib.data.files import Root, data_root
from fpnlib.data.point_clouds import load_modelnet, load_shapenet

Loader = Callable[..., Dataset]

DATASETS: dict[str, Loader | str] = {
    "digits": load_digits,  # ships with scikit-learn
    "mnist": load_mnist,
    "drawn_faces": load_drawn_faces,  # drawn by the library
    "celeba": "fpnlib.data.faces:load_celeba",
    "shapes": load_drawn_shapes,  # drawn by the library
    "modelnet": load_modelnet,
    "shapenet": load_shapenet,
    "nci": "fpnlib.data.molecules:load_nci",  # ships with RDKit, which only molecules need
    "moses": "fpnlib.data.molecules:load_moses",
}


def load(
    name: str, root: Root = None, seed: int = 0, download: bool = False, **options: Any
) -> Dataset:
    """Load the dataset called ``name``.

    Args:
        name: a key of ``DATASETS``, or "module:function" for a loader of your own, whose module
            Python can import.
        root: folder of the data; None: see :func:`data_root`.
        seed: of the splits, and of what is drawn.
        download: fetch missing files, if the loader can.
        options: further arguments of the loader, e.g. up="z" for clouds in files.

    Raises:
        ValueError: an unknown name, damaged files, or a dataset whose parts do not fit together.
        TypeError: a loader that returns no :class:`Dataset`, or does not know an option.
        FileNotFoundError: a missing file: which, where it should be, how to get it.

    >>> load("digits").train.x.shape
    torch.Size([1257, 1, 28, 28])
    """
    loader = DATASETS.get(name, name)
    if isinstance(loader, str):
        loader = _loader_of(loader)
    for option in options:
        if option not in signature(loader).parameters:
            raise TypeError(f"dataset '{name}' has no option '{option}'")
    dataset = loader(root, seed, download, **options)
    if not isinstance(dataset, Dataset):
        kind = type(dataset).__name__
        raise TypeError(f"the loader of '{name}' must return a data.Dataset, got {kind}")
    return dataset.check()


def _loader_of(name: str) -> Loader:
    """The loader that "module:function" names."""
    module, colon, function = name.partition(":")
    if not colon:
        raise checks.unknown("dataset", name, DATASETS)
    try:
        found = import_module(module)
    except ImportError as error:
        fault = f"dataset '{name}': cannot import '{module}' ({error})"
        raise ValueError(f"{fault}; install it, or put its folder on PYTHONPATH") from None
    if not callable(getattr(found, function, None)):
        raise ValueError(f"dataset '{name}': '{module}' has no function '{function}'")
    return getattr(found, function)
