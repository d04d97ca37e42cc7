"""The steps of the face experiments (section 5.1.3): MSP, its latents, the plugin for attributes, the judge, the editors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from fpnlib import artifacts
from fpnlib.artifacts import PROJECT
from fpnlib.attributes import Attributes
from fpnlib.base_models import MSP
from fpnlib.data.drawn_faces import DrawnFaces, difference, draw
from fpnlib.experiments.digits import Latents, encode
from fpnlib.experiments.run import Run
from fpnlib.metrics.attribute_judge import AttributeJudge
from fpnlib.metrics.editing import (
    Editor,
    accuracy_per_attribute,
    mean_differences,
    outside,
    score_edits,
    single_edits,
    success_at,
)
from fpnlib.plugin import FlowPlugin, FlowPluginNetwork
from fpnlib.training import History, fit

PRETRAINED = PROJECT / "outputs" / "pretrained"
"""What these steps made once, at the notebooks' own settings: a run with the same settings takes it from here."""

# Of these groups a face has one attribute at most: to ask for one is to ask the others away.
EXCLUSIVE = (("Bald", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair"), ("Bald", "Bangs"))
# The learning rates are the peaks of a one-cycle schedule.
MSP_TRAINING = {"batch_size": 64, "learning_rate": 2e-3}
FLOW_TRAINING = {"batch_size": 256, "learning_rate": 2e-3, "clip_norm": 5.0}
JUDGE_TRAINING = {"batch_size": 64, "learning_rate": 3e-3, "weight_decay": 1e-2}


def attributes(run: Run) -> Attributes:
    """The dataset's attributes, as a plugin takes them."""
    return Attributes(run.data.classes, EXCLUSIVE)


def msp(run: Run) -> MSP:
    """The factorised autoencoder, trained on train and chosen on validation.

    Settings ``msp_features``, ``msp_epochs``, and, as of all steps here, ``train_faces``: at most so many to train on.
    """
    return _msp(run)[0]


def face_latents(run: Run, base: MSP, split: str, n: int | None = None) -> Latents:
    """The first n faces of a split ("train", "validation", "test") as the base model sees them; None: all."""
    faces = getattr(run.data, split)
    return encode(base, faces if n is None else faces.first(n), run.seed, batch_size=250)


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
        train = face_latents(run, base, "train", run.setting("train_faces"))
        held_out = face_latents(run, base, "validation")
        validation, settings = (held_out.draw, held_out.y), {"seed": run.seed, "checkpoint": checkpoint} | training
        return plugin.fit(train.mean, train.y, std=train.std, validation=validation, **settings).history_

    key = {"base": base_key, "flow": plugin.config, "training": training, "seed": run.seed}
    return _load_or_make(run, "MSP_maf", plugin, key, make)[0]


def attribute_judge(run: Run) -> AttributeJudge:
    """An independent reader of attributes, trained on train's faces and chosen on validation's; setting ``face_judge_epochs``."""
    torch.manual_seed(run.seed)
    judge = AttributeJudge(len(run.data.classes), run.data.test.x.shape[-1])
    training = run.training(JUDGE_TRAINING, epochs=run.setting("face_judge_epochs"))
    key = {"data": run.data.checksum, "judge": judge.config, "training": training, "seed": run.seed}
    return _load_or_make(run, "face_judge", judge, key, _fitting(run, judge, training, "face judge"))[0]


def editors(run: Run, n: int = 2_000) -> dict[str, Editor]:
    """Ours, and two that a reader would try first on the same latents: (latents, attributes, attributes wanted) → latents.

    Args:
        n: training faces behind the difference of means.
    """
    base, plugin = msp(run), attribute_plugin(run)
    train = face_latents(run, base, "train", n)
    return {
        "C-MAF (ours)": lambda z, y, to: plugin.from_noise(plugin.to_noise(z, y), to),
        "MSP's own": lambda z, y, to: base.set(z, 2 * to - 1, to != y),
        "difference of means": mean_differences(train.mean, train.y),
    }


def edit_scores(run: Run, ways: dict[str, Editor], strengths: list[float], each: int) -> pd.DataFrame:
    """Single edits of test faces by every editor at every strength: a row for each editor, strength and edit.

    Columns ``editor``, ``strength``, ``attribute``, ``edit`` ("+" or "-"), ``achieved``, ``others`` and ``moved`` as
    :class:`metrics.editing.EditScores` has them; on drawn faces also ``outside`` (what changed where nothing ought to) and
    ``truth`` (mean absolute difference from the face as it ought to be).

    Args:
        strengths: 1 for the whole edit, 0.5 for half of it.
        each: edits of each attribute, half of them "+".
    """
    base, reader, kinds = msp(run), attribute_judge(run), attributes(run)
    test = face_latents(run, base, "test")
    edits = single_edits(kinds, test.y, each)
    rows, to = edits.rows, edits.to.to(test.mean)
    z, y = test.mean[rows], test.y[rows].to(to)
    before = decoded(base, z)
    truth = {}
    if isinstance(run.data.test, DrawnFaces):
        wanted = draw(to.cpu(), run.data.test.variation[rows.cpu()])
        region = difference(run.data.test.x[rows.cpu()], wanted)
        truth = {"region": region.to(before.device), "wanted": wanted.to(before)}
    tables = []
    for name, editor in ways.items():
        for strength in strengths:
            after = decoded(base, editor(z, y, y + strength * (to - y)))
            scores = score_edits(reader, before, after, y, to)
            table = {"achieved": scores.achieved, "others": scores.others, "moved": scores.moved}
            if truth:
                table |= {"outside": outside(before, after, truth["region"]).cpu()}
                table |= {"truth": (after - truth["wanted"]).abs().mean((1, 2, 3)).cpu()}
            columns = edits.columns.cpu()
            signs = to[torch.arange(len(rows)), edits.columns].cpu() > 0.5
            table |= {"attribute": [kinds.names[k] for k in columns], "edit": ["+" if plus else "-" for plus in signs]}
            tables.append(pd.DataFrame({"editor": name, "strength": strength} | table))
    return pd.concat(tables, ignore_index=True)


def summary(scores: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Means of what :func:`edit_scores` gives for each group of ``by``, every attribute counting alike."""
    means = scores.groupby([*dict.fromkeys([*by, "attribute"])], sort=False).mean(numeric_only=True)
    return means.drop(columns=["strength"], errors="ignore").groupby(by, sort=False).mean().reset_index()


def at_equal_cost(curve: pd.DataFrame, cost: str, ours: str = "C-MAF (ours)") -> pd.DataFrame:
    """Each editor's success where it costs what ours costs at strength 1, from the curve of :func:`summary`.

    Args:
        curve: columns ``editor``, ``strength`` (growing), ``achieved`` and ``cost``.
        cost: "others", "moved" or "outside".
    """
    level = float(curve[(curve["editor"] == ours) & (curve["strength"] == 1)][cost].iloc[0])
    rows = [
        {"editor": name, cost: level, "achieved": success_at(rows[cost].to_numpy(), rows["achieved"].to_numpy(), level)}
        for name, rows in curve.groupby("editor", sort=False)
    ]
    return pd.DataFrame(rows)


def sampled_scores(run: Run, temperatures: list[float], n: int) -> pd.DataFrame:
    """Faces drawn for the attributes of n test faces (section 3.3), read by the judge: a row for each temperature.

    ``attributes right`` is the share of attributes that the judge reads as asked for, ``reconstructions`` the same of the
    test faces through the autoencoder.
    """
    base, plugin, reader = msp(run), attribute_plugin(run), attribute_judge(run)
    test = face_latents(run, base, "test", n)
    ceiling = accuracy_per_attribute(reader, decoded(base, test.mean), test.y).mean().item()
    rows = []
    for temperature in temperatures:
        z = plugin.sample(test.y, temperature=temperature, seed=run.seed)
        right = accuracy_per_attribute(reader, decoded(base, z), test.y).mean().item()
        rows.append({"temperature": temperature, "attributes right": right, "reconstructions": ceiling, "n": len(z)})
    return pd.DataFrame(rows)


def edited_faces(network: FlowPluginNetwork, x: Tensor, y: Tensor, edits: list[str]) -> Tensor:
    """Figure 14's rows: faces x (n, 3, size, size) of attributes y (n, A), their reconstructions, and one column for each edit."""
    x = x.to(network.plugin.loc_)
    return torch.stack([x, network.reconstruct(x), *(network.edit(x, y, edit) for edit in edits)], dim=1)


def strips(network: FlowPluginNetwork, x: Tensor, y: Tensor, names: list[str], values: list[float]) -> Tensor:
    """One face x (1, 3, size, size) as each named attribute grows through ``values``: (names, values, 3, size, size).

    What excludes the attribute goes as it comes.
    """
    kinds, rows = network.plugin.attributes, []
    x = x.to(network.plugin.loc_)
    for name in names:
        without, with_it = (kinds.edited(y, {name: value}) for value in (0, 1))
        contexts = torch.cat([torch.lerp(without, with_it, value) for value in values])
        rows.append(network.edit(x.expand(len(values), -1, -1, -1), y.expand(len(values), -1), contexts))
    return torch.stack(rows)


@torch.no_grad()
def decoded(base: MSP, z: Tensor, batch_size: int = 250) -> Tensor:
    """Faces (n, 3, size, size) of latents (n, D), in batches."""
    return torch.cat([base.decode(part) for part in z.split(batch_size)])


def may_be_shown(run: Run) -> bool:
    """Whether faces may stand in an executed notebook: drawn ones always, CelebA's where the setting ``show_celeba`` says so.

    CelebA's terms forbid to pass its pictures on, and executed notebooks are passed on.
    """
    return run.data.name != "celeba" or run.setting("show_celeba")


def face_figure(run: Run, figure: Figure, name: str) -> Figure | None:
    """:meth:`Run.figure` of drawn faces; a figure of CelebA's is never kept, and None unless it :func:`may_be_shown`."""
    if run.data.name != "celeba":
        return run.figure(figure, name)
    return figure if may_be_shown(run) else None


def keep_pretrained(models: Path, dataset: str = "drawn_faces") -> list[Path]:
    """Put what a run made under its ``models`` folder into the repository: MSP, its plugin and the judge; returns the files.

    Matrices are rounded to half precision, for half the size; the flow stays exactly invertible all the same.

    Raises:
        FileNotFoundError: one of the three is not there.
    """
    kept = []
    for name in ("MSP", "MSP_maf", "face_judge"):
        tensors, meta = artifacts.load_tensors(Path(models) / f"{name}.safetensors")
        small = {key: tensor.half() if tensor.ndim > 1 else tensor for key, tensor in tensors.items()}
        kept.append(artifacts.save_tensors(PRETRAINED / f"{dataset}_{name}.safetensors", small, meta))
    return kept


def _msp(run: Run) -> tuple[MSP, str]:
    torch.manual_seed(run.seed)
    model = MSP(len(run.data.classes), run.data.test.x.shape[-1], run.setting("msp_features"))
    model = model.to(memory_format=torch.channels_last)  # faster on CPUs
    training = run.training(MSP_TRAINING, epochs=run.setting("msp_epochs"))
    key = {"data": run.data.checksum, "model": model.config, "training": training, "seed": run.seed}
    return _load_or_make(run, "MSP", model, key, _fitting(run, model, training, "MSP"))


def _fitting(run: Run, module: nn.Module, training: dict, description: str) -> Callable[[Any], History]:
    """How a module with a loss of faces and attributes is made, of the first ``train_faces`` of train."""

    def make(checkpoint: Any) -> History:
        splits = run.data.train.first(run.setting("train_faces")), run.data.validation
        train, validation = ((split.x.to(run.device), split.y.to(run.device)) for split in splits)
        settings = {"seed": run.seed, "checkpoint": checkpoint, "description": description} | training
        return fit(module, module.loss, train, validation, **settings)

    return make


def _load_or_make(run: Run, name: str, module: nn.Module, key: dict, make: Callable) -> tuple[Any, str]:
    """What the repository keeps pretrained, where it was made with the same key; else as :meth:`Run.load_or_make`."""
    if run.setting("train_faces") < len(run.data.train):
        key = key | {"train_faces": run.setting("train_faces")}
    path, digest = PRETRAINED / f"{run.data.name}_{name}.safetensors", artifacts.digest(key)
    if (artifacts.read_meta(path) or {}).get("key") != digest:
        return run.load_or_make(name, module, key, make)
    module.history_ = History(**artifacts.load_module(path, module.to(run.device))["history"])
    print(f"{name}: loaded, pretrained")
    return module.eval(), digest
