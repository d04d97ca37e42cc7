"""Every step of a study, on a toy family: loaded if its key fits, made otherwise."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock, create_autospec

import matplotlib.pyplot as plt
import pandas as pd
import psutil
import pytest
import torch
from laws import one_line, refusal, same_state
from vectors import VECTORS, Linear, load_vectors

from fpnlib import store
from fpnlib.families import Plug, Run, Study, Trained, study
from fpnlib.families.classification import classification_table
from fpnlib.families.encoding import encode
from fpnlib.families.generation import judged_objects
from fpnlib.families.parallel import run_in_processes
from fpnlib.store.tensors import Checkpoint, load_tensors, save_tensors

pytestmark = pytest.mark.filterwarnings("ignore:.*overflowed")  # the flows are hardly trained


def start(folder, override="", notebook="one", family=VECTORS, checksum="", **options):
    made = Study(Run(notebook, out=folder, override=override, **options), family)
    if checksum:
        made.data = dataclasses.replace(made.data, checksum=checksum)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run's folder with everything that a study makes."""
    folder = tmp_path_factory.mktemp("run")
    made = start(folder)
    made.sources("Linear")
    made.judge()
    return folder


def same(one, other):
    return same_state(one.state_dict(), other.state_dict())


def publish(folder, pretrained, *names):
    """Copy weights of a run to where pretrained ones are looked for."""
    for name in names:
        tensors, meta = load_tensors(folder / "models" / f"{name}.safetensors")
        save_tensors(pretrained / f"vectors_{name}.safetensors", tensors, meta)


untrained = Mock(side_effect=AssertionError("nothing should be trained here"))


def test_a_toy_family_goes_through_every_step(tmp_path):
    vectors = start(tmp_path)
    y = torch.tensor([0, 1, 1])
    sources = vectors.sources("Linear", components=2)
    simple = ["class Gaussians", "class Gaussians, pooled", "class mixtures"]
    assert list(sources) == [*simple, "C-MAF", "C-RNVP"]
    for name, draw in sources.items():
        x = draw(y, 3)
        assert x.shape == (3, 6), name
        assert torch.equal(x, draw(y, 3)) and not torch.equal(x, draw(y, 4)), name
    assert vectors.network().generate("high", n=4).shape == (4, 6)
    assert 0 <= vectors.score(x, y)["right class"] <= 1
    grid = {"logistic_regression": {"grid": (1.0,), "n_jobs": 1}}
    table = classification_table(vectors, grid)
    assert table["model"].tolist() == ["logistic regression", "FPN (C-MAF)", "FPN (C-RNVP)"]
    assert "C-RNVP" in judged_objects(vectors, 2)


def test_what_fits_is_loaded(folder, capsys, monkeypatch):
    monkeypatch.setattr(Trained, "fit", untrained)
    monkeypatch.setattr(Plug, "fit", untrained)
    before = {path: path.stat().st_mtime_ns for path in (folder / "models").iterdir()}
    again = start(folder, notebook="again")
    plugin, base = again.plugin("Linear", "maf"), again.base("Linear")
    assert "Linear_maf: loaded\n" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "models").iterdir()}
    assert not plugin.training and not base.training
    assert len(plugin.history_.epochs) == 2 and len(base.history_.epochs) == 2


def with_base(**changes):
    """The toy family with changes of its base model, and a setting more."""
    base = dataclasses.replace(VECTORS.bases["Linear"], **changes)
    settings = VECTORS.settings | {"new": 0}
    return dataclasses.replace(VECTORS, settings=settings, bases={"Linear": base})


ANOTHER = {
    "setting": {"override": "vectors.epochs=1"},
    "seed": {"seed": 1},
    "data": {"checksum": "another"},
    "version": {"family": with_base(version=2)},
}


@pytest.mark.parametrize("change", ANOTHER)
def test_another_setting_seed_data_or_version_makes_another_model(tmp_path, capsys, change):
    first = start(tmp_path).base()
    assert same(first, start(tmp_path).base())
    other = start(tmp_path, **ANOTHER[change]).base()
    assert "Linear: made with other settings or data; made anew" in capsys.readouterr().out
    assert other.key_ != first.key_
    assert same(first, other) == (change in ("data", "version")), "these are the key's alone"


def test_plugins_of_other_seeds_share_the_base(tmp_path):
    one, other = start(tmp_path / "one"), start(tmp_path / "other", "vectors.flow_seed=1")
    assert one.base().key_ == other.base().key_ and same(one.base(), other.base())
    assert one.plugin().key_ != other.plugin().key_ and not same(one.plugin(), other.plugin())


def test_a_setting_that_others_depend_on_changes_their_keys_and_no_others(folder):
    here, there = start(folder), start(folder, "vectors.flow_epochs=1")
    assert here.base().key_ == there.base().key_
    assert here.latents().key_ == there.latents().key_


def test_a_new_setting_at_its_default_changes_no_key(folder, monkeypatch):
    monkeypatch.setattr(Trained, "fit", untrained)
    family = with_base(settings=(*VECTORS.bases["Linear"].settings, "new"))
    assert start(folder, family=family).base().key_ == start(folder).base().key_


def test_steps_share_what_they_make(folder, capsys):
    vectors = start(folder)
    first = vectors.base().train()
    assert vectors.base() is first and not first.training
    assert vectors.latents() is vectors.latents()
    assert capsys.readouterr().out.count("Linear: loaded") == 1


def test_pretrained_weights_serve_any_data(folder, tmp_path, monkeypatch, capsys):
    """What is made of them is the run's own."""
    monkeypatch.setattr(study, "PRETRAINED", tmp_path)
    publish(folder, tmp_path, "Linear", "Linear_maf")
    other = start(tmp_path / "run", checksum="another")
    base, plugin = other.base(), other.plugin()
    assert capsys.readouterr().out.count("loaded, pretrained") == 2
    assert not (tmp_path / "run" / "models").exists()
    assert same(base, start(folder).base()) and same(plugin, start(folder).plugin())
    other.plugin("Linear", "realnvp")
    made = list((tmp_path / "run" / "models").glob("*.json"))
    assert [path.name for path in made] == ["Linear_realnvp.json"]
    capsys.readouterr()
    start(tmp_path / "run", "vectors.epochs=1").base()
    assert "loaded, pretrained" not in capsys.readouterr().out, "other settings, another model"


def test_a_pretrained_plugin_needs_the_base_that_it_was_fitted_to(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "PRETRAINED", tmp_path)
    publish(folder, tmp_path, "Linear_maf")
    other = start(tmp_path / "run", seed=1)
    other.plugin()
    assert (tmp_path / "run" / "models" / "Linear_maf.json").exists()


def test_what_workers_warn_of_is_said_where_they_were_asked_for():
    with pytest.warns(UserWarning, match="the ") as said:
        run_in_processes(warnings.warn, [("the first",), ("the second",)], workers=2)
    assert {str(warning.message) for warning in said} == {"the first", "the second"}
    assert {warning.filename for warning in said} == {__file__}


def test_prepared_side_by_side_they_have_the_same_bits(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "cpu_count", lambda: 2)
    vectors = start(tmp_path)
    vectors.prepare(("plugin", "Linear", "maf"), ("judge",))
    made = {path.stem for path in (tmp_path / "models").glob("*.safetensors")}
    assert made == {"Linear", "Linear_maf", "vectors_judge"}
    assert same(vectors.plugin(), start(folder).plugin())


LONELY = """
import os
import sys
from fpnlib import store
from fpnlib.families.parallel import run_in_processes

def for_ever(folder, name):
    with store.alone(f"{folder}/{name}"):
        os.write(2, f"{name} begun\\n".encode())  # below the stream, which workers hide
        while True:
            pass

run_in_processes(for_ever, [(sys.argv[1], "one"), (sys.argv[1], "other")], workers=2)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a process does not learn that its parent died")
def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    script = store.write(tmp_path / "lonely.py", LONELY)
    env = os.environ | {"PYTHONPATH": str(store.PROJECT), "TQDM_DISABLE": "1"}
    command = [sys.executable, script, str(tmp_path)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=env, **pipes) as parent:
        begun = {parent.stderr.readline(), parent.stderr.readline()}
        workers = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
    assert begun == {"one begun\n", "other begun\n"}
    assert len(workers) >= 2 and not psutil.wait_procs(workers, timeout=600)[1]
    with store.alone(tmp_path / "one"):
        pass


def test_two_notebooks_that_need_one_model_make_it_once(tmp_path, monkeypatch):
    both = threading.Barrier(2)
    monkeypatch.setattr(Trained, "fit", create_autospec(Trained.fit, side_effect=Trained.fit))

    def need(notebook):
        vectors = start(tmp_path, notebook=notebook)
        both.wait(60)
        return vectors.base()

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(need, ("first", "second"))
    assert Trained.fit.call_count == 1 and same(one, other)


def test_a_model_of_another_version_of_the_library_is_loaded(folder, capsys, monkeypatch):
    monkeypatch.setattr("fpnlib.store.cache.library_digest", lambda: "another")
    start(folder).base()
    assert "Linear: loaded, made by another version of the library\n" in capsys.readouterr().out


@pytest.mark.parametrize("fails", ["save_tensors", "load_module"])
def test_what_was_fitted_is_not_lost_if_it_can_not_be_kept(tmp_path, monkeypatch, fails):
    full = Mock(side_effect=OSError(28, "No space left on device"))
    with monkeypatch.context() as patch:
        patch.setattr(f"fpnlib.store.cache.{fails}", full)
        with pytest.raises(OSError, match="No space left"):
            start(tmp_path).base()
    with monkeypatch.context() as patch:
        patch.setattr(Linear, "loss", untrained)  # its checkpoint says that all epochs are done
        again = start(tmp_path).base()
    assert same(again, start(tmp_path / "undisturbed").base())
    assert not list((tmp_path / "models").glob(".Linear-*"))


def test_a_damaged_manifest_comes_after_the_model_is_kept(tmp_path):
    vectors = start(tmp_path)
    assert vectors.data.name == "vectors"
    store.write(tmp_path / "manifest.json", "[]")
    with pytest.raises(ValueError, match="manifest.json is damaged"):
        vectors.base()
    assert (tmp_path / "models" / "Linear.json").is_file()


def test_the_seconds_of_a_model_count_all_sessions(tmp_path):
    def killed(*_):
        raise KeyboardInterrupt

    vectors, save = start(tmp_path), Checkpoint.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "save", lambda *state: save(*state) or killed())
        with pytest.raises(KeyboardInterrupt):
            vectors.base()
    (path,) = (tmp_path / "models").glob(".Linear-*.safetensors")
    tensors, meta = Checkpoint(path).load()
    meta["history"]["seconds"] += 3600
    Checkpoint(path).save(tensors, meta)
    vectors.base()
    assert 3600 <= vectors.run.seconds("Linear") < 7200
    assert "seconds" not in (tmp_path / "models" / "Linear.json").read_text()


KEPT = with_base(keep_latents=True)


def test_latents_that_are_kept_are_encoded_once(tmp_path, monkeypatch):
    first = start(tmp_path, family=KEPT).latents()
    assert first.train.mean.shape == (12, 3) and torch.equal(first.test.y, load_vectors().test.y)
    monkeypatch.setattr(study, "encode", untrained)
    again = start(tmp_path, family=KEPT).latents()
    assert torch.equal(again.train.mean, first.train.mean)


def flipped(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def without(*fields):
    """Leave out fields of a model's description, which is sound otherwise."""

    def change(path):
        described = json.loads(path.read_text())
        meta = described["meta"].items()
        described["meta"] = {name: value for name, value in meta if name not in fields}
        del described["digest"]
        store.write_json(path, described)

    return change


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("Linear.safetensors", flipped, "Linear.safetensors is truncated or damaged"),
        ("Linear.json", flipped, "Linear.json is damaged"),
        ("Linear.json", lambda path: path.write_text("[]"), "Linear.json is damaged .expected a"),
        ("Linear.json", without("key"), "Linear.json is damaged .'key' is missing"),
        ("Linear.json", without("history"), "Linear.json is damaged .'history' is missing"),
        ("Linear_latents.safetensors", flipped, "is truncated or damaged"),
        ("Linear_latents.json", lambda path: path.write_text("{}"), "'meta' is missing"),
        ("Linear_latents.json", without("key"), "'key' is missing"),
    ],
)
def test_what_is_damaged_is_named_and_made_again_once_deleted(tmp_path, file, damage, said):
    def make():
        return start(tmp_path, family=KEPT).latents().train

    make()
    files = {path: path.read_bytes() for path in (tmp_path / "models").glob("*.*")}
    damage(tmp_path / "models" / file)
    with one_line(ValueError, said) as caught:
        make()
    assert str(caught.value).endswith("delete it and run again")
    (tmp_path / "models" / file).unlink()
    if file.endswith(".safetensors"):
        with pytest.raises(FileNotFoundError, match=f"{file} is missing"):
            make()
        (tmp_path / "models" / file).with_suffix(".json").unlink()
    make()
    assert files == {path: path.read_bytes() for path in (tmp_path / "models").glob("*.*")}


def test_one_draw_from_each_posterior():
    class Posterior(Linear):
        def posterior(self, x):
            mean = self.encode(x)
            return mean, torch.full_like(mean, 0.5)

    split, base = load_vectors().train.take([0] * 400), Posterior()
    one, again, other = (encode(base, split, seed) for seed in (0, 0, 1))
    assert torch.equal(one.draw, again.draw) and not torch.equal(one.draw, other.draw)
    scores = (one.draw - one.mean) / one.std
    assert abs(scores.mean()) < 0.1 and abs(scores.std() - 1) < 0.1
    plain = encode(Linear(), split, 0)
    assert not plain.std.any() and torch.equal(plain.draw, plain.mean)


def test_a_read_only_run_trains_and_writes_nothing(folder, tmp_path):
    assert same(start(folder, read_only=True).plugin(), start(folder).plugin())
    with pytest.raises(FileNotFoundError, match="no model 'Linear' is stored"):
        start(tmp_path, read_only=True).base()
    with pytest.raises(ValueError, match="was not made with the run's own parameters and data"):
        start(folder, "vectors.epochs=1", read_only=True).base()
    made = start(folder, family=KEPT, read_only=True).latents().test
    assert torch.equal(made.mean, start(folder).latents().test.mean), "made, and not kept"
    assert not list(tmp_path.rglob("*.*")) and not list(folder.rglob("*latents*"))


def test_a_run_computes_on_the_device_that_it_names(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Run("05", out=tmp_path).device.type == "cuda"
    assert Run("05", out=tmp_path, override="device=cpu digits.flow_width=9").device.type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for device in ("cuda", "mps", "gpu"):
        with pytest.raises(ValueError, match=f"'{device}' is not there; expected auto or cpu$"):
            Run("05", out=tmp_path, override=f"device={device}")


def test_numbers_figures_and_tables_go_where_they_belong(tmp_path):
    run = Run("05_some", out=tmp_path, seed=3)
    run.record("accuracy", torch.tensor(0.5), paper=0.25, n=8)
    run.figure(plt.figure(), "empty")
    run.table(pd.DataFrame({"a": [1.5]}), "numbers")
    row = {"quantity": "accuracy", "value": 0.5, "paper": 0.25, "n": 8, "seed": 3}
    assert json.loads((tmp_path / "results" / "05_some.json").read_text()) == [row]
    assert (tmp_path / "figures" / "05_some_empty.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "tables" / "05_some_numbers.csv").read_text() == "a\n1.5\n"
    used, _ = run.uses.read()
    assert {Path(path).parts[0] for path in used} == {"results", "figures", "tables"}


def test_of_a_long_table_the_first_rows_are_shown(tmp_path, capsys):
    run = Run("05", out=tmp_path)
    shown = run.table(pd.DataFrame({"a": range(51)}), "long")
    assert len(shown.index) == 10
    assert capsys.readouterr().out.endswith("10 of 51 rows; the others are in 05_long.csv\n")
    assert len(pd.read_csv(tmp_path / "tables" / "05_long.csv")) == 51
    assert len(run.table(pd.DataFrame({"a": range(50)}), "short").index) == 50


def test_the_cells_of_a_table_are_recorded_by_name(tmp_path, capsys):
    run = Run("05", out=tmp_path)
    table = pd.DataFrame({"model": ["a", "b"], "train": [0.5, None], "test": [0.25, 0.125]})
    table["paper, test"] = [0.3, None]
    table["learned from"], table["chosen"] = [10, 20], ["x", "y"]
    n = {"train": "learned from", "test": 7}
    run.record(table, name="{column} of {model}", columns=n, n=n, more=["chosen"])
    kept = json.loads((tmp_path / "results" / "05.json").read_text())
    found = [(row["quantity"], row["value"], row["paper"], row["n"], row["chosen"]) for row in kept]
    assert found == [
        ("train of a", 0.5, None, 10, "x"),
        ("test of a", 0.25, 0.3, 7, "x"),
        ("test of b", 0.125, None, 7, "y"),
    ]
    assert "test of a: 0.2500  (paper: 0.3000)\n" in capsys.readouterr().out
    run.record(pd.DataFrame({"score": [0.5] * 11, "row": range(11)}), name="{column} {row}")
    assert capsys.readouterr().out == "11 numbers recorded\n"
    run.record("parameters", 1234567)
    assert capsys.readouterr().out == "parameters: 1,234,567\n"


@pytest.mark.parametrize(
    "row",
    [
        (lambda s: s.base("Linaer"), "unknown base model 'Linaer'; did you mean 'Linear'?"),
        (lambda s: s.plugin("Linear", "mfa"), "unknown flow 'mfa'; did you mean 'maf'?"),
        (lambda s: s.plugin(draws="fersh"), "unknown draws 'fersh'; did you mean 'fresh'?"),
        (lambda s: Study(s.run, VECTORS, "mnits").data, "unknown dataset 'mnits'; did you mean"),
        (lambda s: start(s.run.folder, "vectors.epohcs=3"), "did you mean 'vectors.epochs'"),
        (lambda s: start(s.run.folder, "epochs=3"), "override takes pairs like"),
        (lambda s: start(s.run.folder, "vectros.epochs=3"), "did you mean 'vectors'"),
        (lambda s: Study(Run("x", out=s.run.folder, profile="dmeo"), VECTORS), "'demo'"),
        (lambda s: classification_table(s, {"rbf_smv": {}}), "did you mean 'rbf_svm'"),
        (lambda s: classification_table(s, {}, features=["means"]), "did you mean 'mean'"),
        (lambda s: s.prepare(("plugni", "Linear")), "unknown step 'plugni'; did you mean 'plugin'"),
        (
            lambda s: start(s.run.folder, "vectors.epochs=x"),
            "a whole number like 2, got 'x'",
            TypeError,
        ),
    ],
)
def test_bad_input_gets_one_clear_line(folder, row):
    call, line, kind = refusal(row)
    with one_line(kind, line):
        call(start(folder))
