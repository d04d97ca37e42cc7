"""Checks at the public edge: one door for arrays, one for labels, one line for each mistake."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from numbers import Integral

import numpy as np
import torch
from torch import Tensor


def unknown(kind: str, given: object, choices: Iterable[object]) -> ValueError:
    """The error, for the caller to raise, for a name that is not among ``choices``."""
    names = [str(choice) for choice in choices]
    by_lower_case = {name.lower(): name for name in names}
    nearest = get_close_matches(str(given).lower(), by_lower_case, n=1, cutoff=0.5)
    hint = f"; did you mean '{by_lower_case[nearest[0]]}'?" if nearest else ";"
    shown = names if len(names) <= 12 else [*names[:12], "…"]
    return ValueError(f"unknown {kind} '{given}'{hint} known: {', '.join(shown)}")


def positive(name: str, value: object) -> int:
    """``value`` as an int of at least 1. Raises TypeError or ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a positive whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be a positive whole number, got {value}")
    return int(value)


def array(x: object, shape: Sequence[int | str], name: str = "x") -> Tensor:
    """``x`` as a floating-point tensor of finite numbers: the one door for arrays.

    Args:
        x: a tensor, an array or nested lists of numbers.
        shape: sizes; a string such as "n" stands for any size, the same wherever it stands.
        name: what the error calls x.

    Raises:
        TypeError: not real numbers.
        ValueError: another shape, or NaN or infinite entries.
    """
    try:
        tensor = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"{name} must be a tensor or an array of numbers, got {type(x).__name__}"
        ) from None
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{name} must hold real numbers, got {tensor.dtype}")
    sizes = dict(zip(shape, tensor.shape))
    expected = [sizes.get(size) if isinstance(size, str) else size for size in shape]
    if expected != list(tensor.shape):
        wanted = str(tuple(shape)).replace("'", "")
        raise ValueError(f"{name} must have shape {wanted}, got {tuple(tensor.shape)}")
    if not tensor.is_floating_point():
        return tensor.float()
    bad = tensor.numel() - int(torch.isfinite(tensor).sum())
    if bad:
        raise ValueError(
            f"{name} has {bad:,} NaN or infinite entries of {tensor.numel():,};"
            " expected finite numbers"
        )
    return tensor


def labels(y: object, names: Sequence[object]) -> Tensor:
    """Class indices (n,), int64: the one door for labels.

    Args:
        y: an index, a name, or a list, array or tensor (n,) of either.
        names: the classes in the order of their indices.

    Raises:
        ValueError: an index out of range, an unknown name, or more than one dimension.
        TypeError: fractions or NaN.
    """
    if not isinstance(y, Tensor):
        given = y if isinstance(y, Iterable) and not isinstance(y, str) else [y]
        y = [_index(label, names) for label in given]
    indices = torch.atleast_1d(torch.as_tensor(y))
    if indices.ndim != 1:
        raise ValueError(f"labels must have shape (n,), got {tuple(indices.shape)}")
    if indices.is_floating_point() and (indices - indices.round() != 0).any():  # NaN, too
        raise TypeError("labels must be whole numbers or names, got fractions or NaN")
    indices = indices.long()
    outside = indices[(indices < 0) | (indices >= len(names))]
    if len(outside):
        most = len(names) - 1
        raise ValueError(f"class {outside[0].item()} is out of range; expected 0 to {most}")
    return indices


def _index(label: object, names: Sequence[object]) -> object:
    """The index of a name; anything else as it is."""
    if not isinstance(label, str):
        return label
    if label not in names:
        raise unknown("class", label, names)
    return names.index(label)


def fitting(name: str, value: object, default: object) -> object:
    """Return a parameter's value as the type of its default.

    Whole numbers serve as floats, and so does the text ``1e-3``, which is what YAML makes of it.

    Raises:
        TypeError: another type. A default of None takes anything.

    >>> fitting("rate", "1e-3", 0.1)
    0.001
    """
    if default is None or type(value) is type(default):
        return value
    if isinstance(default, float) and not isinstance(value, bool):
        try:
            return float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            pass
    kinds: dict[type, str] = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        list: "a list",
    }
    kind = kinds.get(type(default), type(default).__name__)
    raise TypeError(f"parameter '{name}' must be {kind} like {default!r}, got {value!r}")


def latents(z: object, latent_dim: int | None = None, name: str = "z") -> Tensor:
    """``z`` as latents (n, latent_dim); None: of any width. Raises as :func:`array` does."""
    return array(z, ("n", latent_dim or "latent_dim"), name)


def images(x: object, channels: int, size: int) -> Tensor:
    """``x`` as images (n, channels, size, size) with values in [0, 1].

    Raises:
        TypeError: integers, which the error tells to divide by 255.
        ValueError: values outside [0, 1], or as :func:`array`.
    """
    if isinstance(x, Tensor) and not x.is_floating_point():
        raise TypeError(
            f"x must hold floats in [0, 1], got {x.dtype}; for bytes 0…255 pass x.float() / 255"
        )
    x = array(x, ("n", channels, size, size))
    if x.numel() and (x.min() < 0 or x.max() > 1):
        raise ValueError(f"x must lie in [0, 1], got values from {x.min():.4g} to {x.max():.4g}")
    return x


def clouds(x: object, name: str = "x") -> Tensor:
    """``x`` as point clouds (n, points, 3), each with more than one place.

    Raises:
        TypeError: as :func:`array`.
        ValueError: no points, a cloud whose points are all equal, or as :func:`array`.
    """
    x = array(x, ("n", "points", 3), name)
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
    values = torch.as_tensor(y if isinstance(y, Tensor) else np.array(y))
    one_hot = values.ndim > 1 and values.shape[-1] > 1
    most = 0 if not values.numel() else int(values.nan_to_num().max())
    return labels(values, range(values.shape[-1] if one_hot else most + 1))


def same_length(a: Tensor, b: Tensor, names: tuple[str, str] = ("z", "y")) -> None:
    """Raise ValueError unless both have the same number of rows."""
    if len(a) != len(b):
        raise ValueError(
            f"{names[0]} and {names[1]} must have the same length, got {len(a)} and {len(b)}"
        )
