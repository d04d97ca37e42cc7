"""How objects that were drawn for labels are scored beside test objects."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fpnlib.data import Split
from fpnlib.families.study import Study
from fpnlib.metrics.editing import accuracy_per_attribute
from fpnlib.metrics.images import diversity, frechet_distance, right_class_rate
from fpnlib.metrics.judge import Judge
from fpnlib.metrics.point_clouds import compare

Score = Callable[[Tensor, Tensor], dict[str, float]]


def image_scores(judge: Judge, test: Split) -> Score:
    """Return a function that scores images for classes.

    Its numbers are "right class", the "Fréchet distance" to the test images in the judge's
    features, the "diversity" as a share of theirs, and "n".
    """
    real = judge.read(test.x).features
    real_diversity = diversity(real, test.y)

    def score(x: Tensor, y: Tensor) -> dict[str, float]:
        features = judge.read(x).features
        return {
            "right class": right_class_rate(judge, x, y),
            "Fréchet distance": frechet_distance(real, features),
            "diversity": diversity(features, y) / real_diversity,
            "n": len(x),
        }

    return score


def class_scores(judge: Judge, test: Split) -> Score:
    """Return a function that scores objects for classes by the judge alone."""
    return lambda x, y: {"right class": right_class_rate(judge, x, y), "n": len(x)}


def attribute_scores(judge: Judge, test: Split) -> Score:
    """Return a function that scores objects by the attributes that the judge reads rightly.

    In "balanced", presence and absence of an attribute weigh alike.
    """

    def score(x: Tensor, y: Tensor) -> dict[str, float]:
        balanced = accuracy_per_attribute(judge, x, y, balanced=True)
        return {
            "right": accuracy_per_attribute(judge, x, y).mean().item(),
            "balanced": balanced.nanmean().item(),
            "n": len(x),
        }

    return score


def score_clouds(
    judge: Judge,
    x: Tensor,
    y: Tensor,
    names: Sequence[str],
    test: Split,
    *,
    compared: int = 0,
    points: int = 0,
    distances: Sequence[str] = ("chamfer",),
) -> pd.DataFrame:
    """Score clouds for categories, over all of them and by category.

    Args:
        judge: reads the categories.
        x: clouds (n, ·, 3).
        y: the categories (n,) that they were drawn for.
        names: of the categories.
        test: the test clouds.
        compared: so many clouds of each category are set beside as many test clouds, or as many
            as there are; 0: none.
        points: of each of these clouds.
        distances: names in ``metrics.point_clouds.DISTANCES``.

    Returns:
        One row for all categories and one for each. "right class" over all is the mean of the
        categories'. Of each distance there are PointFlow's "coverage", "mmd" and "1-nna"; columns
        of other distances than the first carry the distance's name.

    Raises:
        ValueError: clouds of fewer than ``points`` points; their distances would not compare.
    """
    fewest = min(x.shape[1], test.x.shape[1])
    if compared and fewest < points:
        raise ValueError(
            f"distances between clouds of {points} points need as many of each, got {fewest}"
        )
    right = []
    for k in range(len(names)):
        of_k = y == k
        right.append(right_class_rate(judge, x[of_k], y[of_k]) if of_k.any() else math.nan)
    table = pd.DataFrame({"category": ["all", *names]})
    table["right class"] = [np.nanmean(right), *right]
    rows = first_of_each(test.y, compared, range(len(names)))
    for distance in distances if compared else ():
        shapes = x[:, :points], y, test.x[rows, :points], test.y[rows]
        suffix = "" if distance == distances[0] else f", {distance}"
        for name, values in compare(*shapes, len(names), distance).items():
            table[name + suffix] = values
    return table


def judged_objects(
    study: Study, n: int, base: str = "", **options: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return objects of every origin with their labels: name -> (objects, labels).

    They are test objects and their reconstructions, ``n`` of each class or those that there are,
    and training objects and those of every source, ``n`` of each class.

    Args:
        study: of a family with classes.
        n: objects of each class.
        base: name of the base model; empty: the first.
        options: of the decoding, e.g. points=256, to which real clouds are cut as well.
    """
    train, test, seed = study.data.train, study.data.test, study.run.seed
    classes, points = range(len(study.names)), options.get("points")
    rows, y = first_of_each(test.y, n, classes), torch.arange(len(classes)).repeat_interleave(n)
    rebuilt = study.decode(base, study.latents(base).test.mean[rows], seed, **options)
    objects = {
        "test shapes": (test.x[rows, :points], test.y[rows]),
        "reconstructions of test": (rebuilt, test.y[rows]),
        "training shapes": (train.x[_drawn_rows(train.y, y, seed), :points], y),
    }
    for name, draw in study.sources(base, **options).items():
        objects[name] = draw(y, seed), y
    return objects


def first_of_each(y: Tensor, n: int, classes: Iterable[int]) -> Tensor:
    """Return the rows of the first ``n`` objects of each class, class after class.

    >>> first_of_each(torch.tensor([1, 0, 1, 1]), 2, range(2))
    tensor([1, 0, 2])
    """
    return torch.cat([(y.cpu() == k).nonzero()[:n, 0] for k in classes])


def most_common(y: Tensor, n: int) -> list[int]:
    """Return the ``n`` most common classes of y (m,), the most common first.

    >>> most_common(torch.tensor([1, 0, 1, 2, 2, 2]), 2)
    [2, 1]
    """
    return y.bincount().argsort(descending=True, stable=True)[:n].tolist()


def _drawn_rows(y: Tensor, wanted: Tensor, seed: int) -> Tensor:
    """Return rows of random objects of the wanted classes; a class with too few starts again."""
    rows = torch.empty_like(wanted)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    for k in wanted.unique():
        of_class = order[y[order] == k]
        places = wanted == k
        rows[places] = of_class[torch.arange(int(places.sum())) % len(of_class)]
    return rows
