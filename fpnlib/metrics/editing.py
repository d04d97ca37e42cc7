"""How well attributes are edited: is what was asked for there, and is everything else as it was?

An *editor* takes latents (n, D), the attributes (n, A) they have and those they are to have, and gives latents (n, D). A judge
that knows nothing of it reads the faces before and after. The truth of a drawn face is known besides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fpnlib import checks
from fpnlib.conditions import Attributes
from fpnlib.metrics.attribute_judge import AttributeJudge

Editor = Callable[[Tensor, Tensor, Tensor], Tensor]


def no_edit(z: Tensor, y: Tensor, to: Tensor) -> Tensor:
    """The editor that does nothing: what it is said to achieve, a judge reads into faces that lack it."""
    return z


@dataclass(frozen=True)
class MeanDifferences:
    """The simplest editor: an attribute's direction is the mean latent with it less the mean without; ``directions`` (A, D)."""

    directions: Tensor

    def __call__(self, z: Tensor, y: Tensor, to: Tensor) -> Tensor:
        return z + (to - y).to(z) @ self.directions


def mean_differences(z: Tensor, y: Tensor) -> MeanDifferences:
    """Fit :class:`MeanDifferences` to latents (n, D) and attributes (n, A), 0 or 1.

    Raises:
        ValueError: lengths that differ, or an attribute that all latents have, or none.
    """
    z = checks.latents(z)
    checks.same_length(z, y)
    with_it = y.to(z)
    counts = with_it.sum(0)
    if ((counts == 0) | (counts == len(y))).any():
        column = int(((counts == 0) | (counts == len(y))).nonzero()[0])
        raise ValueError(
            f"attribute {column} is the same in all {len(y):,} latents; it has no direction"
        )
    means = [(mask.T @ z) / mask.sum(0)[:, None] for mask in (with_it, 1 - with_it)]
    return MeanDifferences(means[0] - means[1])


@dataclass(frozen=True)
class SingleEdits:
    """One attribute of one face at a time, turned into its opposite: m edits.

    ``rows`` (m,) says of which face, ``columns`` (m,) which attribute, and ``to`` (m, A) all the attributes wanted.
    """

    rows: Tensor
    columns: Tensor
    to: Tensor


def single_edits(attributes: Attributes, y: Tensor, each: int) -> SingleEdits:
    """For every attribute ``each`` faces of y (n, A): half that lack it and half that have it, as far as there are any."""
    rows, columns, to = [], [], []
    for column, name in enumerate(attributes.names):
        for value in (0, 1):
            chosen = (y[:, column] == value).nonzero()[:, 0][: max(1, each // 2)]
            rows.append(chosen)
            columns.append(torch.full_like(chosen, column))
            to.append(attributes.edited(y[chosen], {name: 1 - value}))
    return SingleEdits(torch.cat(rows), torch.cat(columns), torch.cat(to))


@dataclass(frozen=True)
class EditScores:
    """Of m edits, each (m,): how far the judge sees them done, and what else has moved.

    ``achieved``: 1 where every changed attribute reads as wanted, else 0. ``others``: share of all other attributes that
    read differently than before. ``moved``: distance in the judge's features, as a share of that between two faces.
    """

    achieved: Tensor
    others: Tensor
    moved: Tensor


@dataclass(frozen=True)
class Reading:
    """What a judge sees in n faces: which attributes are there, bool (n, A), and its ``features`` (n, 128)."""

    attributes: Tensor
    features: Tensor


@torch.no_grad()
def read(judge: AttributeJudge, x: Tensor, batch_size: int = 250) -> Reading:
    """The judge's reading of faces x (n, 3, size, size). Raises as :meth:`AttributeJudge.features` does."""
    judge.eval()
    device = next(judge.parameters()).device
    features = torch.cat([judge.features(part.to(device)) for part in x.split(batch_size)])
    return Reading(judge.head(features) > 0, features)


def score_edits(before: Reading, after: Reading, y: Tensor, to: Tensor) -> EditScores:
    """Scores of m faces read ``before`` and ``after``, whose attributes ``y`` (m, A) were to become ``to``.

    Raises:
        ValueError: lengths that differ.
    """
    for name, tensor in (("after", after.features), ("y", y), ("to", to)):
        checks.same_length(before.features, tensor, ("before", name))
    to, changed = (tensor.to(before.features.device) for tensor in (to, to != y))
    right = after.attributes == (to > 0.5)
    flipped = (before.attributes != after.attributes) & ~changed
    apart = (before.features - before.features.roll(1, 0)).norm(dim=1)
    return EditScores(
        achieved=(right | ~changed).all(1).float().cpu(),
        others=(flipped.sum(1) / (~changed).sum(1).clamp(min=1)).cpu(),
        moved=((after.features - before.features).norm(dim=1) / apart[apart > 0].mean()).cpu(),
    )


def outside(before: Tensor, after: Tensor, changed: Tensor) -> Tensor:
    """Mean absolute difference (m,) of faces (m, 3, s, s) where the attribute changes nothing; ``changed`` (m, s, s)."""
    unchanged = ~changed[:, None].expand_as(before)
    return ((after - before).abs() * unchanged).flatten(1).sum(1) / unchanged.flatten(1).sum(
        1
    ).clamp(min=1)


def accuracy_per_attribute(judge: AttributeJudge, x: Tensor, y: Tensor) -> Tensor:
    """How often, (A,) in [0, 1], the judge reads each attribute of faces x (n, 3, size, size) rightly."""
    checks.same_length(x, y, ("x", "y"))
    return (read(judge, x).attributes.cpu() == (y > 0.5).cpu()).float().mean(0)


def balanced_accuracy_per_attribute(judge: AttributeJudge, x: Tensor, y: Tensor) -> Tensor:
    """The same where faces with and without the attribute weigh alike, (A,): 0.5 for a guess; NaN where all faces agree."""
    checks.same_length(x, y, ("x", "y"))
    has = (y > 0.5).cpu()
    right = read(judge, x).attributes.cpu() == has
    return ((right & has).sum(0) / has.sum(0) + (right & ~has).sum(0) / (~has).sum(0)) / 2


def success_at(cost: np.ndarray, success: np.ndarray, level: float, steps: int = 100) -> float:
    """The greatest success on a curve, taken at growing strengths and linear in between, that costs at most ``level``.

    Of a curve that ends before it costs as much, that is what it reached at less. NaN where all of it costs more.
    """
    points = np.arange(len(cost))
    at = np.linspace(0, len(cost) - 1, steps * (len(cost) - 1) + 1)
    cost, success = (
        np.interp(at, points, np.asarray(values, dtype=float)) for values in (cost, success)
    )
    affordable = cost <= level * (1 + 1e-9)
    return float(success[affordable].max()) if affordable.any() else float("nan")
