"""Supervised classifiers of latents, beside which a flow's are held.

They are those of Tables 1 and 2, scikit-learn's and an AutoML search, and regularised discriminant
analysis.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from joblib import Parallel, cpu_count, delayed, parallel_config
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split
from sklearn.multiclass import OneVsOneClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC, LinearSVC
from torch import Tensor
from tqdm.auto import tqdm

from fpnlib import checks
from fpnlib.rivals import POOLED, ClassGaussians

GRID = (0.01, 0.1, 1.0, 10.0, 100.0)  # the authors' values of C
# FLAML's names of the learners, each with the settings of its first trial, which are its library's
# defaults. "mlp" is added here, because FLAML has no neural network of its own.
LEARNERS: dict[str, dict] = {
    "kneighbor": {"n_neighbors": 5},
    "lgbm": {"n_estimators": 100, "num_leaves": 31, "min_child_samples": 20, "learning_rate": 0.1},
    "extra_tree": {
        "n_estimators": 100,
        "max_features": 0.16,
        "max_leaves": 1_000,
        "criterion": "gini",
    },
    "mlp": {"hidden_layer_sizes": 100, "alpha": 1e-4, "learning_rate_init": 1e-3},
}
SEARCH: dict[str, Any] = {
    "task": "classification",
    "learner_selector": "roundrobin",
    "eval_method": "holdout",
    "sample": False,
    "early_stop": False,
    "verbose": 0,
}
AUTOML_NEEDS = 10  # samples of each class, because AutoML holds out a tenth
Array = Tensor | np.ndarray


@dataclass(frozen=True)
class Scores:
    """How a classifier did: accuracies in [0, 1], seconds of search and final fit, chosen settings.

    The ``macro`` accuracies are the means of the classes' own. ``predicted`` is a text of the test
    samples' classes, which a file holds in one line.
    """

    name: str
    train_accuracy: float
    test_accuracy: float
    seconds: float
    settings: dict
    train_macro: float
    test_macro: float
    predicted: str


def accuracies(y: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """Share of right predictions (n,) over all, and averaged over the classes that ``y`` has.

    >>> accuracies(np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0]))
    (0.75, 0.5)
    """
    macro = recall_score(y, predicted, labels=np.unique(y), average="macro")
    return float(np.mean(predicted == y)), float(macro)


class _DiscriminantAnalysis(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Bayes' rule with Gaussians of partly pooled covariances (Friedman 1989).

    The classes' prior is their frequencies.
    """

    def __init__(self, pooled: float = 0.0):
        self.pooled = pooled

    def fit(self, z: np.ndarray, y: np.ndarray) -> Self:
        self.classes_, index, counts = np.unique(y, return_inverse=True, return_counts=True)
        latents, classes = torch.from_numpy(z), torch.from_numpy(index)
        self.gaussians_ = ClassGaussians(latents, classes, self.pooled)
        self.log_prior_ = np.log(counts / len(y))
        return self

    def predict(self, z: np.ndarray) -> np.ndarray:
        log_prob = self.gaussians_.log_prob(torch.from_numpy(z)).numpy()
        return self.classes_[(log_prob + self.log_prior_).argmax(1)]


def _grid_search(
    name: str,
    estimator: ClassifierMixin,
    z: Array,
    y: Array,
    z_test: Array,
    y_test: Array,
    seed: int = 0,
    grid: Sequence[float] = GRID,
    folds: int = 5,
    max_search: int | None = None,
    n_jobs: int = -1,
) -> Scores:
    """Choose C by stratified cross-validation on (z, y), fit on all of it, and score the result.

    The scores are the same for any ``n_jobs``. Of equally good values of C the smallest is taken.
    Discriminant analysis has its pooled share instead of C.

    Args:
        name: of the progress bar and of the scores.
        estimator: a classifier with a parameter C or pooled, itself or within OneVsOneClassifier.
        z: latents (n, D).
        y: their class indices (n,).
        z_test: latents (m, D) to score on.
        y_test: their class indices (m,).
        seed: of the folds and of the samples that C is chosen on.
        grid: the values to choose from, growing.
        folds: of the cross-validation.
        max_search: choose C on so many samples, a stratified draw by ``seed``; None: on all.
        n_jobs: fits at a time; -1: one a core.

    Raises:
        ValueError: NaN in the latents, shapes that do not fit, or a class of fewer than ``folds``.
    """
    z, y, z_test, y_test = _checked(z, y, z_test, y_test, at_least=folds)
    started = time.perf_counter()
    sample = np.arange(len(z))
    if max_search is not None and max_search < len(z):
        sample, _ = train_test_split(sample, train_size=max_search, stratify=y, random_state=seed)
    names = ("C", "pooled", "estimator__C")
    parameter = next(name for name in names if name in estimator.get_params())
    # Threads suffice, because libsvm and liblinear release Python's lock.
    bar = tqdm(desc=name, total=len(grid) * folds, unit="fit", dynamic_ncols=True)
    with parallel_config("threading", n_jobs=n_jobs), bar:

        def accuracy(classifier: ClassifierMixin, z_fold: np.ndarray, y_fold: np.ndarray) -> float:
            bar.update()
            return classifier.score(z_fold, y_fold)

        cv = StratifiedKFold(folds, shuffle=True, random_state=seed)
        search = GridSearchCV(estimator, {parameter: grid}, scoring=accuracy, cv=cv, refit=False)
        search.set_params(error_score="raise").fit(z[sample], y[sample])
        final = clone(estimator).set_params(**search.best_params_).fit(z, y)
        train, test = _predict(final, z), _predict(final, z_test)
    short = parameter.removeprefix("estimator__")
    settings = {short: search.best_params_[parameter], "folds": folds, "searched_on": len(sample)}
    by_value = search.cv_results_["mean_test_score"].tolist()
    settings[f"accuracy_by_{short}"] = dict(zip(map(str, grid), by_value))
    return _scores(name, (y, train), (y_test, test), started, settings)


# Each is _grid_search(z, y, z_test, y_test, …) with its classifier.
logistic_regression = partial(
    _grid_search, "logistic regression", LogisticRegression(max_iter=1_000)
)
# One against one as in SVC(kernel="linear"), but with liblinear's squared hinge. On 10,000 latents
# of MNIST it is as accurate (to 0.003 at each one's best C) and up to 20 times as fast.
linear_svm = partial(_grid_search, "linear SVM", OneVsOneClassifier(LinearSVC(dual=False)))
# The time of these grows with the square of n, so C is chosen on 20,000 samples.
rbf_svm = partial(_grid_search, "RBF SVM", SVC(cache_size=1_000), max_search=20_000)
rda = partial(_grid_search, "RDA", _DiscriminantAnalysis(), grid=POOLED)


def automl(
    z: Array,
    y: Array,
    z_test: Array,
    y_test: Array,
    seed: int = 0,
    max_trials: int = 24,
    seconds: float = 600,
) -> Scores:
    """FLAML's search (Wang et al. 2021, arXiv:1911.04706) over classifiers and their settings.

    Each trial is judged on a tenth of (z, y), held out; the best is fitted to all of it. One seed
    gives the same scores if ``max_trials`` end the search before ``seconds`` do;
    ``settings["bound"]`` says which of the two did.

    Args:
        z: latents (n, D).
        y: their class indices (n,).
        z_test: latents (m, D) to score on.
        y_test: their class indices (m,).
        seed: of the search and of the learners.
        max_trials: classifiers to try; a multiple of the learners is fair to all.
        seconds: bound on the search's wall time.

    Raises:
        ValueError: as the other baselines, with ``AUTOML_NEEDS`` instead of ``folds``.
    """
    from flaml import AutoML  # takes seconds to import

    z, y, z_test, y_test = _checked(z, y, z_test, y_test, at_least=AUTOML_NEEDS)
    started = time.perf_counter()
    bar = tqdm(desc="AutoML", total=max_trials, unit="trial", dynamic_ncols=True)
    # The learners have notes on feature names and iterations.
    with bar, warnings.catch_warnings(action="ignore"):

        def error(z_held_out: Any, y_held_out: Any, learner: Any, *_: Any) -> tuple[float, dict]:
            bar.update()
            return float(np.mean(learner.predict(z_held_out) != y_held_out)), {}

        search = AutoML()
        search.add_learner("mlp", _multilayer_perceptron(seed))
        bounds = {"max_iter": checks.positive("max_trials", max_trials), "time_budget": seconds}
        learners = {"estimator_list": list(LEARNERS), "starting_points": dict(LEARNERS)}
        options = {"metric": error, "seed": seed, "n_jobs": cpu_count(), **SEARCH}
        search.fit(z, y, **learners, **bounds, **options)
        train, test = search.predict(z), search.predict(z_test)
        trials = max(bar.n, 1)  # a single trial is not scored
    settings = {"learner": search.best_estimator, **search.best_config, "trials": trials}
    settings["bound"] = f"{max_trials} trials" if trials >= max_trials else f"{seconds:g} seconds"
    return _scores("AutoML", (y, train), (y_test, test), started, settings)


BASELINES: dict[str, Callable[..., Scores]] = {
    "logistic_regression": logistic_regression,
    "linear_svm": linear_svm,
    "rbf_svm": rbf_svm,
    "rda": rda,
    "automl": automl,
}


def _multilayer_perceptron(seed: int) -> type:
    """scikit-learn's network of one hidden layer, with early stopping, as FLAML wants a learner."""
    from flaml import tune
    from flaml.automl.model import SKLearnEstimator

    class MultilayerPerceptron(SKLearnEstimator):  # type: ignore[misc]
        # scikit-learn's network takes no n_jobs.
        def __init__(self, task: str = "multiclass", n_jobs: int | None = None, **config: Any):
            super().__init__(task, **config)
            self.estimator_class = MLPClassifier

        @classmethod
        def search_space(cls, data_size: Any, task: Any, **_: Any) -> dict[str, dict]:
            return {
                "hidden_layer_sizes": {"domain": tune.lograndint(32, 512)},
                "alpha": {"domain": tune.loguniform(1e-6, 1e-1)},
                "learning_rate_init": {"domain": tune.loguniform(3e-4, 1e-2)},
            }

        def config2params(self, config: dict) -> dict:
            fixed = {"early_stopping": True, "max_iter": 100, "random_state": seed}
            return super().config2params(config) | fixed

    return MultilayerPerceptron


def _scores(name: str, train: tuple, test: tuple, started: float, settings: dict) -> Scores:
    """Scores of the predictions on train and test, each (classes, predictions)."""
    seconds = time.perf_counter() - started
    (train_share, train_macro), (test_share, test_macro) = accuracies(*train), accuracies(*test)
    predicted = " ".join(map(str, test[1]))
    return Scores(
        name, train_share, test_share, seconds, settings, train_macro, test_macro, predicted
    )


def _predict(classifier: ClassifierMixin, z: np.ndarray) -> np.ndarray:
    """Predict in parallel, because an SVM reads 60,000 latents more slowly than it learns them."""
    parts = np.array_split(z, max(1, len(z) // 5_000))
    return np.concatenate(Parallel()(delayed(classifier.predict)(part) for part in parts))


def _checked(
    z: Array, y: Array, z_test: Array, y_test: Array, at_least: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All four as arrays, the latents in double precision."""
    z, y = checks.latents(z), checks.class_indices(y)
    z_test, y_test = checks.latents(z_test, z.shape[1], "z_test"), checks.class_indices(y_test)
    checks.same_length(z, y)
    checks.same_length(z_test, y_test, ("z_test", "y_test"))
    classes, counts = y.unique(return_counts=True)
    if counts.min() < at_least:
        k, count = int(classes[counts.argmin()]), int(counts.min())
        raise ValueError(f"class {k} has {count} samples; {at_least} or more are needed")
    learned = z.double().numpy(force=True), y.numpy(force=True)
    return *learned, z_test.double().numpy(force=True), y_test.numpy(force=True)
