"""Attribute editing by several editors, scored by an independent judge (section 3.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fpnlib.conditions import Reals
from fpnlib.families.encoding import encode
from fpnlib.families.study import Study
from fpnlib.metrics.editing import (
    Editor,
    LinearRegression,
    MeanDifferences,
    SingleEdits,
    outside,
    score_edits,
)
from fpnlib.metrics.editing_tables import OURS
from fpnlib.plugen import PluGeN
from fpnlib.store.tensors import Checkpoint
from fpnlib.training import History

VISIBLE = 0.02
"""Smallest difference of a pixel, in [0, 1], that an eye sees."""
EPOCHS = 20  # of PluGeN; the authors train for 50


def editors(study: Study, base: str = "", n: int = 10_000) -> dict[str, Editor]:
    """Return editors of latents: ours, the base model's own, PluGeN, and two that are linear.

    If the family's setting ``confidence`` is above 0, there is a second one of ours: it raises the
    strength of each edit until the plugin reads it with this probability.

    Args:
        study: of a family with attributes.
        base: name of the base model; empty: the first.
        n: training objects behind the linear editors.
    """
    model, plugin = study.base(base), study.plugin(base)
    train = encode(model, study.data.train.first(n), study.run.seed)

    def ours(z: Tensor, y: Tensor, to: Tensor) -> Tensor:
        return plugin.from_noise(plugin.to_noise(z, y), to)

    def until_read(z: Tensor, y: Tensor, to: Tensor) -> Tensor:
        whole = torch.where(to > y, 1.0, torch.where(to < y, 0.0, y))
        strength = float((to - y).abs().max())  # one for all edits, as in at_strengths
        return plugin.edit(z, whole, y, strength=strength, confidence=confidence)

    ways: dict[str, Editor] = {OURS: ours}
    confidence = study.settings.get("confidence", 0.0)
    if confidence:
        ways[f"{OURS}, until read"] = until_read
    ways |= study.recipe(base)[1].editors(model)
    if len(study.names) <= model.latent_dim:  # each attribute takes a coordinate
        ways["PluGeN"] = plugen(study, base).edit
    ways["linear regression"] = LinearRegression(train.mean, train.y)
    ways["difference of means"] = MeanDifferences(train.mean, train.y)
    return ways


def plugen(study: Study, base: str = "") -> PluGeN:
    """Return PluGeN, fitted to the same latents as the plugin.

    Args:
        study: of a family with attributes or quantities.
        base: name of the base model; empty: the first.
    """
    base, recipe = study.recipe(base)
    latents, width = study.latents(base), study.base(base).latent_dim
    torch.manual_seed(study.run.seed)
    model = PluGeN(width, len(study.names), isinstance(study.condition, Reals))

    def train(checkpoint: Checkpoint) -> History:
        data, shown = study.training_latents(base), latents.validation
        fitting: dict[str, Any] = {"seed": study.run.seed, "checkpoint": checkpoint}
        fitting |= {"validation": (shown.draw, shown.y), "epochs": EPOCHS}
        return model.fit(data.mean, data.y, std=data.std, **fitting).history_

    key = study.key("plugen/1", {}, latents.key_)
    return study.kept(f"{base}_plugen", key, model, train, recipe.pretrained_on).eval()


def at_strengths(ways: Mapping[str, Editor], strengths: Mapping[str, float]) -> dict[str, Editor]:
    """Return the editors, each stretched: its whole edit has the strength given by its name."""

    def stretched(editor: Editor, strength: float) -> Editor:
        return lambda z, y, to: editor(z, y, torch.lerp(y, to, strength))

    return {name: stretched(editor, strengths[name]) for name, editor in ways.items()}


def until_judged(
    study: Study, ways: Mapping[str, Editor], strengths: Sequence[float], base: str = ""
) -> dict[str, Editor]:
    """Return the editors, each raised: an edit has the first strength that the judge confirms.

    An edit that the judge confirms at no strength has the last one.

    Args:
        study: of a family with attributes.
        ways: editors by name.
        strengths: growing; 1 for the whole edit.
        base: name of the base model; empty: the first.
    """
    judge = study.judge()

    def raised(editor: Editor, z: Tensor, y: Tensor, to: Tensor) -> Tensor:
        edited, left = z.clone(), torch.arange(len(z), device=z.device)
        for strength in strengths:
            start, end = y[left], to[left]
            edited[left] = editor(z[left], start, torch.lerp(start, end, strength))
            seen = judge.predict(study.decode(base, edited[left])).to(left.device)
            left = left[((seen != (end > 0.5)) & (end != start)).any(1)]
            if not len(left):
                break
        return edited

    return {name: partial(raised, editor) for name, editor in ways.items()}


def edits_in_a_row(
    study: Study, ways: Mapping[str, Editor], attributes: Sequence[str], n: int, base: str = ""
) -> pd.DataFrame:
    """Score edits that follow each other on the same object.

    Each turns one attribute into its opposite, from the latent that the edit before it left.

    Args:
        study: of a family with attributes.
        ways: editors by name.
        attributes: to edit, in this order.
        n: number of test objects.
        base: name of the base model; empty: the first.

    Returns:
        One row for each editor, number of "edits", and object: "achieved", whether each edit so far
        was read as wanted in its turn; "kept", whether all of them still are; "others" and "moved"
        as of ``metrics.editing.score_edits``, from the object before all edits.
    """
    judge, latents = study.judge(), study.latents(base).test
    z, y = latents.mean[:n], latents.y[:n].to(latents.mean)
    before, tables = judge.read(study.decode(base, z)), []
    for name, editor in ways.items():
        edited, to, achieved = z, y, torch.ones(len(z))
        for count, attribute in enumerate(attributes, 1):
            has, opposite = to, 1 - to[:, study.condition.column(attribute)]
            to = study.condition.set(has, {attribute: opposite})
            edited = editor(edited, has, to)
            after = judge.read(study.decode(base, edited))
            achieved = achieved * score_edits(before, after, has, to)["achieved"]
            scores = pd.DataFrame(score_edits(before, after, y, to))
            scores = scores.rename(columns={"achieved": "kept"})
            scores.insert(0, "achieved", achieved.numpy())
            tables.append(scores.assign(editor=name, edits=count))
    return pd.concat(tables, ignore_index=True)


def edit_scores(
    study: Study,
    ways: Mapping[str, Editor],
    strengths: Sequence[float],
    each: int,
    split: str = "test",
    base: str = "",
) -> pd.DataFrame:
    """Score single edits by every editor at every strength.

    What the edited attribute excludes is removed with it; no other attribute changes.

    Args:
        study: of a family with attributes.
        ways: editors by name.
        strengths: 1 for the whole edit, 0.5 for half of it.
        each: edits of each attribute, half of them additions.
        split: "validation" or "test".
        base: name of the base model; empty: the first.

    Returns:
        One row for each editor, strength and edit, with the scores of
        ``metrics.editing.score_edits``. Of drawn objects also "outside", the change where nothing
        should change, and "truth", the mean absolute difference from the object redrawn.
    """
    judge, objects = study.judge(), getattr(study.data, split)
    latents = getattr(study.latents(base), split)
    edits = SingleEdits(study.condition, latents.y, each)
    rows, to = edits.rows, edits.to.to(latents.mean)
    z, y = latents.mean[rows], latents.y[rows].to(to)
    before, wanted = study.decode(base, z), study.family.redraw(objects, rows.cpu(), edits.to.cpu())
    if wanted is not None:
        differs = (objects.take(rows.cpu()).x - wanted).abs() > VISIBLE
        region = differs.any(1).to(before.device)
    seen, tables = judge.read(before), []
    for name, editor in ways.items():
        for strength in strengths:
            after = study.decode(base, editor(z, y, torch.lerp(y, to, strength)))
            scores = score_edits(seen, judge.read(after), y, to)
            table = _edit_rows(study, edits, scores, editor=name, strength=strength)
            if wanted is not None:
                table["outside"] = outside(before, after, region).numpy(force=True)
                difference = (after - wanted.to(after)).abs()
                table["truth"] = difference.flatten(1).mean(1).numpy(force=True)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def redrawn_scores(study: Study, each: int) -> pd.DataFrame | None:
    """Score drawn objects that are redrawn with the wanted attributes: no editor can be better.

    Returns:
        Rows as of :func:`edit_scores`; None if the objects are not drawn.
    """
    judge, objects = study.judge(), study.data.test
    edits = SingleEdits(study.condition, objects.y, each)
    redrawn = study.family.redraw(objects, edits.rows.cpu(), edits.to.cpu())
    if redrawn is None:
        return None
    before, after = judge.read(objects.take(edits.rows).x), judge.read(redrawn)
    scores = score_edits(before, after, objects.y[edits.rows], edits.to)
    return _edit_rows(study, edits, scores, editor="drawn again", strength=1.0)


def sampled_scores(
    study: Study, temperatures: Sequence[float], n: int, base: str = ""
) -> pd.DataFrame:
    """Score objects that are drawn for the attributes of test objects (section 3.3).

    Args:
        study: of a family with attributes.
        temperatures: standard deviations of the noise.
        n: number of test objects whose attributes are asked for.
        base: name of the base model; empty: the first.

    Returns:
        One row for the test objects, their reconstructions, and each temperature. "right" is the
        share of attributes read as asked; in "balanced" presence and absence weigh alike, so that
        guessing gives a half.
    """
    plugin = study.plugin(base)
    test, y = study.latents(base).test, study.latents(base).test.y[:n]
    kind = study.family.name
    objects = {f"test {kind}": study.data.test.first(n).x}
    objects["reconstructions"] = study.decode(base, test.mean[:n])
    for temperature in temperatures:
        z = plugin.sample(y, temperature=temperature, seed=study.run.seed)
        objects[f"new, temperature {temperature:g}"] = study.decode(base, z)
    rows = []
    for name, x in objects.items():
        rows.append({kind: name} | study.score(x, y))
    return pd.DataFrame(rows)


def _edit_rows(
    study: Study, edits: SingleEdits, scores: Mapping[str, Tensor], *, editor: str, strength: float
) -> pd.DataFrame:
    """Return one row for each edit: what it was, and its scores."""
    columns = edits.columns.cpu()
    added = edits.to[torch.arange(len(columns)), edits.columns].cpu() > 0.5
    about: dict[str, Any] = {"editor": editor, "strength": strength}
    about["attribute"] = np.array(study.names)[columns.numpy()]
    about["edit"] = np.where(added, "+", "-")
    return pd.DataFrame(about | {name: score.numpy() for name, score in scores.items()})
