"""Fitted plugins as single safetensors files: weights, names and settings. Nothing is pickled."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from fpnlib.store.files import _plain, write
from fpnlib.store.tensors import _contiguous

FORMAT = "1"


def save_plugin(
    path: str | Path, tensors: Mapping[str, Tensor], plugin: Mapping, base: Mapping
) -> None:
    """Write a plugin atomically as one file.

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
    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        raise ValueError(f"a plugin is kept as .safetensors, got '{path.name}'")
    metadata = {"format": FORMAT, "plugin": _text(plugin), "base": _text(base)}
    write(path, safetensors.torch.save(_contiguous(tensors), metadata))


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
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError:
        raise ValueError(f"{path} is truncated or damaged; save the plugin again") from None
    if metadata.get("format") != FORMAT or "plugin" not in metadata:
        found = metadata.get("format", "none")
        raise ValueError(f"{path} holds no plugin of format {FORMAT}; its format is {found}")
    return tensors, json.loads(metadata["plugin"]), json.loads(metadata["base"])


def _text(values: Mapping) -> str:
    try:
        return json.dumps(values, default=_plain)
    except TypeError as error:
        raise TypeError(f"{error}; pass a flow of your own instead") from None
