"""3D shapes (sections 5.1.2 and 5.2.2): drawn shapes, ModelNet or ShapeNet, and PointFlow."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fpnlib import checks, store
from fpnlib.base_models import PointFlow, load_pointflow
from fpnlib.conditions import Classes
from fpnlib.data import Dataset, Split
from fpnlib.data.point_clouds import draw_points
from fpnlib.families.family import Base, Family, Loss, Plug, Settings, Trained, training_of
from fpnlib.metrics.judge import cloud_judge

# PointFlow's published size, and two that a core trains in an hour and in two. Flow matching trains
# nearly straight paths, so that a few equal steps of the solver are enough.
SMALL: dict[str, Any] = {
    "latent_dim": 64,
    "hidden": (256, 256, 256),
    "encoder_widths": (64, 64, 128, 256),
    "method": "midpoint",
    "steps": 4,
}
SIZES: dict[str, dict] = {
    "small": SMALL,
    "medium": SMALL | {"hidden": (384, 384, 384), "truncated": 2.0},
    "published": {},
}
# Learning rates are the peaks of a one-cycle schedule.
BASE_TRAINING = {
    "small": {"batch_size": 32, "learning_rate": 6e-3, "clip_norm": 1.0},
    "medium": {"batch_size": 32, "learning_rate": 3e-3, "clip_norm": 1.0},
    "published": {"batch_size": 16, "learning_rate": 1e-3, "clip_norm": 1.0},
}
JUDGE_TRAINING = {"batch_size": 32, "learning_rate": 4e-3, "weight_decay": 1e-2}
OBJECTIVES = {"matching": PointFlow.matching_loss, "likelihood": PointFlow.loss}
# The authors' batch sizes, of which smaller datasets get less, and their numbers of blocks.
FLOWS = {"maf": (4096, 2), "realnvp": (256, 4)}
NOISE = 0.05
"""The authors add 0.01 to latents whose scale they do not say; this is in units of theirs."""
AZIMUTH = {"modelnet": 55.0}
"""Degrees about the upright axis that show a dataset's shapes from the front; others: 35."""


def _options(settings: Settings) -> dict:
    return {} if settings["up"] == "auto" else {"up": settings["up"]}


def _build(data: Dataset, settings: Settings) -> PointFlow:
    checks.known("shapes.size", settings["size"], SIZES)
    checks.known("shapes.objective", settings["objective"], OBJECTIVES)
    seen, step = settings["seen"], settings["step"]
    if step > seen:
        raise ValueError(f"shapes.step must be at most shapes.seen, {seen} points, got {step}")
    return PointFlow(**SIZES[settings["size"]], seen=seen)


def _released(settings: Settings) -> nn.Module | None:
    path = Path(settings["checkpoint"]).expanduser()
    if not settings["checkpoint"]:
        return None
    model: Any = load_pointflow(path)
    about = {"checkpoint": store.sha256(path)} | _options(settings)
    about["statistics"] = [model.mean_.tolist(), model.std_.tolist()]  # from files of their own
    model.key_ = store.digest(about)
    return model


def _objective(module: PointFlow, settings: Settings) -> tuple[nn.Module, Loss]:
    loss, step = OBJECTIVES[settings["objective"]], settings["step"]
    return module, lambda x, y: loss(module, x, step)


def _points(split: Split, points: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """View clouds by points drawn for each epoch; by their first points without a generator."""
    if generator is None:
        return split.x[:, :points], split.y
    return draw_points(split.x, points, generator), split.y


def _plug(batch_size: int, blocks: int) -> Plug:
    training = {"batch_size": batch_size, "learning_rate": 4e-3, "clip_norm": 5.0}
    layers = {"num_layers": 5, "num_blocks": blocks}
    return Plug(
        shape=lambda s: layers | {"hidden_features": s["flow_width"], "dropout": s["flow_dropout"]},
        training=training_of(training, "flow_epochs"),
        settings=("flow_",),
        noise=NOISE,
    )


SHAPES = Family(
    name="shapes",
    dataset="shapes",
    kind="category",
    settings={
        "up": "auto",  # axis that is up in files of clouds: "x", "y" or "z"; "auto": the dataset's
        "size": "small",  # or "medium", "published"
        "base_epochs": 120,
        "seen": 256,  # points of each cloud that a training step encodes
        "step": 64,  # points of each cloud that it decodes
        "objective": "matching",  # flow matching; or "likelihood", PointFlow's own
        "checkpoint": "",  # a checkpoint that PointFlow's authors released; empty: train
        "flow_width": 128,  # the authors' is 1024
        "flow_dropout": 0.1,  # the authors' is 0.2
        "flow_epochs": 80,
        "flow_seed": 0,  # added to the run's seed for the plugins' trainings
        "judge_epochs": 16,
        "confidence": 0.5,  # latents read as asked with less of it are drawn again
    },
    options=_options,
    condition=lambda dataset, names: Classes(names),
    bases={
        "PointFlow": Base(
            build=_build,
            training=lambda data, s: BASE_TRAINING[s["size"]] | {"epochs": s["base_epochs"]},
            settings=("up", "size", "base_epochs", "seen", "step", "objective"),
            objective=_objective,
            view=lambda split, s, generator: _points(split, s["seen"], generator),
            before=lambda module, data: module.standardise(data.train.x.to(module.mean_.device)),
            after=lambda module, data: module.whiten(data.train.x.to(module.mean_.device)),
            released=_released,
            decode=lambda module, z, seed, points=None: module.decode(z, points, seed).cpu(),
            decode_batch=50,
            keep_latents=True,
            flows={flow: _plug(*sizes) for flow, sizes in FLOWS.items()},
            again=lambda s: {"confidence": s["confidence"]},
        )
    },
    judge=Trained(
        build=lambda data, settings: cloud_judge(len(data.classes)),
        training=training_of(JUDGE_TRAINING, "judge_epochs"),
        settings=("up", "judge_epochs"),
        view=lambda split, s, generator: _points(split, 256, generator),
    ),
    view=lambda dataset: {"azimuth": AZIMUTH.get(dataset, 35.0)},
    paper={  # Table 2: accuracy on train and test
        "logistic_regression": (0.9030, 0.8443),
        "linear_svm": (0.9104, 0.8503),
        "rbf_svm": (0.9778, 0.8643),
        "automl": (0.9018, 0.8435),
        "maf": (0.9548, 0.8404),
    },
    paper_dataset="shapenet",
)
