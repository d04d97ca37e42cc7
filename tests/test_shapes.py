"""The shapes' family at sizes that say nothing but finish soon."""

import dataclasses
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from fpnlib import data
from fpnlib.base_models import load_pointflow
from fpnlib.baselines import logistic_regression
from fpnlib.data.drawn.shapes import load_drawn_shapes
from fpnlib.data.point_clouds import SYNSETS, load_shapenet
from fpnlib.families import SHAPES, Run, Study, shapes
from fpnlib.families.classification import classification_table
from fpnlib.families.generation import _drawn_rows, first_of_each, judged_objects, score_clouds
from fpnlib.metrics.judge import cloud_judge

pytestmark = pytest.mark.filterwarnings("ignore:.*overflowed")  # the flows are hardly trained

TINY = {"latent_dim": 6, "hidden": (8,), "encoder_widths": (8, 8, 8, 16)}
TINY |= {"points": 24, "method": "euler", "steps": 2}
SETTINGS = {"size": "tiny", "base_epochs": 2, "seen": 24, "step": 16, "judge_epochs": 1}
SETTINGS |= {"flow_width": 8, "flow_dropout": 0.2, "flow_epochs": 2}
JUDGE = dataclasses.replace(
    SHAPES.judge,
    build=lambda data, s: cloud_judge(len(data.classes), (8, 8, 8, 16), (8,)),
    view=lambda split, s, generator: (split.x[:, :16], split.y),
)
SMALL = dataclasses.replace(SHAPES, settings=SHAPES.settings | SETTINGS, judge=JUDGE)
GRID = {"logistic_regression": {"grid": (1.0,), "n_jobs": 1}}


@pytest.fixture(scope="module", autouse=True)
def few_shapes_of_few_points():
    with pytest.MonkeyPatch.context() as patch:
        few = partial(load_drawn_shapes, n=150, points=40)
        patch.setitem(data.DATASETS, "shapes", lambda root, seed, download: few(seed=seed))
        patch.setitem(shapes.SIZES, "tiny", TINY)
        patch.setitem(shapes.BASE_TRAINING, "tiny", shapes.BASE_TRAINING["small"])
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


def start(folder, override="", dataset="", data_dir=""):
    run = Run("06", out=folder, override=override, data_dir=str(data_dir))
    return Study(run, SMALL, dataset)


def test_scores_overall_and_by_category(folder):
    """Test shapes beside themselves; every category counts alike."""
    study = start(folder)
    test, judge, names = study.data.test, study.judge(), study.names
    rows = first_of_each(test.y, 3, range(10))
    x, y = test.x[rows], test.y[rows]
    table = score_clouds(study, x, y, compared=2, points=20)
    assert table["category"].tolist() == ["all", *names]
    assert (table["coverage"] == 1).all() and (table["1-nna"] == 0).all()
    assert (table["mmd"] < 1e-5).all()
    right = judge.predict(x) == y
    by_category = [right[y == k].double().mean().item() for k in range(10)]
    expected = [np.mean(by_category), *by_category]
    assert table["right class"].tolist() == pytest.approx(expected)


def test_categories_without_shapes_have_no_score(folder):
    study = start(folder)
    x = study.data.test.x[:3]
    seen = study.judge().predict(x)
    table = score_clouds(study, x, seen)
    assert list(table.columns) == ["category", "right class"]
    assert set(table["right class"].dropna()) == {1.0}
    assert table["right class"].isna().sum() == 10 - len(set(seen.tolist()))


def test_further_distances_carry_their_names(folder):
    study = start(folder)
    test = study.data.test
    rows = first_of_each(test.y, 3, range(10))
    given = study, test.x[rows], test.y[rows]
    one = score_clouds(*given, compared=2, points=20)
    two = ["chamfer", "earth mover's"]
    both = score_clouds(*given, compared=2, points=20, distances=two)
    names = [f"{name}, earth mover's" for name in ("coverage", "mmd", "1-nna")]
    assert list(both.columns)[-3:] == names
    assert both[one.columns].equals(one) and (both["mmd, earth mover's"] == 0).all()
    with pytest.raises(ValueError, match="clouds of 41 points need as many of each, got"):
        score_clouds(*given, compared=2, points=41)


def test_what_is_judged_is_what_its_labels_say(folder):
    study = start(folder)
    kinds = judged_objects(study, 4, points=12)
    real = ["test shapes", "reconstructions of test", "training shapes"]
    simple = ["category Gaussians", "category Gaussians, pooled"]
    conditional = [*simple, "C-MAF", "C-RNVP"]
    again = [f"{name}, drawn again" for name in conditional]
    assert list(kinds) == [*real, *conditional, *again]
    assert study.plugin(flow="maf").config["dropout"] == 0.2
    rows = first_of_each(study.data.test.y, 4, range(10))
    assert torch.equal(kinds["test shapes"][0], study.data.test.x[rows, :12])
    four_of_each = torch.arange(10).repeat_interleave(4)
    for name, (x, y) in kinds.items():
        assert x.shape == (len(y), 12, 3), name
        assert torch.equal(y, study.data.test.y[rows] if "test" in name else four_of_each), name
    z = study.latents().test.mean[rows]
    assert torch.equal(kinds["reconstructions of test"][0], study.decode("", z, 0, points=12))


def test_training_shapes_are_drawn_by_seed_and_start_again_if_there_are_too_few():
    y, wanted = torch.tensor([0, 1, 0, 2, 1, 0]), torch.tensor([2, 0, 0, 1])
    rows = _drawn_rows(y, wanted, seed=0)
    assert torch.equal(y[rows], wanted) and len(set(rows.tolist())) == 4
    assert (_drawn_rows(y, torch.full((40,), 2), seed=0) == 3).all()
    many = torch.zeros(100, dtype=torch.long)
    assert not torch.equal(_drawn_rows(many, many, 0), _drawn_rows(many, many, 1))


def test_table_2(folder):
    study = start(folder)
    study.data = dataclasses.replace(study.data, name="shapenet")  # the paper's own
    both = ["flat", "train"]
    table = classification_table(study, GRID, features=["mean"], priors=both)
    flows = [f"FPN ({flow}), {p} prior" for flow in ("C-MAF", "C-RNVP") for p in both]
    assert table["model"].tolist() == ["logistic regression", *flows]
    assert table["prior"].tolist() == ["–", *both, *both]
    for row, key in ((0, "logistic_regression"), (1, "maf")):
        assert tuple(table.loc[row, ["paper, train", "paper, test"]]) == SHAPES.paper[key]
    plugin, z = study.plugin(flow="realnvp"), study.latents()
    right = plugin.predict(z.test.mean, "train") == z.test.y
    assert table.loc[4, "test"] == pytest.approx(right.double().mean().item())
    by_category = [right[z.test.y == k].double().mean().item() for k in range(10)]
    assert table.loc[4, "test, macro"] == pytest.approx(np.mean(by_category))


def test_a_baseline_learns_from_train_and_validation(folder):
    study = start(folder)
    table, z = classification_table(study, GRID, features=["mean"]), study.latents()
    both = torch.cat([z.train.mean, z.validation.mean]), torch.cat([z.train.y, z.validation.y])
    alone = logistic_regression(*both, z.test.mean, z.test.y, grid=(1.0,), n_jobs=1)
    scores = alone.train_accuracy, alone.test_accuracy
    assert tuple(table.loc[0, ["train", "test"]]) == scores


def test_the_likelihood_trains_it_too(tmp_path):
    model = start(tmp_path, "shapes.objective=likelihood").base()
    losses = [row["validation"] for row in model.history_.epochs]
    assert len(losses) == 2 and losses[1] < losses[0] < 20


def test_a_released_checkpoint_serves_as_it_is(tmp_path, shared):
    """The original's encoder gives the latents; other statistics beside it make others."""
    released = shared / "reference" / "pointflow_ae.ckpt.pt"
    path = Path(shutil.copy(released, tmp_path / "checkpoint.pt"))
    sets = []
    for std in (0.5, 0.5, 0.7):
        np.save(tmp_path / "train_set_mean.npy", np.full(3, 0.1))
        np.save(tmp_path / "train_set_std.npy", std)
        study = start(tmp_path, f"shapes.checkpoint={path}")
        sets.append(study.latents().test.mean)
        base = load_pointflow(path)
        assert torch.equal(sets[-1], base.encode(study.data.test.x))
        assert study.base().std_ == base.std_
    assert torch.equal(sets[0], sets[1]) and not torch.equal(sets[1], sets[2])


@pytest.fixture(scope="module")
def shapenet(tmp_path_factory):
    """55 categories on disk in ShapeNet's layout, some of three shapes."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for k, synset in enumerate(SYNSETS.values()):
        scale, place = [1 + k % 4, 1 + k // 4 % 4, 1 + k // 16], [0, k / 10, 0]
        for split, count in (("train", 3 + (40 // (k + 1))), ("val", 1), ("test", 1)):
            folder = root / "ShapeNetCore.v2.PC15k" / synset / split
            folder.mkdir(parents=True)
            for i in range(count):
                shape = rng.normal(size=(32, 3)) * scale + place
                np.save(folder / f"{i}.npy", shape.astype(np.float32))
    return root


def test_55_categories_imbalanced_as_shapenet_from_end_to_end(shapenet, tmp_path, capsys):
    epochs = "shapes.base_epochs=4 shapes.flow_epochs=12"
    with pytest.MonkeyPatch.context() as patch:
        few = partial(load_shapenet, points=32)
        patch.setitem(data.DATASETS, "shapenet", lambda r, seed, download: few(r, seed))
        study = start(tmp_path / "run", epochs, "shapenet", shapenet)
        plugin = study.plugin(flow="maf")
    assert plugin.condition.context_dim == 55 and study.data.train.y.bincount().min() == 3
    z = study.latents().test.mean
    sums = plugin.log_posterior(z, "train").exp().sum(1).tolist()
    assert sums == pytest.approx([1.0] * 55, abs=1e-4)
    assert plugin.log_prior_.exp().sum() == pytest.approx(1) and plugin.log_prior_.argmax() == 0
    clouds = study.network().generate(study.names, n=1, seed=0)
    assert clouds.shape == (55, 24, 3) and clouds.isfinite().all()
    grid = {"grid": (1.0,), "n_jobs": 1}
    baselines = {"logistic_regression": grid, "rbf_svm": grid, "automl": {"max_trials": 4}}
    table = classification_table(study, baselines, features=["mean"])
    left_out = "AutoML is left out: it needs 10 objects of each category, and one has 4"
    assert left_out in capsys.readouterr().out
    assert table.loc[2, "model"] == "AutoML" and table.loc[2, ["train", "test"]].isna().all()
    assert (table["test"].drop(2) > 5 / 55).all()  # by chance one of 55 is right
    for name, (x, y) in judged_objects(study, 1, points=24).items():
        settings = {"compared": 1, "points": 24}
        scores = score_clouds(study, x, y, **settings)
        assert y.tolist() == [*range(55)] and scores.notna().all(axis=None), name


@pytest.mark.filterwarnings("ignore:modelnet. the clouds have 30 to 100 points")
def test_own_clouds_of_any_number_of_points_from_end_to_end(tmp_path):
    """Unequal, y up, and without folders of splits."""
    rng = np.random.default_rng(0)
    for name, stretch in (("mugs", [1, 1, 1]), ("pens", [1, 9, 1])):
        (tmp_path / "modelnet" / name).mkdir(parents=True)
        for k in range(20):
            cloud = rng.normal(size=(100 if k else 30, 3)) * stretch
            np.save(tmp_path / "modelnet" / name / f"{k:02}.npy", cloud.astype(np.float32))
    study = start(tmp_path / "run", "shapes.up=y", "modelnet", tmp_path)
    assert study.data.train.x.shape == (28, 100, 3)
    pens = study.data.test.x[study.data.test.y == 1].std((0, 1))
    assert pens[1] > 5 * pens[0] and pens[1] > 5 * pens[2]
    assert study.network().generate(["pens"], n=2).shape == (2, 24, 3)
    lying = start(tmp_path / "run", "", "modelnet", tmp_path)
    assert lying.base().key_ != study.base().key_ and lying.judge().key_ != study.judge().key_


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("shapes.size=tinny", "unknown shapes.size 'tinny'; did you mean 'tiny'"),
        ("shapes.objective=match", "did you mean 'matching'"),
        ("shapes.step=25", "shapes.step must be at most shapes.seen"),
    ],
)
def test_bad_input_gets_one_clear_line(tmp_path, override, line):
    with pytest.raises(ValueError, match=line):
        start(tmp_path, override).base()
