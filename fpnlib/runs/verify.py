"""Whether a run's folder holds what it says: checksums, and some numbers computed again.

Nothing is trained, nothing downloaded, and nothing in the folder written. The numbers come from the
stored models, which must be those that the notebooks' parameters ask for.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from fpnlib.experiments import (
    FLOW_NAMES,
    Run,
    accuracy,
    attribute_judge,
    base_model,
    flow_plugin,
    judge,
    latents,
    point_clouds,
)
from fpnlib.metrics.editing import accuracy_per_attribute
from fpnlib.metrics.images import right_class_rate
from fpnlib.runs import places
from fpnlib.runs.tables import gathered, varied
from fpnlib.store import Manifest, Results, Uses, library_digest

TOLERANCE = 0.002
"""Largest difference between a recorded accuracy and the one computed again: 20 of 10,000 images.
On another machine latents differ in their last bits; on the same machine nothing differs."""


class _ReadOnly(Manifest):
    def note(self, section: str, values: Mapping) -> None:
        """Do nothing, because verifying changes nothing."""


class _Silent(Uses):
    def _append(self, note: dict[str, str]) -> None:
        """Do nothing, because verifying changes nothing."""


class _Kept(Run):
    """A run whose models are only loaded, and whose folder is only read."""

    downloads = False

    def __init__(self, notebook: str, **parameters: Any):
        super().__init__(notebook, **parameters)
        self.manifest, self.uses = _ReadOnly(self.folder), _Silent(self.folder, notebook)

    def _module(
        self, name: str, module: nn.Module, key: dict, digest: str, make: Callable
    ) -> nn.Module:
        """The stored model, which must have been made with this key."""
        if not self._path(name).is_file():
            raise FileNotFoundError(f"no model '{name}' is stored")
        if not self._load(name, module, digest):
            other = "was not made with the run's own parameters and data"
            raise ValueError(f"the model '{name}' {other}")
        return module

    def _tensors(
        self, name: str, digest: str, make: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        return self._kept_tensors(name, digest) or make()


@dataclass(frozen=True)
class _Check:
    """A number that can be computed again from stored models: its notebook, its name, and how."""

    notebook: str
    quantity: str
    compute: Callable[[Run], float]
    tolerance: float = TOLERANCE


def verify(
    folder: Path, data_dir: str = "", *, numbers: bool = True, say: Callable[[str], None] = print
) -> list[str]:
    """Check the folder of a run, or of a sweep with its runs.

    What cannot be checked, because its data or its models are missing, is said and is no fault. A
    folder without a manifest, or with a damaged one, is a fault.

    Args:
        folder: the run's.
        data_dir: folder of the datasets; empty: $FPN_DATA, else ``data`` in the project.
        numbers: compute ``CHECKS`` again, as far as the run has recorded them, and a sweep's means;
            else only the checksums.
        say: takes a line about each check as it is done.

    Returns:
        What does not hold, one line each.
    """
    manifest, wrong = Manifest(folder), []
    try:
        if not manifest.path.is_file():
            raise FileNotFoundError(f"{manifest.path} is missing; a run's folder has one")
        noted, wrong = manifest.read(), manifest.changed()
        points, faults = _runs(manifest)
        wrong += faults
        _say_files(manifest, wrong, say)
        if numbers:
            # Files that are not the run's give no number of the run's.
            entries = {} if wrong else noted.get("notebooks", {})
            wrong += _changed_means(folder, points, noted, say) if points and entries else []
            wrong += _changed_numbers(folder, entries, data_dir, say)
    except (ValueError, OSError) as error:
        return [str(error)]
    for name in points:
        if name in noted.get("failed", {}):
            say(f"{name}: failed when the sweep was made")
            continue
        say(f"{name}:")
        below = {"numbers": numbers, "say": lambda line: say(f"  {line}")}
        found = verify(folder / "runs" / name, data_dir, **below)
        wrong += [f"{name}: {line}" for line in found]
    return wrong


def _runs(manifest: Manifest) -> tuple[dict[str, dict], list[str]]:
    """A sweep's combinations, and what is wrong with them."""
    try:
        return manifest.runs(), []
    except ValueError as error:
        return {}, [str(error)]


def _say_files(manifest: Manifest, wrong: list[str], say: Callable[[str], None]) -> None:
    noted = manifest.read()
    say(f"{len(noted.get('files', {}))} files, {len(wrong)} not as the manifest has them")
    if unlisted := manifest.unlisted():
        say(f"{len(unlisted)} more that it does not have: {', '.join(unlisted)}")
    entries, here = noted.get("notebooks", {}).items(), library_digest()
    others = [name for name, entry in entries if entry.get("library", here) != here]
    if others:
        say(f"made by another version of the library: {', '.join(others)}")


def _changed_means(
    folder: Path, points: Mapping, noted: Mapping, say: Callable[[str], None]
) -> list[str]:
    """Which of a sweep's tables are not what the runs' results give."""
    done = {name: point for name, point in points.items() if name not in noted.get("failed", {})}
    wrong = []
    try:
        tables = gathered(folder, done, varied(points), list(noted["notebooks"]))
        for name, table in tables.items():
            again = pd.read_csv(io.StringIO(table.to_csv(index=False)))
            kept = pd.read_csv(folder / name)
            try:  # another version of pandas may add in another order
                pd.testing.assert_frame_equal(kept, again, rtol=1e-9, atol=1e-12)
            except AssertionError:
                wrong.append(f"{name} is not what the runs' results give")
    except (ValueError, OSError) as error:
        return [*wrong, str(error)]
    say(f"{len(tables)} tables gathered again from {len(done)} runs")
    return wrong


def _changed_numbers(
    folder: Path, entries: Mapping, data_dir: str, say: Callable[[str], None]
) -> list[str]:
    """Which of ``CHECKS`` give another number than the run recorded."""
    wrong, computed, runs = [], 0, {}
    for check in CHECKS:
        try:
            value = _recorded(folder, check) if check.notebook in entries else None
            if value is None:
                continue
            with redirect_stdout(io.StringIO()):
                if check.notebook not in runs:
                    parameters = entries[check.notebook]["parameters"]
                    runs[check.notebook] = _kept(folder, check.notebook, parameters, data_dir)
                again = check.compute(runs[check.notebook])
        except FileNotFoundError as error:
            say(f"{check.quantity}: not computed: {error}")
            continue
        except ValueError as error:
            wrong.append(f"{check.quantity}: {error}")
            continue
        computed += 1
        line = f"{value:.6g} recorded, {again:.6g} computed (± {check.tolerance:g})"
        say(f"{check.quantity}: {line}")
        if not abs(again - value) <= check.tolerance:
            wrong.append(f"{check.quantity}: {line}")
    say(f"{computed} number{'' if computed == 1 else 's'} computed again")
    return wrong


def _recorded(folder: Path, check: _Check) -> float | None:
    path = folder / "results" / f"{check.notebook}.json"
    records = Results.read(path) if path.is_file() else []
    values = {record["quantity"]: record["value"] for record in records}
    return values.get(check.quantity)


def _kept(folder: Path, notebook: str, parameters: Mapping, data_dir: str) -> _Kept:
    """A notebook's part of the run, with its own parameters but here."""
    given = dict(parameters) | {"out": str(folder.resolve()), "data_dir": data_dir}
    for key, value in given.items():
        given[key] = places.found(value) if isinstance(value, str) else value
    return _Kept(notebook, **given)


def _accuracy(flow: str, features: str) -> Callable[[Run], float]:
    def compute(run: Run) -> float:
        test = latents(run, base_model(run, "ConvVAE"))["test"]
        return accuracy(flow_plugin(run, "ConvVAE", flow), test, features)

    return compute


def _judge_accuracy(run: Run) -> float:
    return right_class_rate(judge(run), run.data.test.x, run.data.test.y)


def _reconstruction(base: str) -> Callable[[Run], float]:
    @torch.no_grad()
    def compute(run: Run) -> float:
        model, test = base_model(run, base), run.data.test.x.to(run.device)
        error = 0.0
        for x in test.split(1000):
            error += nn.functional.mse_loss(model.decode(model.encode(x)), x).item() * len(x)
        return error / len(test)

    return compute


def _shapes_accuracy(flow: str, prior: str) -> Callable[[Run], float]:
    def compute(run: Run) -> float:
        shapes = run.on(run.setting("cloud_dataset"))
        test = point_clouds.latents(shapes)["test"]
        predicted = point_clouds.flow_plugin(shapes, flow).predict(test.mean, prior)
        return (predicted == test.y).float().mean().item()

    return compute


def _shapes_judge_accuracy(run: Run) -> float:
    shapes = run.on(run.setting("cloud_dataset"))
    test = shapes.data.test
    return right_class_rate(point_clouds.judge(shapes), test.x[:, :1024], test.y)


def _faces_judge_accuracy(run: Run) -> float:
    faces = run.on(run.setting("faces"))
    test = faces.data.test
    return float(accuracy_per_attribute(attribute_judge(faces), test.x, test.y).mean())


def _checks() -> Iterator[_Check]:
    classification, judged = "08_classification", "judge, test accuracy"
    for flow, name in FLOW_NAMES.items():
        for features in ("draw", "mean"):
            quantity = f"Table 1, FPN ({name}), {features}s, test accuracy"
            yield _Check(classification, quantity, _accuracy(flow, features))
    yield _Check("04_conditional_generation", judged, _judge_accuracy)
    for base in ("ConvVAE", "ConvAE"):
        quantity = f"reconstruction, mean squared error, {base}"
        yield _Check("02_base_models", quantity, _reconstruction(base), tolerance=1e-5)
    for flow, name in FLOW_NAMES.items():
        for prior in ("flat", "train"):
            quantity = f"Table 2, FPN ({name}), {prior} prior, test accuracy"
            yield _Check(classification, quantity, _shapes_accuracy(flow, prior))
    yield _Check("06_point_clouds", judged, _shapes_judge_accuracy)
    faces = f"{judged}, mean over attributes"
    yield _Check("07_attribute_editing", faces, _faces_judge_accuracy)


CHECKS = list(_checks())
