"""Scores of the MNIST experiments, at toy sizes: what stands in Table 1, and what a generator is scored by."""

import numpy as np
import pandas as pd
import pytest
import torch

from fpnlib.experiments import (
    Run,
    accuracy,
    base_model,
    flow_plugin,
    judge,
    latents,
    score_plugin,
    scorer,
)
from fpnlib.experiments.digits import PAPER, kept_baseline, leads, table_1
from fpnlib.metrics import images

SETTINGS = dict(
    dataset="digits", base_epochs=1, ae_epochs=1, flow_epochs=2, flow_width=8, judge_epochs=1
)
SMALL = {
    "logistic_regression": {"grid": (1.0,)},
    "automl": {"seconds": 600, "max_trials": 2, "learners": {"kneighbor": {}}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run("08", out=tmp_path_factory.mktemp("run"), **SETTINGS)


@pytest.fixture(scope="module")
def table(run):
    return table_1(run, SMALL, on_means=["logistic_regression"]).set_index("model")


def test_table_1_has_every_model_beside_the_paper_on_the_papers_data(run, table, monkeypatch):
    assert list(table.index) == ["logistic regression", "AutoML", "FPN (C-MAF)", "FPN (C-RNVP)"]
    assert table[["paper, train", "paper, test"]].isna().all(axis=None)
    monkeypatch.setattr(run, "dataset_name", "mnist")
    there = table_1(run, SMALL, on_means=["logistic_regression"]).set_index("model")
    for row, name in zip(table.index, ("logistic_regression", "automl", "maf", "realnvp")):
        assert tuple(there.loc[row, ["paper, train", "paper, test"]]) == PAPER[name]
    train, held_out = len(run.data.train), len(run.data.validation)
    assert table["learned from"].tolist() == [train + held_out] * 2 + [train] * 2


def test_what_was_learned_from_is_not_called_validation(table):
    parts = [
        f"{kind}, {split}"
        for kind in ("draws", "means")
        for split in ("train", "validation", "test")
    ]
    missing = {
        row: [part for part in parts if pd.isna(table.loc[row, part])] for row in table.index
    }
    assert missing["logistic regression"] == ["draws, validation", "means, validation"]
    assert missing["AutoML"] == [
        "draws, validation",
        "means, train",
        "means, validation",
        "means, test",
    ]
    assert missing["FPN (C-MAF)"] == missing["FPN (C-RNVP)"] == []


def test_table_1_says_what_was_chosen_and_what_ended_the_search(table):
    assert table["chosen"].tolist()[:2] == ["C = 1", "kneighbor; 2 trials, ended by its 2 trials"]
    assert table["chosen"].str.fullmatch("epoch [12] of 2").tolist() == [False, False, True, True]


def test_accuracies_are_shares_of_right_answers(run, table):
    sets, plugin = latents(run, base_model(run, "ConvVAE")), flow_plugin(run, "ConvVAE", "maf")
    scores = score_plugin(plugin, sets, "draw")
    for split, got in zip(("train", "test", "validation"), scores):
        right = int((plugin.predict(sets[split].draw) == sets[split].y).sum())
        assert got == right / len(sets[split].y) == table.loc["FPN (C-MAF)", f"draws, {split}"]
    assert accuracy(plugin, sets["test"], "mean", "train") == accuracy(
        plugin, sets["test"], "mean", plugin.log_prior_.exp()
    )


def test_latents_are_encoded_once(run):
    base = base_model(run, "ConvVAE")
    assert latents(run, base) is latents(run, base_model(run, "ConvVAE"))


def test_a_baseline_that_is_unknown_or_damaged_is_named(run, table):
    with pytest.raises(ValueError, match="unknown baseline 'rbf_smv'; did you mean 'rbf_svm'?"):
        table_1(run, {"rbf_smv": {}})
    path = run.folder / "models" / "ConvVAE_logistic_regression_draw.json"
    whole = path.read_text()
    path.write_text(whole.replace('"C": 1', '"C": 2'))
    with pytest.raises(
        ValueError, match="ConvVAE_logistic_regression_draw.json is damaged"
    ) as caught:
        table_1(run, SMALL)
    path.write_text(whole)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="unknown baseline"):
        kept_baseline(run, "svm", "ConvVAE", "key", {}, "draw")


def test_images_are_scored_beside_the_test_images_whose_features_are_read_once(run, monkeypatch):
    reader, test, seen = judge(run), run.data.test, []
    read = reader.read
    monkeypatch.setattr(reader, "read", lambda x: seen.append(1) or read(x))
    score = scorer(run, reader)
    assert len(seen) == 1
    itself, darker = score(test.x, test.y), score(0.3 * test.x, test.y)
    assert len(seen) == 5, "each image for its features and for its class"
    assert (
        itself["diversity"] == 1 and itself["n"] == len(test) and itself["Fréchet distance"] < 1e-3
    )
    assert itself["right class"] == images.right_class_rate(reader, test.x, test.y)
    assert darker["diversity"] < 1 and darker["Fréchet distance"] > itself["Fréchet distance"]
    assert torch.equal(test.x, run.data.test.x)


def test_a_lead_is_over_the_best_baseline_with_the_error_of_a_difference():
    scores = pd.Series({"RBF SVM": 0.9, "AutoML": 0.8, "FPN (C-MAF)": 0.95, "FPN (C-RNVP)": 0.85})
    table = leads(scores, 100)
    assert table["model"].tolist() == ["FPN (C-MAF)", "FPN (C-RNVP)"]
    assert table["best baseline"].tolist() == ["RBF SVM"] * 2
    assert table["lead"].tolist() == pytest.approx([0.05, -0.05])
    right = np.random.default_rng(0).binomial(100, [[0.9], [0.95]], (2, 20_000)) / 100
    assert table["± two standard errors"][0] == pytest.approx(
        2 * (right[1] - right[0]).std(), rel=0.03
    )
