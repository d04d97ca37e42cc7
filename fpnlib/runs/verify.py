"""Does a run's folder hold what it says? Checksums of its files, and a sample of its numbers computed again.

Nothing is trained, nothing downloaded, and nothing in the folder written: the numbers come from the stored models, which
must be those that the notebooks' parameters ask for.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
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
"""Between an accuracy that is recorded and the same computed again: twenty of MNIST's 10,000 test images on another
machine, where latents differ in their last bits; on the machine that made them they are the same."""


class _ReadOnly(Manifest):
    def note(self, section: str, values: Mapping) -> None:
        """Nothing: what is verified is not changed."""


class _Silent(Uses):
    def _append(self, note: dict[str, str]) -> None:
        """Nothing: what is verified is not changed."""


class Kept(Run):
    """A run whose models are only loaded, and whose folder is only read."""

    downloads = False

    def __init__(self, notebook: str, **parameters: Any):
        super().__init__(notebook, **parameters)
        self.manifest, self.uses = _ReadOnly(self.folder), _Silent(self.folder, notebook)

    def _module(
        self, name: str, module: nn.Module, key: dict, digest: str, make: Callable
    ) -> nn.Module:
        """The stored model. Raises FileNotFoundError where there is none, ValueError where it was made with another key."""
        if not self._path(name).is_file():
            raise FileNotFoundError(f"no model '{name}' is stored")
        if not self._load(name, module, digest):
            raise ValueError(
                f"the model '{name}' was not made with the run's own parameters and data"
            )
        return module

    def _tensors(
        self, name: str, digest: str, make: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        return self._kept_tensors(name, digest) or make()


@dataclass(frozen=True)
class Check:
    """A number that can be computed again from stored models: in which notebook, under what name, and how."""

    notebook: str
    quantity: str
    compute: Callable[[Run], float]
    tolerance: float = TOLERANCE


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
        parts = test.split(1000)
        return sum(
            nn.functional.mse_loss(model.decode(model.encode(x)), x).item() * len(x) for x in parts
        ) / len(test)

    return compute


def _shapes_accuracy(flow: str, prior: str) -> Callable[[Run], float]:
    def compute(run: Run) -> float:
        shapes = run.on(run.setting("cloud_dataset"))
        test = point_clouds.latents(shapes)["test"]
        return float(
            (point_clouds.flow_plugin(shapes, flow).predict(test.mean, prior) == test.y)
            .float()
            .mean()
        )

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
        Check(
            "08_classification",
            f"Table 1, FPN ({name}), {features}s, test accuracy",
            _accuracy(flow, features),
        )
        for flow, name in FLOW_NAMES.items()
        for features in ("draw", "mean")
    ),
    Check("04_conditional_generation", "judge, test accuracy", _judge_accuracy),
    *(
        Check(
            "02_base_models",
            f"reconstruction, mean squared error, {base}",
            _reconstruction(base),
            tolerance=1e-5,
        )
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
    Check(
        "07_attribute_editing", "judge, test accuracy, mean over attributes", _faces_judge_accuracy
    ),
]


def verify(
    folder: Path, data_dir: str = "", *, numbers: bool = True, say: Callable[[str], None] = print
) -> list[str]:
    """What does not hold in the folder of a run, or of a sweep with its runs, one line each; empty where all does.

    What can't be checked, for its data or its models are not there, is said and is no fault; that a folder has no manifest, or
    a damaged one, is.

    Args:
        folder: the run's.
        data_dir: folder of the datasets; empty: $FPN_DATA, else ``data`` in the project.
        numbers: compute ``CHECKS`` again, as far as the run has recorded them, and a sweep's means; else only the checksums.
        say: takes a line about each check as it is done.
    """
    try:
        return _verify(folder, data_dir, numbers, say)
    except (ValueError, OSError) as error:
        return [str(error)]


def _verify(folder: Path, data_dir: str, numbers: bool, say: Callable[[str], None]) -> list[str]:
    """As :func:`verify`, but a folder that has no manifest, or a damaged one, is an error."""
    manifest = Manifest(folder)
    if not manifest.path.is_file():
        raise FileNotFoundError(f"{manifest.path} is missing; a run's folder has one")
    noted, wrong = manifest.read(), manifest.changed()
    try:
        points = manifest.runs()
    except ValueError as error:
        points, wrong = {}, [*wrong, str(error)]
    say(f"{len(noted.get('files', {}))} files, {len(wrong)} not as the manifest has them")
    if unlisted := manifest.unlisted():
        say(f"{len(unlisted)} more that it does not have: {', '.join(unlisted)}")
    entries = noted.get("notebooks", {})
    others = [
        name
        for name, entry in entries.items()
        if entry.get("library", library_digest()) != library_digest()
    ]
    if others:
        say(f"made by another version of the library: {', '.join(others)}")
    if numbers:
        # Of files that are not the run's, no number can be.
        again = {} if wrong else entries
        wrong += _changed_means(folder, points, noted, say) if points and again else []
        wrong += _changed_numbers(folder, again, data_dir, say)
    for name in points:
        if name in noted.get("failed", {}):
            say(f"{name}: failed when the sweep was made")
            continue
        say(f"{name}:")
        found = verify(
            folder / "runs" / name, data_dir, numbers=numbers, say=lambda line: say(f"  {line}")
        )
        wrong += [f"{name}: {line}" for line in found]
    return wrong


def _changed_means(
    folder: Path, points: Mapping, noted: Mapping, say: Callable[[str], None]
) -> list[str]:
    """Which of a sweep's tables are not what its runs' results give."""
    done = {name: point for name, point in points.items() if name not in noted.get("failed", {})}
    wrong = []
    try:
        tables = gathered(folder, done, varied(points), list(noted["notebooks"]))
        for name, table in tables.items():
            again = pd.read_csv(io.StringIO(table.to_csv(index=False)))
            try:  # another version of pandas may add in another order
                pd.testing.assert_frame_equal(
                    pd.read_csv(folder / name), again, rtol=1e-9, atol=1e-12
                )
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
        results, entry = folder / "results" / f"{check.notebook}.json", entries.get(check.notebook)
        try:
            records = Results.read(results) if entry and results.is_file() else []
            recorded = {record["quantity"]: record["value"] for record in records}
            if check.quantity not in recorded:
                continue
            with redirect_stdout(io.StringIO()):
                if check.notebook not in runs:
                    given = entry["parameters"].items()
                    parameters = {
                        key: places.found(value) if isinstance(value, str) else value
                        for key, value in given
                    }
                    here = {"out": str(folder.resolve()), "data_dir": data_dir}
                    runs[check.notebook] = Kept(check.notebook, **parameters | here)
                again = check.compute(runs[check.notebook])
        except FileNotFoundError as error:
            say(f"{check.quantity}: not computed: {error}")
            continue
        except ValueError as error:
            wrong.append(f"{check.quantity}: {error}")
            continue
        computed += 1
        value = recorded[check.quantity]
        say(
            line
            := f"{check.quantity}: {value:.6g} recorded, {again:.6g} computed (± {check.tolerance:g})"
        )
        if not abs(again - value) <= check.tolerance:
            wrong.append(line)
    say(f"{computed} number{'' if computed == 1 else 's'} computed again")
    return wrong
