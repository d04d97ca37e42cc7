"""The notebooks' steps: loaded where they fit, made anew where not, with the same bits whichever way they are made."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from fpnlib import artifacts
from fpnlib.experiments import Run, base_model, baseline, digits, encode, flow_plugin, generators, latents, side_by_side
from fpnlib.training import History

SETTINGS = dict(dataset="digits", base_epochs=1, ae_epochs=1, flow_epochs=1, flow_width=16, judge_epochs=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run's folder with a base model and a plugin in it."""
    folder = tmp_path_factory.mktemp("run")
    flow_plugin(Run("made", out=folder, **SETTINGS), "ConvVAE", "maf")
    return folder


def same(one, other):
    return all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


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
    assert other.setting("judge_epochs") == 7 and other.setting("flow_width") == 16 and run.dataset_name == "digits"
    kept = json.loads((tmp_path / "results" / "08.json").read_text())
    assert [(row["quantity"], row["paper"]) for row in kept] == [("one", None), ("two", 3)]


def test_side_by_side_makes_the_same_bits(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "cores", lambda: 2)
    run = Run("side_by_side", out=tmp_path, **SETTINGS)
    steps = {name: (base_model, name, {}) for name in ("ConvVAE", "ConvAE")}
    side_by_side(run, steps)
    assert {path.stem for path in (tmp_path / "models").glob("*.safetensors")} == set(steps)
    assert same(base_model(run, "ConvVAE"), base_model(Run("alone", out=folder, **SETTINGS), "ConvVAE"))


def test_two_notebooks_that_need_one_model_make_it_once(tmp_path):
    both, made = threading.Barrier(2), []

    def need(notebook):
        run, module = Run(notebook, out=tmp_path), torch.nn.Linear(2, 2)
        both.wait(60)
        run.load_or_make("shared", module, {"seed": 0}, lambda checkpoint: made.append(notebook) or History())
        return module

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(need, ("first", "second"))
    assert len(made) == 1 and same(one, other)


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
        (lambda run: base_model(run, "ConvVEA"), "unknown base model 'ConvVEA'; did you mean 'ConvVAE'?"),
        (lambda run: flow_plugin(run, "ConvVAE", "mfa"), "unknown flow 'mfa'; did you mean 'maf'?"),
        (lambda run: flow_plugin(run, "ConvVAE", "maf", draws="fersh"), "unknown draws 'fersh'; did you mean 'fresh'?"),
        (lambda run: Run("x", out=run.folder, dataset="mnits").data, "unknown dataset 'mnits'; did you mean 'mnist'?"),
        (
            lambda run: base_model(Run("x", out=run.folder, dataset="digits"), "ConvVAE"),
            "needs the setting 'base_epochs'",
        ),
    ],
)
def test_bad_input_gets_one_clear_line(folder, call, line):
    with pytest.raises(ValueError, match=line):
        call(Run("bad", out=folder, **SETTINGS))


def test_a_damaged_model_is_named(tmp_path):
    run = Run("damaged", out=tmp_path, **SETTINGS)
    base_model(run, "ConvVAE")
    weights = tmp_path / "models" / "ConvVAE.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="ConvVAE.safetensors is truncated or damaged"):
        base_model(run, "ConvVAE")
