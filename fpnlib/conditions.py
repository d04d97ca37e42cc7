"""What conditions a flow: names and values, and their context vectors (section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fpnlib import checks


class _Names:
    """Names, each there once, which become a context vector of as many entries.

    Attributes:
        kind: what errors call a name.
        kinds: what errors call the names.
    """

    kind: str
    kinds: str

    def __init__(self, names: Iterable[object]):
        self.names = tuple(map(str, names))
        if not self.names:
            raise ValueError(f"{self.kinds} need at least one name, got none")
        for name in self.names:
            if self.names.count(name) > 1:
                raise ValueError(f"{self.kind} names must differ, got '{name}' twice")

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"{type(self).__name__}([{', '.join(self.names)}])"

    @property
    def context_dim(self) -> int:
        """Width of the context vectors: one entry for each name."""
        return len(self.names)


class Classes(_Names):
    """One of K classes, one-hot encoded as for MNIST and ShapeNet (section 5.1.1).

    Args:
        names: the K classes in the order of their indices, e.g. ``range(10)`` or ``["chair",
            "sofa"]``.

    Raises:
        ValueError: no classes, or a name twice.

    Examples:
        >>> shapes = Classes(["chair", "sofa", "table"])
        >>> shapes.encode(["sofa", "chair"])
        tensor([[0., 1., 0.],
                [1., 0., 0.]])
        >>> shapes.index("table")
        tensor([2])
    """

    kind, kinds = "class", "classes"

    def index(self, y: object) -> Tensor:
        """Class indices (n,), int64, of an index, a name, or a list or array (n,) of either.

        Raises:
            ValueError: an index outside 0…K-1, an unknown name, or more than one dimension.
            TypeError: fractions or NaN.
        """
        return checks.labels(y, self.names)

    def encode(self, y: object) -> Tensor:
        """One-hot codes (n, K), float32, of labels. Raises as :meth:`index` does."""
        return one_hot(self.index(y), len(self)).float()

    def edited(self, y: object, to: object) -> Tensor:
        """The indices of the classes ``to``, whatever ``y`` was. Raises as :meth:`index` does."""
        return self.index(to)

    def check_coverage(self, context: Tensor) -> None:
        """Raise ValueError for a class without a row in the training contexts (n, K)."""
        missing = (context.sum(0) == 0).nonzero()
        if len(missing):
            empty = self.names[int(missing[0])]
            raise ValueError(
                f"class '{empty}' has no samples to fit; every class needs at least one"
            )


class Attributes(_Names):
    """A properties that an object has or lacks, as a vector of 0 and 1 (section 5.1.3).

    Values between 0 and 1, and beyond, stand for properties that show less, or more, than usual.

    Args:
        names: the A attributes in the order of their columns, e.g. CelebA's forty.
        exclusive: groups of names of which at most one holds, e.g. the colours of hair. Adding one
            removes the others.

    Raises:
        ValueError: no attributes, a name twice, or a group with an unknown name.

    Examples:
        >>> face = Attributes(["Bald", "Bangs", "Smiling"], exclusive=[("Bald", "Bangs")])
        >>> face.encode("+Bangs")
        tensor([[0., 1., 0.]])
        >>> face.edited([0, 1, 0], "+Bald Smiling=0.5")
        tensor([[1.0000, 0.0000, 0.5000]])
    """

    kind, kinds = "attribute", "attributes"

    def __init__(self, names: Iterable[str], exclusive: Iterable[Sequence[str]] = ()):
        super().__init__(names)
        self.exclusive = tuple(tuple(group) for group in exclusive)
        for group in self.exclusive:
            for name in group:
                self.column(name)

    def column(self, name: str) -> int:
        """The column of an attribute. Raises ValueError for an unknown name."""
        if name not in self.names:
            raise checks.unknown("attribute", name, self.names)
        return self.names.index(name)

    def encode(self, y: object) -> Tensor:
        """The context (n, A), float32, of values (n, A) or (A,), or of names.

        ``"+Smiling +Young"`` has these two attributes and no other.

        Raises:
            ValueError: another width, NaN or infinite values, or as :meth:`parse`.
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
        if values.ndim == 1:
            values = values[None]
        return checks.array(values, ("n", len(self)), "attributes")

    def edited(self, y: object, to: object) -> Tensor:
        """The contexts (n, A) of objects with attributes ``y`` after an edit.

        Args:
            y: what the objects have, as :meth:`encode` takes it.
            to: edits as :meth:`parse` takes them, or values (n, A) or (A,) for all attributes.

        Raises:
            ValueError, TypeError: as :meth:`encode` and :meth:`parse`.
        """
        if isinstance(to, str | Mapping):
            return self.set(y, self.parse(to))
        return self.encode(to)

    def set(self, y: object, values: Mapping[str, float]) -> Tensor:
        """The contexts (n, A) of objects with attributes ``y`` once the named ones have ``values``.

        What excludes a named attribute gives way in proportion: a value of 0.3 leaves it 0.7 of its
        own, 1 or more leaves nothing. Named attributes have their own values, so two can be half
        there.

        Raises:
            ValueError, TypeError: an unknown name, or a value that is not a finite number.
        """
        contexts = self.encode(y).clone()
        for name, value in values.items():
            kept = 1 - min(max(self._number(name, value), 0.0), 1.0)
            for other in self.excluded_by(name):
                contexts[:, self.column(other)] *= kept
        for name, value in values.items():
            contexts[:, self.column(name)] = value
        return contexts

    def excluded_by(self, name: str) -> list[str]:
        """The attributes that cannot be there together with ``name``, in their groups' order."""
        others: dict[str, None] = {}
        for group in self.exclusive:
            if name in group:
                others |= dict.fromkeys(group)
        return [other for other in others if other != name]

    def parse(self, edits: str | Mapping[str, float]) -> dict[str, float]:
        """The value that edits give to each named attribute.

        Args:
            edits: ``"+Smiling -Eyeglasses"`` for 1 and 0, ``"Smiling=0.5"`` for other values; or a
                mapping from names to values.

        Raises:
            ValueError: an unknown name, with the nearest one; an edit without a sign, with two, or
                with a sign and a value; contradictory edits; a value that is not finite.
            TypeError: a value that is not a number.
        """
        if isinstance(edits, str):
            pairs = [self._edit(word) for word in edits.split()]
        else:
            pairs = list(edits.items())
        values: dict[str, float] = {}
        for name, given in pairs:
            value = self._number(name, given)
            if values.setdefault(name, value) != value:
                raise ValueError(
                    f"contradictory edits: '{name}' is to be both {values[name]:g} and {value:g}"
                )
        for group in self.exclusive:
            wanted = [name for name in group if values.get(name, 0) > 0]
            if len(wanted) > 1:
                raise ValueError(
                    f"contradictory edits: '{wanted[0]}' and '{wanted[1]}' exclude each other"
                )
        return values

    def check_coverage(self, context: Tensor) -> None:
        """Raise ValueError for training contexts (n, A) outside [0, 1], or a constant attribute."""
        low, high = context.amin(0), context.amax(0)
        if low.min() < 0 or high.max() > 1:
            raise ValueError(
                "attributes to fit must be 0 or 1, got values from"
                f" {low.min():g} to {high.max():g}; for -1 and 1 pass (y + 1) / 2"
            )
        constant = (low == high).nonzero()
        if len(constant):
            column = int(constant[0])
            raise ValueError(
                f"attribute '{self.names[column]}' is {low[column].item():g} in all"
                f" {len(context):,} samples; its effect cannot be learned"
            )

    def _edit(self, word: str) -> tuple[str, float]:
        """Name and value of one word of an edit."""
        rest = word.lstrip("+-−")
        name, equals, value = rest.partition("=")
        if len(word) - len(rest) + len(equals) > 1:
            raise ValueError(
                f"an edit has one sign or a value, got '{word}';"
                f" write '+{name}', '-{name}' or '{name}=0.5'"
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


Condition = Classes | Attributes
