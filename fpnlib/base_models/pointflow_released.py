"""PointFlow's released checkpoints, read as they are: their names become ours, their widths are taken from their shapes."""

from __future__ import annotations

import re
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from torch import Tensor

from fpnlib.base_models.pointflow import PointFlow

STATISTICS = ("train_set_mean.npy", "train_set_std.npy")
# The original's names, without DataParallel's "module.", and ours.
HEADS = (("", "mean"), ("_m", "mean"), ("_v", "log_variance"))
IN_ENCODER = (
    {f"conv{k + 1}": f"points.{3 * k}" for k in range(4)}
    | {f"bn{k + 1}": f"points.{3 * k + 1}" for k in range(4)}
    | {f"fc{k + 1}{suffix}": f"{head}.{3 * k}" for k in range(3) for suffix, head in HEADS}
    | {f"fc_bn{k + 1}{suffix}": f"{head}.{3 * k + 1}" for k in range(2) for suffix, head in HEADS}
)
IN_LAYER = {"_layer": "linear", "_hyper_gate": "gate", "_hyper_bias": "bias"}
LEFT_OUT = re.compile(
    r"latent_cnf\.|.*\._num_evals$"
)  # the generative models' prior, whose place a plugin takes; a counter


def load_released(
    path: str | Path,
    mean: Tensor | np.ndarray | None = None,
    std: float | np.ndarray | None = None,
    **settings,
) -> PointFlow:
    """The PointFlow in one of its authors' checkpoints, in eval mode on the CPU.

    Args:
        path: a state dict, or {'epoch', 'model', 'optimizer'}; with or without DataParallel's ``.module.`` in its names.
        mean, std: of the training set, per axis (3,) and one for all; None: ``train_set_mean.npy`` and
            ``train_set_std.npy`` beside the checkpoint.
        settings: of :class:`PointFlow` that no checkpoint holds: points, method, tolerance, steps.

    Raises:
        FileNotFoundError: no checkpoint there, or no statistics beside it.
        ValueError: a damaged file, or no PointFlow of these widths: the first name that does not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError, ValueError, KeyError, OSError):
        raise ValueError(f"{path} is damaged or no checkpoint of tensors alone") from None
    state = state.get("model", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(
        isinstance(tensor, Tensor) for tensor in state.values()
    ):
        raise ValueError(f"{path} holds no state dict")
    ours = {}
    for name, tensor in state.items():
        plain = re.sub(r"(^|\.)module\.", r"\1", name)
        if not LEFT_OUT.match(plain):
            ours[_renamed(plain, path)] = (
                tensor.squeeze(-1) if ".conv" in plain and tensor.ndim == 3 else tensor
            )
    model = PointFlow(**_widths(ours, path), **settings)
    ours["mean_"], ours["std_"] = _statistics(path, mean, std)
    expected = model.state_dict()
    for name in sorted(expected.keys() | ours.keys()):
        if name not in expected or name not in ours:
            raise ValueError(
                f"{path} is no PointFlow of this kind: {name} is {'missing' if name in expected else 'unknown'}"
            )
        if expected[name].shape != ours[name].shape:
            shapes = tuple(ours[name].shape), tuple(expected[name].shape)
            raise ValueError(
                f"{path} has other widths: {name} is {shapes[0]}, expected {shapes[1]}"
            )
    model.load_state_dict(ours)
    return model.eval()


def _renamed(name: str, path: Path) -> str:
    if match := re.fullmatch(r"encoder\.(\w+)\.(\w+)", name):
        layer, rest = match.groups()
        if layer in IN_ENCODER:
            return f"encoder.{IN_ENCODER[layer]}.{rest}"
    elif match := re.fullmatch(r"point_cnf\.chain\.(\d+)\.(.+)", name):
        place, rest = int(match[1]), match[2]
        if place % 2 == 0:  # norms and fields take turns
            return f"decoder.norms.{place // 2}.{rest}"
        if rest == "sqrt_end_time":
            return f"decoder.fields.{place // 2}.{rest}"
        if match := re.fullmatch(r"odefunc\.diffeq\.layers\.(\d+)\.(\w+)\.(\w+)", rest):
            depth, part, kind = match.groups()
            if part in IN_LAYER:
                return f"decoder.fields.{place // 2}.layers.{depth}.{IN_LAYER[part]}.{kind}"
    raise ValueError(f"{path} is no PointFlow checkpoint: it holds '{name}'")


def _widths(state: dict[str, Tensor], path: Path) -> dict:
    """The model's arguments, read off the shapes."""
    try:
        latent_dim = len(state["encoder.mean.6.bias"])
        encoder_widths = [len(state[f"encoder.points.{3 * k}.bias"]) for k in range(4)]
        depths = [
            int(name.split(".")[4]) for name in state if name.startswith("decoder.fields.0.layers.")
        ]
        hidden = [
            len(state[f"decoder.fields.0.layers.{k}.linear.bias"]) for k in range(max(depths))
        ]
        state["decoder.norms.0.running_mean"]
    except (KeyError, ValueError) as error:
        missing = str(error).strip("'") if isinstance(error, KeyError) else "decoder.fields.0"
        raise ValueError(
            f"{path} is no PointFlow with a latent and moving batch norms: {missing} is missing"
        ) from None
    num_blocks = sum(name.endswith("sqrt_end_time") for name in state)
    stochastic = "encoder.log_variance.6.bias" in state
    return dict(
        latent_dim=latent_dim,
        hidden=hidden,
        encoder_widths=encoder_widths,
        num_blocks=num_blocks,
        stochastic=stochastic,
    )


def _statistics(path: Path, mean, std) -> tuple[Tensor, Tensor]:
    values = []
    for given, name, size in zip((mean, std), STATISTICS, (3, 1)):
        if given is None:
            if not (path.parent / name).is_file():
                raise FileNotFoundError(
                    f"{name} is not beside {path}; without it points have no units (or pass mean and std)"
                )
            try:
                given = np.load(path.parent / name, allow_pickle=False)
            except (ValueError, EOFError, OSError):
                raise ValueError(
                    f"{path.parent / name} is damaged or no array; copy it again"
                ) from None
        value = torch.as_tensor(given).float().reshape(-1)
        if len(value) != size or not torch.isfinite(value).all() or (size == 1 and value <= 0):
            raise ValueError(
                f"{name} must hold {size} finite number{'s' * (size > 1)}, got {value.tolist()}"
            )
        values.append(value)
    return tuple(values)
