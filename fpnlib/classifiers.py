"""The paper's supervised baselines (Tables 1 and 2): scikit-learn's classifiers and an AutoML search, on latents."""

import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from joblib import Parallel, cpu_count, delayed
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.multiclass import OneVsOneClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC, LinearSVC
from torch import Tensor
from tqdm.auto import tqdm

from fpnlib import checks

GRID = (0.01, 0.1, 1.0, 10.0, 100.0)  # the authors' values of C
# FLAML's names, the last added here for its own have no neural network; each search starts at its library's defaults.
LEARNERS = {
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
AUTOML_NEEDS = 10
"""Samples of each class, of which AutoML holds out a tenth."""
Latents = Tensor | np.ndarray


@dataclass(frozen=True)
class Scores:
    """How a classifier did: accuracies in [0, 1], wall time of search and final fit, and the settings that it chose.

    The ``macro`` accuracies are the mean of the classes' own, whatever their sizes; None where they were not kept.
    """

    name: str
    train_accuracy: float
    test_accuracy: float
    seconds: float
    settings: dict
    train_macro: float | None = None
    test_macro: float | None = None


def accuracies(y: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """Share of right predictions (n,), over all and averaged over the classes that ``y`` has."""
    return float(np.mean(predicted == y)), float(
        recall_score(y, predicted, labels=np.unique(y), average="macro")
    )


def logistic_regression(
    z: Latents, y: Latents, z_test: Latents, y_test: Latents, seed: int = 0, **search
) -> Scores:
    """Multinomial logistic regression, C by cross-validation. Arguments and errors: :func:`grid_search`."""
    return grid_search("logistic regression", _logistic, z, y, z_test, y_test, seed, **search)


def linear_svm(
    z: Latents, y: Latents, z_test: Latents, y_test: Latents, seed: int = 0, **search
) -> Scores:
    """Linear support vector machines, C by cross-validation. Arguments and errors: :func:`grid_search`.

    One against one as in ``SVC(kernel="linear")``, but with liblinear's squared hinge: on 10,000 of MNIST's latents as
    accurate (to 0.003 at each one's best C) and up to twenty times as fast.
    """
    return grid_search("linear SVM", _linear_svm, z, y, z_test, y_test, seed, **search)


def rbf_svm(
    z: Latents,
    y: Latents,
    z_test: Latents,
    y_test: Latents,
    seed: int = 0,
    max_search: int | None = 20_000,
    **search,
) -> Scores:
    """Support vector machines with the RBF kernel, C by cross-validation. Arguments and errors: :func:`grid_search`.

    Their time grows with the square of n, so C is chosen on 20,000 samples and the final fit made on all.
    """
    return grid_search(
        "RBF SVM", _rbf_svm, z, y, z_test, y_test, seed, max_search=max_search, **search
    )


def grid_search(
    name: str,
    make: Callable[[float], ClassifierMixin],
    z: Latents,
    y: Latents,
    z_test: Latents,
    y_test: Latents,
    seed: int = 0,
    grid: Iterable[float] = GRID,
    folds: int = 5,
    max_search: int | None = None,
    n_jobs: int = -1,
) -> Scores:
    """Choose C by stratified cross-validation on (z, y), fit on all of it, score on it and on (z_test, y_test).

    The scores are the same for any ``n_jobs``. Of equally good values of C the smallest is taken.

    Args:
        make: the classifier for a value of C.
        z, z_test: latents (n, D), (m, D).
        y, y_test: class indices (n,), (m,).
        grid: the values of C.
        max_search: samples to choose C on, a stratified draw by ``seed``; None: all. The final fit is always on all.
        n_jobs: fits at a time; -1: one a core.

    Raises:
        ValueError: NaN in the latents, lengths or widths that differ, or a class with fewer samples than folds.
    """
    z, y, z_test, y_test = _arrays(z, y, z_test, y_test, at_least=folds)
    grid = sorted(grid)
    started = time.perf_counter()
    sample = np.arange(len(z))
    if max_search is not None and max_search < len(z):
        sample, _ = train_test_split(sample, train_size=max_search, stratify=y, random_state=seed)
    folded = StratifiedKFold(folds, shuffle=True, random_state=seed).split(z[sample], y[sample])
    splits = [(sample[train], sample[held_out]) for train, held_out in folded]
    # Threads serve: libsvm and liblinear let go of Python's lock.
    parallel = Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator")
    fits = parallel(
        delayed(_fold_accuracy)(make(c), z, y, *split) for c in grid for split in splits
    )
    by_fold = list(tqdm(fits, desc=name, total=len(grid) * folds, unit="fit", dynamic_ncols=True))
    means = np.reshape(by_fold, (len(grid), folds)).mean(1)
    best = grid[int(means.argmax())]
    final = make(best).fit(z, y)
    scores = [
        accuracies(labels, _predict(parallel, final, part))
        for part, labels in ((z, y), (z_test, y_test))
    ]
    by_c = {str(c): float(mean) for c, mean in zip(grid, means)}
    settings = {"C": best, "folds": folds, "searched_on": len(sample), "accuracy_by_C": by_c}
    return _scores(name, scores, time.perf_counter() - started, settings)


def automl(
    z: Latents,
    y: Latents,
    z_test: Latents,
    y_test: Latents,
    seed: int = 0,
    max_trials: int = 24,
    seconds: float = 600,
    learners: Mapping[str, dict] = LEARNERS,
    n_jobs: int = -1,
) -> Scores:
    """FLAML's search (Wang et al. 2021, arXiv:1911.04706) over kinds of classifiers and their settings.

    Each trial is judged on a tenth of (z, y), held out; the best is fitted to all of it. The learners take turns, so
    the same seed tries the same classifiers, and gives the same scores wherever ``max_trials`` end the search well before
    ``seconds`` do; ``settings["bound"]`` says which of the two it was.

    Args:
        max_trials: classifiers to try; a multiple of the learners is fair to all.
        seconds: bound on the search's wall time.
        learners: FLAML's name of each, and the settings of its first trial.
        n_jobs: threads a classifier; -1: one a core.

    Raises:
        ValueError: NaN in the latents, lengths or widths that differ, or a class with fewer than ``AUTOML_NEEDS`` samples.
    """
    from flaml import AutoML  # here, for it takes seconds to import

    z, y, z_test, y_test = _arrays(z, y, z_test, y_test, at_least=AUTOML_NEEDS)
    started = time.perf_counter()
    with (
        tqdm(desc="AutoML", total=max_trials, unit="trial", dynamic_ncols=True) as progress,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # learners' notes on feature names and iterations

        def error(z_held_out, y_held_out, learner, *_):
            progress.update()
            return float(np.mean(learner.predict(z_held_out) != y_held_out)), {}

        search = AutoML()
        search.add_learner("mlp", _multilayer_perceptron(seed))
        search.fit(
            z,
            y,
            task="classification",
            metric=error,
            estimator_list=list(learners),
            starting_points=dict(learners),
            learner_selector="roundrobin",
            eval_method="holdout",
            max_iter=checks.positive("max_trials", max_trials),
            time_budget=seconds,
            sample=False,
            early_stop=False,
            seed=seed,
            n_jobs=cpu_count() if n_jobs == -1 else n_jobs,
            verbose=0,
        )
        scores = [
            accuracies(labels, search.predict(part)) for part, labels in ((z, y), (z_test, y_test))
        ]
        trials = max(progress.n, 1)  # a single one is not scored
    settings = {
        "learner": search.best_estimator,
        **{
            key: value.item() if isinstance(value, np.generic) else value
            for key, value in search.best_config.items()
        },
        "trials": trials,
        "bound": f"{max_trials} trials" if trials >= max_trials else f"{seconds:g} seconds",
    }
    return _scores("AutoML", scores, time.perf_counter() - started, settings)


BASELINES = {
    "logistic_regression": logistic_regression,
    "linear_svm": linear_svm,
    "rbf_svm": rbf_svm,
    "automl": automl,
}


def _logistic(c: float) -> ClassifierMixin:
    return LogisticRegression(C=c, max_iter=1_000)


def _linear_svm(c: float) -> ClassifierMixin:
    return OneVsOneClassifier(LinearSVC(C=c, dual=False))


def _rbf_svm(c: float) -> ClassifierMixin:
    return SVC(C=c, cache_size=1_000)


def _multilayer_perceptron(seed: int) -> type:
    """scikit-learn's, one hidden layer, with early stopping, as FLAML wants a learner."""
    from flaml import tune
    from flaml.automl.model import SKLearnEstimator

    class MultilayerPerceptron(SKLearnEstimator):
        def __init__(
            self, task="multiclass", n_jobs=None, **config
        ):  # scikit-learn's takes no n_jobs
            super().__init__(task, **config)
            self.estimator_class = MLPClassifier

        @classmethod
        def search_space(cls, data_size, task, **_):
            return {
                "hidden_layer_sizes": {"domain": tune.lograndint(32, 512)},
                "alpha": {"domain": tune.loguniform(1e-6, 1e-1)},
                "learning_rate_init": {"domain": tune.loguniform(3e-4, 1e-2)},
            }

        def config2params(self, config):
            return super().config2params(config) | {
                "early_stopping": True,
                "max_iter": 100,
                "random_state": seed,
            }

    return MultilayerPerceptron


def _scores(name: str, scores: list[tuple[float, float]], seconds: float, settings: dict) -> Scores:
    (train, train_macro), (test, test_macro) = scores
    return Scores(name, train, test, seconds, settings, train_macro, test_macro)


def _predict(parallel: Parallel, classifier: ClassifierMixin, z: np.ndarray) -> np.ndarray:
    """In slices, for an SVM takes longer to read 60,000 latents than to learn them."""
    slices = np.array_split(z, max(1, len(z) // 5_000))
    return np.concatenate(list(parallel(delayed(classifier.predict)(part) for part in slices)))


def _fold_accuracy(
    classifier: ClassifierMixin,
    z: np.ndarray,
    y: np.ndarray,
    train: np.ndarray,
    held_out: np.ndarray,
):
    return classifier.fit(z[train], y[train]).score(z[held_out], y[held_out])


def _arrays(
    z: Latents, y: Latents, z_test: Latents, y_test: Latents, at_least: int
) -> tuple[np.ndarray, ...]:
    z = checks.latents(z)
    z_test = checks.latents(z_test, z.shape[1], "z_test")
    checks.same_length(z, y)
    checks.same_length(z_test, y_test, ("z_test", "y_test"))
    z, y, z_test, y_test = (_array(values) for values in (z, y, z_test, y_test))
    for k, count in zip(*np.unique(y, return_counts=True)):
        if count < at_least:
            raise ValueError(f"class {k} has {count} samples; {at_least} or more are needed")
    return z.astype(np.float64), y, z_test.astype(np.float64), y_test


def _array(values: Latents) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
