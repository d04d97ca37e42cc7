"""Names ⇄ context vectors: what a person asks for, as the *context* y that conditions a flow (paper, section 3.2)."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fpnlib import checks


class Classes:
    """One of K classes, one-hot encoded as in the paper's MNIST and ShapeNet experiments (section 5.1.1).

    Args:
        names: the K classes in the order of their indices, e.g. ``range(10)`` or ``["chair", "sofa"]``.

    Raises:
        ValueError: no classes, or a name twice.
    """

    def __init__(self, names: Iterable[object]):
        self.names = tuple(str(name) for name in names)
        if not self.names:
            raise ValueError("classes need at least one name, got none")
        if len(set(self.names)) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise ValueError(f"class names must differ, got '{twice}' twice")

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Classes([{', '.join(self.names)}])"

    @property
    def context_dim(self) -> int:
        """Width of the context vector: K."""
        return len(self.names)

    def index(self, y: object) -> Tensor:
        """Class indices (n,), int64, of ``y``: an index, a name, or a list, array or tensor (n,) of either.

        Raises:
            ValueError: an index outside 0…K-1, an unknown name, or more than one dimension.
            TypeError: fractional labels.
        """
        if isinstance(y, str):
            y = [y]
        if not isinstance(y, Tensor):
            y = list(y) if isinstance(y, Iterable) else [y]
            y = [self._index_of(label) if isinstance(label, str) else label for label in y]
        y = torch.atleast_1d(torch.as_tensor(y))
        if y.ndim != 1:
            raise ValueError(f"labels must have shape (n,), got {tuple(y.shape)}")
        if y.is_floating_point() and (not torch.isfinite(y).all() or (y != y.round()).any()):
            raise TypeError("labels must be whole numbers or names, got fractions or NaN")
        y = y.long()
        outside = y[(y < 0) | (y >= len(self))]
        if len(outside):
            raise ValueError(f"class {outside[0].item()} is out of range; expected 0 to {len(self) - 1}")
        return y

    def encode(self, y: object) -> Tensor:
        """The context (n, K), float32: row i is the one-hot code of ``y[i]``. Raises as :meth:`index` does."""
        return one_hot(self.index(y), len(self)).float()

    def _index_of(self, name: str) -> int:
        if name not in self.names:
            raise checks.unknown("class", name, self.names)
        return self.names.index(name)
