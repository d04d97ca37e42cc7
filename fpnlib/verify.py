"""Does a run's folder hold what it says? Checksums of its files, and a sample of its numbers computed again.

Nothing is trained, and nothing in the folder is written: the numbers come from the stored models, which must be those
that the notebooks' parameters ask for.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fpnlib.artifacts import Manifest, digest, inside, read_json, sha256
from fpnlib.experiments import (
    FLOW_NAMES,
    Run,
    attribute_judge,
    base_model,
    flow_plugin,
    judge,
    latents,
    point_clouds,
    score_plugin,
)
from fpnlib.metrics.editing import accuracy_per_attribute
from fpnlib.metrics.images import right_class_rate

TOLERANCE = 0.002
"""Between an accuracy that is recorded and the same computed again: twenty of MNIST's 10,000 test images on another
machine, where latents differ in their last bits; on the machine that made them they are the same."""


class _ReadOnly(Manifest):
    def note(self, section: str, values: Mapping) -> None:
        """Nothing: what is verified is not changed."""


class Kept(Run):
    """A run whose models are only loaded, and whose folder is only read."""

    def __init__(self, notebook: str, **parameters: Any):
        with redirect_stdout(io.StringIO()):
            super().__init__(notebook, **parameters)
        self.manifest = _ReadOnly(self.folder)

    def load_or_make(self, name: str, module: nn.Module, key: dict, make: Callable) -> tuple[nn.Module, str]:
        """The stored model. Raises ValueError where there is none for this key; damaged ones as ``artifacts`` does."""
        with redirect_stdout(io.StringIO()):
            if not self._load(name, module.to(self.device), digest(key)):
                raise ValueError(f"no model '{name}' is stored that was made with the run's own parameters and data")
        return module.eval(), digest(key)


@dataclass(frozen=True)
class Check:
    """A number that can be computed again from stored models: in which notebook, under what name, and how."""

    notebook: str
    quantity: str
    compute: Callable[[Run], float]
    tolerance: float = TOLERANCE


def _accuracy(flow: str, features: str) -> Callable[[Run], float]:
    def compute(run: Run) -> float:
        sets = latents(run, base_model(run, "ConvVAE"))
        return score_plugin(flow_plugin(run, "ConvVAE", flow), sets, features)[1]

    return compute


def _judge_accuracy(run: Run) -> float:
    return right_class_rate(judge(run), run.data.test.x, run.data.test.y)


def _reconstruction(base: str) -> Callable[[Run], float]:
    @torch.no_grad()
    def compute(run: Run) -> float:
        model, test = base_model(run, base), run.data.test.x.to(run.device)
        parts = test.split(1000)
        return sum(nn.functional.mse_loss(model.decode(model.encode(x)), x).item() * len(x) for x in parts) / len(test)

    return compute


def _shapes_accuracy(flow: str, prior: str) -> Callable[[Run], float]:
    def compute(run: Run) -> float:
        shapes = run.on(run.setting("cloud_dataset"))
        test = point_clouds.latents(shapes)["test"]
        return float((point_clouds.flow_plugin(shapes, flow).predict(test.mean, prior) == test.y).float().mean())

    return compute


def _shapes_judge_accuracy(run: Run) -> float:
    shapes = run.on(run.setting("cloud_dataset"))
    test = shapes.data.test
    return right_class_rate(point_clouds.judge(shapes), test.x[:, :1024], test.y)


def _faces_judge_accuracy(run: Run) -> float:
    faces = run.on(run.setting("faces"))
    test = faces.data.test
    return float(accuracy_per_attribute(attribute_judge(faces), test.x, test.y).mean())


CHECKS = [
    *(
        Check("08_classification", f"Table 1, FPN ({name}), {features}s, test accuracy", _accuracy(flow, features))
        for flow, name in FLOW_NAMES.items()
        for features in ("draw", "mean")
    ),
    Check("04_conditional_generation", "judge, test accuracy", _judge_accuracy),
    *(
        Check("02_base_models", f"reconstruction, mean squared error, {base}", _reconstruction(base), tolerance=1e-5)
        for base in ("ConvVAE", "ConvAE")
    ),
    *(
        Check(
            "08_classification",
            f"Table 2, FPN ({name}), {prior} prior, test accuracy",
            _shapes_accuracy(flow, prior),
        )
        for flow, name in FLOW_NAMES.items()
        for prior in ("flat", "train")
    ),
    Check("06_point_clouds", "judge, test accuracy", _shapes_judge_accuracy),
    Check("07_attribute_editing", "judge, test accuracy, mean over attributes", _faces_judge_accuracy),
]


def verify(folder: Path, data_dir: str = "", *, numbers: bool = True, say: Callable[[str], None] = print) -> list[str]:
    """What does not hold in a run's folder, one line each; empty where all does.

    Args:
        folder: the run's.
        data_dir: folder of the datasets; empty: $FPN_DATA, else ``data`` in the project.
        numbers: compute ``CHECKS`` again, as far as the run has recorded them; else only the checksums.
        say: takes a line about each check as it is done.

    Raises:
        FileNotFoundError: no manifest in the folder, or data that is not there.
        ValueError: a damaged manifest or result; a name in the manifest that leads out of the folder.
    """
    wrong = changed_files(folder)
    manifest = Manifest(folder).read()
    notebooks = manifest.get("notebooks", {})  # a sweep has none: its runs have
    say(f"{len(manifest.get('files', {}))} files, {len(wrong)} not as the manifest has them")
    if wrong or not numbers:  # of files that are not the run's, no number can be
        return wrong
    for check in CHECKS:
        results, entry = folder / "results" / f"{check.notebook}.json", notebooks.get(check.notebook)
        recorded = {row["quantity"]: row["value"] for row in read_json(results)} if entry and results.is_file() else {}
        if check.quantity not in recorded:
            continue
        places = {"out": str(folder.resolve()), "data_dir": data_dir or entry["parameters"].get("data_dir", "")}
        try:
            again = check.compute(Kept(check.notebook, **entry["parameters"] | places))
        except ValueError as error:
            wrong.append(f"{check.quantity}: {error}")
            continue
        line = (
            f"{check.quantity}: {recorded[check.quantity]:.6g} recorded, {again:.6g} computed (± {check.tolerance:g})"
        )
        say(line)
        if not abs(again - recorded[check.quantity]) <= check.tolerance:
            wrong.append(line)
    return wrong


def changed_files(folder: Path) -> list[str]:
    """What is not as the manifest has it, one line a file; empty where all is.

    Raises:
        FileNotFoundError: no manifest in the folder.
        ValueError: a damaged manifest, or a name in it that leads out of the folder.
    """
    manifest = Manifest(folder)
    if not manifest.path.is_file():
        raise FileNotFoundError(f"{manifest.path} is missing; a run's folder has one")
    wrong = []
    for name, checksum in manifest.read().get("files", {}).items():
        path = inside(folder, name)
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif sha256(path) != checksum:
            wrong.append(f"{name} is not the file that the run made: its sha256 differs from the manifest's")
    return wrong
