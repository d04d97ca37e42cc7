"""Names ⇄ context vectors: what a person asks for, as the *context* y that conditions a flow (paper, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real

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
            raise ValueError(
                f"class {outside[0].item()} is out of range; expected 0 to {len(self) - 1}"
            )
        return y

    def encode(self, y: object) -> Tensor:
        """The context (n, K), float32: row i is the one-hot code of ``y[i]``. Raises as :meth:`index` does."""
        return one_hot(self.index(y), len(self)).float()

    def edited(self, y: object, to: object) -> Tensor:
        """The classes that objects of classes ``y`` are to have: ``to``, whatever ``y`` was. Raises as :meth:`index` does."""
        return self.index(to)

    def refuse_unseen(self, context: Tensor) -> None:
        """Raises ValueError for a class that no row of the training contexts (n, K) has: it could not be learned."""
        missing = (context.sum(0) == 0).nonzero()
        if len(missing):
            empty = self.names[int(missing[0])]
            raise ValueError(
                f"class '{empty}' has no samples to fit; every class needs at least one"
            )

    def _index_of(self, name: str) -> int:
        if name not in self.names:
            raise checks.unknown("class", name, self.names)
        return self.names.index(name)


class Attributes:
    """A properties that an object has or lacks at once, as the vector of 0 and 1 of the paper's section 5.1.3.

    Values between 0 and 1, and beyond them, stand for properties that show less, or more, than usual.

    Args:
        names: the A attributes in the order of their columns, e.g. CelebA's forty.
        exclusive: groups of names of which one holds at most, e.g. the colours of hair: as one comes, the others go.

    Raises:
        ValueError: no attributes, a name twice, or a group with an unknown name.
    """

    def __init__(self, names: Iterable[str], exclusive: Iterable[Sequence[str]] = ()):
        self.names = tuple(str(name) for name in names)
        if not self.names:
            raise ValueError("attributes need at least one name, got none")
        if len(set(self.names)) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise ValueError(f"attribute names must differ, got '{twice}' twice")
        self.exclusive = tuple(tuple(group) for group in exclusive)
        for name in (name for group in self.exclusive for name in group):
            self.column(name)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Attributes([{', '.join(self.names)}])"

    @property
    def context_dim(self) -> int:
        """Width of the context vector: A."""
        return len(self.names)

    def column(self, name: str) -> int:
        """The column of an attribute. Raises ValueError, with the nearest name, for one that is not known."""
        if name not in self.names:
            raise checks.unknown("attribute", name, self.names)
        return self.names.index(name)

    def encode(self, y: object) -> Tensor:
        """The context (n, A), float32, of values (n, A) or (A,), or of names: ``"+Smiling +Young"`` has these two alone.

        Raises:
            ValueError: another width, NaN or infinite values, or what :meth:`parse` refuses.
            TypeError: not numbers.
        """
        if isinstance(y, str | Mapping):
            return self.set(torch.zeros(len(self)), self.parse(y))
        try:
            values = torch.as_tensor(y).float()
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                f"attributes must be numbers (n, {len(self)}) or names, got {y!r:.80}"
            ) from None
        values = values[None] if values.ndim == 1 else values
        if values.ndim != 2 or values.shape[1] != len(self):
            raise ValueError(
                f"attributes must have shape (n, {len(self)}), got {tuple(values.shape)}"
            )
        if not values.isfinite().all():
            raise ValueError("attributes must be finite numbers, got NaN or infinite ones")
        return values

    def edited(self, y: object, to: object) -> Tensor:
        """The contexts (n, A) of objects with attributes ``y`` once the edits ``to`` are made.

        Args:
            y: what the objects have, as :meth:`encode` takes it.
            to: edits as :meth:`parse` takes them; or the values (n, A) or (A,) that all attributes are to have.

        Raises:
            ValueError, TypeError: as :meth:`encode` and :meth:`parse`.
        """
        return self.set(y, self.parse(to)) if isinstance(to, str | Mapping) else self.encode(to)

    def set(self, y: object, values: Mapping[str, float]) -> Tensor:
        """The contexts (n, A) of objects with attributes ``y`` once the named ones are at ``values``, as sliders set them.

        What excludes an attribute gives way as it comes: at a value of 0.3 it keeps 0.7 of its own, from 1 on nothing. What
        is named itself is at its own value all the same, so two colours of hair can be half there.

        Raises:
            ValueError, TypeError: an unknown name, or a value that is no finite number.
        """
        contexts = self.encode(y).clone()
        values = {name: self._number(name, value) for name, value in values.items()}
        for name, value in values.items():
            for other in self.excluded_by(name):
                contexts[:, self.column(other)] *= 1 - min(max(value, 0.0), 1.0)
        for name, value in values.items():
            contexts[:, self.column(name)] = value
        return contexts

    def excluded_by(self, name: str) -> list[str]:
        """The attributes that cannot be there together with ``name``, in their groups' order."""
        groups = [group for group in self.exclusive if name in group]
        return list(dict.fromkeys(other for group in groups for other in group if other != name))

    def parse(self, edits: str | Mapping[str, float]) -> dict[str, float]:
        """The value that each named attribute is to have.

        Args:
            edits: ``"+Smiling -Eyeglasses"`` for 1 and 0, ``"Smiling=0.5"`` for anything else; or a mapping, name to value.

        Raises:
            ValueError: an unknown name, with the nearest one; an edit without a sign, with two, or with a sign and a value;
                contradictory edits; a value that is not finite.
            TypeError: a value that is not a number.
        """
        pairs = (
            edits.items()
            if isinstance(edits, Mapping)
            else [self._edit(word) for word in edits.split()]
        )
        values: dict[str, float] = {}
        for name, value in pairs:
            value = self._number(name, value)
            if values.setdefault(name, value) != value:
                raise ValueError(
                    f"contradictory edits: '{name}' is to be both {values[name]:g} and {value:g}"
                )
        for group in self.exclusive:
            both = [name for name in group if values.get(name, 0) > 0]
            if len(both) > 1:
                raise ValueError(
                    f"contradictory edits: '{both[0]}' and '{both[1]}' exclude each other"
                )
        return values

    def refuse_unseen(self, context: Tensor) -> None:
        """Raises ValueError for training contexts (n, A) outside [0, 1], or with an attribute that is the same in every row."""
        low, high = context.amin(0), context.amax(0)
        if low.min() < 0 or high.max() > 1:
            raise ValueError(
                f"attributes to fit must be 0 or 1, got values from {low.min():g} to {high.max():g}; "
                "for -1 and 1 pass (y + 1) / 2"
            )
        constant = (low == high).nonzero()
        if len(constant):
            name, value = self.names[int(constant[0])], low[constant[0]].item()
            raise ValueError(
                f"attribute '{name}' is {value:g} in all {len(context):,} samples; its effect cannot be learned"
            )

    def _edit(self, word: str) -> tuple[str, float]:
        """What one word of an edit says."""
        rest = word.lstrip("+-−")
        name, equals, value = rest.partition("=")
        if len(word) - len(rest) + len(equals) > 1:
            raise ValueError(
                f"an edit has one sign or a value, got '{word}'; write '+{name}', '-{name}' or '{name}=0.5'"
            )
        if equals:
            try:
                return name, float(value)
            except ValueError:
                raise TypeError(f"the value of '{name}' must be a number, got '{value}'") from None
        if rest == word:
            self.column(name)
            raise ValueError(f"an edit begins with + or -, got '{word}'; did you mean '+{word}'?")
        return name, float(word[0] == "+")

    def _number(self, name: str, value: object) -> float:
        """The value of a known attribute, a finite number."""
        self.column(name)
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"the value of '{name}' must be a number, got {value!r}")
        if not math.isfinite(value):
            raise ValueError(f"the value of '{name}' must be a finite number, got {value}")
        return float(value)
