"""What the repository keeps trained: a run with the same settings and data takes it from there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from fpnlib import artifacts
from fpnlib.artifacts import PROJECT
from fpnlib.experiments.run import Run
from fpnlib.training import History

FOLDER = PROJECT / "outputs" / "pretrained"


def load_or_make(
    run: Run, name: str, module: nn.Module, key: dict, make: Callable[[Any], History]
) -> tuple[nn.Module, str]:
    """``module`` with the pretrained weights where they were made with the same key; else as :meth:`Run.load_or_make`."""
    path, digest = FOLDER / f"{run.data.name}_{name}.safetensors", artifacts.digest(key)
    described = path.with_suffix(".json")
    if not described.exists() or artifacts.read_json(described)["meta"]["key"] != digest:
        return run.load_or_make(name, module, key, make)
    module.history_ = History(**artifacts.load_module(path, module.to(run.device))["history"])
    print(f"{name}: loaded, pretrained")
    return module.eval(), digest
