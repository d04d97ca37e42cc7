"""The steps of the experiments with 3D shapes, at sizes that say nothing but finish soon."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fpnlib import data, store
from fpnlib.base_models import load_pointflow
from fpnlib.baselines import logistic_regression
from fpnlib.data.drawn.shapes import load_drawn_shapes
from fpnlib.data.point_clouds import SYNSETS, load_shapenet
from fpnlib.experiments import Run, point_clouds, pretrained
from fpnlib.network import FlowPluginNetwork

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*overflowed"
)  # these flows have hardly been trained

SETTINGS = dict(
    point_base="tiny",
    point_epochs=2,
    point_seen=24,
    point_step=16,
    point_objective="matching",
    point_checkpoint="",
)
SETTINGS |= dict(
    point_flow_width=8, point_flow_dropout=0.2, point_flow_epochs=2, point_judge_epochs=1
)
TINY = dict(
    latent_dim=6, hidden=(8,), encoder_widths=(8, 8, 8, 16), points=24, method="euler", steps=2
)


@pytest.fixture(scope="module", autouse=True)
def small():
    """A few shapes of few points, and a model to match."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            data.DATASETS,
            "shapes",
            lambda root, seed, download: load_drawn_shapes(seed=seed, n=150, points=40),
        )
        patch.setitem(point_clouds.SIZES, "tiny", TINY)
        patch.setitem(point_clouds.BASE_TRAINING, "tiny", point_clouds.BASE_TRAINING["small"])
        patch.setattr(point_clouds, "JUDGE", {"widths": (8, 8, 8, 16), "head_widths": (8,)})
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
    assert sets["train"].mean.shape == (len(run.data.train), 6) and torch.equal(
        sets["test"].y, run.data.test.y
    )
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
    """Test shapes beside themselves; the judge is right where it is right, and every category counts alike."""
    run = start(folder)
    test, reader = run.data.test, point_clouds.judge(run)
    rows = point_clouds.first_of_each(test, 3, range(10))
    assert test.y[rows].tolist() == [
        k for k in range(10) for _ in range(min(3, int((test.y == k).sum())))
    ]
    x, y = test.x[rows], test.y[rows].clone()
    y[:3] = reader(x[:3]).argmax(1)  # whatever it sees: asked for
    scores = point_clouds.score(run, x, test.y[rows], 2, points=20)
    assert scores["category"].tolist() == ["all", *run.classes.names]
    assert (
        (scores["coverage"] == 1).all()
        and (scores["mmd"] < 1e-5).all()
        and (scores["1-nna"] == 0).all()
    )
    right = reader(x).argmax(1) == test.y[rows]
    by_category = [right[test.y[rows] == k].double().mean().item() for k in range(10)]
    assert scores["right class"].tolist() == pytest.approx([np.mean(by_category), *by_category])
    alone = point_clouds.score(run, x[:3], y[:3])
    assert list(alone.columns) == ["category", "right class"]
    assert set(alone["right class"].dropna()) == {1.0} and alone[
        "right class"
    ].isna().sum() == 10 - len(set(y[:3].tolist()))
    with pytest.raises(ValueError, match="clouds of 41 points need as many of each, got"):
        point_clouds.score(run, x, test.y[rows], 2, 41)
    both = point_clouds.score(run, x, test.y[rows], 2, 20, ["chamfer", "earth mover's"])
    assert list(both.columns)[-3:] == [
        "coverage, earth mover's",
        "mmd, earth mover's",
        "1-nna, earth mover's",
    ]
    assert both[scores.columns].equals(scores) and (both["mmd, earth mover's"] == 0).all()


def test_what_is_judged_is_what_its_labels_say(folder):
    """Test shapes, what the base model makes of them, training shapes and generated ones, of as many points each."""
    run = start(folder)
    kinds = point_clouds.judged(run, 4, 12)
    assert list(kinds) == [
        "test shapes",
        "reconstructions of test",
        "training shapes",
        *point_clouds.generators(run),
    ]
    rows = point_clouds.first_of_each(run.data.test, 4, range(10))
    assert torch.equal(kinds["test shapes"][0], run.data.test.x[rows, :12])
    for name, (x, y) in kinds.items():
        assert x.shape == (len(y), 12, 3), name
        assert torch.equal(
            y, run.data.test.y[rows] if "test" in name else torch.arange(10).repeat_interleave(4)
        ), name
    z = point_clouds.latents(run)["test"].mean[rows]
    again = point_clouds.decode(point_clouds.base_model(run), z, 12, run.seed)
    assert torch.equal(kinds["reconstructions of test"][0], again)


def test_a_grid_shows_every_cloud_beside_its_own_label(folder):
    run = start(folder)
    train = run.data.train
    figure = point_clouds.grid(run, [train.x[train.y == k][: 1 + k] for k in (3, 0)], [3, 0])
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["car", "table"]
    picture = ax.images[0].get_array()
    side = len(picture) // 2
    left, right = (picture[:, j * side :][:, :side] for j in (0, 3))
    assert left[side:].min() < 0.9 and right[:side].min() < 0.9 and right[side:].min() == 1


def test_training_clouds_of_categories(folder):
    run = start(folder)
    y = torch.tensor([9, 0, 9, 3])
    x = point_clouds.training_clouds(run, y, seed=0)
    where = [int((run.data.train.x == cloud).all(-1).all(-1).nonzero()) for cloud in x]
    assert run.data.train.y[where].tolist() == y.tolist() and len(set(where)) == 4
    assert not torch.equal(x, point_clouds.training_clouds(run, y, seed=1))
    assert (
        len(point_clouds.training_clouds(run, torch.full((40,), 9), seed=0)) == 40
    )  # more than there are


def test_table_2(folder):
    run = start(folder)
    table = point_clouds.table_2(run, {"logistic_regression": dict(grid=(1.0,), n_jobs=1)})
    assert table["model"].tolist() == [
        "logistic regression",
        *["FPN (C-MAF)"] * 2,
        *["FPN (C-RNVP)"] * 2,
    ]
    assert table["prior"].tolist() == ["–", "flat", "train", "flat", "train"]
    assert table.loc[0, ["paper, train", "paper, test"]].tolist() == [0.9030, 0.8443]
    plugin, sets = point_clouds.flow_plugin(run, "realnvp"), point_clouds.latents(run)
    right = plugin.predict(sets["test"].mean, "train") == sets["test"].y
    assert table.loc[4, "test"] == pytest.approx(right.double().mean().item())
    by_category = [right[sets["test"].y == k].double().mean().item() for k in range(10)]
    assert table.loc[4, "test, macro"] == pytest.approx(np.mean(by_category))
    z, y = (
        torch.cat([getattr(sets[split], part) for split in ("train", "validation")])
        for part in ("mean", "y")
    )
    alone = logistic_regression(z, y, sets["test"].mean, sets["test"].y, grid=(1.0,), n_jobs=1)
    assert table.loc[0, ["train", "test"]].tolist() == [alone.train_accuracy, alone.test_accuracy]


def test_most_common_categories_come_first(folder):
    run = start(folder)
    common = point_clouds.most_common(run, 3)
    assert [run.classes.names[k] for k in common] == ["table", "chair", "airplane"]


def test_the_likelihood_trains_it_too(tmp_path):
    model = point_clouds.base_model(start(tmp_path, point_objective="likelihood"))
    losses = [row["validation"] for row in model.history_.epochs]
    assert len(losses) == 2 and losses[1] < losses[0] < 20


def test_a_released_checkpoint_serves_as_it_is(tmp_path, shared):
    """The original's own encoder under ours: its latents, kept anew where the statistics beside it change."""
    path = Path(
        shutil.copy(shared / "reference" / "pointflow_ae.ckpt.pt", tmp_path / "checkpoint.pt")
    )
    sets = []
    for std in (0.5, 0.5, 0.7):
        (
            np.save(tmp_path / "train_set_mean.npy", np.full(3, 0.1)),
            np.save(tmp_path / "train_set_std.npy", std),
        )
        run = start(tmp_path, point_checkpoint=str(path))
        sets.append(point_clouds.latents(run)["test"].mean)
        base, x = load_pointflow(path), run.data.test.x
        assert (
            torch.equal(sets[-1], base.encode(x)) and point_clouds.base_model(run).std_ == base.std_
        )
    assert torch.equal(sets[0], sets[1]) and not torch.equal(sets[1], sets[2])


def test_55_categories_imbalanced_as_shapenet_from_end_to_end(tmp_path, capsys):
    """A tiny tree on disk, some categories of three shapes: context, plugin, baselines, the grid of requests, the scores."""
    rng = np.random.default_rng(0)
    for k, synset in enumerate(SYNSETS.values()):
        for split, count in (("train", 3 + (40 // (k + 1))), ("val", 1), ("test", 1)):
            folder = tmp_path / "data" / "ShapeNetCore.v2.PC15k" / synset / split
            folder.mkdir(parents=True)
            for i in range(count):
                shape = rng.normal(size=(32, 3)) * [1 + k % 4, 1 + k // 4 % 4, 1 + k // 16] + [
                    0,
                    k / 10,
                    0,
                ]
                np.save(folder / f"{i}.npy", shape.astype(np.float32))
    settings = SETTINGS | dict(
        point_epochs=4, point_flow_epochs=20, data_dir=str(tmp_path / "data")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            data.DATASETS,
            "shapenet",
            lambda root, seed, download: load_shapenet(root, seed, points=32),
        )
        run = Run("55", out=tmp_path / "run", dataset="shapenet", **settings)
        plugin = point_clouds.flow_plugin(run, "maf")
    assert plugin.condition.context_dim == 55 and run.data.train.y.bincount().min() == 3
    z = point_clouds.latents(run)["test"].mean
    assert plugin.log_posterior(z, "train").exp().sum(1).tolist() == pytest.approx(
        [1.0] * 55, abs=1e-4
    )
    assert plugin.log_prior_.exp().sum() == pytest.approx(1) and plugin.log_prior_.argmax() == 0
    clouds = FlowPluginNetwork(point_clouds.base_model(run), plugin).generate(
        run.classes.names, n=1, seed=0
    )
    assert clouds.shape == (55, 24, 3) and clouds.isfinite().all()
    figure = point_clouds.grid(run, clouds[:, None], range(55))
    assert figure.axes[0].images[0].get_array().shape == (55 * 100, 100, 3)
    grid = dict(grid=(1.0,), n_jobs=1)
    baselines = {"logistic_regression": grid, "rbf_svm": grid, "automl": dict(max_trials=4)}
    table = point_clouds.table_2(run, baselines)
    assert (
        "AutoML is left out: it needs 10 shapes of each category, and one has 4"
        in capsys.readouterr().out
    )
    assert table.loc[2, "model"] == "AutoML" and table.loc[2, ["train", "test"]].isna().all()
    assert (table["test"].drop(2) > 5 / 55).all()  # by chance one of 55 is right
    for name, (x, y) in point_clouds.judged(run, 1, 24).items():
        scores = point_clouds.score(run, x, y, 1, 24).set_index("category")
        assert y.tolist() == [*range(55)] and scores.notna().all(axis=None), name
        assert (scores.drop("all")[["right class", "coverage"]].isin([0.0, 1.0])).all(axis=None), (
            name
        )


@pytest.mark.parametrize(
    "call, line",
    [
        (
            lambda run: point_clouds.flow_plugin(run(), "mfa"),
            "unknown flow 'mfa'; did you mean 'maf'?",
        ),
        (
            lambda run: point_clouds.base_model(run(point_base="tinny")),
            "unknown point_base 'tinny'; did you mean 'tiny'",
        ),
        (
            lambda run: point_clouds.base_model(run(point_objective="match")),
            "did you mean 'matching'",
        ),
        (lambda run: point_clouds.base_model(run(point_seen=41)), "40 points; 41 were asked for"),
        (
            lambda run: point_clouds.base_model(run(point_step=25)),
            "point_step is at most point_seen",
        ),
        (
            lambda run: point_clouds.table_2(run(), {"rbf_smv": {}}),
            "unknown baseline 'rbf_smv'; did you mean 'rbf_svm'",
        ),
    ],
)
def test_bad_input_gets_one_clear_line(folder, call, line):
    with pytest.raises(ValueError, match=line):
        call(lambda **settings: start(folder, "bad", **settings))


def test_keys_are_of_what_the_weights_depend_on(folder):
    """The base model's key names data, sizes, training and seed: the pretrained file stands or falls with it."""
    point_clouds.base_model(start(folder))
    described = json.loads((folder / "models" / "PointFlow.json").read_text())["meta"]
    assert store.digest(described["made_from"]) == described["key"]
    assert set(described["made_from"]) == {
        "data",
        "model",
        "training",
        "points",
        "objective",
        "whitened",
        "seed",
    }
