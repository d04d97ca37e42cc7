"""A base model that is used and never changed: eval mode, batches, devices, a digest of weights."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from numbers import Number
from threading import get_ident
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.data import Dataset

from fpnlib import checks

BATCH = 1024  # objects that go through the base model together: bounds the memory
CALLS = ("encode", "decode", "posterior")
# What a model raises if it is given what it does not take.
REFUSALS = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
DEEPEST = 4  # how deep modules and arrays are looked for in plain objects


class Adapted(SimpleNamespace):
    """A model behind functions of one's own. See :func:`adapt`."""


def adapt(
    model: object,
    *,
    encode: Callable[[Any], Any] | None = None,
    decode: Callable[[Any], Any] | None = None,
) -> Adapted:
    """Give any model the ``encode`` and ``decode`` that a plugin needs.

    Args:
        model: whatever holds the weights.
        encode: objects (n, …) → latents (n, …), or a distribution with ``mean`` and ``stddev`` (or
            ``std``), such as a torch ``Normal``. None: the model has no encoder; latents are then
            given in the place of objects.
        decode: latents (n, …) → objects (n, …).

    >>> from sklearn.decomposition import PCA
    >>> pca = PCA(2).fit(np.random.default_rng(0).normal(size=(20, 5)))
    >>> base = adapt(pca, encode=pca.transform, decode=pca.inverse_transform)
    >>> base.encode(np.zeros((3, 5))).shape
    (3, 2)
    """
    return Adapted(model=model, encode=encode, decode=decode)


class Frozen:
    """The calls of a base model, which leave it exactly as it was.

    Args:
        base: a model with ``decode`` and, unless it only generates, ``encode``.

    Raises:
        TypeError: a base without ``decode``.
    """

    def __init__(self, base: object):
        if not callable(getattr(base, "decode", None)):
            kind = type(base).__name__
            raise TypeError(f"{kind} has no decode; pass adapt(model, decode=…, encode=…)")
        self.base = base
        self.modules, self.arrays = _parts(base)
        self.speaks_numpy = False

    @property
    def encodes(self) -> bool:
        """Whether the base has an encoder."""
        return callable(getattr(self.base, "encode", None))

    def posterior(self, x: Any) -> tuple[Tensor, Tensor | None]:
        """Latents (n, …) of a batch x, or the means and standard deviations of their posteriors.

        Raises:
            TypeError: ``encode`` returns neither real numbers nor a distribution.
            ValueError: the base model does not take x, or returns latents of a wrong shape.
        """
        base: Any = self.base
        if not self.encodes:
            return checks.numbers(x), None
        if hasattr(base, "posterior"):
            mean, std = self._call("posterior", x)
        else:
            mean, std = _moments(self._call("encode", x))
        self.speaks_numpy |= isinstance(mean, np.ndarray) and not self.modules
        mean, kind = _array_of(mean, "encode", base, x), type(base).__name__
        if mean.is_complex():
            raise TypeError(f"latents of {kind} must hold real numbers, got {mean.dtype}")
        if mean.ndim < 2:
            shape = tuple(mean.shape)
            raise ValueError(f"encode of {kind} returned shape {shape}; expected latents (n, …)")
        return mean, None if std is None else _array_of(std, "encode", base, x)

    def encode(self, x: Any) -> Tensor:
        """Latents (n, …), in batches; of a distribution the means."""
        return torch.cat([self.posterior(part)[0] for part in self.batches(x)])

    def decode(self, z: Tensor) -> Tensor:
        """Objects (n, …) of latents (n, …), in batches.

        Raises:
            TypeError: ``decode`` returns no array.
            ValueError: the base model does not take z, or returns another number of rows.
        """
        parts = self.batches(z)
        return torch.cat(
            [_array_of(self._call("decode", x), "decode", self.base, x) for x in parts]
        )

    def round_trip(self, z: Tensor) -> Tensor:
        """Latents (n, …) of the objects that latents (n, …) decode to.

        Without an encoder, the latents themselves.
        """
        return self.encode(self.decode(z)) if self.encodes else z

    def batches(self, x: Any) -> list[Any]:
        """Parts of objects, or of latents, that go through the base model together.

        Raises:
            TypeError: x is no array, for example a DataLoader.
        """
        if not hasattr(x, "__getitem__") or isinstance(x, str | Mapping | Dataset):
            remedy = "of batches pass no y to fit, and other methods one batch at a time"
            raise TypeError(f"x must be an array, got {type(x).__name__}; {remedy}")
        if not isinstance(x, np.ndarray):
            with suppress(TypeError):  # objects that are no numbers stay as they are
                x = checks.numbers(x)
        return [x[start : start + BATCH] for start in range(0, max(1, len(x)), BATCH)]

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Set eval mode without gradients; then put the modes back."""
        training, thread = [], get_ident()

        def calm(module: nn.Module, *given: Any) -> None:
            if module.training and get_ident() == thread:
                training.append(module)
                module.training = False

        for module in self.modules:
            for part in module.modules():
                calm(part)
        try:  # the hook finds modules wherever the base holds them
            with torch.no_grad(), register_module_forward_pre_hook(calm):
                yield
        finally:
            for module in training:
                module.training = True

    def version(self) -> int:
        """A number that changes when torch changes or replaces a weight."""
        found = []
        for tensor in self._tensors():
            counted = 0 if tensor.is_inference() else tensor._version  # noqa: SLF001
            found.append((id(tensor), tensor.data_ptr(), counted))
        return hash(tuple(found))

    def digest(self) -> str:
        """A checksum of the weights and arrays, with their number type; empty if there are none."""
        summed, tensors = hashlib.sha256(), self._tensors()
        for tensor in tensors:
            summed.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            if not tensor.is_meta:
                flat = tensor.detach().cpu().contiguous().flatten()
                summed.update(flat.view(torch.uint8).numpy().tobytes())
        for array in self.arrays:
            summed.update(array.tobytes())
        return summed.hexdigest() if tensors or self.arrays else ""

    def _call(self, name: str, x: Any) -> Any:
        """What a function of the base returns. Objects that take no tensors get numpy arrays."""
        function, given = getattr(self.base, name), self._placed(x)
        if self.speaks_numpy and name == "decode":
            given = given.numpy(force=True)
        try:
            with self.unchanged():
                return function(given)
        except torch.OutOfMemoryError:
            raise
        except REFUSALS as error:
            refused = error
        if isinstance(given, Tensor) and not isinstance(self.base, nn.Module):
            with suppress(*REFUSALS), self.unchanged():
                found = function(given.numpy(force=True))
                self.speaks_numpy = True
                return found
        raise _refusal(name, self.base, given, refused) from refused

    def _tensors(self) -> list[Tensor]:
        tensors: list[Tensor] = []
        for module in self.modules:
            tensors += [*module.parameters(), *module.buffers()]
        return tensors

    def _placed(self, x: Any) -> Any:
        """``x`` on the device and in the floating type of the base model's weights."""
        if not self.modules:
            return x
        with suppress(TypeError):
            x = checks.numbers(x)
        for weight in self._tensors():
            if weight.is_floating_point() and isinstance(x, Tensor):
                dtype = weight.dtype if x.is_floating_point() else x.dtype
                return x.to(weight.device, dtype)
        return x


def pair(batch: Any) -> tuple[Any, Any]:
    """A batch as objects and labels (n, …). Raises TypeError for other batches."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        said = f"batches must be pairs (x, y), got {type(batch).__name__}"
        raise TypeError(f"{said}; pass ((x, y) for … in batches)")
    x, y = batch
    if isinstance(y, str | Number | None) or not getattr(y, "ndim", 1):
        said = f"a batch needs labels (n,), got {checks.shown(y)}"
        raise TypeError(f"{said}; if these are single objects, pass DataLoader(objects, 64)")
    return x, y


def _refusal(name: str, base: object, given: Any, error: Exception) -> Exception:
    """The error for what a base model does not take, in one line that says what it was given."""
    kind, shape = getattr(given, "dtype", type(given).__name__), tuple(getattr(given, "shape", ()))
    said = f"{kind} {shape}: {' '.join(str(error).split())}"
    message = f"{name} of {type(base).__name__} does not take {said:.240}"
    if isinstance(given, Tensor) and not given.is_floating_point():
        message += "; for bytes pass x.float() / 255"
    return (TypeError if isinstance(error, TypeError) else ValueError)(message)


def _array_of(found: object, name: str, base: object, given: Any) -> Tensor:
    """What a base model returned for a batch, as a tensor of as many rows."""
    said = f"{name} of {type(base).__name__} returned"
    if not hasattr(found, "shape"):
        remedy = f"pass adapt(model, {name}=…) that returns one"
        raise TypeError(f"{said} {type(found).__name__}, not an array; {remedy}")
    array = checks.numbers(found, name)
    if hasattr(given, "shape") and array.shape[:1] != given.shape[:1]:
        shape, rows = tuple(array.shape), given.shape[0]
        raise ValueError(f"{said} shape {shape} for {rows:,} rows; expected ({rows}, …)")
    return array


def _moments(found: object) -> tuple[Any, Any]:
    """Mean and deviation of a distribution; of other objects themselves and None."""
    if hasattr(found, "shape"):
        return found, None
    try:
        mean = getattr(found, "mean", found)
        return mean, getattr(found, "stddev", getattr(found, "std", None))
    except NotImplementedError:  # torch's distributions without a mean in closed form
        return found, None


def _parts(base: object) -> tuple[list[nn.Module], list[np.ndarray]]:
    """Modules and arrays that an object holds, directly or in what it holds."""
    modules: list[nn.Module] = []
    arrays: list[np.ndarray] = []
    seen: dict[int, Any] = {}  # keeps the objects, because ids of dropped ones are used again

    def visit(item: Any, depth: int) -> None:
        if id(item) in seen or depth > DEEPEST:
            return
        seen[id(item)] = item
        if isinstance(item, nn.Module):
            modules.append(item)
        elif isinstance(item, np.ndarray):
            arrays.append(item)
        else:
            for held in _held(item):
                visit(held, depth + 1)

    visit(base, 0)
    return modules, arrays


def _held(item: Any) -> list[Any]:
    """What an object holds: entries, attributes, a method's owner, a function's variables."""
    if isinstance(item, dict):
        return [*item.values()]
    if isinstance(item, list | tuple | set):
        return [*item]
    if isinstance(item, type | ModuleType):
        return []
    held = [*getattr(item, "__dict__", {}).values()]
    held += [getattr(item, name, None) for name in getattr(item, "__slots__", ())]
    held += [getattr(item, name, None) for name in ("__func__", *CALLS)]
    code, names = getattr(item, "__code__", None), getattr(item, "__globals__", {})
    named = [names.get(name) for name in getattr(code, "co_names", ())]
    held += [value for value in named if isinstance(value, nn.Module)]
    held.append(getattr(item, "__self__", None))
    held += [cell.cell_contents for cell in getattr(item, "__closure__", None) or ()]
    held += [getattr(item, "func", None), *(getattr(item, "args", None) or ())]
    return held
