"""Tensors and modules as safetensors with a JSON beside them. Nothing here is pickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from fpnlib.store.files import PathLike, damaged, plain, read_sealed, replaced, sealed, write_bytes


def save_tensors(path: PathLike, tensors: Mapping[str, Tensor], meta: Mapping) -> Path:
    """Write ``tensors`` as safetensors and, beside them, ``<stem>.json``: ``meta``, their shapes and the file's sha256.

    Where the JSON stands, the pair is complete; a disk that is full spares the earlier pair.

    Raises:
        ValueError: a path that does not end in ``.safetensors``; numbers that are not finite in ``meta``.
        OSError: as :func:`write_bytes`.
    """
    path = _weights(path)
    data, described = safetensors.torch.save(_plain_tensors(tensors)), path.with_suffix(".json")
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    text = sealed(
        described, {"meta": meta, "sha256": hashlib.sha256(data).hexdigest(), "shapes": shapes}
    )
    with (
        replaced(described, text.encode()),
        replaced(path, data),
    ):  # the weights take their place before the JSON does
        described.unlink(missing_ok=True)
    return path


def load_tensors(path: PathLike) -> tuple[dict[str, Tensor], dict]:
    """The tensors (on the CPU) and the ``meta`` that :func:`save_tensors` wrote.

    Raises:
        FileNotFoundError: no such file, or no JSON beside it.
        ValueError: truncated or otherwise not what was written; one line that names the file.
    """
    path = _weights(path)
    for part in (path, path.with_suffix(".json")):
        if not part.is_file():
            raise FileNotFoundError(
                f"{part} is missing; expected {path.name} and {path.stem}.json in {path.parent}"
            )
    described, data = _described(path), path.read_bytes()
    if described["sha256"] != hashlib.sha256(data).hexdigest():
        raise ValueError(
            f"{path} is truncated or damaged: its sha256 is not the one in {path.stem}.json; delete it and run again"
        )
    try:
        return safetensors.torch.load(data), described["meta"]
    except safetensors.SafetensorError:
        raise damaged(path, "it holds no tensors") from None


def read_meta(path: PathLike) -> dict | None:
    """The ``meta`` that :func:`save_tensors` wrote, without the tensors; None where there is no such pair.

    Raises:
        ValueError: a damaged JSON file, in one line.
    """
    path = _weights(path)
    return _described(path)["meta"] if path.with_suffix(".json").is_file() else None


def save_module(path: PathLike, module: nn.Module, meta: Mapping, *, half: bool = False) -> Path:
    """:func:`save_tensors` of the module's state dict; with ``half``, :func:`halved`: load it to compute with what is kept."""
    tensors = module.state_dict()
    return save_tensors(path, halved(tensors) if half else tensors, meta)


def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floating matrices rounded to half precision, for half the size, where its range holds them; all else as it is."""

    def rounded(tensor: Tensor) -> Tensor:
        small = tensor.half() if tensor.ndim > 1 and tensor.is_floating_point() else tensor
        return small if small.isfinite().all() else tensor

    return {name: rounded(tensor) for name, tensor in tensors.items()}


def load_module(path: PathLike, module: nn.Module) -> dict:
    """Load what :func:`save_module` wrote into ``module``, on the module's own device; returns the ``meta``.

    Raises:
        ValueError: another architecture; one line with the first difference. ``module`` stays as it was.
        FileNotFoundError, ValueError: as :func:`load_tensors`.
    """
    tensors, meta = load_tensors(path)
    own = module.state_dict()
    for name in [*own, *tensors]:
        there, here = (
            tuple(state[name].shape) if name in state else None for state in (tensors, own)
        )
        if there != here:
            there, here = (
                "absent" if shape is None else f"of shape {shape}" for shape in (there, here)
            )
            wanted = type(module).__name__
            raise ValueError(
                f"{path} holds another architecture than {wanted}: '{name}' is {there}, expected {here}"
            )
    module.load_state_dict(tensors)
    return meta


class Checkpoint:
    """The state of something unfinished: tensors and a JSON-able ``meta`` in one file, replaced atomically."""

    def __init__(self, path: PathLike):
        self.path = _weights(path)

    def load(self) -> tuple[dict[str, Tensor], dict] | None:
        """What was saved last (tensors on the CPU), or None where nothing was.

        Raises:
            ValueError: a damaged file, in one line.
        """
        if not self.path.is_file():
            return None
        try:
            with safetensors.safe_open(self.path, framework="pt") as file:
                tensors, noted = (
                    {name: file.get_tensor(name) for name in file.keys()},
                    file.metadata(),
                )
            if noted["sha256"] != _sha256(tensors, noted["meta"]):
                raise ValueError("its sha256 is that of another content")
            return tensors, json.loads(noted["meta"])
        except (safetensors.SafetensorError, TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{self.path} is damaged ({error}); delete it to start over") from None

    def save(self, tensors: Mapping[str, Tensor], meta: Mapping) -> None:
        """Replace what was saved before. Raises as :func:`write_bytes` does."""
        tensors, text = _plain_tensors(tensors), json.dumps(meta, default=plain)
        noted = {"meta": text, "sha256": _sha256(tensors, text)}
        write_bytes(self.path, safetensors.torch.save(tensors, noted))

    def clear(self) -> None:
        """Forget: what was unfinished is finished."""
        self.path.unlink(missing_ok=True)


def _weights(path: PathLike) -> Path:
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"weights are kept as .safetensors, got '{path.name}'; did you mean '{path.stem}.safetensors'?"
        )
    return path


def _plain_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Clones: safetensors refuses tensors that share memory.
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def _sha256(tensors: Mapping[str, Tensor], meta: str) -> str:
    """Of what a checkpoint holds: the file can't hold its own."""
    summed = hashlib.sha256(meta.encode())
    for name, tensor in sorted(tensors.items()):
        summed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        summed.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return summed.hexdigest()


def _described(path: Path) -> dict:
    """What the JSON beside the weights says."""
    return read_sealed(path.with_suffix(".json"), meta=dict, sha256=str)
