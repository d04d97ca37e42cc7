"""How well attributes are edited: is what was asked for there, and is everything else as it was?

An *editor* is a function of latents z (n, D), their attributes y (n, A), and the attributes wanted
(n, A); it returns latents (n, D). A judge that knows nothing of the edits reads the faces before
and after. For drawn faces the right result is known as well.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fpnlib import checks
from fpnlib.conditions import Condition
from fpnlib.metrics.judge import Judge, Reading

Editor = Callable[[Tensor, Tensor, Tensor], Tensor]
RIDGE = 1e-3  # keeps the regression solvable if attributes determine each other


class _Linear:
    """An editor that moves latents along one direction for each attribute."""

    def __init__(self, z: Tensor, y: Tensor):
        z = checks.latents(z)
        has = checks.array(y, ("n", "attributes"), "y").to(z)
        checks.same_length(z, has)
        if ((has < 0) | (has > 1)).any():
            raise ValueError("y must lie between 0 and 1; for -1 and 1 pass (y + 1) / 2")
        self.directions = self._fit(z, has)

    def __call__(self, z: Tensor, y: Tensor, to: Tensor) -> Tensor:
        """Move latents z (n, D) along the directions by which ``to`` (n, A) differs from y."""
        z, y, to = map(checks.numbers, (z, y, to))
        return z + (to - y).to(z) @ self.directions.to(z)

    def _fit(self, z: Tensor, has: Tensor) -> Tensor:
        """Directions (A, D) from latents (n, D) and their attributes (n, A)."""
        raise NotImplementedError


class MeanDifferences(_Linear):
    """The simplest editor: an attribute's direction is the mean latent with it less that without.

    Args:
        z: latents (n, D) to fit the ``directions`` (A, D) to.
        y: their attributes (n, A), 0 or 1.

    Raises:
        ValueError: lengths that differ, attributes outside [0, 1], or one that all latents have,
            or none.

    >>> z, y = torch.tensor([[0.0], [3.0]]), torch.tensor([[0], [1]])
    >>> MeanDifferences(z, y)(z, y, 1 - y).tolist()
    [[3.0], [0.0]]
    """

    def _fit(self, z: Tensor, has: Tensor) -> Tensor:
        counts = has.sum(0)
        same = (counts == 0) | (counts == len(z))
        if same.any():
            column = int(same.nonzero()[0])
            raise ValueError(f"attribute {column} is the same in all {len(z):,} latents")
        with_it = (has.T @ z) / counts[:, None]
        without = ((1 - has).T @ z) / (len(z) - counts)[:, None]
        return with_it - without


class LinearRegression(_Linear):
    """An editor whose directions are the coefficients of latents regressed on all attributes.

    If two attributes often come together, the regression separates their effects. The difference
    of means gives both effects to each of them.

    Args:
        z: latents (n, D) to fit the ``directions`` (A, D) to.
        y: their attributes (n, A), 0 or 1.

    Raises:
        ValueError: lengths that differ, or attributes outside [0, 1].

    >>> z, y = torch.tensor([[0.0], [3.0]]), torch.tensor([[0], [1]])
    >>> LinearRegression(z, y)(z, y, 1 - y).round().tolist()
    [[3.0], [0.0]]
    """

    def _fit(self, z: Tensor, has: Tensor) -> Tensor:
        from sklearn.linear_model import Ridge  # slow to import

        fitted = Ridge(alpha=RIDGE).fit(has.numpy(force=True), z.numpy(force=True))
        return torch.from_numpy(fitted.coef_).reshape(z.shape[1], -1).T.to(z)


class SingleEdits:
    """Edits that turn one attribute of one face into its opposite, m in all.

    For every attribute ``each`` faces are chosen: half lack it and half have it, as far as there
    are any.

    Args:
        attributes: names, and which attributes exclude each other.
        y: attributes (n, A) of the faces.
        each: edits for each attribute.

    Attributes:
        rows: (m,) the face of each edit.
        columns: (m,) its attribute.
        to: (m, A) all the attributes wanted.
    """

    def __init__(self, attributes: Condition, y: Tensor, each: int):
        rows, columns, to = [], [], []
        y = checks.attributes(y, ("n", len(attributes.names)))
        for column, name in enumerate(attributes.names):
            for value in (0, 1):
                chosen = (y[:, column] == value).nonzero()[:, 0][: max(1, each // 2)]
                rows.append(chosen)
                columns.append(torch.full_like(chosen, column))
                to.append(attributes.edited(y[chosen], {name: 1 - value}))
        self.rows, self.columns, self.to = torch.cat(rows), torch.cat(columns), torch.cat(to)


def score_edits(before: Reading, after: Reading, y: Tensor, to: Tensor) -> dict[str, Tensor]:
    """Score m edits of faces whose attributes y (m, A) were to become ``to`` (m, A).

    Args:
        before: the judge's reading of the faces.
        after: its reading of the edited faces.
        y: attributes of the faces.
        to: attributes wanted.

    Returns:
        Three scores of each edit, each (m,) in [0, 1] or above: "achieved", 1 if every changed
        attribute reads as wanted; "others", the share of all other attributes that read differently
        than before; "moved", the distance in features as a share of that between two faces.

    Raises:
        ValueError: lengths that differ.
    """
    checks.same_length(before.features, after.features, ("before", "after"))
    shape = before.logits.shape
    y, to = checks.attributes(y, shape).cpu(), checks.attributes(to, shape, "to").cpu()
    changed = to != y
    seen, seen_before = after.logits > 0, before.logits > 0
    right = seen == (to > 0.5)
    flipped = (seen_before != seen) & ~changed
    apart = (before.features - before.features.roll(1, 0)).norm(dim=1)
    moved = (after.features - before.features).norm(dim=1)
    return {
        "achieved": (right | ~changed).all(1).float(),
        "others": flipped.sum(1) / (~changed).sum(1).clamp(min=1),
        "moved": moved / apart[apart > 0].mean(),
    }


def outside(before: Tensor, after: Tensor, changed: Tensor) -> Tensor:
    """Mean absolute difference (m,) of faces (m, 3, s, s) where the edit should change nothing.

    ``changed``, bool (m, s, s), marks the pixels that the edit should change.
    """
    unchanged = ~changed[:, None].expand_as(before)
    difference = ((after - before).abs() * unchanged).flatten(1).sum(1)
    return difference / unchanged.flatten(1).sum(1).clamp(min=1)


def accuracy_per_attribute(judge: Judge, x: Tensor, y: Tensor, balanced: bool = False) -> Tensor:
    """How often, (A,) in [0, 1], the judge reads each attribute y (n, A) of faces x rightly.

    Args:
        judge: of attributes.
        x: faces (n, 3, s, s).
        y: their attributes, 0 or 1.
        balanced: let faces with and without the attribute count alike. A guess then gets 0.5, and
            an attribute in which all faces agree NaN.
    """
    checks.same_length(x, y, ("x", "y"))
    has = (checks.attributes(y, ("n", judge.outputs)) > 0.5).cpu()
    right = judge.predict(x) == has
    if not balanced:
        return right.float().mean(0)
    present = (right & has).sum(0) / has.sum(0)
    absent = (right & ~has).sum(0) / (~has).sum(0)
    return (present + absent) / 2
