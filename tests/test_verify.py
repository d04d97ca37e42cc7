"""What is checked in a run's folder, what is computed again, and that checking changes nothing."""

import shutil

import pytest
from torch import nn

from fpnlib import artifacts, verify
from fpnlib.__main__ import main
from fpnlib.artifacts import Manifest
from fpnlib.experiments import Run, base_model

PARAMETERS = dict(out="outputs/elsewhere", dataset="digits", data_dir="", seed=0, base_epochs=1, ae_epochs=1)
QUANTITY = "reconstruction, mean squared error, ConvAE"
MODEL = "models/ConvAE.safetensors"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with one model and one number."""
    folder = tmp_path_factory.mktemp("run")
    steps = Run("02_base_models", **PARAMETERS | {"out": str(folder)})
    model, x = base_model(steps, "ConvAE"), steps.data.test.x.to(steps.device)
    steps.record(QUANTITY, nn.functional.mse_loss(model.decode(model.encode(x)), x).item())
    steps.record("another", 1.0)
    steps.manifest.note("notebooks", {"02_base_models": {"parameters": PARAMETERS}})
    steps.manifest.note_files()
    return folder


@pytest.fixture
def folder(run, tmp_path):
    """A copy of it, to be changed at will."""
    return shutil.copytree(run, tmp_path / "run")


def record(folder, value):
    """Put another value in the number's place, and let the manifest vouch for it."""
    path = folder / "results" / "02_base_models.json"
    rows = artifacts.read_json(path)
    artifacts.write_json(path, [row | {"value": value} if row["quantity"] == QUANTITY else row for row in rows])
    Manifest(folder).note_files()


def test_a_run_that_holds_is_computed_again_and_left_as_it_was(folder):
    before, said = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}, []
    assert verify.verify(folder, say=said.append) == []
    assert said[0] == "3 files, 0 not as the manifest has them"
    assert len(said) == 2 and said[1].startswith(f"{QUANTITY}: ")
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_number_that_the_model_does_not_give_is_named(folder, capsys):
    record(folder, 0.5)
    assert main(["verify", str(folder)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"does not hold: {folder}: {QUANTITY}: 0.5 recorded, 0.") and error.count("\n") == 1
    assert main(["verify", str(folder), "--files-only"]) == 0


def test_a_number_within_its_tolerance_holds(folder):
    (check,) = [check for check in verify.CHECKS if check.quantity == QUANTITY]
    value = artifacts.read_json(folder / "results" / "02_base_models.json")[0]["value"]
    record(folder, value + 0.9 * check.tolerance)
    assert verify.verify(folder) == []
    record(folder, value + 1.1 * check.tolerance)
    assert len(verify.verify(folder)) == 1


def test_a_file_that_is_another_or_missing_is_named_and_nothing_is_computed(folder):
    (folder / MODEL).write_bytes(b"other")
    (folder / "results" / "02_base_models.json").unlink()
    said = []
    assert verify.verify(folder, say=said.append) == [
        "results/02_base_models.json is missing",
        f"{MODEL} is not the file that the run made: its sha256 differs from the manifest's",
    ]
    assert said == ["3 files, 2 not as the manifest has them"]


def test_a_model_of_other_parameters_and_a_missing_one_are_never_made(folder):
    Manifest(folder).note("notebooks", {"02_base_models": {"parameters": PARAMETERS | {"ae_epochs": 2}}})
    said = f"{QUANTITY}: no model 'ConvAE' is stored that was made with the run's own parameters and data"
    assert verify.verify(folder) == [said]
    for path in (folder / MODEL, (folder / MODEL).with_suffix(".json")):
        path.unlink()
    Manifest(folder).note_files()
    assert verify.verify(folder) == [said] and not (folder / MODEL).exists()


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/hostname", "figures/../../outside.txt", ".", "models/link"])
def test_names_that_lead_out_of_the_folder_are_refused(folder, capsys, name):
    outside = folder.parent / "outside.txt"
    outside.write_text("")
    (folder / "models" / "link").symlink_to(outside)
    Manifest(folder).note("files", {name: artifacts.sha256(outside)})
    assert main(["verify", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error == f"error: '{name}' leads out of {folder}; a run's files lie within its folder\n"


def test_a_folder_without_a_run_is_one_line(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'manifest.json'} is missing; a run's folder has one\n"


def test_every_check_is_of_a_number_that_the_notebooks_record():
    """By the words of the notebooks' code: a check of a name that no notebook writes would never be done."""
    words = {check.notebook: (artifacts.PROJECT / "notebooks" / f"{check.notebook}.ipynb") for check in verify.CHECKS}
    for check in verify.CHECKS:
        assert check.quantity.split(", ")[0] in words[check.notebook].read_text(), check.quantity
