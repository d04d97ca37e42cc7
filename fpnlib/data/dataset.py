"""What every loader returns: a :class:`Dataset` of three :class:`Split` s."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from fpnlib import checks


class Split:
    """Objects, their labels, and further tensors that describe each object.

    Args:
        data: objects (n, ...): float32, or uint8 for images of 0…255. A function is called with
            ``y`` and the tensors of ``extra`` when the objects are first needed, and returns them.
        y: labels, class indices (n,) or attributes (n, A).
        extra: further tensors by name, each with n rows.

    Raises:
        ValueError: tensors of different lengths.

    >>> split = Split(torch.full((3, 1, 28, 28), 255, dtype=torch.uint8), torch.tensor([7, 2, 1]))
    >>> split.x.dtype, split.x.max().item()
    (torch.float32, 1.0)
    >>> len(split.first(2)), split.take([0, 2]).y.tolist()
    (2, [7, 1])
    """

    def __init__(
        self, data: Tensor | Callable[..., Tensor], y: Tensor, extra: Mapping[str, Tensor] = {}
    ):
        self._source = data if callable(data) else torch.as_tensor(data)
        self.y = torch.as_tensor(y)
        self.extra = dict(extra)
        if isinstance(self._source, Tensor):
            checks.same_length(self._source, self.y, ("data", "y"))
        for name, tensor in self.extra.items():
            checks.same_length(tensor, self.y, (name, "y"))

    def __len__(self) -> int:
        return len(self.y)

    @property
    def data(self) -> Tensor:
        """The objects (n, ...) as they are stored."""
        if not isinstance(self._source, Tensor):
            self._source = self._source(self.y, **self.extra)
        return self._source

    @cached_property
    def x(self) -> Tensor:
        """The objects (n, ...) as float32; images of 0…255 are scaled to [0, 1].

        This copy of uint8 images is kept; it takes four times their memory.
        """
        scale = 255 if self.data.dtype == torch.uint8 else 1
        return self.data.float().div_(scale) if scale > 1 else self.data.float()

    def take(self, rows: Any) -> Self:
        """The objects of these rows: a slice, indices or a mask (n,)."""
        source = self._source[rows] if isinstance(self._source, Tensor) else self._source
        extra = {name: part[rows] for name, part in self.extra.items()}
        return type(self)(source, self.y[rows], extra)

    def first(self, n: int) -> Self:
        """The first ``n`` objects, or all of them if there are fewer."""
        return self.take(slice(n)) if n < len(self) else self


@dataclass(frozen=True)
class Dataset:
    """Three disjoint splits; ``validation`` is held out of the training data.

    Args:
        classes: names of the K classes, or of the A attributes; none: objects without labels.
        checksum: sha256 of the data used.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    checksum: str

    def check(self) -> Self:
        """Return the dataset itself if its splits and labels fit its classes.

        Raises:
            TypeError: a split that is no :class:`Split`.
            ValueError: an empty split, or labels that do not fit the classes.
        """
        for part in ("train", "validation", "test"):
            split = getattr(self, part)
            where = f"dataset '{self.name}': its {part} split"
            if not isinstance(split, Split):
                raise TypeError(f"{where} must be a data.Split, got {type(split).__name__}")
            if not len(split):
                raise ValueError(f"{where} is empty")
            reason = _misfit(split.y, len(self.classes)) if self.classes else None
            if reason:
                raise ValueError(f"{where} has {reason}")
        return self


def _misfit(y: Tensor, count: int) -> str | None:
    """Say what is wrong with the labels of a split that has ``count`` classes or attributes."""
    if not torch.isfinite(y).all():
        return "NaN or infinite labels"
    low, high = y.min().item(), y.max().item()
    if y.ndim not in (1, 2) or (y.ndim == 2 and y.shape[1] != count):
        return f"labels of shape {tuple(y.shape)}; expected (n,) or (n, {count})"
    if y.ndim == 1 and y.is_floating_point():
        return f"class indices of type {y.dtype}; expected integers"
    if y.ndim == 1 and (low < 0 or high >= count):
        return f"classes from {low} to {high}; {count} classes have indices 0 to {count - 1}"
    if y.ndim == 2 and not y.is_floating_point() and (low < 0 or high > 1):
        return f"attributes from {low} to {high}; expected 0 and 1"
    return None
