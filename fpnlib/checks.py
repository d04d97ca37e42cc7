"""What every room says to bad input: one line that names what was given, what was expected and the nearest right answer."""

from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Integral

import torch
from torch import Tensor


def unknown(kind: str, given: object, choices: Iterable[object]) -> ValueError:
    """The error for a name that is not among ``choices``, with the nearest one; to be raised by the caller."""
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


def latents(z: object, latent_dim: int | None = None, name: str = "z") -> Tensor:
    """``z`` as a floating-point tensor (n, latent_dim), every entry finite.

    Raises:
        TypeError: not numbers.
        ValueError: not two-dimensional, another width, no rows, or NaN or infinite entries.
    """
    z = _floats(z, name)
    wanted = f"(n, {latent_dim if latent_dim is not None else 'latent_dim'})"
    if z.ndim != 2 or latent_dim not in (None, z.shape[1]):
        raise ValueError(f"{name} must have shape {wanted}, got {tuple(z.shape)}")
    _finite(z, name)
    return z


def images(x: object, channels: int, size: int, name: str = "x") -> Tensor:
    """``x`` as float images (n, channels, size, size) with values in [0, 1].

    Raises:
        TypeError: integers (divide 0…255 by 255 first) or no numbers at all.
        ValueError: another shape, values outside [0, 1], or NaN or infinite entries.
    """
    if isinstance(x, Tensor) and not x.is_floating_point():
        raise TypeError(
            f"{name} must hold floats in [0, 1], got {x.dtype}; for bytes 0…255 pass {name}.float() / 255"
        )
    x = _floats(x, name)
    if x.ndim != 4 or tuple(x.shape[1:]) != (channels, size, size):
        raise ValueError(
            f"{name} must have shape (n, {channels}, {size}, {size}), got {tuple(x.shape)}"
        )
    _finite(x, name)
    if x.numel() and (x.min() < 0 or x.max() > 1):
        raise ValueError(
            f"{name} must lie in [0, 1], got values from {x.min():.4g} to {x.max():.4g}"
        )
    return x


def clouds(x: object, name: str = "x") -> Tensor:
    """``x`` as float point clouds (n, points, 3), every coordinate finite, each of more than one place.

    Raises:
        TypeError: not numbers.
        ValueError: another shape, no points, NaN or infinite coordinates, or a cloud whose points are all equal.
    """
    x = _floats(x, name)
    if x.ndim != 3 or x.shape[2] != 3 or not x.shape[1]:
        raise ValueError(f"{name} must have shape (n, points, 3), got {tuple(x.shape)}")
    _finite(x, name)
    degenerate = (x == x[:, :1]).all(-1).all(-1)
    if degenerate.any():
        raise ValueError(
            f"{name}[{int(degenerate.nonzero()[0])}] is degenerate: all its points are equal"
        )
    return x


def same_length(a: Tensor, b: Tensor, names: tuple[str, str] = ("z", "y")) -> None:
    """Raises ValueError unless both have the same number of rows."""
    if len(a) != len(b):
        raise ValueError(
            f"{names[0]} and {names[1]} must have the same length, got {len(a)} and {len(b)}"
        )


def _floats(values: object, name: str) -> Tensor:
    try:
        tensor = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"{name} must be a tensor or an array of numbers, got {type(values).__name__}"
        ) from None
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{name} must hold real numbers, got {tensor.dtype}")
    return tensor if tensor.is_floating_point() else tensor.float()


def _finite(tensor: Tensor, name: str) -> None:
    bad = tensor.numel() - int(torch.isfinite(tensor).sum())
    if bad:
        raise ValueError(
            f"{name} has {bad:,} NaN or infinite entries of {tensor.numel():,}; expected finite numbers"
        )
