"""Readers of the originals' checkpoints: their names become ours, their shapes tell the widths.

Nothing in a checkpoint is executed: a file that holds more than tensors is refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from fpnlib.base_models.msp import MSP
from fpnlib.base_models.pointflow import PointFlow

State = dict[str, Tensor]

DAMAGED = (RuntimeError, UnpicklingError, EOFError, ValueError, KeyError, OSError, BadZipFile)
MEAN_FILE, STD_FILE = "train_set_mean.npy", "train_set_std.npy"
# PointFlow's heads: of the deterministic encoder, and of the stochastic one.
HEADS = {"": "mean", "_m": "mean", "_v": "log_variance"}
FIELD_PARTS = {"_layer": "linear", "_hyper_gate": "gate", "_hyper_bias": "bias"}
# A generative PointFlow's prior, which a plugin replaces, and a counter.
UNUSED = re.compile(r"latent_cnf\.|.*\._num_evals$")


def load_msp(path: str | Path) -> MSP:
    """The MSP in a checkpoint of its authors, such as ``MSP_CelebA.tch``, in eval mode on the CPU.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, or another architecture.
    """
    path = Path(path)
    state = _read(path)
    try:
        encoder = [state[name] for name in state if name.startswith("encoder.main")]
        depth = sum(weight.ndim == 4 for weight in encoder)
        size, features = 2 ** (depth + 1), len(state["encoder.main.0.weight"])
        decoder_features = state["decoder.main.0.weight"].shape[1] * 8 // size
        model = MSP(len(state["M"]), size, features, decoder_features)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{path} holds another architecture than MSP: {error}") from None
    return _filled(model, state, path)


def load_pointflow(
    path: str | Path,
    mean: Tensor | np.ndarray | None = None,
    std: float | Tensor | np.ndarray | None = None,
    **settings: Any,
) -> PointFlow:
    """The PointFlow in a checkpoint of its authors, in eval mode on the CPU.

    Args:
        path: a state dict, or {'epoch', 'model', 'optimizer'}, with or without DataParallel's
            ``.module.`` in its names.
        mean: of the training set, per axis (3,); None: ``train_set_mean.npy`` beside the
            checkpoint.
        std: of the training set, one for all axes; None: ``train_set_std.npy`` beside the
            checkpoint.
        settings: of :class:`PointFlow` that no checkpoint holds: points, method, tolerance, steps.

    Raises:
        FileNotFoundError: no checkpoint, or no statistics beside it.
        ValueError: a damaged file, or another architecture.
    """
    path = Path(path)
    state: State = {}
    for their_name, tensor in _read(path).items():
        name = re.sub(r"(^|\.)module\.", r"\1", their_name)
        if not UNUSED.match(name):
            pointwise = ".conv" in name and tensor.ndim == 3  # a convolution that is linear
            state[_our_name(name, path)] = tensor.squeeze(-1) if pointwise else tensor
    model = PointFlow(**_pointflow_widths(state, path), **settings)
    state["mean_"] = _statistic(path, mean, MEAN_FILE, 3)
    state["std_"] = _statistic(path, std, STD_FILE, 1)
    if state["std_"] <= 0:
        raise ValueError(f"{STD_FILE} must be above 0, got {state['std_'].item()}")
    return _filled(model, state, path)


def _read(path: Path) -> State:
    """The state dict in a checkpoint."""
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 (tensors)
    except DAMAGED:
        raise ValueError(f"{path} is damaged or no checkpoint of tensors alone") from None
    if isinstance(state, dict):
        state = state.get("model", state)
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ValueError(f"{path} holds no state dict")
    return state


def _filled(model: nn.Module, state: State, path: Path) -> Any:
    """The model with a checkpoint's weights. Raises ValueError for a name that does not fit."""
    kind, expected = type(model).__name__, model.state_dict()
    for name in sorted(expected.keys() | state.keys()):
        if name not in state or name not in expected:
            fault = "missing" if name in expected else "unknown"
            raise ValueError(f"{path} holds another architecture than {kind}: {name} is {fault}")
        ours, theirs = tuple(expected[name].shape), tuple(state[name].shape)
        if ours != theirs:
            raise ValueError(f"{path} has other widths: {name} is {theirs}, expected {ours}")
    model.load_state_dict(state)
    return model.eval()


def _encoder_names() -> dict[str, str]:
    """Layers of PointFlow's encoder: their name → ours."""
    names = {}
    for k in range(4):
        names[f"conv{k + 1}"] = f"points.{3 * k}"
        names[f"bn{k + 1}"] = f"points.{3 * k + 1}"
    for suffix, head in HEADS.items():
        for k in range(3):
            names[f"fc{k + 1}{suffix}"] = f"{head}.{3 * k}"
            names[f"fc_bn{k + 1}{suffix}"] = f"{head}.{3 * k + 1}"
    return names


ENCODER_NAMES = _encoder_names()


def _our_name(name: str, path: Path) -> str:
    """The name of one of PointFlow's tensors in our model."""
    encoder = re.fullmatch(r"encoder\.(\w+)\.(\w+)", name)
    if encoder and encoder[1] in ENCODER_NAMES:
        return f"encoder.{ENCODER_NAMES[encoder[1]]}.{encoder[2]}"
    chain = re.fullmatch(r"point_cnf\.chain\.(\d+)\.(.+)", name)
    if chain:
        block, is_field = divmod(int(chain[1]), 2)  # norms and fields take turns
        if not is_field:
            return f"decoder.norms.{block}.{chain[2]}"
        if chain[2] == "sqrt_end_time":
            return f"decoder.fields.{block}.sqrt_end_time"
        layer = re.fullmatch(r"odefunc\.diffeq\.layers\.(\d+)\.(\w+)\.(\w+)", chain[2])
        if layer and layer[2] in FIELD_PARTS:
            part = FIELD_PARTS[layer[2]]
            return f"decoder.fields.{block}.layers.{layer[1]}.{part}.{layer[3]}"
    raise ValueError(f"{path} is no PointFlow checkpoint: it holds '{name}'")


def _pointflow_widths(state: State, path: Path) -> dict[str, Any]:
    """PointFlow's arguments, read off the shapes of its tensors in our names."""
    hidden: list[int] = []
    while (bias := f"decoder.fields.0.layers.{len(hidden)}.linear.bias") in state:
        hidden.append(len(state[bias]))
    try:
        widths = {
            "latent_dim": len(state["encoder.mean.6.bias"]),
            "encoder_widths": [len(state[f"encoder.points.{3 * k}.bias"]) for k in range(4)],
            "hidden": hidden[:-1],
        }
        state["decoder.norms.0.running_mean"]
    except KeyError as error:
        missing = str(error).strip("'")
        raise ValueError(
            f"{path} is no PointFlow with a latent and moving batch norms: {missing} is missing"
        ) from None
    widths["num_blocks"] = sum(name.endswith("sqrt_end_time") for name in state)
    widths["stochastic"] = "encoder.log_variance.6.bias" in state
    return widths


def _statistic(path: Path, value: Any, name: str, size: int) -> Tensor:
    """``value``, or what the file ``name`` beside the checkpoint holds: (size,) floats."""
    if value is None:
        file = path.parent / name
        if not file.is_file():
            raise FileNotFoundError(
                f"{name} is not beside {path}; without it points have no units"
                " (or pass mean and std)"
            )
        try:
            value = np.load(file, allow_pickle=False)  # noqa: TID251 (an array)
        except (ValueError, EOFError, OSError):
            raise ValueError(f"{file} is damaged or no array; copy it again") from None
    values = torch.as_tensor(value).float().reshape(-1)
    if len(values) != size or not torch.isfinite(values).all():
        raise ValueError(f"{name} must hold {size} finite number(s), got {values.tolist()}")
    return values
