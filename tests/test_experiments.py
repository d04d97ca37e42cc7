"""The notebooks' steps: loaded where they fit, made anew where not, with the same bits whichever way they are made."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import matplotlib.pyplot as plt
import pandas as pd
import psutil
import pytest
import torch

from fpnlib import store
from fpnlib.experiments import (
    Run,
    base_model,
    baseline,
    digits,
    encode,
    flow_plugin,
    generators,
    latents,
    side_by_side,
)
from fpnlib.training import History, fit

SETTINGS = dict(
    dataset="digits", base_epochs=1, ae_epochs=1, flow_epochs=1, flow_width=16, judge_epochs=1
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run's folder with a base model and a plugin in it."""
    folder = tmp_path_factory.mktemp("run")
    flow_plugin(Run("made", out=folder, **SETTINGS), "ConvVAE", "maf")
    return folder


def same(one, other):
    return all(
        torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items()
    )


def test_what_is_there_and_fits_is_loaded(folder, capsys):
    before = {path: path.stat().st_mtime_ns for path in (folder / "models").iterdir()}
    run = Run("again", out=folder, **SETTINGS)
    plugin, base = flow_plugin(run, "ConvVAE", "maf"), base_model(run, "ConvVAE")
    assert "ConvVAE_maf_fresh: loaded" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "models").iterdir()}
    assert not plugin.training and not base.training and len(plugin.history_.epochs) == 1
    z = latents(run, base)["test"]
    assert plugin.predict(z.mean).shape == z.y.shape


def test_another_setting_or_seed_makes_another_model(tmp_path, capsys):
    run = Run("first", out=tmp_path, **SETTINGS)
    first = base_model(run, "ConvAE")
    assert same(first, base_model(Run("second", out=tmp_path, **SETTINGS), "ConvAE"))
    other = base_model(Run("third", out=tmp_path, seed=1, **SETTINGS), "ConvAE")
    assert "made with other settings or data; made anew" in capsys.readouterr().out
    assert not same(first, other)


def test_a_part_on_another_dataset_adds_its_numbers_to_the_same_file(tmp_path):
    run = Run("08", out=tmp_path, **SETTINGS)
    run.record("one", 1, paper=2)
    other = run.on("mnist", judge_epochs=7)
    other.record("two", 2, paper=3)
    assert (
        other.setting("judge_epochs") == 7
        and other.setting("flow_width") == 16
        and run.dataset_name == "digits"
    )
    kept = json.loads((tmp_path / "results" / "08.json").read_text())
    assert [(row["quantity"], row["paper"]) for row in kept] == [("one", None), ("two", 3)]


def test_side_by_side_makes_the_same_bits(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("fpnlib.experiments.run.cpu_count", lambda: 2)
    run = Run("side_by_side", out=tmp_path, **SETTINGS)
    steps = {name: (base_model, name, {}) for name in ("ConvVAE", "ConvAE")}
    side_by_side(run, steps)
    assert {path.stem for path in (tmp_path / "models").glob("*.safetensors")} == set(steps)
    assert same(
        base_model(run, "ConvVAE"), base_model(Run("alone", out=folder, **SETTINGS), "ConvVAE")
    )


LONELY = """
import sys
from fpnlib import store
from fpnlib.experiments import Run, side_by_side
from fpnlib.experiments import run as run_module

def for_ever(run, name):
    with store.alone(run.folder / "models" / name):
        sys.stderr.write(f"{name} begun\\n")  # at once: print may write the line's end apart, after the other's line
        sys.stderr.flush()
        while True:
            pass

run_module.cpu_count = lambda: 2
side_by_side(Run("lonely", out=sys.argv[1]), {name: (for_ever, name, {}) for name in ("one", "other")})
"""


@pytest.mark.skipif(
    sys.platform == "win32", reason="a process does not learn there that its parent is gone"
)
def test_what_is_made_side_by_side_does_not_outlive_a_killed_parent(tmp_path):
    script = store.write(tmp_path / "lonely.py", LONELY)
    env = os.environ | {"PYTHONPATH": str(store.PROJECT), "TQDM_DISABLE": "1"}
    command = [sys.executable, script, str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env
    ) as parent:
        begun = {parent.stderr.readline(), parent.stderr.readline()}
        workers = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
    assert begun == {"one begun\n", "other begun\n"}
    assert len(workers) >= 2 and not psutil.wait_procs(workers, timeout=600)[1]
    with store.alone(tmp_path / "models" / "one"):
        pass


def test_two_notebooks_that_need_one_model_make_it_once(tmp_path):
    both, made = threading.Barrier(2), []

    def need(notebook):
        run, module = Run(notebook, out=tmp_path), torch.nn.Linear(2, 2)
        both.wait(60)
        run.load_or_make(
            "shared", module, {"seed": 0}, lambda checkpoint: made.append(notebook) or History()
        )
        return module

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(need, ("first", "second"))
    assert len(made) == 1 and same(one, other)


def tiny(run, epochs=3, name="tiny", calls=None):
    """A step: a line fitted to points."""
    torch.manual_seed(run.seed)
    module, x = torch.nn.Linear(4, 1), torch.randn(40, 4)

    def make(checkpoint):
        loss = lambda x: (
            (module(x) - x.sum(1, keepdim=True) + torch.randn_like(x[:, :1])).square().mean()
        )  # noqa: E731

        def counted(x):
            calls.append(1)
            return loss(x)

        settings = dict(epochs=epochs, batch_size=10, learning_rate=0.1, checkpoint=checkpoint)
        return fit(module, loss if calls is None else counted, (x[:30],), (x[30:],), **settings)

    return run.load_or_make(name, module, {"seed": run.seed, "epochs": epochs}, make)[0]


def test_a_run_loads_a_model_once_and_gives_the_same_one_in_eval_mode(tmp_path, capsys):
    made = tiny(Run("made", out=tmp_path))
    run = Run("loaded", out=tmp_path)
    first = tiny(run).train()
    assert tiny(run) is first and not first.training and same(first, made)
    assert tiny(run, epochs=4, name="another") is not first
    assert capsys.readouterr().out.count("tiny: loaded\n") == 1


def test_a_model_of_another_version_of_the_library_is_loaded_and_said_to_be(
    tmp_path, capsys, monkeypatch
):
    made = tiny(Run("made", out=tmp_path))
    monkeypatch.setattr(store, "library_digest", lambda: "another")
    assert same(tiny(Run("loaded", out=tmp_path)), made)
    assert "tiny: loaded, made by another version of the library\n" in capsys.readouterr().out


@pytest.mark.parametrize("fails", ["save_module", "load_module"])
def test_what_was_fitted_is_not_lost_where_it_can_not_be_kept(tmp_path, monkeypatch, fails):
    calls = []

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, fails, full)
        with pytest.raises(OSError, match="No space left"):
            tiny(Run("first", out=tmp_path), calls=calls)
    trained = len(calls)
    module = tiny(Run("second", out=tmp_path), calls=calls)
    assert len(calls) == trained
    assert same(module, tiny(Run("undisturbed", out=tmp_path / "undisturbed")))
    assert not list((tmp_path / "models").glob(".tiny-*"))


def test_a_damaged_manifest_comes_after_the_model_is_kept(tmp_path):
    store.write(tmp_path / "manifest.json", "[]")
    with pytest.raises(ValueError, match="manifest.json is damaged"):
        tiny(Run("first", out=tmp_path))
    assert (tmp_path / "models" / "tiny.json").is_file()


def test_the_seconds_of_a_model_count_all_sessions(tmp_path):
    def killed(*_):
        raise KeyboardInterrupt

    run, save = Run("first", out=tmp_path), store.Checkpoint.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.Checkpoint, "save", lambda *state: save(*state) or killed())
        with pytest.raises(KeyboardInterrupt):
            tiny(run)
    (path,) = (tmp_path / "models").glob(".tiny-*.safetensors")
    tensors, meta = store.Checkpoint(path).load()
    meta["history"]["seconds"] += 3600
    store.Checkpoint(path).save(tensors, meta)
    tiny(run)
    assert 3600 <= run.seconds("tiny") < 7200 and run.seconds("nothing") is None
    assert "seconds" not in (tmp_path / "models" / "tiny.json").read_text()


def test_tensors_are_kept_under_their_key_and_shared(tmp_path, monkeypatch):
    made, first, again = [], Run("first", out=tmp_path), Run("again", out=tmp_path)
    make = lambda: made.append(1) or {"z": torch.arange(3.0)}  # noqa: E731
    tensors, digest = first.load_or_make_tensors("latents", {"base": 1}, make)
    assert first.load_or_make_tensors("latents", {"base": 1}, make)[
        0
    ] is tensors and digest == store.digest({"base": 1})
    assert torch.equal(
        again.load_or_make_tensors("latents", {"base": 1}, make)[0]["z"], tensors["z"]
    )
    assert len(made) == 1
    again.load_or_make_tensors("latents", {"base": 2}, make)
    assert len(made) == 2


def flipped(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def without(*fields):
    """A model's JSON that lacks fields of its meta, sound otherwise."""

    def change(path):
        described = json.loads(path.read_text())
        described["meta"] = {
            name: value for name, value in described["meta"].items() if name not in fields
        }
        del described["digest"]
        store.write_json(path, described)

    return change


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("tiny.safetensors", flipped, "tiny.safetensors is truncated or damaged"),
        (
            "tiny.safetensors",
            lambda path: path.write_bytes(path.read_bytes()[:-9]),
            "is truncated or damaged",
        ),
        ("tiny.json", flipped, "tiny.json is damaged"),
        (
            "tiny.json",
            lambda path: path.write_text("[]"),
            "tiny.json is damaged .expected a mapping",
        ),
        ("tiny.json", without("key"), "tiny.json is damaged .'key' is missing"),
        ("tiny.json", without("history"), "tiny.json is damaged .'history' is missing"),
        (
            "tiny.json",
            without("key", "made_from", "library", "history"),
            "tiny.json is damaged .'key' is missing",
        ),
        ("latents.safetensors", flipped, "latents.safetensors is truncated or damaged"),
        (
            "latents.safetensors",
            lambda path: path.write_bytes(path.read_bytes()[:-9]),
            "is truncated or damaged",
        ),
        (
            "latents.json",
            lambda path: path.write_text("{}"),
            "latents.json is damaged .'meta' is missing",
        ),
        ("latents.json", without("key"), "latents.json is damaged .'key' is missing"),
    ],
)
def test_what_is_damaged_is_named_and_made_again_once_deleted(tmp_path, file, damage, said):
    def both():
        run = Run("damaged", out=tmp_path)
        return tiny(run), run.load_or_make_tensors(
            "latents", {"base": 1}, lambda: {"z": torch.arange(3.0)}
        )

    both()
    files = {path: path.read_bytes() for path in (tmp_path / "models").glob("*.*")}
    damage(tmp_path / "models" / file)
    with pytest.raises(ValueError, match=said) as caught:
        both()
    assert "\n" not in str(caught.value) and str(caught.value).endswith("delete it and run again")
    (tmp_path / "models" / file).unlink()
    if file.endswith(".safetensors"):
        with pytest.raises(FileNotFoundError, match=f"{file} is missing"):
            both()
        (tmp_path / "models" / file).with_suffix(".json").unlink()
    both()
    assert files == {path: path.read_bytes() for path in (tmp_path / "models").glob("*.*")}


def test_one_draw_from_each_posterior(folder):
    run = Run("draws", out=folder, **SETTINGS)
    base, split = base_model(run, "ConvVAE"), run.data.validation
    one, again, other = (encode(base, split, seed) for seed in (0, 0, 1))
    assert torch.equal(one.draw, again.draw) and not torch.equal(one.draw, other.draw)
    scores = (one.draw - one.mean) / one.std
    assert abs(scores.mean()) < 0.05 and abs(scores.std() - 1) < 0.05

    class Plain(torch.nn.Linear):
        encode = lambda self, x: self(x.flatten(1))  # noqa: E731

    plain = encode(Plain(784, 3), split, 0)
    assert not plain.std.any() and torch.equal(plain.draw, plain.mean)


def test_every_generator_draws_images_by_seed(folder):
    ways = generators(Run("ways", out=folder, **SETTINGS), "ConvVAE", components=2)
    assert list(ways) == ["unconditional", "class Gaussians", "class mixtures", "C-MAF", "C-RNVP"]
    y = torch.arange(10)
    for name, draw in ways.items():
        x = draw(y, 3)
        assert x.shape == (10, 1, 28, 28) and 0 <= x.min() and x.max() <= 1, name
        assert torch.equal(x, draw(y, 3)) and not torch.equal(x, draw(y, 4)), name


def test_a_baseline_is_kept(folder, monkeypatch):
    run = Run("baseline", out=folder, **SETTINGS)
    scores = baseline(run, "logistic_regression", "ConvVAE", "mean", grid=(1.0,))
    monkeypatch.setattr(digits, "BASELINES", {})
    assert baseline(run, "logistic_regression", "ConvVAE", "mean", grid=(1.0,)) == scores
    assert 0.5 < scores.test_accuracy <= 1


def test_numbers_figures_and_tables_go_where_they_belong(tmp_path):
    run = Run("05_some", out=tmp_path, seed=3, dataset="mnist")
    run.record("accuracy", torch.tensor(0.5), paper=0.25, n=8)
    run.figure(plt.figure(), "empty")
    run.table(pd.DataFrame({"a": [1.5]}), "numbers")
    row = {"quantity": "accuracy", "value": 0.5, "paper": 0.25, "n": 8, "seed": 3}
    assert json.loads((tmp_path / "results" / "05_some.json").read_text()) == [row]
    assert (tmp_path / "figures" / "05_some_empty.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "tables" / "05_some_numbers.csv").read_text() == "a\n1.5\n"
    assert Run("x", out=tmp_path, dataset="digits").record("accuracy", 0.5, paper=0.25) is None
    assert (
        json.loads((tmp_path / "results" / "x.json").read_text())[0]["paper"] is None
    )  # the paper's values are MNIST's


@pytest.mark.parametrize(
    "call, line",
    [
        (
            lambda run: base_model(run, "ConvVEA"),
            "unknown base model 'ConvVEA'; did you mean 'ConvVAE'?",
        ),
        (lambda run: flow_plugin(run, "ConvVAE", "mfa"), "unknown flow 'mfa'; did you mean 'maf'?"),
        (
            lambda run: flow_plugin(run, "ConvVAE", "maf", draws="fersh"),
            "unknown draws 'fersh'; did you mean 'fresh'?",
        ),
        (
            lambda run: Run("x", out=run.folder, dataset="mnits").data,
            "unknown dataset 'mnits'; did you mean 'mnist'?",
        ),
        (
            lambda run: base_model(Run("x", out=run.folder, dataset="digits"), "ConvVAE"),
            "needs the setting 'base_epochs'",
        ),
    ],
)
def test_bad_input_gets_one_clear_line(folder, call, line):
    with pytest.raises(ValueError, match=line):
        call(Run("bad", out=folder, **SETTINGS))
