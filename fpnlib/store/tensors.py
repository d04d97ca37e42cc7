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

from fpnlib.store import files
from fpnlib.store.files import PathLike, damaged, write


def save_tensors(path: PathLike, tensors: Mapping[str, Tensor], meta: Mapping) -> Path:
    """Write ``tensors`` as safetensors and, beside them, a JSON of ``meta``, shapes and sha256.

    The pair is complete if the JSON is there. A full disk leaves the earlier pair as it was.

    Raises:
        ValueError: a path that does not end in ``.safetensors``; numbers that are not finite in
            ``meta``.
        OSError: as :func:`write`.
    """
    path = _weights(path)
    described = path.with_suffix(".json")
    data = safetensors.torch.save(_contiguous(tensors))
    content = {
        "meta": meta,
        "sha256": hashlib.sha256(data).hexdigest(),
        "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
    }
    text = files._sealed(described, content)
    # Both are on the disk before either takes its place; the weights take theirs first.
    with files._replaced(described, text.encode()), files._replaced(path, data):
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
            pair = f"{path.name} and {path.stem}.json"
            raise FileNotFoundError(f"{part} is missing; expected {pair} in {path.parent}")
    described, data = _described(path), path.read_bytes()
    if described["sha256"] != hashlib.sha256(data).hexdigest():
        said = f"its sha256 is not the one in {path.stem}.json; delete it and run again"
        raise ValueError(f"{path} is truncated or damaged: {said}")
    try:
        return safetensors.torch.load(data), described["meta"]
    except safetensors.SafetensorError:
        raise damaged(path, "it holds no tensors") from None


def read_meta(path: PathLike, **kinds: type) -> dict | None:
    """The ``meta`` that :func:`save_tensors` wrote; None if there is no such pair.

    Args:
        kinds: the type of each field that must be there.

    Raises:
        ValueError: a damaged JSON file, or one without these fields; one line.
    """
    described = _weights(path).with_suffix(".json")
    if not described.is_file():
        return None
    return files._expect(described, _described(path)["meta"], **kinds)


def save_module(path: PathLike, module: nn.Module, meta: Mapping, *, half: bool = False) -> Path:
    """:func:`save_tensors` of the module's state dict.

    Args:
        half: round floating matrices to half precision, if its range holds them. Half the size; to
            compute with what is kept, load it again.
    """
    tensors = module.state_dict()
    return save_tensors(path, _halved(tensors) if half else tensors, meta)


def load_module(path: PathLike, module: nn.Module) -> dict:
    """Load what :func:`save_module` wrote into ``module``, on the module's own device.

    Returns:
        The ``meta``.

    Raises:
        ValueError: another architecture; one line with the first difference. ``module`` stays as it
            was.
        FileNotFoundError, ValueError: as :func:`load_tensors`.
    """
    tensors, meta = load_tensors(path)
    own = module.state_dict()
    for name in [*own, *tensors]:
        found, expected = _shape(tensors, name), _shape(own, name)
        if found != expected:
            difference = f"'{name}' is {found}, expected {expected}"
            kind = type(module).__name__
            raise ValueError(f"{path} holds another architecture than {kind}: {difference}")
    module.load_state_dict(tensors)
    return meta


class Checkpoint:
    """The state of something unfinished: tensors and a ``meta`` in one atomic file."""

    def __init__(self, path: PathLike):
        self.path = _weights(path)

    def load(self) -> tuple[dict[str, Tensor], dict] | None:
        """The tensors (on the CPU) and the ``meta`` that were saved last; None if nothing was.

        Raises:
            ValueError: a damaged file, in one line.
        """
        if not self.path.is_file():
            return None
        try:
            with safetensors.safe_open(self.path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
                noted = file.metadata()
            if noted["sha256"] != _sha256(tensors, noted["meta"]):
                raise ValueError("its sha256 is that of another content")
            return tensors, json.loads(noted["meta"])
        except (safetensors.SafetensorError, TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{self.path} is damaged ({error}); delete it to start over") from None

    def save(self, tensors: Mapping[str, Tensor], meta: Mapping) -> None:
        """Replace what was saved before. Raises as :func:`write` does."""
        contiguous, text = _contiguous(tensors), json.dumps(meta, default=files._plain)
        noted = {"meta": text, "sha256": _sha256(contiguous, text)}
        write(self.path, safetensors.torch.save(contiguous, noted))

    def clear(self) -> None:
        """Remove the file: what was unfinished is finished."""
        self.path.unlink(missing_ok=True)


def _weights(path: PathLike) -> Path:
    path = Path(path)
    if path.suffix != ".safetensors":
        remedy = f"did you mean '{path.stem}.safetensors'?"
        raise ValueError(f"weights are kept as .safetensors, got '{path.name}'; {remedy}")
    return path


def _described(path: PathLike) -> dict:
    """The content of the JSON beside the weights."""
    return files._read_sealed(Path(path).with_suffix(".json"), meta=dict, sha256=str)


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, because safetensors refuses tensors that share memory."""
    layout = torch.contiguous_format
    return {key: value.detach().cpu().clone(memory_format=layout) for key, value in tensors.items()}


def _halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    halved = dict(tensors)
    for name, tensor in tensors.items():
        if tensor.ndim > 1 and tensor.is_floating_point() and tensor.half().isfinite().all():
            halved[name] = tensor.half()
    return halved


def _shape(tensors: Mapping[str, Tensor], name: str) -> str:
    return f"of shape {tuple(tensors[name].shape)}" if name in tensors else "absent"


def _sha256(tensors: Mapping[str, Tensor], meta: str) -> str:
    """A checksum of a checkpoint's content, because a file cannot hold its own."""
    summed = hashlib.sha256(meta.encode())
    for name, tensor in sorted(tensors.items()):
        summed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        summed.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return summed.hexdigest()
