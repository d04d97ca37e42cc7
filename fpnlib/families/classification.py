"""Bayes' rule beside supervised baselines on the same latents (Tables 1 and 2)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fpnlib import checks
from fpnlib.baselines import AUTOML_NEEDS, BASELINES, Scores, accuracies
from fpnlib.families.encoding import Latents
from fpnlib.families.family import FLOW_NAMES
from fpnlib.families.study import Study
from fpnlib.plugin import FlowPlugin
from fpnlib.store.cache import Key

FOLDS = 5


def classification_table(
    study: Study,
    baselines: Mapping[str, Mapping],
    base: str = "",
    *,
    features: Sequence[str] = ("draw",),
    priors: Sequence[str] = ("flat",),
    on_means: Sequence[str] = ("rbf_svm", "rda"),
) -> pd.DataFrame:
    """Classify latents by Bayes' rule (eq. 17) and by supervised baselines (section 5.2).

    Args:
        study: of a family with classes.
        baselines: names in ``baselines.BASELINES`` with the settings of each. If a class has
            fewer objects than folds, there are as many folds as objects.
        base: name of the base model; empty: the first.
        features: of the posteriors, "draw" and "mean". The paper's numbers stand beside the first,
            and only on the first base model.
        priors: of the plugins, "flat" and "train".
        on_means: baselines that are fitted to the second features as well.

    Returns:
        One row for each model, prior and kind of features. "learned from" counts objects; the
        accuracies lie in [0, 1], and "macro" is the mean of the classes'. What a baseline learned
        from is not called validation, so that cell is missing. If there are several priors, the
        model's name says which. "predicted" has the classes of the test objects.

    Raises:
        ValueError: an unknown baseline or kind of features, with the nearest name.
    """
    base, recipe = study.recipe(base)
    for kind in features:
        checks.known("kind of features", kind, ("draw", "mean"))
    rows: list[dict] = []
    for name, settings in baselines.items():
        checks.known("baseline", name, BASELINES)
        kinds = features if name in on_means else features[:1]
        rows += [_baseline_row(study, name, settings, base, kind) for kind in kinds]
    for flow, prior, kind in product(recipe.flows, priors, features):
        row = _plugin_row(study, base, flow, prior, kind)
        row["model"] += f", {prior} prior" if len(priors) > 1 else ""
        rows.append(row)
    table = pd.DataFrame(rows)
    unlike = table["features"] != features[0] if base == study.recipe()[0] else slice(None)
    table.loc[unlike, ["paper, train", "paper, test"]] = math.nan
    return table


def _baseline_scores(study: Study, name: str, base: str, features: str, **settings: Any) -> Scores:
    """Fit a baseline to the latents of train and validation together, and keep its scores.

    Its cross-validation needs no set of its own.
    """
    latents = study.latents(base)
    key = Key(f"baseline/{name}/2", {"features": features} | settings, (latents.key_,))

    def make() -> dict:
        both, test = latents.train.joined(latents.validation), latents.test
        learned, held_out = (getattr(both, features), both.y), (getattr(test, features), test.y)
        return asdict(BASELINES[name](*learned, *held_out, seed=study.run.seed, **settings))

    return Scores(**study.run.cache.values(f"{base}_{name}_{features}", key, make))


def plugin_accuracies(
    plugin: FlowPlugin, latents: Latents, features: str, prior: str = "flat"
) -> tuple[float, float]:
    """Return the accuracy of Bayes' rule over all latents, and the mean of the classes' own.

    Args:
        plugin: a fitted plugin for classes.
        latents: of one split.
        features: "draw" or "mean" of the posteriors.
        prior: "flat" or "train".
    """
    predicted = plugin.predict(getattr(latents, features), prior)
    return accuracies(latents.y.numpy(force=True), predicted.numpy(force=True))


def leads(table: pd.DataFrame, y: Tensor) -> pd.DataFrame:
    """Compare each plugin with the best baseline on the same objects.

    Args:
        table: rows of :func:`classification_table` for one kind of features.
        y: classes (n,) of the test objects.

    Returns:
        Columns "model", "best baseline", "lead" in accuracy (negative: behind), and two standard
        errors of the paired difference.
    """
    predicted = table.set_index("model")["predicted"].dropna()
    right = pd.DataFrame(dict(predicted)).eq(y.numpy(force=True), axis=0).astype(float)
    plugins = right.columns.str.startswith("FPN")
    rival = right.loc[:, ~plugins].mean().idxmax()
    rows = []
    for model in right.columns[plugins]:
        lead = right[model] - right[rival]
        rows.append([model, rival, lead.mean(), 2 * lead.sem()])
    return pd.DataFrame(rows, columns=["model", "best baseline", "lead", "± two standard errors"])


def _baseline_row(study: Study, name: str, settings: Mapping, base: str, features: str) -> dict:
    latents = study.latents(base)
    y = torch.cat([latents.train.y, latents.validation.y])
    rarest = int(y.bincount(minlength=len(study.names)).min())
    row = {"model": "AutoML", "prior": "–", **_about(study, name, features, len(y))}
    if name == "automl" and rarest < AUTOML_NEEDS:
        needs = f"{AUTOML_NEEDS} objects of each {study.family.kind}"
        print(f"AutoML is left out: it needs {needs}, and one has {rarest}")
        return row | {"chosen": "–"}
    if name != "automl" and rarest < FOLDS:
        settings = {**settings, "folds": max(2, rarest)}
    scores = _baseline_scores(study, name, base, features, **settings)
    row |= {"model": scores.name, "train": scores.train_accuracy, "validation": math.nan}
    row |= {"test": scores.test_accuracy, "train, macro": scores.train_macro}
    row |= {"test, macro": scores.test_macro, "seconds": scores.seconds}
    predicted = np.array(scores.predicted.split(), dtype=int)
    return row | {"chosen": _chosen(scores.settings), "predicted": predicted}


def _plugin_row(study: Study, base: str, flow: str, prior: str, features: str) -> dict:
    plugin, latents = study.plugin(base, flow), study.latents(base)
    about = _about(study, flow, features, len(latents.train.y))
    row = {"model": f"FPN ({FLOW_NAMES[flow]})", "prior": prior, **about}
    row["train"], train_macro = plugin_accuracies(plugin, latents.train, features, prior)
    row["validation"], _ = plugin_accuracies(plugin, latents.validation, features, prior)
    predicted = plugin.predict(getattr(latents.test, features), prior).numpy(force=True)
    row["test"], test_macro = accuracies(latents.test.y.numpy(force=True), predicted)
    row |= {"train, macro": train_macro, "test, macro": test_macro, "predicted": predicted}
    history = plugin.history_
    chosen = f"epoch {history.best_epoch} of {len(history.epochs)}"
    return row | {"seconds": study.run.seconds(f"{base}_{flow}"), "chosen": chosen}


def _about(study: Study, name: str, features: str, learned_from: int) -> dict:
    train, test = study.paper(name)
    about = {"features": features, "learned from": learned_from}
    return about | {"paper, train": train, "paper, test": test}


def _chosen(settings: Mapping) -> str:
    """Say what a baseline's search settled on, and what ended it."""
    if "C" in settings:
        return f"C = {settings['C']:g}"
    if "pooled" in settings:
        return f"{settings['pooled']:.0%} pooled"
    trials, bound = settings["trials"], settings["bound"]
    return f"{settings['learner']}; {trials} trials, ended by its {bound}"
