"""Objects of every origin, judged side by side (section 5.1.2)."""

from collections.abc import Iterable, Sequence

import pandas as pd
import torch
from torch import Tensor

from fpnlib.families.study import Study
from fpnlib.metrics.point_clouds import compare


def judged_objects(
    study: Study, n: int, base: str = "", components: int = 0, **options: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return objects of every origin with their labels: name -> (objects, labels).

    They are test objects and their reconstructions, ``n`` of each class or those that there are,
    and training objects and those of every source, ``n`` of each class.

    Args:
        study: of a family with classes.
        n: objects of each class.
        base: name of the base model; empty: the first.
        components: at most so many Gaussians in each class' mixture; 0: no mixtures.
        options: of the decoding, e.g. points=256, to which real clouds are cut as well.
    """
    train, test, seed = study.data.train, study.data.test, study.run.seed
    kind, points = study.family.name, options.get("points")
    y = torch.arange(len(study.names)).repeat_interleave(n)
    rows = first_of_each(test.y, n, range(len(study.names)))
    rebuilt = study.decode(base, study.latents(base).test.mean[rows], seed, **options)
    objects = {
        f"test {kind}": (test.x[rows, :points], test.y[rows]),
        "reconstructions of test": (rebuilt, test.y[rows]),
        f"training {kind}": (train.x[_drawn_rows(train.y, y, seed), :points], y),
    }
    for name, draw in study.sources(base, components, **options).items():
        objects[name] = draw(y, seed), y
    return objects


def score_clouds(
    study: Study,
    x: Tensor,
    y: Tensor,
    *,
    compared: int = 0,
    points: int = 0,
    distances: Sequence[str] = ("chamfer",),
) -> pd.DataFrame:
    """Score clouds for categories, over all of them and by category.

    Args:
        study: of clouds; its judge reads the categories.
        x: clouds (n, ·, 3).
        y: the categories (n,) that they were drawn for.
        compared: clouds of each category to compare with as many test clouds, or with as many as
            there are; 0: none.
        points: of each of these clouds.
        distances: names in ``metrics.point_clouds.DISTANCES``.

    Returns:
        One row for all categories and one for each. "right class" over all is the mean of the
        categories'. Of each distance there are PointFlow's "coverage", "mmd" and "1-nna"; columns
        of other distances than the first carry the distance's name.

    Raises:
        ValueError: clouds of fewer than ``points`` points; their distances would not compare.
    """
    test, names = study.data.test, study.names
    fewest = min(x.shape[1], test.x.shape[1])
    if compared and fewest < points:
        raise ValueError(f"clouds of {points} points need as many of each, got {fewest}")
    labels = y.numpy(force=True)
    right = pd.Series(study.judge().predict(x).numpy() == labels).groupby(labels).mean()
    right = right.reindex(range(len(names)))
    table = pd.DataFrame({"category": ["all", *names]})
    table["right class"] = [right.mean(), *right]
    rows = first_of_each(test.y, compared, range(len(names)))
    for distance in distances if compared else ():
        clouds = x[:, :points], y, test.x[rows, :points], test.y[rows]
        scores = pd.DataFrame(compare(*clouds, len(names), distance))
        suffix = "" if distance == distances[0] else f", {distance}"
        table = table.join(scores.add_suffix(suffix))
    return table


def first_of_each(y: Tensor, n: int, classes: Iterable[int]) -> Tensor:
    """Return the rows of the first ``n`` objects of each class, class after class.

    >>> first_of_each(torch.tensor([1, 0, 1, 1]), 2, range(2))
    tensor([1, 0, 2])
    """
    return torch.cat([(y.cpu() == k).nonzero()[:n, 0] for k in classes])


def _drawn_rows(y: Tensor, wanted: Tensor, seed: int) -> Tensor:
    """Return rows of random objects of the wanted classes; a class with too few starts again."""
    rows = torch.empty_like(wanted)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    for k in wanted.unique():
        of_class = order[y[order] == k]
        places = wanted == k
        rows[places] = of_class[torch.arange(int(places.sum())) % len(of_class)]
    return rows
