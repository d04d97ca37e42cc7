"""Tensors, modules, checkpoints and plugins as safetensors. Nothing here is pickled."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from fpnlib.store.files import (
    PathLike,
    _expect,
    _plain,
    _replace,
    damaged,
    sealed,
    unsealed,
    write,
)

PLUGIN_FORMAT = "1"


def save_tensors(path: PathLike, tensors: Mapping[str, Tensor], meta: Mapping) -> Path:
    """Write tensors as safetensors and, beside them, a JSON that describes them.

    The pair is complete if the JSON is there. A full disk leaves the earlier pair as it was.

    Args:
        path: of the safetensors.
        tensors: the tensors by name.
        meta: JSON-able values, which the JSON holds beside shapes and sha256.

    Returns:
        The path.

    Raises:
        ValueError: a path that does not end in ``.safetensors``; numbers that are not finite in
            ``meta``.
        OSError: as :func:`write`.
    """
    path = _weights(path)
    described = _json(path)
    data = safetensors.torch.save(_contiguous(tensors))
    content = {
        "meta": meta,
        "sha256": hashlib.sha256(data).hexdigest(),
        "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
    }
    text = sealed(described, content)
    # Both are on the disk before either takes its place; the weights take theirs first.
    with _replace(described, text.encode()), _replace(path, data):
        described.unlink(missing_ok=True)
    return path


def load_tensors(path: PathLike) -> tuple[dict[str, Tensor], dict]:
    """Return the tensors (on the CPU) and the ``meta`` that :func:`save_tensors` wrote.

    Raises:
        FileNotFoundError: no such file, or no JSON beside it.
        ValueError: truncated or otherwise not what was written; one line that names the file.
    """
    path = _weights(path)
    described = _described(path)
    if described is None or not path.is_file():
        part = path if described else _json(path)
        pair = f"{path.name} and {path.stem}.json"
        raise FileNotFoundError(f"{part} is missing; expected {pair} in {path.parent}")
    data = path.read_bytes()
    if described["sha256"] != hashlib.sha256(data).hexdigest():
        said = f"its sha256 is not the one in {path.stem}.json; delete it and run again"
        raise ValueError(f"{path} is truncated or damaged: {said}")
    try:
        return safetensors.torch.load(data), described["meta"]
    except safetensors.SafetensorError:
        raise damaged(path, "it holds no tensors") from None


def read_meta(path: PathLike, **kinds: type) -> dict | None:
    """Return the ``meta`` that :func:`save_tensors` wrote; None if there is no such pair.

    Args:
        path: of the safetensors.
        kinds: the type of each field that must be there.

    Raises:
        ValueError: a damaged JSON file, or one without these fields; one line.
    """
    described = _described(path)
    if described is None:
        return None
    return _expect(_json(path), described["meta"], **kinds)


def load_module(path: PathLike, module: nn.Module) -> None:
    """Load a state dict that :func:`save_tensors` wrote, on the module's own device.

    Args:
        path: of the safetensors.
        module: a module of the same architecture. It makes room for tensors that it names in
            ``free_shapes``, if it has that.

    Raises:
        ValueError: another architecture; one line with the first difference. ``module`` stays as it
            was.
        FileNotFoundError, ValueError: as :func:`load_tensors`.
    """
    tensors, _ = load_tensors(path)
    own, free = module.state_dict(), getattr(module, "free_shapes", ())
    for name in [*own, *tensors]:
        found, expected = _shape(tensors, name), _shape(own, name)
        if found != expected and name not in free:
            difference = f"'{name}' is {found}, expected {expected}"
            kind = type(module).__name__
            raise ValueError(f"{path} holds another architecture than {kind}: {difference}")
    module.load_state_dict(tensors)


class Checkpoint:
    """The state of something unfinished: tensors and a ``meta`` in one atomic file."""

    def __init__(self, path: PathLike):
        self.path = _weights(path)

    def load(self) -> tuple[dict[str, Tensor], dict] | None:
        """Return the tensors (on the CPU) and the ``meta`` saved last; None if there are none.

        Raises:
            ValueError: a damaged file, in one line.
        """
        if not self.path.is_file():
            return None
        try:
            tensors, noted = _opened(self.path)
            if noted["sha256"] != _sha256(tensors, noted["meta"]):
                raise ValueError("its sha256 is that of another content")
            return tensors, json.loads(noted["meta"])
        except (safetensors.SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{self.path} is damaged ({error}); delete it to start over") from None

    def save(self, tensors: Mapping[str, Tensor], meta: Mapping) -> None:
        """Replace what was saved before. Raises as :func:`write` does."""
        contiguous, text = _contiguous(tensors), json.dumps(meta, default=_plain)
        noted = {"meta": text, "sha256": _sha256(contiguous, text)}
        write(self.path, safetensors.torch.save(contiguous, noted))

    def clear(self) -> None:
        """Remove the file: what was unfinished is finished."""
        self.path.unlink(missing_ok=True)


def save_plugin(
    path: str | Path, tensors: Mapping[str, Tensor], plugin: Mapping, base: Mapping
) -> None:
    """Write a fitted plugin atomically as one file: weights, names and settings.

    Args:
        path: of the file, which ends in ".safetensors".
        tensors: of the plugin's state dict.
        plugin: JSON-able: what the plugin was made with.
        base: JSON-able: what it was fitted to; empty if that is unknown.

    Raises:
        ValueError: a path with another ending.
        TypeError: settings that a file cannot hold.
        OSError: as ``store.write``.
    """
    path = _weights(Path(path).expanduser())
    contiguous = _contiguous(tensors)
    metadata = {"format": PLUGIN_FORMAT, "plugin": _text(plugin), "base": _text(base)}
    metadata["sha256"] = _sha256(contiguous, metadata["plugin"] + metadata["base"])
    write(path, safetensors.torch.save(contiguous, metadata))


def load_plugin(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """Read what :func:`save_plugin` wrote: tensors on the CPU, ``plugin`` and ``base``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, or one of another kind or format.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no plugin at {path}")
    try:
        tensors, metadata = _opened(path)
    except safetensors.SafetensorError:
        raise ValueError(f"{path} is truncated or damaged; save the plugin again") from None
    if metadata.get("format") != PLUGIN_FORMAT or not {"plugin", "base"} <= metadata.keys():
        found = metadata.get("format", "none")
        raise ValueError(f"{path} holds no plugin of format {PLUGIN_FORMAT}; its format is {found}")
    found = _sha256(tensors, metadata["plugin"] + metadata["base"])
    if metadata.get("sha256", found) != found:  # files of earlier versions have none
        raise ValueError(f"{path} is damaged: its sha256 is that of another content")
    return tensors, json.loads(metadata["plugin"]), json.loads(metadata["base"])


def _weights(path: PathLike) -> Path:
    path = Path(path)
    if path.suffix != ".safetensors":
        remedy = f"did you mean '{path.stem}.safetensors'?"
        raise ValueError(f"weights are kept as .safetensors, got '{path.name}'; {remedy}")
    return path


def _opened(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a file's tensors, on the CPU, and the texts that it holds beside them."""
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, file.metadata() or {}


def _described(path: PathLike) -> dict | None:
    """Return the content of the JSON beside the weights; None if there is none."""
    return unsealed(_json(path), meta=dict, sha256=str)


def _json(path: PathLike) -> Path:
    return _weights(path).with_suffix(".json")


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies on the CPU, because safetensors refuses tensors that share memory."""
    layout = torch.contiguous_format
    return {key: value.detach().cpu().clone(memory_format=layout) for key, value in tensors.items()}


def _shape(tensors: Mapping[str, Tensor], name: str) -> str:
    return f"of shape {tuple(tensors[name].shape)}" if name in tensors else "absent"


def _sha256(tensors: Mapping[str, Tensor], meta: str) -> str:
    """Return a checksum of a checkpoint's content, because a file cannot hold its own."""
    summed = hashlib.sha256(meta.encode())
    for name, tensor in sorted(tensors.items()):
        summed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        summed.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return summed.hexdigest()


def _text(values: Mapping) -> str:
    try:
        return json.dumps(values, default=_plain)
    except TypeError as error:
        raise TypeError(f"{error}; pass a flow of your own instead") from None
