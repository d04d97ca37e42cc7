"""Readers of the originals' checkpoints: their names become ours, their shapes tell the widths.

Nothing in a checkpoint is executed: a file that holds more than tensors is refused.
"""

import re
import warnings
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
STATES = ("model", "state_dict", "model_state_dict")  # what holds the weights in a training's file
WRAPPERS = r"(^|\.)(?:module|_orig_mod)\."  # DataParallel's in names, and torch.compile's
MEAN_FILE, STD_FILE = "train_set_mean.npy", "train_set_std.npy"
# PointFlow's heads: of the deterministic encoder, and of the stochastic one.
HEADS = {None: "mean", "_m": "mean", "_v": "log_variance"}
FIELD_PARTS = {"._layer.": ".linear.", "._hyper_gate.": ".gate.", "._hyper_bias.": ".bias."}


def load_msp(path: str | Path) -> MSP:
    """The MSP in a checkpoint of its authors, such as ``MSP_CelebA.tch``, in eval mode on the CPU.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, or another architecture.
    """
    path = Path(path).expanduser()
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

    Checkpoints without moving batch norms serve too. The latent flow of a generative model is left
    out, with a warning, because a plugin takes its place.

    Args:
        path: a state dict, or one in a dict as "model" or "state_dict", e.g. {'epoch', 'model',
            'optimizer'}, with or without DataParallel's ``.module.`` in its names.
        mean: of the training set, per axis (3,); None: ``train_set_mean.npy`` beside the
            checkpoint.
        std: of the training set, one for all axes; None: ``train_set_std.npy`` beside the
            checkpoint.
        settings: of :class:`PointFlow` that no checkpoint holds: points, method, tolerance, steps.

    Raises:
        FileNotFoundError: no checkpoint, or no statistics beside it.
        ValueError: a damaged file, or another architecture.
    """
    path = Path(path).expanduser()
    theirs = _read(path)
    if any(name.startswith("latent_cnf.") for name in theirs):
        said = "its latent flow was left out, because a plugin takes its place"
        warnings.warn(f"{path}: {said}", stacklevel=2)
    normed = any(name.endswith(".running_mean") and "chain" in name for name in theirs)
    state: State = {}
    for name, tensor in theirs.items():
        if not name.startswith("latent_cnf.") and not name.endswith("._num_evals"):
            pointwise = ".conv" in name and tensor.ndim == 3  # a convolution that is linear
            state[_our_name(name, path, normed)] = tensor.squeeze(-1) if pointwise else tensor
    model = PointFlow(**_pointflow_widths(state, path), **settings)
    if not normed:
        for k, norm in enumerate(model.decoder.norms):
            norm.running_var.fill_(1 - norm.eps)  # so that it changes nothing
            state |= norm.state_dict(prefix=f"decoder.norms.{k}.")
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
    for key in STATES:
        state = state.get(key, state) if isinstance(state, dict) else None
    if state is None or not all(isinstance(t, Tensor) for t in state.values()):
        raise ValueError(f"{path} holds no state dict")
    return {re.sub(WRAPPERS, r"\1", name): tensor for name, tensor in state.items()}


def _filled(model: nn.Module, state: State, path: Path) -> Any:
    """The model with a checkpoint's weights. Raises ValueError if they do not fit."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        kind, reason = type(model).__name__, str(error).splitlines()[1].strip()
        raise ValueError(f"{path} holds another architecture than {kind}: {reason:.300}") from None
    return model.eval()


def _our_name(name: str, path: Path, normed: bool) -> str:
    """The name of one of PointFlow's tensors in our model.

    ``normed``: whether norms and fields take turns in the decoder's chain.
    """
    layer = re.fullmatch(r"encoder\.(conv|bn|fc|fc_bn)(\d)(_[mv])?\.(\w+)", name)
    if layer:
        kind, number, head, tensor = layer.groups()
        place = HEADS[head] if "fc" in kind else "points"
        return f"encoder.{place}.{3 * int(number) - 3 + kind.endswith('bn')}.{tensor}"
    link = re.fullmatch(r"point_cnf\.chain\.(\d+)\.(odefunc\.diffeq\.)?(.+)", name)
    if not link:
        raise ValueError(f"{path} is no PointFlow checkpoint: it holds '{name}'")
    tensor = link[3]
    for theirs, ours in FIELD_PARTS.items():
        tensor = tensor.replace(theirs, ours)
    kind = "fields" if link[2] or tensor == "sqrt_end_time" else "norms"
    return f"decoder.{kind}.{int(link[1]) // (1 + normed)}.{tensor}"


def _pointflow_widths(state: State, path: Path) -> dict[str, Any]:
    """PointFlow's arguments, read off the shapes of its tensors in our names."""
    hidden: list[int] = []
    while f"decoder.fields.0.layers.{len(hidden)}.linear.bias" in state:
        hidden.append(len(state[f"decoder.fields.0.layers.{len(hidden)}.linear.bias"]))
    try:
        widths = {
            "latent_dim": len(state["encoder.mean.6.bias"]),
            "encoder_widths": [len(state[f"encoder.points.{3 * k}.bias"]) for k in range(4)],
            "hidden": hidden[:-1],
        }
    except KeyError as error:
        missing = str(error).strip("'")
        raise ValueError(f"{path} is no PointFlow with a latent: {missing} is missing") from None
    widths["num_blocks"] = sum(name.endswith("sqrt_end_time") for name in state)
    widths["stochastic"] = "encoder.log_variance.6.bias" in state
    return widths


def _statistic(path: Path, value: Any, name: str, size: int) -> Tensor:
    """``value``, or what the file ``name`` beside the checkpoint holds: (size,) floats."""
    if value is None:
        file = path.parent / name
        if not file.is_file():
            raise FileNotFoundError(f"{name} is not beside {path}; copy it, or pass mean and std")
        try:
            value = np.load(file, allow_pickle=False)  # noqa: TID251 (an array)
        except (ValueError, EOFError, OSError):
            raise ValueError(f"{file} is damaged or no array; copy it again") from None
    values = torch.as_tensor(value).float().reshape(-1)
    if len(values) != size or not torch.isfinite(values).all():
        raise ValueError(f"{name} must hold {size} finite number(s), got {values.tolist()}")
    return values
