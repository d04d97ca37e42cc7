"""Faces (section 5.1.3): CelebA or drawn faces, MSP, and one plugin for many attributes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fpnlib.base_models import MSP
from fpnlib.conditions import Attributes
from fpnlib.data import Dataset, Split
from fpnlib.data.drawn.faces import draw
from fpnlib.families.family import Base, Family, Loss, Plug, Score, Settings, Trained, training_of
from fpnlib.metrics.editing import accuracy_per_attribute
from fpnlib.metrics.judge import Judge, face_judge

# A face has at most one attribute of each group, so adding one removes the others. CelebA's
# labels agree for all but one percent of the faces, and faces are drawn that way.
COLORS = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
EXCLUSIVE: dict[str, tuple] = {
    "drawn_faces": (("Bald", *COLORS), ("Bald", "Bangs")),
    "celeba": (
        COLORS,
        *(("Bald", hair) for hair in (*COLORS[:3], "Bangs", "Straight_Hair", "Wavy_Hair")),
        *(("No_Beard", beard) for beard in ("Goatee", "Mustache", "Sideburns")),
        ("Bangs", "Receding_Hairline"),
        ("Straight_Hair", "Wavy_Hair"),
    ),
}
# Learning rates are the peaks of a one-cycle schedule.
MSP_TRAINING = {"learning_rate": 4e-3}
FLOW_TRAINING = {"batch_size": 128, "learning_rate": 2e-3, "clip_norm": 5.0}
JUDGE_TRAINING = {"batch_size": 64, "learning_rate": 3e-3, "weight_decay": 1e-2}


def _condition(dataset: str, names: Sequence[str]) -> Attributes:
    """Your own faces may have other attributes than CelebA's, so that some groups fall away."""
    groups = [group for group in EXCLUSIVE.get(dataset, ()) if set(group) <= set(names)]
    return Attributes(names, groups)


def _mirrored(x: Tensor, generator: torch.Generator) -> Tensor:
    """Exchange left and right in a random half of the images x (n, 3, size, size)."""
    chosen = torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device) < 0.5
    return torch.where(chosen, x.flip(3), x)


def _is_drawn(split: Split) -> bool:
    """Drawn faces are all lit from the left, so a mirrored one is no face of their kind."""
    return "variation" in split.extra


def _view(split: Split, settings: Settings, generator: torch.Generator | None) -> tuple:
    if generator is None or _is_drawn(split):
        return split.x, split.y
    return _mirrored(split.x, generator), split.y


def _further(data: Dataset) -> list[Split]:
    return [] if _is_drawn(data.train) else [Split(data.train.data.flip(3), data.train.y)]


def _msps_own(base: MSP, z: Tensor, y: Tensor, to: Tensor) -> Tensor:
    """Edit as MSP does: set the edited entries of M z.

    An edit of half the strength takes the latent half of the way.
    """
    read = base.read(z)
    target = 2 * (to > y) - 1
    return base.set(z, read + (to - y).abs() * (target - read), to != y)


def _redraw(split: Split, rows: Tensor, y: Tensor) -> Tensor | None:
    return draw(y, split.extra["variation"][rows]) if _is_drawn(split) else None


def _size(data: Dataset) -> int:
    """Pixels a side; one face tells, so that no others are drawn for it."""
    return data.test.first(1).x.shape[-1]


def _build(data: Dataset, settings: Settings) -> MSP:
    widths = settings["msp_features"], settings["msp_decoder_features"]
    model = MSP(len(data.classes), _size(data), *widths)
    return model.to(memory_format=torch.channels_last)  # faster on CPUs


def _objective(module: MSP, settings: Settings) -> tuple[nn.Module, Loss]:
    return module, partial(module.loss, fidelity=settings["msp_fidelity"])


def _flow_shape(settings: Settings) -> dict[str, Any]:
    names = {"num_layers": "flow_layers", "num_blocks": "flow_blocks"}
    names |= {"hidden_features": "flow_width", "embedding_features": "flow_embedding"}
    names |= {"batch_norm": "flow_batch_norm"}
    return {name: settings[setting] for name, setting in names.items()}


def _calibrate(judge: Judge, data: Dataset) -> None:
    device = next(judge.parameters()).device
    judge.calibrate(data.validation.x.to(device), data.validation.y)


def _scores(judge: Judge, test: Split) -> Score:
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


FACES = Family(
    name="faces",
    dataset="drawn_faces",
    kind="attribute",
    settings={
        "train_faces": 20_000,  # at most so many faces to train on
        "msp_features": 16,  # channels of MSP's first layer; its latent is 8 times as wide at 64×64
        "msp_decoder_features": 32,  # before its last layer; published: as many as msp_features
        "msp_fidelity": 4.0,  # weight of absolute differences, for flat colours; published: 0
        "msp_batch": 32,  # at most so many faces in a batch
        "msp_epochs": 18,
        "flow_layers": 10,  # as in the paper
        "flow_blocks": 10,  # as in the paper
        "flow_width": 64,  # the paper's 1024 go with a latent of 2048
        "flow_embedding": 32,  # width of the attributes' linear embedding; the paper's is 512
        "flow_batch_norm": True,  # as in the paper
        "flow_epochs": 24,
        "judge_epochs": 8,
        "raised_edits": 1,  # edits of each attribute whose strength is raised until the judge reads
        "confidence": 0.0,  # edits read with less of it are strengthened; 0: no such editor
    },
    condition=_condition,
    bases={
        "MSP": Base(
            build=_build,
            training=training_of(MSP_TRAINING, "msp_epochs", batch="msp_batch"),
            settings=("train_faces", "msp_"),
            objective=_objective,
            view=_view,
            further=_further,
            editors=lambda model: {"MSP's own": partial(_msps_own, model)},
            flows={
                "maf": Plug(
                    shape=_flow_shape,
                    training=training_of(FLOW_TRAINING, "flow_epochs"),
                    settings=("train_faces", "flow_"),
                )
            },
        )
    },
    judge=Trained(
        build=lambda data, settings: face_judge(len(data.classes), _size(data)),
        training=training_of(JUDGE_TRAINING, "judge_epochs"),
        settings=("train_faces", "judge_epochs"),
        view=_view,
        after=_calibrate,
        version=2,
    ),
    score=_scores,
    prepare=lambda data, s: dataclasses.replace(data, train=data.train.first(s["train_faces"])),
    redraw=_redraw,
    private=("celeba",),
)
