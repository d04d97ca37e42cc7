"""What is checked in a run's folder, what is computed again, and that checking changes nothing."""

import shutil

import pytest
from laws import note_files
from torch import nn

from fpnlib import store
from fpnlib.__main__ import main
from fpnlib.families import DIGITS, Run, Study, study
from fpnlib.runs import verify
from fpnlib.store import Manifest

SIZES = "digits.vae_epochs=1 digits.ae_epochs=1"
PARAMETERS = dict(out="outputs/elsewhere", dataset="digits", data_dir="", seed=0)
PARAMETERS |= dict(profile="demo", override=SIZES)
QUANTITY = "reconstruction, mean squared error, ConvAE"
MODEL = "models/ConvAE.safetensors"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with one model and one number."""
    folder = tmp_path_factory.mktemp("run")
    steps = Run("02_base_models", out=folder, override=SIZES)
    digits = Study(steps, DIGITS)
    rebuilt = digits.decode("ConvAE", digits.latents("ConvAE").test.mean)
    steps.record(QUANTITY, nn.functional.mse_loss(rebuilt, digits.data.test.x).item())
    steps.record("another", 1.0)
    steps.manifest.note("notebooks", {"02_base_models": {"parameters": PARAMETERS}})
    note_files(steps.manifest.folder)
    return folder


@pytest.fixture
def folder(run, tmp_path):
    """A copy of it, to be changed at will."""
    return shutil.copytree(run, tmp_path / "run")


def said_of(folder, *faults):
    """What verify says of a folder that has these faults."""
    said = []
    assert verify.verify(folder, say=said.append) == [*faults]
    return said


def record(folder, value):
    """Put another value in the number's place, and let the manifest vouch for it."""
    path = folder / "results" / "02_base_models.json"
    rows = store.read_json(path)
    rows[0]["value"] = value
    store.write_json(path, rows)
    note_files(folder)


def test_a_run_that_holds_is_computed_again_and_left_as_it_was(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    files, number, computed = said_of(folder)
    assert files == "3 files, 0 not as the manifest has them"
    assert number.startswith(f"{QUANTITY}: ") and computed == "1 number computed again"
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_number_that_the_model_does_not_give_is_named(folder, capsys):
    record(folder, 0.5)
    assert main(["verify", str(folder)]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"does not hold: {folder}: {QUANTITY}: 0.5 recorded, 0.")
    assert main(["verify", str(folder), "--files-only"]) == 0


def test_a_number_within_its_tolerance_holds(folder):
    (check,) = [check for check in verify.CHECKS if check.quantity == QUANTITY]
    value = store.read_json(folder / "results" / "02_base_models.json")[0]["value"]
    record(folder, value + 0.9 * check.tolerance)
    assert verify.verify(folder) == []
    record(folder, value + 1.1 * check.tolerance)
    assert len(verify.verify(folder)) == 1


def test_a_file_that_is_another_or_missing_is_named_and_nothing_is_computed(folder):
    (folder / MODEL).write_bytes(b"other")
    (folder / "results" / "02_base_models.json").unlink()
    missing = "results/02_base_models.json is missing"
    another = f"{MODEL} is not the file that the run made: its sha256 differs from the manifest's"
    said = ["3 files, 2 not as the manifest has them", "0 numbers computed again"]
    assert said_of(folder, missing, another) == said


def test_a_model_of_other_parameters_does_not_hold_and_is_never_made(folder):
    others = PARAMETERS | {"override": "digits.ae_epochs=2"}
    Manifest(folder).note("notebooks", {"02_base_models": {"parameters": others}})
    said = f"{QUANTITY}: the model 'ConvAE' was not made with the run's own parameters and data"
    assert verify.verify(folder) == [said]


def test_a_model_that_is_not_there_is_said_and_never_made(folder):
    for path in (folder / MODEL, (folder / MODEL).with_suffix(".json")):
        path.unlink()
    note_files(folder)
    _, absent, computed = said_of(folder)
    assert not (folder / MODEL).exists()
    assert absent == f"{QUANTITY}: not computed: no model 'ConvAE' is stored"
    assert computed == "0 numbers computed again"


def test_numbers_of_other_data_are_not_compared(folder):
    record(folder, 0.5)
    used = {"parameters": PARAMETERS, "data": {"digits": "another checksum"}}
    Manifest(folder).note("notebooks", {"02_base_models": used})
    assert f"{QUANTITY}: not computed: digits is not the data of the run" in said_of(folder)[1]


def test_data_that_is_not_there_is_said_and_not_fetched(folder, tmp_path, monkeypatch):
    """Nor is it looked for where the manifest says."""
    loaded, load = [], study.load

    def asked(name, root, seed, download, **options):
        loaded.append((root, download))
        return load(name, root, seed, download, **options)

    monkeypatch.setattr(study, "load", asked)
    monkeypatch.setenv("FPN_DATA", str(tmp_path / "none"))
    elsewhere = PARAMETERS | {"dataset": "mnist", "data_dir": str(tmp_path / "elsewhere")}
    Manifest(folder).note("notebooks", {"02_base_models": {"parameters": elsewhere}})
    said = said_of(folder)
    assert said[1].startswith(f"{QUANTITY}: not computed: MNIST: ")
    assert str(tmp_path / "none") in said[1]
    assert said[2] == "0 numbers computed again"
    verify.verify(folder, str(tmp_path / "given"))
    assert loaded == [(None, False), (str(tmp_path / "given"), False)]


def test_notebooks_made_from_another_file_than_the_runs_are_named(folder):
    """One notebook has made the model anew, the other has not been executed since."""
    checksums = {"02_base_models": "before", "04_some": store.sha256(folder / MODEL)}
    for notebook, checksum in checksums.items():
        entry = {"parameters": PARAMETERS, "files": {MODEL: checksum}}
        Manifest(folder).note_notebook(notebook, entry)
    assert verify.verify(folder) == [f"02_base_models was made with another {MODEL}"]


@pytest.mark.parametrize("text", ["{}", '[{"quantity": 1}]', "["])
def test_results_of_another_shape_are_named_and_the_others_computed(folder, text):
    Manifest(folder).note("notebooks", {"04_conditional_generation": {"parameters": PARAMETERS}})
    store.write(folder / "results" / "04_conditional_generation.json", text)
    note_files(folder)
    said = []
    (wrong,) = verify.verify(folder, say=said.append)
    assert "results/04_conditional_generation.json is damaged" in wrong and "\n" not in wrong
    assert said[-1] == "1 number computed again"


def test_another_version_of_the_library_and_unlisted_files_are_said_and_no_fault(folder):
    versions = {"02_base_models": "another", "05_latent_spaces": store.library_digest()}
    for name, version in versions.items():
        entry = {"parameters": PARAMETERS, "library": version}
        Manifest(folder).note("notebooks", {name: entry})
    store.write(folder / "figures" / "drawn_later.png", "")
    said = said_of(folder)
    assert said[1] == "1 more that it does not have: figures/drawn_later.png"
    assert said[2] == "made by another version of the library: 02_base_models"


def test_the_runs_of_a_sweep_are_verified_with_it(folder, tmp_path, capsys):
    sweep = tmp_path / "sweep"
    for name in ("seed=0", "seed=1", "seed=9"):
        shutil.copytree(folder, sweep / "runs" / name)
    (sweep / "runs" / "seed=9" / "manifest.json").write_text("{")  # of an earlier sweep
    store.write_json(sweep / "grid.json", {f"seed={seed}": {"seed": seed} for seed in (0, 1, 2)})
    Manifest(sweep).note("failed", {"seed=2": "no such luck"})
    note_files(sweep)
    shutil.rmtree(sweep / "runs" / "seed=1" / "models")  # of a sweep only the numbers may be kept
    record(sweep / "runs" / "seed=0", 0.5)
    assert main(["verify", str(sweep)]) == 1
    out, error = capsys.readouterr()
    assert error.startswith(f"does not hold: {sweep}: seed=0: {QUANTITY}: 0.5 recorded")
    assert error.count("\n") == 1
    assert f"    {QUANTITY}: not computed: no model 'ConvAE' is stored" in out
    assert "  seed=2: failed when the sweep was made" in out
    (sweep / "runs" / "seed=1" / "results" / "02_base_models.json").unlink()
    (sweep / "runs" / "seed=0" / "manifest.json").write_text("{")
    damaged, missing = verify.verify(sweep, numbers=False)
    assert damaged.startswith("seed=0: ") and "manifest.json is damaged" in damaged
    assert missing == "seed=1: results/02_base_models.json is missing"


@pytest.mark.parametrize(
    ("grid", "said"),
    [("[]", "is damaged ($ must be object, got [])"), ('{"../x": {}}', "'../x' leads out of")],
)
def test_a_damaged_grid_is_one_line_among_the_others(folder, grid, said):
    store.write(folder / "grid.json", grid)
    (folder / MODEL).unlink()
    missing, damaged = verify.verify(folder)
    assert missing == f"{MODEL} is missing" and said in damaged


@pytest.mark.parametrize("name", ["../outside.txt", "models/link"])
def test_names_that_lead_out_of_the_folder_are_refused(folder, capsys, name):
    outside = folder.parent / "outside.txt"
    outside.write_text("")
    (folder / "models" / "link").symlink_to(outside)
    Manifest(folder).note("files", {name: store.sha256(outside)})
    (folder / MODEL).unlink()
    assert main(["verify", str(folder)]) == 1
    leads = f"'{name}' leads out of {folder}; a run's files lie within its folder"
    said = {f"does not hold: {folder}: {fault}" for fault in (leads, f"{MODEL} is missing")}
    assert set(capsys.readouterr().err.splitlines()) == said


def test_folders_without_a_whole_run_keep_no_other_from_its_own(folder, tmp_path, capsys):
    """Each of them is one line."""
    damaged = tmp_path / "damaged" / "manifest.json"
    store.write(damaged, "[")
    assert main(["verify", str(tmp_path), str(damaged.parent), str(folder), "--files-only"]) == 1
    out, error = capsys.readouterr()
    first, second = error.splitlines()
    missing = f"{tmp_path / 'manifest.json'} is missing; a run's folder has one"
    assert first == f"does not hold: {tmp_path}: {missing}"
    assert second.startswith(f"does not hold: {damaged.parent}: {damaged} is damaged (")
    assert out.endswith(f"{folder}:\n  3 files, 0 not as the manifest has them\n")


def test_every_check_is_of_a_number_that_the_committed_runs_have_recorded():
    """A check of a name that no notebook records would never be done."""
    recorded = set()
    for path in (store.PROJECT / "outputs").glob("*/results/*.json"):
        recorded |= {(path.stem, record["quantity"]) for record in store.Results.read(path)}
    assert {(check.notebook, check.quantity) for check in verify.CHECKS} <= recorded
