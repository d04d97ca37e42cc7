"""What the repository keeps trained: a run with the same settings and data takes it from there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import nn

from fpnlib import store
from fpnlib.experiments.run import Run, described, load
from fpnlib.store import PROJECT
from fpnlib.training import History

FOLDER = PROJECT / "outputs" / "pretrained"


def load_or_make(
    run: Run, name: str, module: nn.Module, key: dict, make: Callable[[Any], History]
) -> tuple[nn.Module, str]:
    """``module`` with the pretrained weights where they were made with the same key; else as :meth:`Run.load_or_make`."""
    path, digest = _path(run.data.name, name), store.digest(key)
    if (described(path) or {}).get("key") != digest:
        return run.load_or_make(name, module, key, make)

    def pretrained() -> nn.Module:
        load(path, module.to(run.device))
        run.uses.file(path)
        print(f"{name}: loaded, pretrained")
        return module

    return run.once((name, digest), pretrained).eval(), digest


def keep(models: Path, dataset: str, names: Iterable[str]) -> list[Path]:
    """Put the weights that a run left under its ``models`` folder into the repository; returns the files.

    Raises:
        FileNotFoundError: one of them is not there.
    """
    kept = []
    for name in names:
        tensors, meta = store.load_tensors(Path(models) / f"{name}.safetensors")
        kept.append(store.save_tensors(_path(dataset, name), tensors, meta))
    return kept


def _path(dataset: str, name: str) -> Path:
    return FOLDER / f"{dataset}_{name}.safetensors"
