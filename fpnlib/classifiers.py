"""The paper's supervised baselines (Tables 1 and 2): scikit-learn's classifiers and an AutoML search, on latents."""

import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from joblib import Parallel, cpu_count, delayed
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.multiclass import OneVsOneClassifier
from sklearn.svm import SVC, LinearSVC
from torch import Tensor
from tqdm.auto import tqdm

from fpnlib import checks

GRID = (0.01, 0.1, 1.0, 10.0, 100.0)  # the authors' values of C
LEARNERS = ("lgbm", "rf", "extra_tree", "kneighbor", "lrl1")
Latents = Tensor | np.ndarray


@dataclass(frozen=True)
class Scores:
    """How a classifier did: accuracies in [0, 1], wall time of search and final fit, and the settings that it chose."""

    name: str
    train_accuracy: float
    test_accuracy: float
    seconds: float
    settings: dict


def logistic_regression(z: Latents, y: Latents, z_test: Latents, y_test: Latents, seed: int = 0, **search) -> Scores:
    """Multinomial logistic regression, C by cross-validation. Arguments and errors: :func:`grid_search`."""
    return grid_search("logistic regression", _logistic, z, y, z_test, y_test, seed, **search)


def linear_svm(z: Latents, y: Latents, z_test: Latents, y_test: Latents, seed: int = 0, **search) -> Scores:
    """Linear support vector machines, C by cross-validation. Arguments and errors: :func:`grid_search`."""
    return grid_search("linear SVM", _linear_svm, z, y, z_test, y_test, seed, **search)


def rbf_svm(z: Latents, y: Latents, z_test: Latents, y_test: Latents, seed: int = 0, **search) -> Scores:
    """Support vector machines with the RBF kernel, C by cross-validation. Arguments and errors: :func:`grid_search`."""
    return grid_search("RBF SVM", _rbf_svm, z, y, z_test, y_test, seed, **search)


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
    n_jobs: int = -1,
) -> Scores:
    """Choose C by stratified cross-validation on (z, y), fit on all of it, score on it and on (z_test, y_test).

    The scores are the same for any ``n_jobs``. Of equally good values of C the smallest is taken.

    Args:
        make: the classifier for a value of C.
        z, z_test: latents (n, D), (m, D).
        y, y_test: class indices (n,), (m,).
        grid: the values of C.
        n_jobs: fits at a time; -1: one a core.

    Raises:
        ValueError: NaN in the latents, lengths or widths that differ, or a class with fewer samples than folds.
    """
    z, y, z_test, y_test = _arrays(z, y, z_test, y_test, at_least=folds)
    grid = sorted(grid)
    started = time.perf_counter()
    splits = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(z, y))
    fits = (delayed(_fold_accuracy)(make(c), z, y, *split) for c in grid for split in splits)
    # Threads serve: libsvm and liblinear let go of Python's lock.
    done = Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator")(fits)
    accuracies = list(tqdm(done, desc=name, total=len(grid) * folds, unit="fit", dynamic_ncols=True))
    means = np.reshape(accuracies, (len(grid), folds)).mean(1)
    best = grid[int(means.argmax())]
    final = make(best).fit(z, y)
    scores = (float(final.score(*part)) for part in ((z, y), (z_test, y_test)))
    by_c = {str(c): float(mean) for c, mean in zip(grid, means)}
    return Scores(name, *scores, time.perf_counter() - started, {"C": best, "folds": folds, "accuracy_by_C": by_c})


def automl(
    z: Latents,
    y: Latents,
    z_test: Latents,
    y_test: Latents,
    seed: int = 0,
    max_trials: int = 30,
    seconds: float = 600,
    learners: Iterable[str] = LEARNERS,
    n_jobs: int = -1,
) -> Scores:
    """FLAML's search (Wang et al. 2021, arXiv:1911.04706) over kinds of classifiers and their settings.

    Each trial is judged on a tenth of (z, y), held out; the best is fitted to all of it. The learners take turns, so
    the same seed tries the same classifiers, and gives the same scores wherever ``max_trials`` end the search before
    ``seconds`` do; ``settings["bound"]`` says which of the two it was.

    Args:
        max_trials: classifiers to try.
        seconds: bound on the search's wall time.
        learners: FLAML's names.
        n_jobs: threads a classifier; -1: one a core.

    Raises:
        ValueError: NaN in the latents, lengths or widths that differ, or a class with fewer than ten samples.
    """
    from flaml import AutoML  # here, for it takes seconds to import

    z, y, z_test, y_test = _arrays(z, y, z_test, y_test, at_least=10)
    started = time.perf_counter()
    with tqdm(desc="AutoML", total=max_trials, unit="trial", dynamic_ncols=True) as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # learners' notes on feature names and iterations

        def error(z_held_out, y_held_out, learner, *_):
            progress.update()
            return float(np.mean(learner.predict(z_held_out) != y_held_out)), {}

        search = AutoML()
        search.fit(
            z,
            y,
            task="classification",
            metric=error,
            estimator_list=list(learners),
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
        scores = [float(np.mean(search.predict(latents) == labels)) for latents, labels in ((z, y), (z_test, y_test))]
        trials = progress.n
    settings = {
        "learner": search.best_estimator,
        **search.best_config,
        "trials": trials,
        "bound": f"{max_trials} trials" if trials >= max_trials else f"{seconds:g} seconds",
    }
    return Scores("AutoML", *scores, time.perf_counter() - started, settings)


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


def _fold_accuracy(classifier: ClassifierMixin, z: np.ndarray, y: np.ndarray, train: np.ndarray, held_out: np.ndarray):
    return classifier.fit(z[train], y[train]).score(z[held_out], y[held_out])


def _arrays(z: Latents, y: Latents, z_test: Latents, y_test: Latents, at_least: int) -> tuple[np.ndarray, ...]:
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
