"""Checks at the public edge: one door for arrays, one for labels, one line for each mistake."""

import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence, Sized
from contextlib import suppress
from difflib import get_close_matches
from numbers import Integral, Number
from operator import index
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

HALF = {torch.float16, torch.bfloat16}


def unknown(kind: str, given: object, choices: Iterable[object]) -> ValueError:
    """The error, for the caller to raise, for a name that is not among ``choices``."""
    names = list(map(str, choices))
    by_lower_case = {name.lower(): name for name in names}
    nearest = get_close_matches(str(given).lower(), by_lower_case, n=1, cutoff=0.5)
    hint = f"; did you mean '{by_lower_case[nearest[0]]}'?" if nearest else ";"
    shown = names if len(names) <= 12 else [*names[:12], "…"]
    return ValueError(f"unknown {kind} '{given}'{hint} known: {', '.join(shown)}")


def known(kind: str, given: object, choices: Collection[object]) -> None:
    """Raise :func:`unknown`'s error unless ``given`` is among ``choices``."""
    if given not in choices:
        raise unknown(kind, given, choices)


def whole(name: str, value: Any) -> int:
    """``value`` as an int. Raises TypeError unless it is a whole number of some kind."""
    try:
        return index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {shown(value)}") from None


def positive(name: str, value: object) -> int:
    """``value`` as an int of at least 1. Raises TypeError or ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a positive whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be a positive whole number, got {value}")
    return int(value)


def widths(name: str, values: Sequence[int]) -> None:
    """Raise an error unless ``values`` are one or more positive whole numbers."""
    if not len(values):
        raise ValueError(f"{name} must have at least one width, got none")
    for value in values:
        positive(f"a width of {name}", value)


def shown(value: object) -> str:
    """The beginning of a value's text, in one line."""
    return " ".join(repr(value).split())[:80]


def array(
    x: object,
    shape: Sequence[int | str],
    name: str = "x",
    *,
    keep: bool = False,
    missing: bool = False,
) -> Tensor:
    """``x`` as a floating-point tensor of finite numbers: the one door for arrays.

    Args:
        x: a tensor, an array of any layout and byte order, a table, or nested lists of numbers.
        shape: sizes; a string such as "n" stands for any size, the same wherever it stands.
        name: what the error calls x.
        keep: keep the graph and the floating type of a tensor. Otherwise it is detached, and half
            precision becomes float32.
        missing: accept None, NaN and pd.NA, which become NaN.

    Raises:
        TypeError: not real numbers.
        ValueError: another shape, or NaN or infinite entries.
    """
    tensor = numbers(x, name)
    if tensor.is_complex() or (tensor.dtype == torch.bool and not missing):
        raise TypeError(f"{name} must hold real numbers, got {tensor.dtype}")
    sizes = dict(zip(shape, tensor.shape))
    expected = [sizes.get(size) if isinstance(size, str) else size for size in shape]
    if expected != list(tensor.shape):
        wanted = str(tuple(shape)).replace("'", "")
        raise ValueError(f"{name} must have shape {wanted}, got {tuple(tensor.shape)}")
    if not tensor.is_floating_point():
        return tensor.float()
    if not keep:
        tensor = tensor.detach()
        if tensor.dtype in HALF:
            tensor = tensor.float()
        if tensor.is_inference() and not torch.is_inference_mode_enabled():
            tensor = tensor.clone()  # autograd takes no tensors that inference mode has made
    bad = tensor.isinf() if missing else ~tensor.isfinite()
    count = int(bad.sum())
    if count:
        raise ValueError(f"{name} has {count:,} NaN or infinite entries of {tensor.numel():,}")
    return tensor


def attributes(y: object, shape: Sequence[int | str], name: str = "y") -> Tensor:
    """Attributes of 0 and 1, or of False and True, as floats. Arguments and errors of ``array``."""
    return array(numbers(y, name) + 0, shape, name)


def numbers(x: object, name: str = "x") -> Tensor:
    """A dense tensor of an array, a table or nested lists of numbers; None and pd.NA become NaN.

    Raises:
        TypeError: no numbers.
    """
    if isinstance(x, Tensor):
        return x if x.layout == torch.strided else x.to_dense()
    try:
        values = np.asarray(x.toarray() if hasattr(x, "toarray") else _filled(x))
        if values.dtype == object and values.ndim and np.ndim(values.flat[0]):
            values = np.stack(values.ravel().tolist())  # a column of arrays
        if values.dtype == object:
            values = np.where(pd.isna(values), np.nan, values).astype(np.float64)
        # torch takes neither negative strides, nor a foreign byte order, nor read-only memory.
        tensor = torch.from_numpy(np.array(values, values.dtype.newbyteorder("="), order="C"))
    except (TypeError, ValueError, RuntimeError):
        kind = type(x).__name__
        raise TypeError(f"{name} must be a tensor or an array of numbers, got {kind}") from None
    written_out = isinstance(x, Sequence) and tensor.dtype == torch.float64
    return tensor.float() if written_out else tensor


def labels(y: object, names: Sequence[object], *, missing: bool = False) -> Tensor:
    """Class indices (n,), int64: the one door for labels.

    A text is looked up among the names; case, spaces and underscores matter only between names
    that differ in nothing else. A number is looked up by value among names that are numbers;
    otherwise it is the index.

    Args:
        y: a label, or a list, array, tensor or table column (n,) or (n, 1) of them. Bytes are
            decoded.
        names: the classes in the order of their indices, texts or numbers.
        missing: accept None, NaN and pd.NA, which become -1.

    Raises:
        ValueError: an unknown label, an index out of range, a missing label, or another shape.
        TypeError: fractions.

    >>> labels(["Sea lion", b"cat"], ["cat", "sea_lion"])
    tensor([1, 0])
    """
    column = column_of(y, names)
    codes, distinct = pd.factorize(column)
    find = _lookup(names)
    indices = np.array([*map(find, distinct), -1])[codes]
    if not missing and (codes < 0).any():
        remedy = "drop such rows, or make it a condition with unknown=True"
        raise ValueError(f"label {(codes < 0).argmax()} is missing; {remedy}")
    return torch.from_numpy(indices).to(y.device if isinstance(y, Tensor) else "cpu")


def column_of(y: object, names: Sequence[object]) -> np.ndarray:
    """Labels of named classes as an array (n,) of numbers or objects."""
    if isinstance(y, Tensor):
        y = y.detach().cpu()
        column = (y.float() if y.dtype in HALF else y).numpy()
    elif hasattr(y, "__array__"):
        column = np.asarray(_filled(y))
    else:
        if isinstance(y, Iterable) and not isinstance(y, str | bytes):
            y = [label.item() if isinstance(label, Tensor) else label for label in y]
        column = np.array(y, dtype=object)
    if column.ndim > 1 and column.shape[1:] == (1,):
        column = column[:, 0]
    if column.ndim > 1:
        remedy = "; for one-hot rows pass y.argmax(1)" if column.shape[1] == len(names) else ""
        raise ValueError(f"labels must have shape (n,), got {column.shape}{remedy}")
    column = np.atleast_1d(column)
    if column.dtype.kind in "iuf":
        return column
    return np.array([_plain_label(label, names) for label in column], dtype=object)


def _plain_label(label: Any, names: Sequence[object]) -> Any:
    """A label without bytes and bools. True is a name, or else the second of two classes."""
    if isinstance(label, bool | np.bool_):
        named = len(names) > 2 or "True" in map(str, names)
        return str(label) if named else int(label)
    return label.decode() if isinstance(label, bytes) else label


def _filled(x: object) -> object:
    """A masked array with NaN in its gaps; other objects as they are."""
    return np.ma.filled(x.astype(object), np.nan) if isinstance(x, np.ma.MaskedArray) else x


def _lookup(names: Sequence[object]) -> Callable[[object], int]:
    """Return the function from one label to its index."""
    texts = {str(name): index for index, name in enumerate(names)}
    plain = {key: texts[name] for key, name in by_plain_name(texts).items()}
    numbers: dict[Any, int] = {name: k for k, name in enumerate(names) if isinstance(name, Number)}
    numbers = numbers or dict(zip(whole_numbers(names), range(len(names))))
    in_order = [*numbers.values()] == [*numbers]

    def find(label: object) -> int:
        text = str(label)
        if not isinstance(label, Number):
            found = texts.get(text, plain.get(plain_name(text)))
            if found is None:
                raise unknown("class", text, names)
            return found
        if label in numbers:
            return numbers[label]
        if text in ("inf", "-inf") or label != round(label):  # type: ignore[call-overload]
            for name, index in numbers.items():
                if math.isclose(label, name, rel_tol=1e-6):  # type: ignore[arg-type]
                    return index  # a name in single precision
            raise TypeError(f"labels must be whole numbers or names, got {label}")
        if numbers and not in_order:
            raise unknown("class", label, names)
        if not 0 <= label < len(names):  # type: ignore[operator]
            expected = f"expected 0 to {len(names) - 1}"
            raise ValueError(f"class {text.removesuffix('.0')} is out of range; {expected}")
        return int(label)  # type: ignore[call-overload]

    return find


def whole_numbers(names: Sequence[object]) -> list[int]:
    """The whole numbers that stand for names: those that all names write, or their indices."""
    if all(re.fullmatch(r"0|-?[1-9]\d*", str(name)) for name in names):
        return [int(str(name)) for name in names]
    return list(range(len(names)))


def plain_name(name: str) -> str:
    """A name without its case, spaces and underscores."""
    return re.sub(r"[\s_]+", "", name).casefold()


def by_plain_name(names: Iterable[str]) -> dict[str, str]:
    """Names by their plain form, as far as no two share it."""
    plain: dict[str, list[str]] = {}
    for name in names:
        plain.setdefault(plain_name(name), []).append(name)
    return {key: found[0] for key, found in plain.items() if len(found) == 1}


def fitting(name: str, value: object, default: object) -> object:
    """Return a parameter's value as the type of its default.

    Whole numbers serve as floats, and so does the text ``1e-3``, which is what YAML makes of it.

    Raises:
        TypeError: another type. A default of None takes anything.
        ValueError: NaN, or an infinite number.

    >>> fitting("rate", "1e-3", 0.1)
    0.001
    """
    if isinstance(default, float) and not isinstance(value, bool):
        with suppress(TypeError, ValueError):
            value = float(value)  # type: ignore[arg-type]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"parameter '{name}' must be finite, got {value}")
    if default is None or type(value) is type(default):
        return value
    kinds: dict[type, str] = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        list: "a list",
    }
    kind = kinds.get(type(default), type(default).__name__)
    raise TypeError(f"parameter '{name}' must be {kind} like {default!r}, got {value!r}")


def sampling(temperature: float = 1.0, confidence: float = 0.0) -> None:
    """Raise ValueError for a temperature below 0, or a confidence outside [0, 1)."""
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be 0 or more and finite, got {temperature}")
    if not 0 <= confidence < 1:
        raise ValueError(f"confidence must be 0 or more and below 1, got {confidence}")


def latents(
    z: object, latent_dim: int | None = None, name: str = "z", *, keep: bool = False
) -> Tensor:
    """``z`` as latents (n, latent_dim); None: of any width. Arguments and errors of ``array``."""
    return array(z, ("n", latent_dim or "latent_dim"), name, keep=keep)


def images(x: object, channels: int, size: int) -> Tensor:
    """``x`` as images (n, channels, size, size) with values in [0, 1]. Keeps its graph and type.

    Raises:
        TypeError: integers, which the error tells to divide by 255.
        ValueError: values outside [0, 1], or as :func:`array`.
    """
    if isinstance(x, Tensor) and not x.is_floating_point():
        remedy = "for bytes pass x.float() / 255"
        raise TypeError(f"x must hold floats in [0, 1], got {x.dtype}; {remedy}")
    x = array(x, ("n", channels, size, size), keep=True)
    if x.numel() and (x.min() < 0 or x.max() > 1):
        raise ValueError(f"x must lie in [0, 1], got values from {x.min():.4g} to {x.max():.4g}")
    return x


def clouds(x: object, name: str = "x") -> Tensor:
    """``x`` as point clouds (n, points, 3) of several places. Keeps its graph and type.

    Raises:
        TypeError: as :func:`array`.
        ValueError: no points, a cloud whose points are all equal, or as :func:`array`.
    """
    x = array(x, ("n", "points", 3), name, keep=True)
    if not x.shape[1]:
        raise ValueError(f"{name} must have shape (n, points, 3), got {tuple(x.shape)}")
    degenerate = (x == x[:, :1]).all(-1).all(-1)
    if degenerate.any():
        first = int(degenerate.nonzero()[0])
        raise ValueError(f"{name}[{first}] is degenerate: all its points are equal")
    return x


def class_indices(y: object) -> Tensor:
    """Class indices (n,), int64, of a number of classes that is not known.

    Raises:
        ValueError, TypeError: as :func:`labels` of names 0, 1, ….
    """
    wide = getattr(y, "ndim", 1) > 1
    column = column_of(y, range(y.shape[-1] if wide else 0))  # type: ignore[attr-defined]
    most = pd.to_numeric(pd.Series(column), errors="coerce").max()
    return labels(y, range(1 + (int(most) if most > 0 else 0)))


def same_length(a: Sized, b: Sized, names: tuple[str, str] = ("z", "y")) -> None:
    """Raise ValueError unless both have the same number of rows."""
    if len(a) != len(b):
        said = f"{names[0]} and {names[1]} must have the same length"
        raise ValueError(f"{said}, got {len(a)} and {len(b)}")
