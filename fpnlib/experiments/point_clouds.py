"""The steps of the experiments with 3D shapes (sections 5.1.2 and 5.2.2): PointFlow, its latents, plugins, judge, scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm.auto import tqdm

from fpnlib import checks, plots, store
from fpnlib.base_models import PointFlow, load_pointflow
from fpnlib.baselines import AUTOML_NEEDS, BASELINES, ClassMixtures, accuracies
from fpnlib.data import Split
from fpnlib.data.point_clouds import draw_points
from fpnlib.experiments import pretrained
from fpnlib.experiments.digits import FLOW_NAMES, Latents, encode, kept_baseline
from fpnlib.experiments.run import Run, kept_config
from fpnlib.metrics.images import right_class_rate
from fpnlib.metrics.judge import Judge, cloud_judge
from fpnlib.metrics.point_clouds import compare
from fpnlib.plugin import FlowPlugin
from fpnlib.training import History, fit

# PointFlow's size, and one that a core trains in under an hour; the ways that flow matching trains are nearly straight, so that its
# solver takes a few equal steps.
SIZES = {
    "small": {
        "latent_dim": 64,
        "hidden": (256, 256, 256),
        "encoder_widths": (64, 64, 128, 256),
        "method": "midpoint",
        "steps": 4,
    },
    "published": {},
}
# Learning rates are the peaks of a one-cycle schedule.
BASE_TRAINING = {
    "small": {"batch_size": 32, "learning_rate": 6e-3, "clip_norm": 1.0},
    "published": {"batch_size": 16, "learning_rate": 1e-3, "clip_norm": 1.0},
}
SPLITS = ("train", "validation", "test")
JUDGE_TRAINING = {"batch_size": 32, "learning_rate": 4e-3, "weight_decay": 1e-2}
JUDGE = {"widths": (64, 64, 128, 256)}
JUDGE_POINTS = 256  # drawn anew of each cloud for each epoch
# The authors' layers, blocks and batch sizes; batches are smaller where the data are few.
FLOWS = {"maf": {"num_layers": 5, "num_blocks": 2}, "realnvp": {"num_layers": 5, "num_blocks": 4}}
FLOW_TRAINING = {
    "maf": {"batch_size": 4096, "learning_rate": 4e-3, "clip_norm": 5.0},
    "realnvp": {"batch_size": 256, "learning_rate": 4e-3, "clip_norm": 5.0},
}
# On the latents while a flow trains, in their own deviations: theirs is 0.01 of latents whose scale is not told.
NOISE = 0.05
# Degrees by which shapes are turned about the upright axis to be seen from the front: a dataset's shapes face their own way.
AZIMUTH = {"modelnet": 55.0}
PAPER = {  # Table 2: accuracy on train and test
    "logistic_regression": (0.9030, 0.8443),
    "linear_svm": (0.9104, 0.8503),
    "rbf_svm": (0.9778, 0.8643),
    "automl": (0.9018, 0.8435),
    "maf": (0.9548, 0.8404),
}


def base_model(run: Run) -> PointFlow:
    """PointFlow for the run's shapes, trained on train and chosen on validation, or the authors' own (section 5.1.2).

    Settings: ``point_base`` ("small" or "published"), ``point_epochs``, ``point_seen`` and ``point_step`` (points of
    each cloud that a step encodes, and decodes), ``point_objective`` ("matching" or "likelihood"), and ``point_checkpoint``
    (a released checkpoint; empty: train).
    """
    return _base_model(run)[0]


def latents(run: Run) -> dict[str, Latents]:
    """Train, validation and test as the base model sees them, with all the points of each cloud; kept in a file.

    Of a stochastic encoder, the posteriors' means.
    """
    return _latents(run)[0]


def flow_plugin(run: Run, flow: str) -> FlowPlugin:
    """The plugin ``flow`` ("maf" or "realnvp") on PointFlow's latents (section 5.1.2).

    Settings: ``point_flow_width`` and ``point_flow_dropout`` (the authors' are 1024 and 0.2), ``point_flow_epochs``.
    """
    if flow not in FLOW_NAMES:
        raise checks.unknown("flow", flow, FLOW_NAMES)
    sets, key = _latents(run)
    torch.manual_seed(run.seed)
    latent_dim = sets["train"].mean.shape[1]
    shape = {
        "hidden_features": run.setting("point_flow_width"),
        "dropout": run.setting("point_flow_dropout"),
    }
    plugin = FlowPlugin(latent_dim, run.classes, flow, **shape | FLOWS[flow])
    training = run.training(FLOW_TRAINING[flow], epochs=run.setting("point_flow_epochs"))

    def make(checkpoint: Any) -> History:
        train, held_out = sets["train"], sets["validation"]
        noise = NOISE * train.mean.std(0).expand_as(train.mean)
        settings = {
            "seed": run.seed,
            "checkpoint": checkpoint,
            "description": plugin_name(flow),
        } | training
        return plugin.fit(
            train.mean, train.y, std=noise, validation=(held_out.mean, held_out.y), **settings
        ).history_

    key = {
        "latents": key,
        "flow": kept_config(plugin),
        "training": training,
        "noise": NOISE,
        "seed": run.seed,
    }
    return pretrained.load_or_make(run, plugin_name(flow), plugin, key, make)[0]


def plugin_name(flow: str) -> str:
    """The name under which :func:`flow_plugin` keeps a plugin."""
    return f"PointFlow_{flow}"


def judge(run: Run) -> Judge:
    """An independent classifier of clouds, trained on train and chosen on validation; setting ``point_judge_epochs``."""
    torch.manual_seed(run.seed)
    module = cloud_judge(len(run.classes), **JUDGE)
    training = run.training(JUDGE_TRAINING, epochs=run.setting("point_judge_epochs"))
    key = {
        "data": run.data.checksum,
        "judge": module.config,
        "training": training,
        "points": JUDGE_POINTS,
    }

    def make(checkpoint: Any) -> History:
        draw, validation = _drawing(run, JUDGE_POINTS)
        settings = {"seed": run.seed, "checkpoint": checkpoint, "description": "judge"} | training
        return fit(module, module.loss, draw, validation, **settings)

    return pretrained.load_or_make(run, "point_judge", module, key | {"seed": run.seed}, make)[0]


def generators(run: Run, points: int | None = None) -> dict[str, Callable[[Tensor, int], Tensor]]:
    """Ways to draw clouds for labels: name → (labels (n,), seed) → clouds (n, points, 3).

    The two flows, and a Gaussian for each category fitted to the same latents. ``points`` of each cloud; None: the base
    model's own number.
    """
    base, train = base_model(run), latents(run)["train"]
    ways = {"category Gaussians": ClassMixtures(train.mean, train.y, 1).sample}
    for flow, name in FLOW_NAMES.items():
        plugin = flow_plugin(run, flow)
        ways[name] = lambda y, seed, plugin=plugin: plugin.sample(y, seed=seed)
    return {
        name: lambda y, seed, way=way: decode(base, way(y, seed), points, seed)
        for name, way in ways.items()
    }


def decode(base: PointFlow, z: Tensor, points: int | None = None, seed: int = 0) -> Tensor:
    """Clouds (n, points, 3) of latents (n, latent_dim), on the CPU, with a progress bar; each from noise of its own."""
    parts = tqdm(
        z.to(base.mean_).split(50), desc="decoding", unit="batch", leave=False, dynamic_ncols=True
    )
    return torch.cat(
        [base.decode(part, points, seed=seed + k).cpu() for k, part in enumerate(parts)]
    )


def most_common(run: Run, n: int = 10) -> list[int]:
    """Indices of the ``n`` most common categories in train, the most common first (Figure 12)."""
    return (
        run.data.train.y.bincount(minlength=len(run.classes))
        .argsort(descending=True, stable=True)[:n]
        .tolist()
    )


def first_of_each(split: Split | Latents, n: int, categories: Iterable[int]) -> Tensor:
    """Rows of the first ``n`` objects of each category, or of those that there are, category after category."""
    return torch.cat([(split.y.cpu() == k).nonzero()[:n, 0] for k in categories])


def grid(
    run: Run,
    rows: Sequence[Tensor],
    categories: Iterable[int],
    columns: Sequence[str] | None = None,
) -> Figure:
    """A row of clouds (m, points, 3) for each category, seen from the front (Figure 13); rows may differ in m."""
    names = [run.classes.names[k] for k in categories]
    azimuth = AZIMUTH.get(run.data.name, 35.0)
    return plots.grid(
        [row.cpu() for row in rows], names, columns, row_title="category", azimuth=azimuth
    )


def training_clouds(run: Run, y: Tensor, seed: int) -> Tensor:
    """Clouds of train, drawn by ``seed``, of the categories ``y`` (n,); a category that has too few starts again."""
    train, taken = run.data.train, torch.empty_like(y)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    for k in y.unique():
        there, wanted = order[train.y[order] == k], y == k
        taken[wanted] = there[torch.arange(int(wanted.sum())) % len(there)]
    return train.x[taken]


def judged(run: Run, n: int, points: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Shapes of every kind with their labels: name → clouds (m, points, 3) and categories (m,), category after category.

    Test shapes and what the base model makes of them, ``n`` of each category or those that there are; training shapes and
    those of every generator, ``n`` of each.
    """
    test, every = run.data.test, range(len(run.classes))
    rows, y = first_of_each(test, n, every), torch.arange(len(every)).repeat_interleave(n)
    latents_of_test = latents(run)["test"].mean[rows.to(run.device)]
    clouds = {
        "test shapes": (test.x[rows, :points], test.y[rows]),
        "reconstructions of test": (
            decode(base_model(run), latents_of_test, points, run.seed),
            test.y[rows],
        ),
        "training shapes": (training_clouds(run, y, run.seed)[:, :points], y),
    }
    return clouds | {name: (draw(y, run.seed), y) for name, draw in generators(run, points).items()}


def score(
    run: Run,
    clouds: Tensor,
    y: Tensor,
    compared: int = 0,
    points: int = 0,
    distances: Sequence[str] = ("chamfer",),
) -> pd.DataFrame:
    """How clouds (n, ·, 3) for labels (n,) do: a line for all categories, and one for each.

    Args:
        compared: of each category, the first so many (or as many as test has) are set beside as many test shapes; 0: none.
        points: of each of these.
        distances: names in ``metrics.point_clouds.DISTANCES``.

    Returns:
        Columns ``category``, ``right class`` (by the judge; over all, the mean of the categories'), and of each distance
        PointFlow's ``coverage``, ``mmd`` and ``1-nna`` (see :func:`fpnlib.metrics.point_clouds.compare`), with the name of
        any other distance than the first behind a comma.

    Raises:
        ValueError: clouds of fewer than ``points`` points, whose distances would be others.
    """
    reader, test, k = judge(run), run.data.test, len(run.classes)
    if compared and (fewest := min(clouds.shape[1], test.x.shape[1])) < points:
        raise ValueError(
            f"distances between clouds of {points} points need as many of each, got {fewest}"
        )
    right = [
        right_class_rate(reader, clouds[y == c], y[y == c]) if (y == c).any() else math.nan
        for c in range(k)
    ]
    table = pd.DataFrame(
        {"category": ["all", *run.classes.names], "right class": [np.nanmean(right), *right]}
    )
    rows = first_of_each(test, compared, range(k))
    for distance in distances if compared else ():
        near = compare(clouds[:, :points], y, test.x[rows, :points], test.y[rows], k, distance)
        table = table.assign(
            **{name + f", {distance}" * (distance != distances[0]): near[name] for name in near}
        )
    return table


def table_2(run: Run, baselines: dict[str, dict]) -> pd.DataFrame:
    """Table 2: classifying by Bayes' rule beside supervised classifiers of the same latents.

    Args:
        baselines: names of ``baselines.BASELINES`` with the settings of each. Where a category has fewer shapes than
            folds, there are as many folds as shapes; where one has too few for AutoML, its accuracies are NaN.

    Returns:
        A line for each baseline, and for each flow one with flat and one with train-frequency priors. Columns: ``model``,
        ``prior``, ``paper, train`` and ``paper, test`` (accuracies on ShapeNet), ``train`` and ``test`` (ours), and
        ``train, macro`` and ``test, macro`` (the mean of the categories' accuracies).

    Raises:
        ValueError: an unknown baseline, or a category with fewer than two shapes.
    """
    sets, key = _latents(run)
    y = torch.cat([sets[split].y for split in ("train", "validation")])
    rarest = int(y.bincount(minlength=len(run.classes)).min())
    rows = []
    for name, settings in baselines.items():
        if name not in BASELINES:
            raise checks.unknown("baseline", name, BASELINES)
        if name == "automl" and rarest < AUTOML_NEEDS:
            print(
                f"AutoML is left out: it needs {AUTOML_NEEDS} shapes of each category, and one has {rarest}"
            )
            rows.append(["AutoML", "–", *PAPER[name], *[float("nan")] * 4])
            continue
        if name != "automl" and rarest < 5:
            settings = settings | {"folds": max(2, rarest)}
        scores = kept_baseline(run, name, "PointFlow", key, sets, "mean", **settings)
        ours = scores.train_accuracy, scores.test_accuracy, scores.train_macro, scores.test_macro
        rows.append([scores.name, "–", *PAPER[name], *ours])
    for flow, name in FLOW_NAMES.items():
        plugin, paper = flow_plugin(run, flow), PAPER.get(flow, (None, None))
        for prior in ("flat", "train"):
            (train, train_macro), (test, test_macro) = (
                accuracies(
                    sets[split].y.cpu().numpy(),
                    plugin.predict(sets[split].mean, prior).cpu().numpy(),
                )
                for split in ("train", "test")
            )
            rows.append([f"FPN ({name})", prior, *paper, train, test, train_macro, test_macro])
    columns = [
        "model",
        "prior",
        "paper, train",
        "paper, test",
        "train",
        "test",
        "train, macro",
        "test, macro",
    ]
    return pd.DataFrame(rows, columns=columns)


def _base_model(run: Run) -> tuple[PointFlow, str]:
    if checkpoint := run.setting("point_checkpoint"):
        model = run.once(
            ("released", checkpoint), lambda: load_pointflow(checkpoint).to(run.device)
        )
        statistics = [
            model.mean_.tolist(),
            model.std_.tolist(),
        ]  # they lie beside it, in files of their own
        return model, store.digest(
            {"checkpoint": store.sha256(checkpoint), "statistics": statistics}
        )
    size, objective = run.setting("point_base"), run.setting("point_objective")
    if size not in SIZES:
        raise checks.unknown("point_base", size, SIZES)
    losses = {"matching": PointFlow.matching_loss, "likelihood": PointFlow.loss}
    if objective not in losses:
        raise checks.unknown("point_objective", objective, losses)
    torch.manual_seed(run.seed)
    training = BASE_TRAINING[size] | {"epochs": run.setting("point_epochs")}
    seen, step = run.setting("point_seen"), run.setting("point_step")
    model = PointFlow(**SIZES[size], seen=seen)
    if step > seen:
        raise ValueError(
            f"point_step is at most point_seen: a step decodes points that it has encoded, got {step} and {seen}"
        )

    def make(checkpoint: Any) -> History:
        model.standardise(run.data.train.x.to(run.device))
        draw, validation = _drawing(run, seen)
        settings = {
            "seed": run.seed,
            "checkpoint": checkpoint,
            "description": "PointFlow",
        } | training
        history = fit(
            model, lambda x, y: losses[objective](model, x, step), draw, validation, **settings
        )
        model.eval().whiten(run.data.train.x.to(run.device))
        return history

    key = {
        "data": run.data.checksum,
        "model": model.config,
        "training": training,
        "points": [seen, step],
        "objective": objective,
        "whitened": True,
    }
    return pretrained.load_or_make(run, "PointFlow", model, key | {"seed": run.seed}, make)


def _drawing(
    run: Run, points: int
) -> tuple[Callable[[torch.Generator], tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
    """Train with points drawn anew for each epoch, as ``fit`` wants it, and validation with its first ones."""
    (x, y), held_out = (
        (s.x.to(run.device), s.y.to(run.device)) for s in (run.data.train, run.data.validation)
    )
    return lambda generator: (draw_points(x, points, generator), y), (
        held_out[0][:, :points],
        held_out[1],
    )


def _latents(run: Run) -> tuple[dict[str, Latents], str]:
    base, base_key = _base_model(run)

    def make() -> dict[str, Tensor]:
        sets = {split: encode(base, getattr(run.data, split), run.seed) for split in SPLITS}
        return {
            f"{split}.{part}": getattr(sets[split], part)
            for split in SPLITS
            for part in ("mean", "y")
        }

    key = {"base": base_key, "data": run.data.checksum}
    tensors, key = run.load_or_make_tensors("PointFlow_latents", key, make)
    sets = {}
    for split in SPLITS:
        mean, y = (tensors[f"{split}.{part}"].to(run.device) for part in ("mean", "y"))
        sets[split] = Latents(mean, torch.zeros_like(mean), mean, y)
    return sets, key
