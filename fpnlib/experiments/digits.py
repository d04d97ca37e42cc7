"""The steps of the MNIST experiments (section 5.1.1): base model, latents, plugin, judge, generators, baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from fpnlib import checks, store
from fpnlib.base_models import build_base_model
from fpnlib.baselines import BASELINES, ClassMixtures, Scores
from fpnlib.data import Split
from fpnlib.experiments.run import Run, kept_config, made_by
from fpnlib.metrics.images import diversity, frechet_distance, right_class_rate
from fpnlib.metrics.judge import Judge, digit_judge
from fpnlib.plugin import FlowPlugin
from fpnlib.training import History, fit

FLOW_NAMES = {"maf": "C-MAF", "realnvp": "C-RNVP"}
EPOCHS_OF = {"ConvVAE": "base_epochs", "ConvAE": "ae_epochs"}  # the settings that say how long
# What the paper leaves open, chosen on validation; the learning rates are the peaks of a one-cycle schedule.
TRAINING = {
    "ConvVAE": {"batch_size": 128, "learning_rate": 4e-3},
    "ConvAE": {"batch_size": 256, "learning_rate": 3e-3},
    "flow": {"batch_size": 512, "learning_rate": 2e-3, "clip_norm": 5.0},
    "judge": {"batch_size": 256, "learning_rate": 4e-3, "weight_decay": 1e-2},
}
# scikit-learn's few digits make few steps: more of them, or longer ones.
TRAINING_ON_FEW = {
    "ConvVAE": {"batch_size": 32},
    "ConvAE": {"batch_size": 32},
    "flow": {"learning_rate": 8e-3},
}
PAPER = {  # Table 1: accuracy on train and test, one draw from each posterior
    "logistic_regression": (0.8746, 0.8833),
    "linear_svm": (0.9090, 0.9164),
    "rbf_svm": (1.0, 0.9603),
    "automl": (1.0, 0.9608),
    "maf": (0.9771, 0.9677),
    "realnvp": (0.9740, 0.9616),
}


@dataclass(frozen=True)
class Latents:
    """One split's posteriors: ``mean``, ``std`` and one ``draw`` of each, all (n, latent_dim), and labels ``y`` (n,).

    An autoencoder without a posterior has ``std`` zero and ``draw`` equal to ``mean``.
    """

    mean: Tensor
    std: Tensor
    draw: Tensor
    y: Tensor


class Accuracies(NamedTuple):
    """Shares of right answers, in [0, 1]; ``validation`` is None where it was learned from."""

    train: float
    test: float
    validation: float | None


def base_model(run: Run, name: str) -> nn.Module:
    """The base model ``name`` ("ConvVAE" or "ConvAE"), trained on train and chosen on validation (section 5.1.1)."""
    return _base_model(run, name)[0]


def latents(run: Run, base: nn.Module) -> dict[str, Latents]:
    """Train, validation and test as the base model sees them: posterior means, deviations and one draw for each image."""
    seeds = {"train": run.seed, "validation": run.seed + 1, "test": run.seed + 2}

    def encoded() -> dict[str, Latents]:
        return {
            split: encode(base, getattr(run.data, split), seed) for split, seed in seeds.items()
        }

    return run.once(("latents", base), encoded)


@torch.no_grad()
def encode(base: nn.Module, split: Split, seed: int, batch_size: int = 1000) -> Latents:
    """The posteriors of one split under ``base``, and one draw from each by ``seed``."""
    device = next(base.parameters()).device
    parts = [_posterior(base, x.to(device)) for x in split.x.split(batch_size)]
    mean, std = (torch.cat(tensors) for tensors in zip(*parts))
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed)).to(mean)
    return Latents(mean, std, mean + std * noise, split.y.to(device))


def flow_plugin(
    run: Run, base: str, flow: str, *, draws: str = "fresh", width: int | None = None
) -> FlowPlugin:
    """The plugin ``flow`` ("maf" or "realnvp") for the base model named ``base``, fitted to its latents (section 3.2).

    Args:
        draws: "fresh": posterior draws made anew for each epoch; "fixed": one draw for each image, as the authors do.
            Without a posterior the two are the same.
        width: hidden features; None: the run's setting ``flow_width`` (ConvVAE), or the authors' 100 (ConvAE).
    """
    if flow not in FLOW_NAMES:
        raise checks.unknown("flow", flow, FLOW_NAMES)
    if draws not in ("fresh", "fixed"):
        raise checks.unknown("draws", draws, ("fresh", "fixed"))
    model, base_key = _base_model(run, base)
    shape, epochs = _flow_settings(run, base, width)
    if base == "ConvVAE" and draws == "fixed":
        epochs = max(1, epochs // 2)  # one draw is learned by heart sooner than many
    training = _training(run, "flow", epochs)
    torch.manual_seed(run.seed)
    plugin = FlowPlugin(model.latent_dim, run.classes, flow, **shape)

    def make(checkpoint) -> History:
        sets = latents(run, model)
        train, held_out = sets["train"], sets["validation"]
        fresh = draws == "fresh" and bool(train.std.any())
        plugin.fit(
            train.mean if fresh else train.draw,
            train.y,
            std=train.std if fresh else None,
            validation=(held_out.draw, held_out.y),
            seed=run.seed,
            checkpoint=checkpoint,
            description=f"{base} + {flow}",
            **training,
        )
        return plugin.history_

    key = {
        "base": base_key,
        "flow": kept_config(plugin),
        "training": training,
        "draws": draws,
        "seed": run.seed,
    }
    return run.load_or_make(plugin_name(base, flow, draws, width), plugin, key, make)[0]


def plugin_name(base: str, flow: str, draws: str = "fresh", width: int | None = None) -> str:
    """The name under which :func:`flow_plugin` keeps a plugin."""
    return f"{base}_{flow}_{draws}" + (f"_width{width}" if width else "")


def judge(run: Run) -> Judge:
    """An independent classifier of images that scores what plugins generate.

    It is trained on train, distorted anew in each step, and chosen on validation as it is.
    """
    torch.manual_seed(run.seed)
    module = digit_judge(len(run.classes))
    training = _training(run, "judge", run.setting("judge_epochs"))
    key = {
        "data": run.data.checksum,
        "judge": module.config,
        "distorted": True,
        "training": training,
        "seed": run.seed,
    }
    return run.load_or_make(
        "judge",
        module,
        key,
        lambda checkpoint: _fit_images(run, module, module.loss, training, checkpoint, "judge"),
    )[0]


def generators(
    run: Run, base: str, components: int = 5
) -> dict[str, Callable[[Tensor, int], Tensor]]:
    """Every way to draw images for labels from the base model named ``base``: name → (labels (n,), seed) → images.

    The two flows, a Gaussian and a mixture of ``components`` Gaussians for each class, fitted to the same latents (one
    draw from each posterior), and, for a base model with a prior, its unconditional samples, which ignore the labels.
    """
    model = base_model(run, base)
    train = latents(run, model)["train"]

    def decoded(sample: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, int], Tensor]:
        @torch.no_grad()
        def draw(y: Tensor, seed: int) -> Tensor:
            z = sample(y, seed).to(run.device)
            return torch.cat([model.decode(part) for part in z.split(1000)])

        return draw

    def prior(y: Tensor, seed: int) -> Tensor:
        return torch.randn(len(y), model.latent_dim, generator=torch.Generator().manual_seed(seed))

    ways = {"unconditional": prior} if hasattr(model, "posterior") else {}
    ways["class Gaussians"] = ClassMixtures(train.draw, train.y, 1).sample
    mixtures = ClassMixtures(train.draw, train.y, components, seed=run.seed)
    ways["class mixtures"] = mixtures.sample
    for flow, name in FLOW_NAMES.items():
        plugin = flow_plugin(run, base, flow)
        ways[name] = lambda y, seed, plugin=plugin: plugin.sample(y, seed=seed)
    return {name: decoded(sample) for name, sample in ways.items()}


def scorer(run: Run, reader: Judge) -> Callable[[Tensor, Tensor], dict[str, float]]:
    """How images x (n, 1, 28, 28) for labels y (n,) do, beside the test images: a function of both.

    It gives "right class", "Fréchet distance" to the test images, "diversity" as a share of theirs, and "n".
    """
    test = run.data.test
    real = reader.read(test.x).features
    of_test = diversity(real, test.y)

    def score(x: Tensor, y: Tensor) -> dict[str, float]:
        seen = reader.read(x).features
        right, distance = right_class_rate(reader, x, y), frechet_distance(real, seen)
        return {
            "right class": right,
            "Fréchet distance": distance,
            "diversity": diversity(seen, y) / of_test,
            "n": len(x),
        }

    return score


def accuracy(plugin: FlowPlugin, z: Latents, features: str, prior: str = "flat") -> float:
    """Share of right answers of Bayes' rule (eq. 17) on ``features``: "draw" or "mean" of the posteriors."""
    return (plugin.predict(getattr(z, features), prior) == z.y).double().mean().item()


def score_plugin(
    plugin: FlowPlugin, sets: dict[str, Latents], features: str, prior: str = "flat"
) -> Accuracies:
    """:func:`accuracy` on all three splits; validation chose the plugin's epoch."""
    return Accuracies(
        *(accuracy(plugin, sets[split], features, prior) for split in Accuracies._fields)
    )


def table_1(
    run: Run, baselines: dict[str, dict], on_means: Sequence[str] = ("rbf_svm",)
) -> pd.DataFrame:
    """Table 1: classifying by Bayes' rule, flat prior, beside supervised classifiers of the same latents (section 5.2.1).

    Args:
        baselines: names of ``baselines.BASELINES`` with the settings of each.
        on_means: those to be fitted to the posteriors' means as well as to one draw from each.

    Returns:
        A line for each baseline and each flow. Columns: ``model``, ``learned from`` (how many images), ``paper, train``
        and ``paper, test`` (NaN but for MNIST), then ``draws, train``, ``draws, validation``, ``draws, test`` and the same
        of ``means`` (NaN: not computed, or learned from: the baselines learn from train and validation), ``seconds`` of
        training on draws, and ``chosen``: what the search settled on, the budget that ended AutoML's, a flow's epoch.
    """
    sets, rows = latents(run, base_model(run, "ConvVAE")), []
    train, held_out = (len(sets[split].y) for split in ("train", "validation"))
    for name, settings in baselines.items():
        kinds = ("draw", "mean") if name in on_means else ("draw",)
        scores = {kind: baseline(run, name, "ConvVAE", kind, **settings) for kind in kinds}
        ours = {
            kind: Accuracies(found.train_accuracy, found.test_accuracy, None)
            for kind, found in scores.items()
        }
        first = scores["draw"]
        rows.append(
            [
                first.name,
                train + held_out,
                *_cells(run, name, ours),
                first.seconds,
                _chosen(first.settings),
            ]
        )
    for flow, name in FLOW_NAMES.items():
        plugin = flow_plugin(run, "ConvVAE", flow)
        ours = {kind: score_plugin(plugin, sets, kind) for kind in ("draw", "mean")}
        chosen = f"epoch {plugin.history_.best_epoch} of {len(plugin.history_.epochs)}"
        seconds = run.seconds(plugin_name("ConvVAE", flow))
        rows.append([f"FPN ({name})", train, *_cells(run, flow, ours), seconds, chosen])
    parts = [
        f"{kind}s, {split}"
        for kind in ("draw", "mean")
        for split in ("train", "validation", "test")
    ]
    columns = ["model", "learned from", "paper, train", "paper, test", *parts, "seconds", "chosen"]
    return pd.DataFrame(rows, columns=columns)


def leads(scores: pd.Series, n: int) -> pd.DataFrame:
    """How far each plugin is ahead of the best baseline: a line for each, of accuracies by model on the same n samples.

    Columns ``model``, ``best baseline``, ``lead`` (less than 0: behind), and ``± two standard errors`` of such a difference,
    were the two independent.
    """
    plugins = scores.index.str.startswith("FPN")
    rival = scores[~plugins].idxmax()
    rows = []
    for model in scores.index[plugins]:
        error = 2 * math.sqrt(sum(p * (1 - p) / n for p in scores[[model, rival]]))
        rows.append([model, rival, scores[model] - scores[rival], error])
    return pd.DataFrame(rows, columns=["model", "best baseline", "lead", "± two standard errors"])


def _cells(run: Run, name: str, ours: dict[str, Accuracies]) -> list[float | None]:
    """The paper's accuracies and ours, in the order of Table 1's columns."""
    of = (ours.get(kind) for kind in ("draw", "mean"))
    return [
        *(map(run.papers, PAPER[name])),
        *(getattr(a, split, None) for a in of for split in ("train", "validation", "test")),
    ]


def _chosen(settings: dict) -> str:
    """What a baseline's search settled on, and what ended it."""
    if "C" in settings:
        return f"C = {settings['C']:g}"
    return f"{settings['learner']}; {settings['trials']} trials, ended by its {settings['bound']}"


def baseline(run: Run, name: str, base: str, features: str, **settings: Any) -> Scores:
    """A supervised classifier of ``baselines.BASELINES`` on the latents of the base model named ``base`` (Table 1).

    It learns from train and validation together, for its cross-validation needs no set of its own. Its scores are kept.
    """
    model, base_key = _base_model(run, base)
    return kept_baseline(run, name, base, base_key, latents(run, model), features, **settings)


def kept_baseline(
    run: Run,
    name: str,
    base: str,
    base_key: str,
    sets: dict[str, Latents],
    features: str,
    **settings: Any,
) -> Scores:
    """:func:`baseline` on the given latents of a base model, known by its name and its key."""
    path = run.folder / "models" / f"{base}_{name}_{features}.json"
    key = store.digest(
        {"base": base_key, "baseline": name, "features": features, "seed": run.seed} | settings
    )
    run.uses.file(path)
    if kept := store.read_kept(path, key, scores=dict):
        if other := made_by(kept):
            print(f"{path.stem}: loaded{other}")
        return store.rebuilt(path, Scores, kept["scores"])
    if name not in BASELINES:
        raise checks.unknown("baseline", name, BASELINES)
    z, y = (
        torch.cat([getattr(sets[split], kind) for split in ("train", "validation")])
        for kind in (features, "y")
    )
    scores = BASELINES[name](
        z, y, getattr(sets["test"], features), sets["test"].y, seed=run.seed, **settings
    )
    store.write_kept(path, key, library=store.library_digest(), scores=asdict(scores))
    return scores


def _base_model(run: Run, name: str) -> tuple[nn.Module, str]:
    torch.manual_seed(run.seed)
    module = build_base_model(name, latent_dim=40).to(
        memory_format=torch.channels_last
    )  # a fifth faster on CPUs
    training = _training(run, name, run.setting(EPOCHS_OF[name]))
    key = {
        "data": run.data.checksum,
        "base": name,
        "model": module.config,
        "training": training,
        "seed": run.seed,
    }
    return run.load_or_make(
        name,
        module,
        key,
        lambda checkpoint: _fit_images(
            run, module, lambda x, y: module.loss(x), training, checkpoint, name
        ),
    )


def _flow_settings(run: Run, base: str, width: int | None) -> tuple[dict, int]:
    """A plugin's shape and epochs. Batch norm, within and between layers, where the latents are large (section 5.1.1)."""
    if base == "ConvVAE":
        shape = {
            "hidden_features": width or run.setting("flow_width"),
            "num_layers": 5,
            "num_blocks": 2,
        }
        return shape, run.setting("flow_epochs")
    layers, blocks = run.setting("ae_flow_layers"), run.setting("ae_flow_blocks")
    shape = {
        "hidden_features": width or 100,
        "num_layers": layers,
        "num_blocks": blocks,
        "batch_norm": True,
    }
    return shape, run.setting("ae_flow_epochs")


def _training(run: Run, what: str, epochs: int) -> dict:
    few = TRAINING_ON_FEW.get(what, {}) if run.dataset_name == "digits" else {}
    return run.training(TRAINING[what] | few, epochs=epochs)


def _fit_images(
    run: Run, module: nn.Module, loss: Callable, training: dict, checkpoint: Any, description: str
) -> History:
    train, validation = (
        (split.x.to(run.device), split.y.to(run.device))
        for split in (run.data.train, run.data.validation)
    )
    return fit(
        module,
        loss,
        train,
        validation,
        seed=run.seed,
        checkpoint=checkpoint,
        description=description,
        **training,
    )


def _posterior(base: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    if hasattr(base, "posterior"):
        return base.posterior(x)
    z = base.encode(x)
    return z, torch.zeros_like(z)
