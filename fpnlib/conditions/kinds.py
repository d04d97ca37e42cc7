"""The kinds of conditions: classes, attributes, quantities, a vector, and several at once."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from torch import Tensor

from fpnlib import checks
from fpnlib.conditions.columns import Choice, Column, Scaled, Switch
from fpnlib.conditions.condition import Condition


class Classes(Condition):
    """One of K classes, one-hot encoded as for MNIST and ShapeNet (section 5.1.1).

    Args:
        names: the K classes in the order of their indices, e.g. ``range(10)`` or ``["chair",
            "sofa"]``. Labels are looked up by name; numbers count as indices unless the names are
            numbers themselves.
        unknown: accept unknown labels in training and requests without a class. The plugin then
            draws a class as often as the training labels have it.

    Raises:
        TypeError: a number instead of names.
        ValueError: no classes, or a name twice.

    Examples:
        >>> shapes = Classes(["chair", "sofa", "table"])
        >>> shapes.encode(["sofa", "chair"])
        tensor([[0., 1., 0.],
                [1., 0., 0.]])
        >>> shapes.index("table")
        tensor([2])
    """

    kind = "class"

    def __init__(self, names: Iterable[object], unknown: bool = False):
        items = _listed(names, "classes")
        spec = {"names": items, "unknown": unknown}
        super().__init__([Choice("class", unknown, items)], spec)
        self.items, self.names = items, tuple(map(str, items))

    def index(self, y: object) -> Tensor:
        """Class indices (n,), int64, of a label or a list or array (n,) of labels.

        Raises:
            ValueError: an unknown label, an index out of range, a missing label, or another shape.
            TypeError: fractions.
        """
        return checks.labels(y, self.items)

    def values(self, y: object) -> Tensor:
        """Class indices (n, 1), float32; NaN where they are unknown. ``{"class": y}`` is y."""
        if isinstance(y, Mapping):
            for name in y:
                checks.known("label", name, ("class",))
            y = y.get("class")
        return super().values(y) if y is None else self.columns[0].values(y)

    def edited(self, y: object, to: object) -> Tensor:
        """The values (n, 1) of the classes ``to``, whatever ``y`` was."""
        return self.values(to)


class Attributes(Condition):
    """A properties that an object has or lacks, as a vector of 0 and 1 (section 5.1.3).

    Values between 0 and 1, and beyond, stand for properties that show less, or more, than usual.
    A request by name such as ``"+Smiling +Young"`` has these two attributes and no other; with
    ``unknown=True`` it leaves the others unsaid.

    Args:
        names: the A attributes in the order of their columns, e.g. CelebA's forty.
        exclusive: groups of names of which at most one holds, e.g. the colours of hair. Adding one
            removes the others.
        unknown: accept unknown attributes in training and in requests, for which the plugin draws
            the others from training labels. Contexts are then twice as wide.

    Raises:
        TypeError: a single text instead of names, or names instead of groups of them.
        ValueError: no attributes, a name twice, or a group with an unknown name.

    Examples:
        >>> face = Attributes(["Bald", "Bangs", "Smiling"], exclusive=[("Bald", "Bangs")])
        >>> face.encode("+Bangs")
        tensor([[0., 1., 0.]])
        >>> face.edited([0, 1, 0], "+Bald Smiling=0.5")
        tensor([[1.0000, 0.0000, 0.5000]])
    """

    kind, kinds, unsaid = "attribute", "attributes", 0.0

    def __init__(
        self, names: Iterable[str], exclusive: Iterable[Sequence[str]] = (), unknown: bool = False
    ):
        texts = _texts(names, self.kinds)
        groups = [_texts(group, "exclusive groups") for group in exclusive]
        spec = {"names": texts, "exclusive": groups, "unknown": unknown}
        super().__init__([Switch(name, unknown) for name in texts], spec, groups)


class Reals(Condition):
    """Continuous quantities in their own units, standardised by what the fit saw.

    Args:
        names: the quantities in the order of their columns, e.g. ``["logP", "TPSA"]``.
        unknown: accept unknown values in training and in requests, for which the plugin draws the
            others from training labels. Contexts are then twice as wide.

    Raises:
        TypeError: a single text instead of names.
        ValueError: no names, or one twice.

    Examples:
        >>> molecule = Reals(["logP", "TPSA"], unknown=True)
        >>> molecule.values({"logP": 3.0})
        tensor([[3., nan]])
        >>> molecule.edited([[2.0, 60.0]], "logP=4.5")
        tensor([[ 4.5000, 60.0000]])
    """

    kind, kinds = "quantity", "quantities"

    def __init__(self, names: Iterable[str], unknown: bool = False):
        texts = _texts(names, self.kinds)
        spec = {"names": texts, "unknown": unknown}
        super().__init__([Scaled(name, unknown) for name in texts], spec)


class Vector(Condition):
    """Any embedding of d numbers, standardised by what the fit saw. It is known as a whole or not.

    Args:
        size: width d of the embedding.
        unknown: accept rows with NaN, and requests without a vector. The plugin then draws one of
            those in training.

    Examples:
        >>> import torch
        >>> Vector(512).encode(torch.randn(3, 512)).shape
        torch.Size([3, 512])
    """

    kind, kinds = "vector", "vectors"

    def __init__(self, size: int, unknown: bool = False):
        size = checks.positive("size", size)
        super().__init__([Scaled("vector", unknown, size)], {"size": size, "unknown": unknown})


class Several(Condition):
    """Conditions that hold together, such as a class and a value. Each part keeps its own settings.

    A part of one column gives it the part's name; columns of other parts keep their own names.

    Args:
        parts: conditions by name.
        more: the same as keywords.

    Raises:
        ValueError: no parts, or two columns of one name.
        TypeError: a part that is no condition, or parts without names.

    Examples:
        >>> digit = Several(digit=Classes(range(10)), ink=Reals(["ink"], unknown=True))
        >>> digit.values({"digit": [7, 1], "ink": [0.2, None]})
        tensor([[7.0000, 0.2000],
                [1.0000,    nan]])
        >>> digit.edited({"digit": 7, "ink": 0.2}, "digit=4")
        tensor([[4.0000, 0.2000]])
    """

    def __init__(self, parts: Mapping[str, Condition] | None = None, /, **more: Condition):
        if not isinstance(parts, Mapping | None):
            raise TypeError("several conditions need names, as in Several(kind=Classes([…]), …)")
        columns: list[Column] = []
        exclusive: list[Sequence[str]] = []
        specs = {}
        for name, part in dict(parts or {}, **more).items():
            if not isinstance(part, Condition):
                raise TypeError(f"'{name}' must be a condition, got {type(part).__name__}")
            own = copy.deepcopy(part.columns)
            if len(own) == 1:
                own[0].name = name
            else:
                exclusive += part.exclusive
            columns += list(own)
            specs[name] = part.spec
        _listed([column.name for column in columns], "several conditions")
        super().__init__(columns, {"parts": specs}, exclusive)


def _by_index(names: Mapping) -> list[Any]:
    """Names by index, of torchvision's ``class_to_idx`` or transformers' ``id2label``."""
    of_json = {int(index): name for index, name in names.items() if str(index).isdecimal()}
    for by_index in (names, {index: name for name, index in names.items()}, of_json):
        if set(by_index) == set(range(len(names))):
            return [by_index[index] for index in range(len(names))]
    return list(names)


def _listed(names: object, what: str) -> list[Any]:
    """Names as a list of texts and numbers, in an order that is the same in every process.

    Raises:
        TypeError: a single number.
        ValueError: no names, or one twice.
    """
    if not isinstance(names, Iterable):
        raise TypeError(f"{what} need a list of names, got {names!r}; for numbers write range(n)")
    if isinstance(names, Mapping):
        names = _by_index(names)
    items = sorted(names, key=str) if isinstance(names, set | frozenset) else list(names)
    if not items:
        raise ValueError(f"{what} need at least one name, got none")
    for place, item in enumerate(items):
        plain = item.item() if hasattr(item, "item") else item
        if pd.api.types.is_scalar(plain) and pd.isna(plain):
            raise ValueError(f"name {place} of {what} is missing ({plain}); leave it out")
        plain = plain.decode() if isinstance(plain, bytes) else plain
        items[place] = plain if isinstance(plain, int | float) else str(plain)
    texts = list(map(str, items))
    if len(set(texts)) < len(texts):
        twice = max(texts, key=texts.count)
        raise ValueError(f"names of {what} must differ, got '{twice}' twice")
    return items


def _texts(names: object, what: str) -> list[str]:
    if isinstance(names, str):
        raise TypeError(f"{what} need a list of names; write {[names]!r}")
    return list(map(str, _listed(names, what)))
