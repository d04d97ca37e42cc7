"""What a condition consists of: one class, one attribute, one quantity, or one vector."""

from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any, TypeGuard

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from fpnlib import checks

GRID = 65  # values among which a quantity is read


class Column(nn.Module):
    """One thing that is known or unknown, read and edited as a whole.

    Labels, as a user writes them, become values (n, width), in which NaN stands for unknown; values
    become codes for the flow. If the column may be unknown, a 1 follows the codes of known values.

    Args:
        name: of the column.
        unknown: whether it may be unknown in training and unsaid in a request.
        width: numbers of a value.

    Attributes:
        score: how sure a reading is: a "probability" or a "deviation".
        context_width: numbers that the flow takes.
    """

    score = "probability"
    indexed = True  # whether the labels of the fit are indices

    def __init__(self, name: str, unknown: bool, width: int = 1):
        super().__init__()
        self.name, self.unknown, self.width = name, unknown, width
        self.context_width = width + int(unknown)

    def values(self, labels: Any) -> Tensor:
        """Values (n, width), float32, of a label or of labels (n,) or (n, width)."""
        expected = f"the value of '{self.name}' must be a number"
        return values_of(labels, self.width, f"'{self.name}'", expected)

    def context(self, values: Tensor) -> Tensor:
        """Codes (n, context_width) of values (n, width)."""
        codes = self.codes(values)
        if not self.unknown:
            return codes
        known = ~values.isnan().any(1, keepdim=True)
        return torch.cat([codes.masked_fill(~known, 0), known.float()], 1)

    def codes(self, values: Tensor) -> Tensor:
        """Known values in the units of the flow."""
        return values

    def remember(self, labels: Any) -> None:
        """Note what the labels of a fit are, as far as :meth:`labels` needs it."""

    def learn(self, values: Tensor) -> None:
        """Check the values (n, width) of a fit and take their scale.

        Raises:
            ValueError: values from which the column cannot be learned.
        """

    def outside(self, values: Tensor) -> str:
        """Say which of the values (n, width) the fit has not seen the like of; empty: none."""
        return ""

    def candidates(self) -> Tensor | None:
        """Values (m, width) among which the column is read; None: those that the fit saw."""
        return None

    def distances(self, values: Tensor, asked: Tensor) -> Tensor:
        """Distances (m,) of values (m, width) from the one asked (width,): 0 if equal, else inf."""
        return torch.where((values == asked).all(1), 0.0, torch.inf)

    def labels(self, values: Tensor) -> np.ndarray:
        """A user's labels (n,) of values (n, width)."""
        return values[:, 0].cpu().numpy()

    def edit(self, word: str, sign: str, value: str) -> Any:
        """The label that one word of an edit gives, e.g. "+Smiling" or "Smiling=0.5"."""
        if not value:
            raise ValueError(f"an edit of '{self.name}' gives a value, got '{word}'")
        try:
            return float(value)
        except ValueError:
            raise TypeError(f"the value of '{self.name}' must be a number, got '{value}'") from None


def values_of(labels: Any, width: int, name: str, expected: str) -> Tensor:
    """Numbers as values (n, width), float32; one row may come without its first axis.

    None stands for a row of which nothing is known.
    """
    nothing = [None] * width
    listed = isinstance(labels, list | tuple | pd.Series)
    if labels is None:
        labels = nothing
    elif width > 1 and (listed or getattr(labels, "dtype", None) == np.dtype(object)):
        labels = [nothing if row is None else row for row in labels]
    try:
        values = checks.numbers(labels).float()
    except TypeError:
        raise TypeError(f"{expected}, got {checks.shown(labels)}") from None
    if values.ndim < 2:
        values = values.reshape(-1, 1) if width == 1 else values[None]
    return checks.array(values, ("n", width), name, missing=True)


def joined(labels: Sequence[Any]) -> Any:
    """The labels of batches as one: tensors, arrays, lists or mappings of them."""
    first = labels[0]
    if isinstance(first, Tensor):
        return torch.cat(list(map(checks.numbers, labels)))
    if isinstance(first, dict):
        return {key: joined([label[key] for label in labels]) for key in first}
    if isinstance(first, pd.DataFrame | pd.Series):
        return pd.concat(labels)
    if isinstance(first, list | tuple):
        return [label for batch in labels for label in batch]
    return np.concatenate(list(map(np.asarray, labels)))


def by_row(labels: Any) -> TypeGuard[Sequence[Any]]:
    """Whether labels are a list of texts or mappings, one for each row."""
    listed = isinstance(labels, list | tuple)
    return listed and any(isinstance(row, str | Mapping) for row in labels)


def from_table(labels: Any, columns: Sequence[Column]) -> Any:
    """A table's row as a mapping, and a table without names as an array; others as they are."""
    if isinstance(labels, pd.Series) and len(columns) > 1 and labels.index.dtype.kind != "i":
        return dict(labels)
    if isinstance(labels, pd.DataFrame):
        vector = len(columns) == 1 < columns[0].width
        return labels.to_numpy() if vector or labels.columns.dtype.kind == "i" else labels
    return labels


class Choice(Column):
    """One of K classes: an index, and a one-hot code, which is zero for an unknown class."""

    def __init__(self, name: str, unknown: bool, items: Sequence[Any]):
        super().__init__(name, unknown)
        self.items, self.context_width = items, len(items)

    def values(self, labels: Any) -> Tensor:
        """Indices (n, 1), float32; NaN where a class is unknown."""
        indices = checks.labels(labels, self.items, missing=self.unknown).float()
        return torch.where(indices < 0, torch.nan, indices)[:, None]

    def context(self, values: Tensor) -> Tensor:
        """One-hot codes (n, K) of indices (n, 1)."""
        indices = values[:, 0].nan_to_num(0).long()
        return one_hot(indices, len(self.items)).to(values).masked_fill(values.isnan(), 0)

    def learn(self, values: Tensor) -> None:
        """Raise ValueError for a class without a sample."""
        empty = (self.context(values).sum(0) == 0).nonzero()
        if len(empty):
            name = self.items[int(empty[0])]
            raise ValueError(f"class '{name}' has no samples to fit; each class needs one or more")

    def candidates(self) -> Tensor:
        """All K classes (K, 1)."""
        return torch.arange(len(self.items)).float()[:, None]

    def remember(self, labels: Any) -> None:
        """Note whether the labels of a fit are names or indices."""
        numbers = all(isinstance(item, int | float) for item in self.items)
        column = checks.column_of(labels, self.items)
        indices = all(isinstance(label, Number) or pd.isna(label) for label in column)
        self.indexed = indices and not numbers

    def labels(self, values: Tensor) -> np.ndarray:
        """Names (n,), or indices if the fit was given indices."""
        indices = values[:, 0].long().cpu().numpy()
        if self.indexed:
            return np.array(checks.whole_numbers(self.items))[indices]
        alike = len({type(item) for item in self.items}) == 1
        return np.array(self.items, dtype=None if alike else object)[indices]

    def edit(self, word: str, sign: str, value: str) -> str:
        """The class that an edit names."""
        if not value:
            raise ValueError(f"an edit of '{self.name}' names a class, got '{word}'")
        return value


class Switch(Column):
    """A property that is there, 1, or not, 0, or to a degree."""

    def learn(self, values: Tensor) -> None:
        """Raise ValueError for values outside [0, 1], or a property that never varies."""
        known = values[~values.isnan()]
        low, high = (known.min().item(), known.max().item()) if len(known) else (0.0, 0.0)
        if low < 0 or high > 1:
            said = f"attributes to fit must be 0 or 1, got {low:g} to {high:g}"
            raise ValueError(f"{said}; for -1 and 1 pass (y + 1) / 2")
        if low == high:
            said = f"attribute '{self.name}' is {low:g} in all {len(values):,} samples"
            raise ValueError(f"{said}; leave it out")

    def candidates(self) -> Tensor:
        """0 and 1."""
        return torch.tensor([[0.0], [1.0]])

    def distances(self, values: Tensor, asked: Tensor) -> Tensor:
        """0 for the values (m, 1) that are nearer to the same end of [0, 1], otherwise inf."""
        return super().distances(values.round(), asked.clamp(0, 1).round())

    def edit(self, word: str, sign: str, value: str) -> float:
        """1 for "+name", 0 for "-name", or the value."""
        if len(sign) + bool(value) > 1:
            said = f"an edit has one sign or a value, got '{word}'"
            raise ValueError(f"{said}; write '+{self.name}' or '{self.name}=0.5'")
        if not sign and not value:
            raise ValueError(f"an edit begins with + or -, got '{word}'; did you mean '+{word}'?")
        return super().edit(word, sign, value) if value else float(sign == "+")


class Scaled(Column):
    """A quantity or a vector, standardised by what the fit saw."""

    loc_: Tensor
    scale_: Tensor
    range_: Tensor

    def __init__(self, name: str, unknown: bool, width: int = 1):
        super().__init__(name, unknown, width)
        self.register_buffer("loc_", torch.zeros(width))
        self.register_buffer("scale_", torch.ones(width))
        self.register_buffer("range_", torch.tensor([[-1.0], [1.0]]).expand(2, width).clone())
        self.score = "deviation" if width == 1 else "probability"

    def codes(self, values: Tensor) -> Tensor:
        """Standardised values (n, width)."""
        return (values - self.loc_.to(values)) / self.scale_.to(values)

    def learn(self, values: Tensor) -> None:
        """Take mean, deviation and range from the known values.

        Raises:
            ValueError: values that never vary.
        """
        known = values[~values.isnan().any(1)]
        if not len(known) or (known == known[:1]).all():
            raise ValueError(f"'{self.name}' never varies; its effect cannot be learned")
        scale = known.std(0, unbiased=False)
        self.loc_.copy_(known.mean(0))
        self.scale_.copy_(torch.where(scale > 0, scale, 1.0))
        self.range_.copy_(torch.stack([known.amin(0), known.amax(0)]))

    def outside(self, values: Tensor) -> str:
        """Say which quantity is farthest outside the range of the fit; empty: none, or a vector."""
        low, high = self.range_.to(values)
        beyond = torch.maximum(low - values, values - high).nan_to_num(0)
        if self.width > 1 or not (beyond > 0).any():
            return ""
        asked = values[beyond[:, 0].argmax()].item()
        limits = f"{low.item():.3g} to {high.item():.3g}"
        return f"{self.name}={asked:g} is outside the range of the fit, {limits}"

    def candidates(self) -> Tensor | None:
        """65 values (65, 1) over the range of a quantity; None for a vector."""
        if self.width > 1:
            return None
        steps = torch.linspace(0, 1, GRID, device=self.range_.device)[:, None]
        return self.range_[0] + steps * (self.range_[1] - self.range_[0])

    def distances(self, values: Tensor, asked: Tensor) -> Tensor:
        """Squared distances (m,) in standardised units; inf for unknown values."""
        squares = (self.codes(values) - self.codes(asked)).square().sum(1)
        return squares.nan_to_num(torch.inf)

    def labels(self, values: Tensor) -> np.ndarray:
        """Quantities (n,), or vectors as objects (n,)."""
        if self.width == 1:
            return super().labels(values)
        vectors = np.empty(len(values), dtype=object)
        vectors[:] = list(values.cpu().numpy())
        return vectors
