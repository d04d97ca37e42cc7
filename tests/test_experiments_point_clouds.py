"""The steps of the experiments with 3D shapes, at sizes that say nothing but finish soon."""

import json

import numpy as np
import pytest
import torch

from fpnlib import artifacts, data
from fpnlib.base_models import PointFlow
from fpnlib.data.drawn_shapes import load_drawn_shapes
from fpnlib.data.point_clouds import SYNSETS
from fpnlib.experiments import Run, point_clouds, pretrained
from fpnlib.plugin import FlowPluginNetwork

pytestmark = pytest.mark.filterwarnings("ignore:.*overflowed")  # these flows have hardly been trained

SETTINGS = dict(point_base="tiny", point_epochs=2, point_seen=24, point_step=16, point_objective="matching", point_checkpoint="")
SETTINGS |= dict(point_flow_width=8, point_flow_dropout=0.2, point_flow_epochs=2, point_judge_epochs=1)
TINY = dict(latent_dim=6, hidden=(8,), encoder_widths=(8, 8, 8, 16), points=24, method="euler", steps=2)


@pytest.fixture(scope="module", autouse=True)
def small():
    """A few shapes of few points, and a model to match."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(data.DATASETS, "shapes", lambda root, seed, download: load_drawn_shapes(seed, n=150, points=40))
        patch.setitem(point_clouds.SIZES, "tiny", TINY)
        patch.setitem(point_clouds.BASE_TRAINING, "tiny", point_clouds.BASE_TRAINING["small"])
        patch.setitem(point_clouds.JUDGES, "tiny", {"widths": (8, 8, 8, 16), "head_widths": (8,)})
        patch.setattr(point_clouds, "JUDGE_POINTS", 16)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


def start(folder, name="one", **settings):
    return Run(name, out=folder, dataset="shapes", **SETTINGS | settings)


def test_what_was_made_is_loaded(folder, capsys):
    run = start(folder)
    plugin, sets = point_clouds.flow_plugin(run, "maf"), point_clouds.latents(run)
    assert sets["train"].mean.shape == (len(run.data.train), 6) and torch.equal(sets["test"].y, run.data.test.y)
    assert plugin.config["num_layers"] == 5 and plugin.config["dropout"] == 0.2
    capsys.readouterr()
    again = point_clouds.flow_plugin(start(folder, "two"), "maf")
    assert torch.equal(again.sample(0, 3, seed=1), plugin.sample(0, 3, seed=1))
    said = capsys.readouterr().out
    assert "PointFlow: loaded" in said and "PointFlow_maf: loaded" in said


def test_another_base_makes_other_latents_and_plugins(folder, tmp_path, capsys):
    before = point_clouds.latents(start(tmp_path))["test"].mean
    after = point_clouds.latents(start(tmp_path, point_epochs=1))["test"].mean
    assert "made with other settings or data; made anew" in capsys.readouterr().out
    assert not torch.equal(before, after)


def test_a_pretrained_model_is_taken_where_it_fits(folder, tmp_path, monkeypatch, capsys):
    run = start(folder)
    base = point_clouds.base_model(run)
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    (kept,) = pretrained.keep(folder / "models", "shapes", ["PointFlow"])
    assert kept == tmp_path / "shapes_PointFlow.safetensors"
    capsys.readouterr()
    taken = point_clouds.base_model(start(tmp_path / "run"))
    assert "PointFlow: loaded, pretrained" in capsys.readouterr().out
    assert not (tmp_path / "run" / "models").exists()
    assert torch.equal(taken.decode(torch.ones(1, 6)), base.decode(torch.ones(1, 6)))
    assert taken.history_.epochs == base.history_.epochs
    point_clouds.base_model(start(tmp_path / "run", point_epochs=1))
    assert "loaded, pretrained" not in capsys.readouterr().out


def test_every_generator_draws_shapes_by_seed(folder):
    run = start(folder)
    ways, y = point_clouds.generators(run), torch.arange(10)
    assert list(ways) == ["category Gaussians", "C-MAF", "C-RNVP"]
    assert point_clouds.generators(run, points=7)["C-MAF"](y, 3).shape == (10, 7, 3)
    for name, draw in ways.items():
        x = draw(y, 3)
        assert x.shape == (10, 24, 3) and x.isfinite().all(), name
        assert torch.equal(x, draw(y, 3)) and not torch.equal(x, draw(y, 4)), name


def test_scores_overall_and_by_category(folder):
    run = start(folder)
    rows = point_clouds.first_of_each(run.data.test, 2, range(10))
    assert run.data.test.y[rows].tolist() == [k for k in range(10) for _ in range(2)]
    scores = point_clouds.score(run, run.data.test.x[rows], run.data.test.y[rows], rows, points=20)
    assert scores["category"].tolist() == ["all", *run.classes.names]
    assert (scores["coverage"] == 1).all() and (scores["mmd"] < 1e-5).all() and (scores["1-nna"] == 0).all()
    assert scores["right class"].between(0, 1).all()


def test_training_clouds_of_categories(folder):
    run = start(folder)
    y = torch.tensor([9, 0, 9, 3])
    x = point_clouds.training_clouds(run, y, seed=0)
    where = [int((run.data.train.x == cloud).all(-1).all(-1).nonzero()) for cloud in x]
    assert run.data.train.y[where].tolist() == y.tolist() and len(set(where)) == 4
    assert not torch.equal(x, point_clouds.training_clouds(run, y, seed=1))
    assert len(point_clouds.training_clouds(run, torch.full((40,), 9), seed=0)) == 40  # more than there are


def test_table_2(folder):
    table = point_clouds.table_2(start(folder), {"logistic_regression": dict(grid=(1.0,), n_jobs=1)})
    assert table["model"].tolist() == ["logistic regression", *["FPN (C-MAF)"] * 2, *["FPN (C-RNVP)"] * 2]
    assert table["prior"].tolist() == ["–", "flat", "train", "flat", "train"]
    assert table[["train", "test", "train, macro", "test, macro"]].stack().between(0, 1).all()
    assert table.loc[0, ["paper, train", "paper, test"]].tolist() == [0.9030, 0.8443]


def test_most_common_categories_come_first(folder):
    run = start(folder)
    common = point_clouds.most_common(run, 3)
    assert [run.classes.names[k] for k in common] == ["table", "chair", "airplane"]


def test_likelihood_and_released_checkpoints_serve_too(folder, tmp_path, monkeypatch):
    model = point_clouds.base_model(start(tmp_path, point_objective="likelihood"))
    assert model.history_.best_validation < 20
    monkeypatch.setattr(point_clouds, "load_released", lambda path: PointFlow(**TINY))
    (tmp_path / "checkpoint.pt").write_bytes(b"some")
    taken = point_clouds.base_model(start(tmp_path, point_checkpoint=str(tmp_path / "checkpoint.pt")))
    assert taken.config["latent_dim"] == 6


def test_55_categories_imbalanced_as_shapenet_from_end_to_end(tmp_path):
    """A tiny tree on disk, some categories of three shapes: context, plugin, classifier over 55, requested shapes."""
    rng = np.random.default_rng(0)
    for k, synset in enumerate(SYNSETS.values()):
        for split, count in (("train", 3 + (40 // (k + 1))), ("val", 1), ("test", 1)):
            folder = tmp_path / "data" / "ShapeNetCore.v2.PC15k" / synset / split
            folder.mkdir(parents=True)
            for i in range(count):
                np.save(folder / f"{i}.npy", rng.normal(size=(2048, 3)).astype(np.float32) * [1, 1 + k / 10, 1])
    settings = SETTINGS | dict(point_epochs=1, point_flow_epochs=1)
    run = Run("55", out=tmp_path / "run", dataset="shapenet", data_dir=str(tmp_path / "data"), **settings)
    run.data.train.x.resize_(len(run.data.train), 32, 3)
    plugin = point_clouds.flow_plugin(run, "maf")
    assert plugin.attributes.context_dim == 55 and len(run.data.train.y.bincount()) == 55
    z = point_clouds.latents(run)["test"].mean
    assert plugin.log_posterior(z, "train").shape == (55, 55) and plugin.predict(z).max() < 55
    assert plugin.log_prior_.exp().sum() == pytest.approx(1) and plugin.log_prior_.argmax() == 0
    clouds = FlowPluginNetwork(point_clouds.base_model(run), plugin).generate(run.classes.names, n=1, seed=0)
    assert clouds.shape == (55, 24, 3)
    table = point_clouds.table_2(run, {"logistic_regression": dict(grid=(1.0,), n_jobs=1)})
    assert table.loc[0, "test"] <= 1 and len(table) == 5


@pytest.mark.parametrize(
    "call, line",
    [
        (lambda run: point_clouds.flow_plugin(run(), "mfa"), "unknown flow 'mfa'; did you mean 'maf'?"),
        (
            lambda run: point_clouds.base_model(run(point_base="tinny")),
            "unknown point_base 'tinny'; did you mean 'tiny'",
        ),
        (lambda run: point_clouds.base_model(run(point_objective="match")), "did you mean 'matching'"),
        (lambda run: point_clouds.base_model(run(point_seen=41)), "40 points; 41 were asked for"),
        (lambda run: point_clouds.base_model(run(point_step=25)), "point_step is at most point_seen"),
        (lambda run: point_clouds.table_2(run(), {"svm": {}}), "svm"),
    ],
)
def test_bad_input_gets_one_clear_line(folder, call, line):
    with pytest.raises((ValueError, KeyError), match=line):
        call(lambda **settings: start(folder, "bad", **settings))


def test_keys_are_of_what_the_weights_depend_on(folder):
    """The base model's key names data, sizes, training and seed: the pretrained file stands or falls with it."""
    point_clouds.base_model(start(folder))
    described = json.loads((folder / "models" / "PointFlow.json").read_text())["meta"]
    assert artifacts.digest(described["made_from"]) == described["key"]
    assert set(described["made_from"]) == {"data", "model", "training", "points", "objective", "seed"}
