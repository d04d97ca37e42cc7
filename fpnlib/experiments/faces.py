"""The steps of the face experiments (section 5.1.3): MSP, its latents, the plugin for attributes, the judge, the editors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from fpnlib.base_models import MSP
from fpnlib.base_models.patches import SharpenedMSP
from fpnlib.conditions import Attributes
from fpnlib.data import Split
from fpnlib.data.drawn.faces import difference, draw
from fpnlib.experiments import pretrained
from fpnlib.experiments.digits import Latents, encode
from fpnlib.experiments.run import Run, kept_config
from fpnlib.metrics.editing import (
    Editor,
    MeanDifferences,
    SingleEdits,
    accuracy_per_attribute,
    outside,
    score_edits,
)
from fpnlib.metrics.judge import Judge, face_judge
from fpnlib.network import FlowPluginNetwork
from fpnlib.plugin import FlowPlugin
from fpnlib.store import PROJECT
from fpnlib.training import History, fit

# Of each group a face has one attribute at most: to ask for one is to ask the others away. So CelebA's labels have it, but for
# a percent of the faces (a bald man's hair may well be gray), and so faces are drawn.
COLORS = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
EXCLUSIVE = {
    "drawn_faces": (("Bald", *COLORS), ("Bald", "Bangs")),
    "celeba": (
        COLORS,
        *(("Bald", hair) for hair in (*COLORS[:3], "Bangs", "Straight_Hair", "Wavy_Hair")),
        *(("No_Beard", beard) for beard in ("Goatee", "Mustache", "Sideburns")),
        ("Bangs", "Receding_Hairline"),
        ("Straight_Hair", "Wavy_Hair"),
    ),
}
# The learning rates are the peaks of a one-cycle schedule.
MSP_TRAINING = {"batch_size": 32, "learning_rate": 4e-3}
FLOW_TRAINING = {"batch_size": 128, "learning_rate": 2e-3, "clip_norm": 5.0}
JUDGE_TRAINING = {"batch_size": 64, "learning_rate": 3e-3, "weight_decay": 1e-2}


def attributes(run: Run) -> Attributes:
    """The dataset's attributes, as a plugin takes them."""
    return Attributes(run.data.classes, EXCLUSIVE[run.data.name])


def msp(run: Run) -> MSP:
    """The factorised autoencoder, trained on train and chosen on validation.

    Settings ``msp_features``, ``msp_decoder_features``, ``msp_epochs``; ``msp_fidelity`` and ``msp_sharpen``, the weights beside
    the published loss of :meth:`MSP.terms`' absolute differences and of a patch discriminator, 0 for none; and, as of all steps
    here, ``train_faces``: at most so many to train on.
    """
    return _msp(run)[0]


def face_latents(run: Run, base: MSP, split: str, n: int | None = None) -> Latents:
    """The first n faces of a split ("train", "validation", "test") as the base model sees them; None: all."""
    faces = getattr(run.data, split)
    faces = faces if n is None else faces.first(n)
    return run.once((base, split, n), lambda: encode(base, faces, run.seed, batch_size=250))


def attribute_plugin(run: Run) -> FlowPlugin:
    """C-MAF for attributes: batch norm within and between the layers, attributes embedded linearly (section 5.1.3).

    Settings ``face_flow_layers``, ``face_flow_blocks``, ``face_flow_width``, ``face_flow_embedding``, ``face_flow_epochs``.
    """
    base, base_key = _msp(run)
    torch.manual_seed(run.seed)
    plugin = FlowPlugin(
        base.latent_dim,
        attributes(run),
        "maf",
        hidden_features=run.setting("face_flow_width"),
        num_layers=run.setting("face_flow_layers"),
        num_blocks=run.setting("face_flow_blocks"),
        embedding_features=run.setting("face_flow_embedding"),
        batch_norm=True,
    )
    training = run.training(FLOW_TRAINING, epochs=run.setting("face_flow_epochs"))

    def make(checkpoint: Any) -> History:
        faces = run.data.train.first(run.setting("train_faces"))
        sides = [faces]
        if _mirrors(run):
            sides.append(Split(faces.data.flip(3), faces.y))
        seen = [encode(base, side, run.seed, batch_size=250) for side in sides]
        mean, std, y = (
            torch.cat([getattr(latents, part) for latents in seen]) for part in ("mean", "std", "y")
        )
        held_out = face_latents(run, base, "validation")
        validation, settings = (
            (held_out.draw, held_out.y),
            {"seed": run.seed, "checkpoint": checkpoint} | training,
        )
        return plugin.fit(mean, y, std=std, validation=validation, **settings).history_

    key = {"base": base_key, "flow": kept_config(plugin), "training": training, "seed": run.seed}
    return _load_or_make(run, "MSP_maf", plugin, key, make)[0]


def attribute_judge(run: Run) -> Judge:
    """An independent reader of attributes, trained on train's faces; validation's choose the epoch and the thresholds.

    Setting ``face_judge_epochs``.
    """
    torch.manual_seed(run.seed)
    judge = face_judge(len(run.data.classes), run.data.test.x.shape[-1])
    training = run.training(JUDGE_TRAINING, epochs=run.setting("face_judge_epochs"))
    fitting = _fitting(run, judge, judge.loss, training, "face judge")

    def make(checkpoint: Any) -> History:
        history, faces = fitting(checkpoint), run.data.validation
        judge.calibrate(faces.x, faces.y)
        return history

    key = {
        "data": run.data.checksum,
        "judge": judge.config,
        "calibrated": True,
        "training": training,
        "seed": run.seed,
    }
    return _load_or_make(run, "face_judge", judge, key, make)[0]


def editors(run: Run, n: int = 2_000) -> dict[str, Editor]:
    """Ours, and two that a reader would try first on the same latents: (latents, attributes, attributes wanted) → latents.

    Args:
        n: training faces behind the difference of means.
    """
    base, plugin = msp(run), attribute_plugin(run)
    train = face_latents(run, base, "train", n)
    return {
        "C-MAF (ours)": lambda z, y, to: plugin.from_noise(plugin.to_noise(z, y), to),
        "MSP's own": partial(_msps_own, base),
        "difference of means": MeanDifferences(train.mean, train.y),
    }


def _msps_own(base: MSP, z: Tensor, y: Tensor, to: Tensor) -> Tensor:
    """MSP's own editing, as far on its way from where the latent stands as ``to`` is on the way to the opposite of ``y``."""
    read = base.read(z)
    return base.set(z, read + (to - y).abs() * (2 * (to > y) - 1 - read), to != y)


def edit_scores(
    run: Run, ways: dict[str, Editor], strengths: list[float], each: int, split: str = "test"
) -> pd.DataFrame:
    """Single edits of a split's faces by every editor at every strength: a row for each editor, strength and edit.

    Columns ``editor``, ``strength``, ``attribute``, ``edit`` ("+" or "-"), ``achieved``, ``others`` and ``moved`` as
    :func:`metrics.editing.score_edits` has them; on drawn faces also ``outside`` (what changed where nothing ought to) and
    ``truth`` (mean absolute difference from the face as it ought to be). What the edited attribute excludes is wanted
    away with it (see :data:`EXCLUSIVE`) and so is no other attribute.

    Args:
        strengths: 1 for the whole edit, 0.5 for half of it.
        each: edits of each attribute, half of them "+".
        split: "validation" or "test".
    """
    base, reader, faces = msp(run), attribute_judge(run), getattr(run.data, split)
    latents = face_latents(run, base, split)
    edits = SingleEdits(attributes(run), latents.y, each)
    rows, to = edits.rows, edits.to.to(latents.mean)
    z, y = latents.mean[rows], latents.y[rows].to(to)
    before, wanted, region = decoded(base, z), None, None
    seen = reader.read(before)
    if "variation" in faces.extra:
        wanted = _redrawn(faces, edits)
        region = difference(faces.x[rows.cpu()], wanted).to(before.device)
    tables = []
    for name, editor in ways.items():
        for strength in strengths:
            after = decoded(base, editor(z, y, y + strength * (to - y)))
            table = _scored(
                run,
                edits,
                score_edits(seen, reader.read(after), y, to),
                editor=name,
                strength=strength,
            )
            if wanted is not None:
                table["outside"] = outside(before, after, region).numpy(force=True)
                table["truth"] = (after - wanted.to(after)).abs().mean((1, 2, 3)).numpy(force=True)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def true_scores(run: Run, each: int) -> pd.DataFrame:
    """:func:`edit_scores` of drawn faces that are drawn again with the attributes wanted: no editor can be read better."""
    reader, faces = attribute_judge(run), run.data.test
    edits = SingleEdits(attributes(run), faces.y, each)
    before, after = (reader.read(x) for x in (faces.x[edits.rows], _redrawn(faces, edits)))
    scores = score_edits(before, after, faces.y[edits.rows], edits.to)
    return _scored(run, edits, scores, editor="drawn again", strength=1.0)


def _redrawn(faces: Split, edits: SingleEdits) -> Tensor:
    """Drawn faces (m, 3, size, size) as m edits ought to leave them."""
    return draw(edits.to.cpu(), faces.extra["variation"][edits.rows.cpu()])


def _scored(run: Run, edits: SingleEdits, scores: dict[str, Tensor], **more: Any) -> pd.DataFrame:
    """A row for each edit: what it was, and its scores."""
    columns = edits.columns.cpu()
    plus = edits.to[torch.arange(len(columns)), edits.columns].cpu() > 0.5
    what = {
        "attribute": [run.data.classes[k] for k in columns],
        "edit": ["+" if yes else "-" for yes in plus],
    }
    return pd.DataFrame(more | what | {name: score.numpy() for name, score in scores.items()})


def most_edited(kinds: Attributes, y: Tensor, edits: list[str]) -> Tensor:
    """The faces of attributes y (n, A) in an order (n,): first those in which every edit changes something."""
    changes = torch.stack([(kinds.edited(y, edit) != y).any(1) for edit in edits]).sum(0)
    return changes.argsort(descending=True, stable=True)


def sampled_scores(run: Run, temperatures: list[float], n: int) -> pd.DataFrame:
    """Faces drawn for the attributes of n test faces (section 3.3), read by the judge: a row for each temperature.

    ``right`` is the share of attributes that the judge reads as asked for, ``balanced`` the same with each attribute's presence
    and absence weighing alike, so that guessing gives a half. Before them the test faces and their reconstructions.
    """
    base, plugin, reader = msp(run), attribute_plugin(run), attribute_judge(run)
    test = face_latents(run, base, "test", n)
    drawn = {
        f"new, temperature {temperature:g}": decoded(
            base, plugin.sample(test.y, temperature=temperature, seed=run.seed)
        )
        for temperature in temperatures
    }
    faces = {
        "test faces": run.data.test.first(n).x,
        "reconstructions": decoded(base, test.mean),
    } | drawn
    rows = []
    for name, x in faces.items():
        right, balanced = (
            accuracy_per_attribute(reader, x, test.y, balanced) for balanced in (False, True)
        )
        row = {
            "faces": name,
            "right": right.mean().item(),
            "balanced": balanced.nanmean().item(),
            "n": len(x),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def edited_faces(network: FlowPluginNetwork, x: Tensor, y: Tensor, edits: list[str]) -> Tensor:
    """Figure 14's rows: faces x (n, 3, size, size) of attributes y (n, A), their reconstructions, and one column for each edit."""
    x = x.to(network.plugin.loc_)
    return torch.stack(
        [x, network.reconstruct(x), *(network.edit(x, y, edit) for edit in edits)], dim=1
    )


def strips(
    network: FlowPluginNetwork, x: Tensor, y: Tensor, names: list[str], values: list[float]
) -> Tensor:
    """One face x (1, 3, size, size) as each named attribute grows through ``values``: (names, values, 3, size, size).

    What excludes the attribute goes as it comes.
    """
    x, count = x.to(network.plugin.loc_), len(values)
    rows = []
    for name in names:
        contexts = torch.cat([network.plugin.condition.set(y, {name: value}) for value in values])
        rows.append(network.edit(x.expand(count, -1, -1, -1), y.expand(count, -1), contexts))
    return torch.stack(rows)


@torch.no_grad()
def decoded(base: MSP, z: Tensor, batch_size: int = 250) -> Tensor:
    """Faces (n, 3, size, size) of latents (n, D), in batches."""
    return torch.cat([base.decode(part) for part in z.split(batch_size)])


def mirrored(x: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the faces x (n, 3, size, size), by chance, with left and right exchanged."""
    chosen = torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device) < 0.5
    return torch.where(chosen, x.flip(3), x)


def may_be_shown(run: Run) -> bool:
    """Whether faces may stand in an executed notebook: drawn ones always, CelebA's where the setting ``show_celeba`` says so.

    CelebA's terms forbid to pass its pictures on, and executed notebooks are passed on.

    Raises:
        ValueError: CelebA is to be shown by a run whose folder lies in the project, from where it would be passed on.
    """
    if run.data.name != "celeba":
        return True
    if run.setting("show_celeba") and run.folder.resolve().is_relative_to(PROJECT.resolve()):
        raise ValueError(
            f"show_celeba keeps pictures out of the project, got out='{run.folder}'; choose a folder elsewhere"
        )
    return run.setting("show_celeba")


def face_figure(run: Run, figure: Figure, name: str) -> Figure | None:
    """:meth:`Run.figure` of drawn faces; a figure of CelebA's is never kept, and None unless it :func:`may_be_shown`."""
    if run.data.name != "celeba":
        return run.figure(figure, name)
    return figure if may_be_shown(run) else None


def _msp(run: Run) -> tuple[MSP, str]:
    torch.manual_seed(run.seed)
    shape = run.setting("msp_features"), run.setting("msp_decoder_features")
    model = MSP(len(run.data.classes), run.data.test.x.shape[-1], *shape)
    model = model.to(memory_format=torch.channels_last)  # faster on CPUs
    terms = {name: run.setting(f"msp_{name}") for name in ("fidelity", "sharpen")}
    trained, loss = model, partial(model.loss, fidelity=terms["fidelity"])
    if terms["sharpen"]:
        trained = SharpenedMSP(model, weight=terms["sharpen"], fidelity=terms["fidelity"])
        loss = trained.loss
    training = run.training(MSP_TRAINING, epochs=run.setting("msp_epochs"))
    key = {
        "data": run.data.checksum,
        "model": model.config,
        "loss": terms,
        "training": training,
        "seed": run.seed,
    }
    return _load_or_make(run, "MSP", model, key, _fitting(run, trained, loss, training, "MSP"))


def _fitting(
    run: Run, module: nn.Module, loss: Callable, training: dict, description: str
) -> Callable[[Any], History]:
    """How a module is made by a loss of faces and attributes, of the first ``train_faces`` of train."""

    def make(checkpoint: Any) -> History:
        splits = run.data.train.first(run.setting("train_faces")), run.data.validation
        train, validation = ((split.x.to(run.device), split.y.to(run.device)) for split in splits)
        draw = (
            (lambda generator: (mirrored(train[0], generator), train[1]))
            if _mirrors(run)
            else train
        )
        settings = {
            "seed": run.seed,
            "checkpoint": checkpoint,
            "description": description,
        } | training
        return fit(module.to(run.device), loss, draw, validation, **settings)

    return make


def _mirrors(run: Run) -> bool:
    """Whether a mirrored face is as good as the face: a photograph's is, drawn faces are all lit from the left."""
    return run.data.name == "celeba"


def _load_or_make(
    run: Run, name: str, module: nn.Module, key: dict, make: Callable
) -> tuple[Any, str]:
    """What the repository keeps pretrained, where it was made with the same key; else as :meth:`Run.load_or_make`."""
    if run.setting("train_faces") < len(run.data.train):
        key = key | {"train_faces": run.setting("train_faces")}
    if _mirrors(run):
        key = key | {"mirrored": True}
    return pretrained.load_or_make(run, name, module, key, make)
