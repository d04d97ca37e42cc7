"""What conditions a flow: columns by name, edits by name, and the flow's context vectors."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fpnlib import checks
from fpnlib.conditions.columns import Column, by_row, from_table, values_of

SIGNS = "+-−–"


class Condition(nn.Module):
    """Named columns, all of which hold together (section 3.2).

    Labels are a table or a mapping from names to labels, values (n, width), or for a request a text
    such as ``"digit=7 +Smiling"``; or a list of mappings or texts. They become values, in which NaN
    stands for unknown, and values become contexts (n, context_dim), which a flow takes. Names need
    not have the case, the spaces and the underscores with which they were given first, unless two
    differ in nothing else.

    Attributes:
        kind, kinds: what errors call a column, and several.
        names: of the columns.
        unsaid: the value of a column that a request by name leaves out and that may not be unknown.
        exclusive: groups of columns of which at most one is above 0.
        spec: the constructor's arguments, JSON-able.
    """

    kind, kinds = "name", "labels"
    unsaid = torch.nan
    columns: Any

    def __init__(self, columns: Sequence[Column], spec: dict[str, Any], exclusive: Sequence = ()):
        super().__init__()
        self.columns = nn.ModuleList(columns)
        self.names = tuple(column.name for column in columns)
        self.spec = {"type": type(self).__name__, **spec}
        self.width = sum(column.width for column in columns)
        self.context_dim = sum(column.context_width for column in columns)
        self.unknown = any(column.unknown for column in columns)
        self._plain = checks.by_plain_name(self.names)
        self.exclusive = tuple(tuple(map(self.name, group)) for group in exclusive)
        self.label_kind_: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"{type(self).__name__}([{', '.join(self.names)}])"

    def name(self, given: str) -> str:
        """The name of a column as it was given first. Raises ValueError for an unknown name."""
        found = given if given in self.names else self._plain.get(checks.plain_name(str(given)))
        if found is None:
            raise checks.unknown(self.kind, given, self.names)
        return found

    def column(self, name: str) -> int:
        """The number of a column. Raises as :meth:`name` does."""
        return self.names.index(self.name(name))

    def values(self, y: object) -> Tensor:
        """Values (n, width), float32, of labels; None says nothing.

        Raises:
            ValueError: another width, lengths that differ, infinite values, or as :meth:`parse`.
            TypeError: no labels.
        """
        if y is None:
            return torch.full((1, self.width), torch.nan)
        if by_row(y):
            return torch.cat(list(map(self.values, y)))
        y = self.parse(y) if isinstance(y, str) else from_table(y, self.columns)
        if isinstance(y, Mapping | pd.DataFrame):
            unsaid = torch.full((1, self.width), self.unsaid)
            return self._with(unsaid.masked_fill(self.maskable(), torch.nan), y)
        expected = f"{self.kinds} must be numbers (n, {self.width}) or names"
        return values_of(y, self.width, self.kinds, expected)

    def context(self, values: Tensor) -> Tensor:
        """Contexts (n, context_dim), float32, of values (n, width)."""
        return torch.cat([column.context(values[:, place]) for column, place in self.places()], 1)

    def encode(self, y: object) -> Tensor:
        """Contexts (n, context_dim), float32, of labels.

        Raises:
            ValueError, TypeError: as :meth:`values`, or an unknown value that may not be unknown.
        """
        return self.context(self.known(self.values(y)))

    def known(self, values: Tensor) -> Tensor:
        """The values (n, width). Raises ValueError for an unknown one that may not be unknown."""
        missing = values.isnan() & ~self.maskable().to(values.device)
        if missing.any():
            row, entry = missing.nonzero()[0].tolist()
            name = next(column.name for column, place in self.places() if entry < place.stop)
            remedy = "give it, drop the row, or make the condition with unknown=True"
            raise ValueError(f"'{name}' of row {row} is unknown or unsaid; {remedy}")
        return values

    def edited(self, y: object, to: object) -> Tensor:
        """The values (n, width) of objects with labels ``y`` after an edit.

        Args:
            y: what the objects have, as :meth:`values` takes it.
            to: edits as :meth:`parse` takes them, or a list or table of edits, one for each object;
                or labels for all columns.

        Raises:
            ValueError, TypeError: as :meth:`values` and :meth:`parse`.
        """
        to = from_table(to, self.columns)
        if isinstance(to, str | Mapping | pd.DataFrame):
            return self.set(y, self.parse(to))
        if by_row(to):
            values = self.values(y)
            rows = values.expand(len(to), -1) if len(values) == 1 else values
            checks.same_length(rows, to, ("y", "to"))
            return torch.cat([self.edited(row[None], own) for row, own in zip(rows, to)])
        return self.known(self.values(to))

    def set(self, y: object, labels: Mapping[str, Any]) -> Tensor:
        """The values (n, width) of objects with labels ``y`` once the named columns have others.

        What excludes a named column gives way in proportion: a value of 0.3 leaves it 0.7 of its
        own, 1 or more leaves nothing. Named columns have their own values, so two can be half
        there.

        Raises:
            ValueError, TypeError: an unknown name or label.
        """
        after = self._with(self.values(y), labels)
        chosen = {self.name(name) for name in labels}
        for name in chosen:
            gone = after[:, self.column(name)].nan_to_num(0).clamp(0, 1)
            for other in set(self.excluded_by(name)) - chosen:
                left = after[:, self.column(other)] * (1 - gone)
                after[:, self.column(other)] = torch.where(gone == 1, 0, left)
        return self.known(after)

    def excluded_by(self, name: str) -> list[str]:
        """The columns that cannot be there together with ``name``, in their groups' order."""
        others: dict[str, None] = {}
        for group in self.exclusive:
            if name in group:
                others |= dict.fromkeys(group)
        return [other for other in others if other != name]

    def parse(self, edits: str | Mapping[str, Any]) -> dict[str, Any]:
        """The label that edits give to each named column.

        Args:
            edits: ``"+Smiling -Eyeglasses"`` for 1 and 0, ``"Smiling=0.5"`` for other values; or a
                mapping from names to labels.

        Raises:
            ValueError: an unknown name, with the nearest one; an edit without a sign, with two, or
                with a sign and a value; contradictory edits.
            TypeError: a value that is no number.
        """
        pairs = self._words(edits) if isinstance(edits, str) else list(edits.items())
        labels: dict[str, Any] = {}
        for given, value in pairs:
            name = self.name(given)
            if name in labels and not np.array_equal(labels[name], value):
                both = f"both {labels[name]} and {value}"
                raise ValueError(f"contradictory edits: '{name}' is {both}")
            labels[name] = value
        numbers = {name: label for name, label in labels.items() if isinstance(label, int | float)}
        for group in self.exclusive:
            wanted = [name for name in group if numbers.get(name, 0) > 0]
            if len(wanted) > 1:
                both = f"'{wanted[0]}' and '{wanted[1]}'"
                raise ValueError(f"contradictory edits: {both} exclude each other")
        return labels

    def learn(self, values: Tensor) -> None:
        """Check the values (n, width) of a fit, and take their scale from them.

        Raises:
            ValueError: values from which a column cannot be learned.
        """
        for column, place in self.places():
            column.learn(values[:, place])

    def places(self) -> Iterator[tuple[Any, slice]]:
        """Each column, and the place of its own in values (n, width)."""
        end = 0
        for column in self.columns:
            start, end = end, end + column.width
            yield column, slice(start, end)

    def entries(self, flags: Tensor) -> Tensor:
        """Flags (..., columns) of columns as flags (..., width) of the entries of values."""
        widths = torch.tensor([column.width for column in self.columns], device=flags.device)
        return flags.repeat_interleave(widths, -1)

    def maskable(self) -> Tensor:
        """Whether each entry of the values may be unknown, bool (width,)."""
        return self.entries(torch.tensor([column.unknown for column in self.columns]))

    def judged(self, values: Tensor, confidence: float) -> Tensor:
        """Which columns of values (n, width) a reading has to confirm, bool (n, columns).

        Those are the known columns, or none if the confidence is 0.

        Raises:
            ValueError: a confidence below 0, or of 1 or more.
            TypeError: a condition with a vector, which has no probability.
        """
        checks.sampling(confidence=confidence)
        for column in self.columns:
            if confidence and column.width > 1:
                raise TypeError(
                    f"'{column.name}' is a vector, which is not read with a probability"
                )
        known = [~values[:, place].isnan().any(1) for _, place in self.places()]
        return torch.stack(known, 1) & bool(confidence > 0)  # numpy's bools are no masks

    def masked(self, values: Tensor, generator: torch.Generator) -> Tensor:
        """Hide known columns at random, so that the flow learns to do without them.

        Two thirds of the rows stay as they are. Each other row hides its columns with a probability
        of its own, drawn uniformly, so that all numbers of hidden columns occur.
        """
        if not self.unknown:
            return values
        n, device = len(values), values.device
        rate = torch.rand(n, 1, generator=generator, device=device) * 3 - 2
        hidden = torch.rand(n, len(self.columns), generator=generator, device=device) < rate
        return values.masked_fill(self.entries(hidden) & self.maskable().to(device), torch.nan)

    def remember(self, y: object) -> None:
        """Note what the labels of a fit are, so that :meth:`labels` returns the same kind."""
        first = next(iter(y), "") if isinstance(y, list | tuple) else ""
        container = "records" if isinstance(first, Mapping) else ""
        y = pd.DataFrame(y) if container else y
        dtype = str(getattr(y, "dtype", type(first).__name__)).removeprefix("torch.")
        kinds = {"dict": Mapping, "Tensor": Tensor, "ndarray": np.ndarray}
        alike = (name for name, kind in kinds.items() if isinstance(y, kind))
        heading = ""
        if isinstance(y, pd.DataFrame) and len(y.columns) == len(self.columns) == 1:
            heading, dtype = str(y.columns[0]), str(y.dtypes.iloc[0])
        named = {self.columns[0].name: y} if len(self.columns) == 1 else {}
        if isinstance(y, Mapping | pd.DataFrame):
            named |= {self._plain.get(checks.plain_name(str(key)), str(key)): y[key] for key in y}
        self.label_kind_ = {}
        for column in self.columns:
            own = named.get(column.name)
            self.label_kind_[column.name] = str(getattr(own, "dtype", "")).removeprefix("torch.")
            if own is not None:
                column.remember(own)
        container = container or next(alike, type(y).__name__)
        self.label_kind_ |= {"type": container, "dtype": dtype, "heading": heading}

    def named(self, values: Tensor) -> dict[str, np.ndarray]:
        """A user's labels (n,) of values (n, width), by name; a table's only column by its own."""
        heading = self.label_kind_.get("heading")
        return {
            heading or column.name: column.labels(values[:, at]) for column, at in self.places()
        }

    def labels(self, values: Tensor) -> Any:
        """Labels of values (n, width), of the kind that the fit had: tensor, list, table."""
        kind, columns = self.label_kind_, self.named(values)
        container, dtype = kind.get("type", "Tensor"), kind.get("dtype", "")
        if container in ("dict", "DataFrame", "records"):
            columns = {name: _cast(own, kind.get(name, dtype)) for name, own in columns.items()}
            table = pd.DataFrame(columns)
            return {"dict": columns, "records": table.to_dict("records")}.get(container, table)
        # Without names, several columns and vectors are given as values.
        array = values.cpu().numpy() if self.width > 1 else next(iter(columns.values()))
        array = _cast(array, dtype)
        if container == "Tensor":
            return torch.from_numpy(array) if array.dtype.kind in "iufb" else array
        if container == "Series":
            return pd.Series([*array] if array.ndim > 1 else array)
        return array if container == "ndarray" else array.tolist()

    def _with(self, values: Tensor, labels: Mapping[str, Any] | pd.DataFrame) -> Tensor:
        """A copy of values (m, width) in which the named columns have other labels, 1 or n."""
        places = list(self.places())
        for given in labels:
            column, place = places[self.column(str(given))]
            own = column.values(labels[given])
            if len(own) > 1 and len(values) == 1:
                values = values.expand(len(own), -1)
            if len(own) not in (1, len(values)):
                raise ValueError(f"'{given}' has {len(own):,} labels for {len(values):,} rows")
            values = values.clone()
            values[:, place] = own.to(values)
        return values

    def _words(self, text: str) -> list[tuple[str, Any]]:
        """Name and label of each edit of a text. Names may have spaces."""
        pieces = re.sub(r"\s*=\s*", "=", text).split()
        found, start = [], 0
        while start < len(pieces):
            end = self._end_of_word(pieces, start) or start + 1
            word = " ".join(pieces[start:end])
            rest = word.lstrip(SIGNS)
            sign, (name, _, value) = word.removesuffix(rest), rest.partition("=")
            column = self.columns[self.column(name)]
            while value and self._continues(pieces, end):
                value, end = f"{value} {pieces[end]}", end + 1
            found.append((column.name, column.edit(word, sign, value)))
            start = end
        return found

    def _end_of_word(self, pieces: Sequence[str], start: int) -> int:
        """The end of the longest name, with or without a value, that begins at ``start``, or 0."""
        end = 0
        for stop in range(start + 1, len(pieces) + 1):
            name, equals, _ = " ".join(pieces[start:stop]).lstrip(SIGNS).partition("=")
            if name in self.names or checks.plain_name(name) in self._plain:
                end = stop
            if equals:
                break
        return end

    def _continues(self, pieces: Sequence[str], end: int) -> bool:
        """Whether a piece is part of the value before it: no other edit begins there."""
        if end == len(pieces) or "=" in pieces[end] or pieces[end][0] in SIGNS:
            return False
        return not self._end_of_word(pieces, end)


def _cast(array: np.ndarray, dtype: str) -> np.ndarray:
    """Numbers in the type that the labels of the fit had, if it is numpy's."""
    if array.dtype.kind not in "iufb" or not re.fullmatch(r"bool|u?int\d+|float\d+", dtype):
        return array
    return (array if dtype.startswith("float") else np.rint(array)).astype(dtype)
