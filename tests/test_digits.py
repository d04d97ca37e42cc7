"""The digits' family at toy sizes: sources, Table 1, and how images are scored."""

import numpy as np
import pandas as pd
import pytest
import torch

from fpnlib.families import DIGITS, Run, Study
from fpnlib.families.classification import classification_table, leads, plugin_accuracies
from fpnlib.metrics import images

SIZES = "digits.vae_epochs=1 digits.ae_epochs=1 digits.flow_epochs=2 digits.flow_width=8"
SMALL = {"logistic_regression": {"grid": (1.0,)}, "automl": {"seconds": 600, "max_trials": 2}}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    override = f"{SIZES} digits.judge_epochs=1"
    return Study(Run("08", out=tmp_path_factory.mktemp("run"), override=override), DIGITS)


@pytest.fixture(scope="module")
def table(digits):
    features = ["draw", "mean"]
    shown = {"features": features, "on_means": ["logistic_regression"]}
    return classification_table(digits, SMALL, **shown).set_index(["model", "features"])


def test_every_source_draws_images(digits):
    sources = digits.sources("ConvVAE", components=2)
    flows = ["C-MAF", "C-RNVP"]
    simple = ["class Gaussians", "class Gaussians, pooled", "class mixtures"]
    again = [f"{name}, drawn again" for name in [*simple, *flows]]
    assert list(sources) == [*simple, *flows, *again, "unconditional"]
    for name, draw in sources.items():
        x = draw(torch.arange(10), 3)
        assert x.shape == (10, 1, 28, 28) and x.min() >= 0 and x.max() <= 1, name


def test_one_draw_takes_half_of_the_epochs_of_many(digits):
    fresh, fixed = digits.plugin("ConvVAE"), digits.plugin("ConvVAE", draws="fixed")
    assert len(fresh.history_.epochs) == 2 and len(fixed.history_.epochs) == 1
    assert fresh.key_ != fixed.key_


def test_another_width_is_another_plugin(digits):
    other = digits.plugin("ConvVAE", hidden_features=9)
    assert other.config["hidden_features"] == 9
    assert (digits.run.folder / "models" / "ConvVAE_maf_hidden_features_9.json").is_file()


def test_each_base_models_plugins_have_a_seed_of_their_own(tmp_path):
    def keys(seed):
        override = f"{SIZES} digits.ae_flow_epochs=1 digits.flow_seed={seed}"
        study = Study(Run("08", out=tmp_path, override=override), DIGITS)
        return [study.plugin(base).key_ for base in ("ConvVAE", "ConvAE")]

    of_vae, of_ae = zip(keys(0), keys(1))
    assert of_vae[0] != of_vae[1] and of_ae[0] == of_ae[1]


def test_table_1_has_every_model_and_says_what_it_learned_from(digits, table):
    models = ["logistic regression", "AutoML", "FPN (C-MAF)", "FPN (C-RNVP)"]
    assert list(table.index.get_level_values("model").unique()) == models
    assert table[["paper, train", "paper, test"]].isna().all(axis=None)
    train, held_out = len(digits.data.train), len(digits.data.validation)
    learned = table.xs("draw", level="features")["learned from"].tolist()
    assert learned == [train + held_out] * 2 + [train] * 2


def test_what_was_learned_from_is_not_called_validation(table):
    missing = table["validation"].isna()
    assert missing["logistic regression"].all() and missing["AutoML"].all()
    assert not missing["FPN (C-MAF)"].any() and not missing["FPN (C-RNVP)"].any()
    assert ("AutoML", "mean") not in table.index
    assert table[["train", "test"]].notna().all(axis=None)


def test_table_1_says_what_was_chosen_and_what_ended_the_search(table):
    chosen = table.xs("draw", level="features")["chosen"]
    assert chosen.iloc[0] == "C = 1"
    assert chosen.iloc[1].endswith("; 2 trials, ended by its 2 trials")
    assert chosen.str.fullmatch("epoch [12] of 2").tolist() == [False, False, True, True]


def test_accuracies_are_shares_of_right_answers(digits, table):
    z, plugin = digits.latents("ConvVAE"), digits.plugin("ConvVAE", "maf")
    for split in ("train", "validation", "test"):
        latents = getattr(z, split)
        right = int((plugin.predict(latents.draw) == latents.y).sum())
        accuracy, _ = plugin_accuracies(plugin, latents, "draw")
        assert accuracy == right / len(latents.y)
        assert accuracy == table.loc[("FPN (C-MAF)", "draw"), split]
    by_frequency = plugin_accuracies(plugin, z.test, "mean", "train")
    assert by_frequency == plugin_accuracies(plugin, z.test, "mean", plugin.log_prior_.exp())


def test_images_are_scored_beside_the_test_images(digits):
    judge, test = digits.judge(), digits.data.test
    score = DIGITS.score(judge, test)
    itself, darker = score(test.x, test.y), score(0.3 * test.x, test.y)
    assert itself["diversity"] == 1 and itself["n"] == len(test)
    assert itself["Fréchet distance"] < 1e-3
    assert itself["right class"] == images.right_class_rate(judge, test.x, test.y)
    assert darker["diversity"] < 1
    assert darker["Fréchet distance"] > itself["Fréchet distance"]


def test_a_lead_is_over_the_best_baseline_with_the_error_of_paired_answers():
    y, rng = torch.arange(100) % 10, np.random.default_rng(0)
    wrong = {"RBF SVM": 10, "AutoML": 20, "FPN (C-MAF)": 5, "FPN (C-RNVP)": 15}
    rows = []
    for model, count in wrong.items():
        predicted = y.clone()
        predicted[:count] += 1
        rows.append({"model": model, "predicted": predicted.tolist()})
    table = leads(pd.DataFrame([*rows, {"model": "AutoML, left out"}]), y)
    assert table["model"].tolist() == ["FPN (C-MAF)", "FPN (C-RNVP)"]
    assert table["best baseline"].tolist() == ["RBF SVM"] * 2
    assert table["lead"].tolist() == pytest.approx([0.05, -0.05])
    drawn = rng.permuted(np.arange(100) < 5, axis=0)[rng.integers(100, size=(20_000, 100))]
    error = 2 * drawn.mean(1).std()
    assert table["± two standard errors"].tolist() == pytest.approx([error] * 2, rel=0.03)
