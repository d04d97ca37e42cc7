"""What all figures check of what they are given."""

from collections.abc import Sequence, Sized
from typing import Any

import numpy as np
import pandas as pd

from fpnlib import checks

Array = Any  # a tensor, a numpy array or nested lists of numbers


def checked(values: Array, name: str, *shape: int | str) -> np.ndarray:
    """``values`` as an array of ``shape``, in which a string is any length.

    Raises:
        ValueError: another shape, no numbers, or NaN or infinite numbers.
        TypeError: no real numbers.
    """
    array = checks.array(values, shape, name).cpu().numpy()
    if not array.size:
        raise ValueError(f"{name} must not be empty, got shape {array.shape}")
    return array


def names_of(names: Sequence | None, count: int) -> list[str]:
    """``count`` names of classes; their indices if ``names`` is None."""
    names = range(count) if names is None else names
    if len(names) != count:
        raise ValueError(f"class_names must name {count} classes, got {len(names)}")
    return list(map(str, names))


def need_entries(entries: Sized, name: str) -> None:
    """Raise ValueError if there is nothing to draw."""
    if not len(entries):
        raise ValueError(f"{name} must not be empty: there is nothing to draw")


def need_columns(table: pd.DataFrame, *names: str) -> None:
    """Raise ValueError if a table has no rows, or lacks one of these columns."""
    need_entries(table, "the table")
    for name in names:
        checks.known("column", name, table)
