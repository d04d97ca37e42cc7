"""The baselines: known accuracies, the choice of C, the same numbers twice, and bad input."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from joblib import parallel_config
from laws import one_line
from sklearn.base import BaseEstimator, ClassifierMixin

from fpnlib import baselines
from fpnlib.baselines import BASELINES, accuracies, automl, linear_svm, rbf_svm


def clumps(n=240, seed=0):
    """Three classes on a line, far apart: anything separates them."""
    y = torch.arange(n) % 3
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed)) + 10 * y[:, None], y


def shells(n=400, seed=0):
    """One class around the other: only a curved boundary separates them."""
    y = torch.arange(n) % 2
    z = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    return z / z.norm(dim=1, keepdim=True) * (1 + 3 * y[:, None]), y


def quick(name, *data, seed=0):
    settings = {"max_trials": 5} if name == "automl" else {"n_jobs": 1}
    if name not in ("automl", "rda"):
        settings["grid"] = (0.1, 10.0)
    return BASELINES[name](*data, seed=seed, **settings)


@pytest.mark.parametrize("name", BASELINES)
def test_each_separates_what_is_separable(name):
    scores = quick(name, *clumps(), *clumps(seed=1))
    assert scores.train_accuracy == scores.test_accuracy == 1
    assert scores.seconds > 0
    assert json.loads(json.dumps(asdict(scores)))["settings"] == scores.settings


def test_only_the_curved_boundary_separates_shells():
    data = (*shells(), *shells(seed=1))
    assert rbf_svm(*data, n_jobs=1).test_accuracy > 0.99
    assert linear_svm(*data, n_jobs=1).test_accuracy < 0.75


class Spy(ClassifierMixin, BaseEstimator):
    """A classifier whose score depends on C alone; it notes what it is fitted to."""

    fitted: list = []

    def __init__(self, C=1.0):
        self.C = C

    def fit(self, z, y):
        self.fitted.append((self.C, len(z)))
        self.classes_ = np.unique(y)
        return self

    def score(self, z, y):
        return {0.1: 0.2, 1.0: 0.8, 10.0: 0.8}[self.C]

    def predict(self, z):
        return np.zeros(len(z))


def test_grid_search_takes_the_best_c_the_smallest_of_equals_without_the_test_set(monkeypatch):
    monkeypatch.setattr(Spy, "fitted", [])
    grid = {"grid": (0.1, 1.0, 10.0), "folds": 4, "n_jobs": 1}
    scores = baselines._grid_search("spy", Spy(), *clumps(100), *clumps(30), **grid)
    assert Spy.fitted == [(c, 75) for c in (0.1, 1.0, 10.0) for _ in range(4)] + [(1.0, 100)]
    assert scores.settings["C"] == 1.0
    assert scores.settings["accuracy_by_C"] == pytest.approx({"0.1": 0.2, "1.0": 0.8, "10.0": 0.8})


def test_macro_accuracy_counts_each_class_alike():
    y, predicted = np.array([0, 0, 0, 0, 2, 2]), np.array([0, 0, 0, 1, 2, 1])
    overall, macro = accuracies(y, predicted)
    assert overall == pytest.approx(4 / 6) and macro == pytest.approx((3 / 4 + 1 / 2) / 2)


def test_scores_do_not_depend_on_the_number_of_jobs():
    data = (*shells(), *shells(seed=1))
    with parallel_config("threading"):  # processes take seconds to start
        one, two = (linear_svm(*data, grid=(0.1, 1.0), n_jobs=n) for n in (1, 2))
    assert replace(one, seconds=0) == replace(two, seconds=0)


def test_automl_gives_the_same_numbers_twice_and_says_what_ended_it():
    data = (*shells(), *shells(seed=1))
    first, second = (automl(*data, seed=3, max_trials=5, seconds=300) for _ in range(2))
    assert replace(first, seconds=0) == replace(second, seconds=0)
    assert first.settings["bound"] == "5 trials" and first.settings["trials"] == 5
    assert automl(*data, max_trials=10_000, seconds=0.5).settings["bound"] == "0.5 seconds"


def test_a_search_on_a_part_still_fits_all():
    data = (*shells(), *shells(seed=1))
    part, whole = (rbf_svm(*data, n_jobs=1, max_search=n) for n in (100, None))
    assert part.settings["searched_on"] == 100 and whole.settings["searched_on"] == 400
    assert part.test_accuracy == whole.test_accuracy  # the same C, on the same latents


def test_automl_can_choose_the_network(monkeypatch):
    start = {"mlp": {"hidden_layer_sizes": 32, "alpha": 1e-4, "learning_rate_init": 0.01}}
    monkeypatch.setattr(baselines, "LEARNERS", start)
    scores = automl(*clumps(), *clumps(seed=1), max_trials=2)
    assert scores.settings["learner"] == "mlp" and scores.test_accuracy > 0.9


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda z, y, zt, yt: (z * torch.nan, y, zt, yt), "NaN"),
        (lambda z, y, zt, yt: (z, y[1:], zt, yt), "z and y must have the same length, got 240"),
        (lambda z, y, zt, yt: (z, y, zt, yt[1:]), "z_test and y_test must have the same length"),
        (lambda z, y, zt, yt: (z, y, zt[:, 1:], yt), r"z_test must have shape \(n, 4\)"),
        (lambda z, y, *test: (z, y.scatter(0, torch.arange(2), 7), *test), "class 7 has 2 samples"),
    ],
)
def test_bad_input_gets_one_line(name, change, said):
    with one_line(ValueError, said):
        quick(name, *change(*clumps(), *clumps(seed=1)))
