"""Whether a run's folder holds what it says: checksums, and some numbers computed again.

Nothing is trained, nothing downloaded, and nothing in the folder written. The numbers come from the
stored models, which must be those that the notebooks' parameters ask for.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from fpnlib.families import DIGITS, FACES, FLOW_NAMES, SHAPES, Family, Run, Study
from fpnlib.families.classification import plugin_accuracies
from fpnlib.metrics.editing import accuracy_per_attribute
from fpnlib.metrics.images import right_class_rate
from fpnlib.runs import places
from fpnlib.runs.tables import gathered
from fpnlib.store import Manifest, Results, library_digest

TOLERANCE = 0.002
"""Largest difference between a recorded accuracy and the one computed again: 20 of 10,000 images.
On another machine latents differ in their last bits; on the same machine nothing differs."""


FAMILIES: dict[str, Family] = {"dataset": DIGITS, "cloud_dataset": SHAPES, "face_dataset": FACES}
"""The family of each notebook parameter that names a dataset."""


@dataclass(frozen=True)
class _Check:
    """A number that can be computed again from stored models.

    Args:
        notebook: the notebook that recorded it.
        quantity: the name under which it is recorded.
        dataset: the notebook's parameter that names the dataset.
        compute: computes it in a study that neither trains nor writes.
        tolerance: largest difference that holds.
    """

    notebook: str
    quantity: str
    dataset: str
    compute: Callable[[Study], float]
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
    manifest, wrong, points = Manifest(folder), [], {}
    try:
        if not manifest.path.is_file():
            raise FileNotFoundError(f"{manifest.path} is missing; a run's folder has one")
        noted, wrong = manifest.read(), manifest.changed()
        try:
            points = manifest.runs()
        except ValueError as error:
            wrong.append(str(error))
        _say_files(manifest, noted, wrong, say)
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
        run = folder / "runs" / name
        found = verify(run, data_dir, numbers=numbers, say=lambda line: say(f"  {line}"))
        wrong += [f"{name}: {line}" for line in found]
    return wrong


def _say_files(
    manifest: Manifest, noted: Mapping, wrong: list[str], say: Callable[[str], None]
) -> None:
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
    wrong, failed = [], noted.get("failed", {})
    try:
        tables = gathered(folder, points, failed, list(noted["notebooks"]))
        for name, table in tables.items():
            again = pd.read_csv(io.StringIO(table.to_csv(index=False)))
            try:  # another version of pandas may add in another order
                kept = pd.read_csv(folder / name)
                pd.testing.assert_frame_equal(kept, again, rtol=1e-9, atol=1e-12)
            except (AssertionError, ValueError):
                wrong.append(f"{name} is not what the runs' results give")
    except (ValueError, OSError) as error:
        return [*wrong, str(error)]
    say(f"{len(tables)} tables gathered again from {len(points) - len(failed)} runs")
    return wrong


def _changed_numbers(
    folder: Path, entries: Mapping, data_dir: str, say: Callable[[str], None]
) -> list[str]:
    """Which of ``CHECKS`` give another number than the run recorded."""
    wrong, computed = [], 0
    study_of = cache(partial(_study, folder, entries, data_dir))
    for check in CHECKS:
        try:
            value = _recorded(folder, check) if check.notebook in entries else None
            if value is None:
                continue
            with redirect_stdout(io.StringIO()):
                again = check.compute(study_of(check.notebook, check.dataset))
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
    for record in Results.read(path) if path.is_file() else ():
        if record["quantity"] == check.quantity:
            return record["value"]
    return None


def _study(folder: Path, entries: Mapping, data_dir: str, notebook: str, dataset: str) -> Study:
    """A study of the run with the notebook's own parameters, which neither trains nor writes.

    Raises FileNotFoundError if the data is missing or is not that of the run.
    """
    given: dict[str, Any] = {}
    parameters = entries[notebook]["parameters"]
    for name in {"profile", "override", "seed"} & parameters.keys():
        given[name] = parameters[name]
    run = Run(notebook, out=folder.resolve(), data_dir=data_dir, read_only=True, **given)
    study = Study(run, FAMILIES[dataset], places.found(parameters[dataset]))
    name, checksum = study.data.name, study.data.checksum
    if entries[notebook].get("data", {}).get(name, checksum) != checksum:
        raise FileNotFoundError(f"{name} is not the data of the run: its checksum differs")
    return study


def _accuracy(study: Study, base: str, flow: str, features: str, prior: str = "flat") -> float:
    plugin, test = study.plugin(base, flow), study.latents(base).test
    return plugin_accuracies(plugin, test, features, prior)[0]


def _judge_accuracy(study: Study, points: int | None = None) -> float:
    test = study.data.test
    return right_class_rate(study.judge(), test.x[:, :points], test.y)


def _judge_attributes(study: Study) -> float:
    test = study.data.test
    return float(accuracy_per_attribute(study.judge(), test.x, test.y).mean())


def _reconstruction(study: Study, base: str) -> float:
    rebuilt = study.decode(base, study.latents(base).test.mean).cpu()
    return nn.functional.mse_loss(rebuilt, study.data.test.x).item()


def _checks() -> Iterator[_Check]:
    classification, judged = "08_classification", "judge, test accuracy"
    for (flow, name), features in product(FLOW_NAMES.items(), ("draw", "mean")):
        quantity = f"Table 1, FPN ({name}), {features}s, test accuracy"
        compute = partial(_accuracy, base="ConvVAE", flow=flow, features=features)
        yield _Check(classification, quantity, "dataset", compute)
    yield _Check("04_conditional_generation", judged, "dataset", _judge_accuracy)
    for base in ("ConvVAE", "ConvAE"):
        quantity = f"reconstruction, mean squared error, {base}"
        compute = partial(_reconstruction, base=base)
        yield _Check("02_base_models", quantity, "dataset", compute, tolerance=1e-5)
    for (flow, name), prior in product(FLOW_NAMES.items(), ("flat", "train")):
        quantity = f"Table 2, FPN ({name}), {prior} prior, test accuracy"
        compute = partial(_accuracy, base="PointFlow", flow=flow, features="mean", prior=prior)
        yield _Check(classification, quantity, "cloud_dataset", compute)
    of_clouds = partial(_judge_accuracy, points=1024)
    yield _Check("06_point_clouds", judged, "cloud_dataset", of_clouds)
    faces = f"{judged}, mean over attributes"
    yield _Check("07_attribute_editing", faces, "face_dataset", _judge_attributes)


CHECKS = list(_checks())
