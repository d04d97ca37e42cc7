"""The steps that notebooks share, each *load it if it is there and fits, else make it*: data, base model, latents, plugin, judge.

A step's result is kept in ``<out>/models`` under a key: a digest of all that it depends on (the data's checksum, its
settings, the seed, and the keys of the steps before it). A file whose key differs is made anew, and a line says so.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from joblib import Parallel, delayed, parallel_config
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm.auto import tqdm

from fpnlib import artifacts, checks, data
from fpnlib.artifacts import PROJECT
from fpnlib.attributes import Classes
from fpnlib.base_models import build_base_model
from fpnlib.classifiers import BASELINES, Scores
from fpnlib.data import Dataset, Split
from fpnlib.metrics.baselines import class_gaussians, class_mixtures
from fpnlib.metrics.images import diversity, frechet_distance, right_class_rate
from fpnlib.metrics.judge import Judge
from fpnlib.plugin import FlowPlugin
from fpnlib.training import History, batch_size_for, fit

FLOW_NAMES = {"maf": "C-MAF", "realnvp": "C-RNVP"}
# What the paper leaves open, chosen on validation; the learning rates are the peaks of a one-cycle schedule.
BASE_TRAINING = {
    "ConvVAE": {"batch_size": 256, "learning_rate": 3e-3},
    "ConvAE": {"batch_size": 256, "learning_rate": 3e-3},
}
FLOW_TRAINING = {"batch_size": 512, "learning_rate": 2e-3, "clip_norm": 5.0}
JUDGE_TRAINING = {"batch_size": 256, "learning_rate": 4e-3, "weight_decay": 1e-2}


@dataclass(frozen=True)
class Latents:
    """One split's posteriors: ``mean``, ``std`` and one ``draw`` of each, all (n, latent_dim), and labels ``y`` (n,).

    An autoencoder without a posterior has ``std`` zero and ``draw`` equal to ``mean``.
    """

    mean: Tensor
    std: Tensor
    draw: Tensor
    y: Tensor


class Run:
    """One notebook's part of a run: its settings, its device, and where its figures, tables and results go.

    Args:
        notebook: name of the notebook, e.g. "04_conditional_generation"; its files carry it.
        out: the run's folder; relative paths count from the project's root.
        dataset: "digits" or "mnist"; None for a notebook without data.
        data_dir: folder of the datasets; empty: $FPN_DATA, else ``data`` in the project.
        seed: of everything random.
        settings: of the steps below, by the names that they take from the notebook's parameters (``base_epochs``, …).
    """

    def __init__(
        self, notebook: str, *, out: str, seed: int = 0, dataset: str | None = None, data_dir: str = "", **settings: Any
    ):
        self.arguments = dict(notebook=notebook, out=out, seed=seed, dataset=dataset, data_dir=data_dir) | settings
        self.notebook, self.seed, self.settings = notebook, seed, settings
        self.folder = PROJECT / out  # an absolute path stays as it is
        self.dataset_name, self.data_dir = dataset, data_dir
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.results = artifacts.Results(self.folder / "results" / f"{notebook}.json")
        self.manifest = artifacts.Manifest(self.folder)
        torch.manual_seed(seed)
        versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "nflows", "numpy"))
        print(
            f"Python {platform.python_version()}, {versions}; {self.device}, {torch.get_num_threads()} threads; seed {seed}"
        )
        print(f"Figures, tables and results go to {os.path.relpath(self.folder, PROJECT)}/")

    @cached_property
    def data(self) -> Dataset:
        """The dataset, its splits drawn by the run's seed."""
        loaded = data.load(self.dataset_name, root=self.data_dir or None, seed=self.seed, download=True)
        self.manifest.note("data", {loaded.name: loaded.checksum})
        return loaded

    @property
    def classes(self) -> Classes:
        """The dataset's classes, as a plugin takes them."""
        return Classes(self.data.classes)

    def record(self, quantity: str, value: float, *, paper: float | None = None, **more: Any) -> None:
        """Keep a number in ``results/<notebook>.json``, beside the paper's value where it has one, and print it.

        The paper's values are those of MNIST: on another dataset they are left out.
        """
        paper = paper if self.dataset_name == "mnist" else None
        self.results.record(quantity, float(value), paper=paper, seed=self.seed, **more)
        print(f"{quantity}: {value:.4f}" + (f"  (paper: {paper:.4f})" if paper is not None else ""))

    def figure(self, figure: Figure, name: str) -> Figure:
        """Save a figure as ``figures/<notebook>_<name>.png`` and hand it back to be shown."""
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=150)
        artifacts.write_bytes(self.folder / "figures" / f"{self.notebook}_{name}.png", png.getvalue())
        plt.close(figure)  # or the notebook would show it twice
        return figure

    def table(self, table: pd.DataFrame, name: str, digits: int = 4) -> pd.DataFrame:
        """Save a table as ``tables/<notebook>_<name>.csv`` and hand it back to be shown."""
        artifacts.write_text(self.folder / "tables" / f"{self.notebook}_{name}.csv", table.to_csv(index=False))
        return table.style.format(precision=digits, na_rep="–").hide(axis="index")

    def training(self, settings: dict, **more: Any) -> dict:
        """``settings`` of ``training.fit`` for this dataset, with smaller batches where it is small."""
        return settings | {"batch_size": batch_size_for(len(self.data.train), settings["batch_size"])} | more

    def load_or_make(
        self, name: str, module: nn.Module, key: dict, make: Callable[[Any], History]
    ) -> tuple[nn.Module, str]:
        """``module`` with the weights kept under ``name`` where their key fits, else those that ``make(checkpoint)`` gives it.

        Returns the module, in eval mode on the run's device, and the key's digest. Its ``history_`` is the fit's history.
        """
        path = self.folder / "models" / f"{name}.safetensors"
        digest = artifacts.digest(key)
        module.to(self.device)
        described = path.with_suffix(".json")
        if described.exists():
            if artifacts.read_json(described)["meta"]["key"] == digest:
                module.history_ = History(**artifacts.load_module(path, module)["history"])
                print(f"{name}: loaded")
                return module.eval(), digest
            print(f"{name}: made with other settings or data; made anew")
        checkpoint = artifacts.Checkpoint(path.with_name(f".{name}-{digest}.safetensors"))
        started, threads = time.perf_counter(), torch.get_num_threads()
        try:
            torch.set_num_threads(1)  # the same bits whatever the number of cores; see side_by_side
            module.history_ = make(checkpoint)
        finally:
            torch.set_num_threads(threads)
        self.manifest.note("seconds", {name: round(time.perf_counter() - started, 1)})
        artifacts.save_module(path, module, {"key": digest, "made_from": key, "history": asdict(module.history_)})
        return module.eval(), digest

    def seconds(self, name: str) -> float | None:
        """Wall time that making ``name`` took, in the session that finished it; None where that is not known."""
        return self.manifest.read().get("seconds", {}).get(name)

    def weights_sha256(self, name: str) -> str:
        """Checksum of the weights kept under ``name``."""
        return artifacts.sha256(self.folder / "models" / f"{name}.safetensors")

    def _setting(self, name: str) -> Any:
        if name not in self.settings:
            raise ValueError(f"this step needs the setting '{name}'; pass {name}=… to Run")
        return self.settings[name]


def side_by_side(run: Run, steps: dict[str, tuple]) -> None:
    """Make what is missing among ``steps``, a process for each core and one thread in each: twice as fast on two cores.

    The steps called afterwards load it. On a GPU, and where at most one is missing, nothing is made here: they make it.

    Args:
        steps: name under ``models`` → (step, positional arguments…, {keyword arguments}), e.g.
            ``{"ConvVAE": (base_model, "ConvVAE", {})}``.
    """
    missing = [step for name, step in steps.items() if not (run.folder / "models" / f"{name}.json").exists()]
    if len(missing) < 2 or artifacts.cores() < 2 or run.device.type != "cpu":
        return
    with parallel_config("loky", n_jobs=min(len(missing), artifacts.cores()), inner_max_num_threads=1):
        made = Parallel(return_as="generator_unordered")(delayed(_make)(run.arguments, *step) for step in missing)
        for _ in tqdm(made, total=len(missing), desc="side by side", unit="model"):
            pass


def _make(arguments: dict, step: Callable, *positional_and_keywords: Any) -> None:
    *positional, keywords = positional_and_keywords
    with contextlib.redirect_stdout(io.StringIO()):  # what is printed belongs in the notebook, which loads it next
        step(Run(**arguments), *positional, **keywords)


def base_model(run: Run, name: str) -> nn.Module:
    """The base model ``name`` ("ConvVAE" or "ConvAE"), trained on train and chosen on validation (section 5.1.1)."""
    return _base_model(run, name)[0]


def latents(run: Run, base: nn.Module) -> dict[str, Latents]:
    """Train, validation and test as the base model sees them: posterior means, deviations and one draw for each image."""
    return {
        split: encode(base, getattr(run.data, split), run.seed + offset)
        for offset, split in enumerate(("train", "validation", "test"))
    }


@torch.no_grad()
def encode(base: nn.Module, split: Split, seed: int, batch_size: int = 1000) -> Latents:
    """The posteriors of one split under ``base``, and one draw from each by ``seed``."""
    device = next(base.parameters()).device
    parts = [_posterior(base, x.to(device)) for x in split.x.split(batch_size)]
    mean, std = (torch.cat(tensors) for tensors in zip(*parts))
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed)).to(mean)
    return Latents(mean, std, mean + std * noise, split.y.to(device))


def flow_plugin(run: Run, base: str, flow: str, *, draws: str = "fresh", width: int | None = None) -> FlowPlugin:
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
    training = run.training(FLOW_TRAINING, epochs=epochs)
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

    key = {"base": base_key, "flow": plugin.config, "training": training, "draws": draws, "seed": run.seed}
    return run.load_or_make(plugin_name(base, flow, draws, width), plugin, key, make)[0]


def plugin_name(base: str, flow: str, draws: str = "fresh", width: int | None = None) -> str:
    """The name under which :func:`flow_plugin` keeps a plugin."""
    return f"{base}_{flow}_{draws}" + (f"_width{width}" if width else "")


def judge(run: Run) -> Judge:
    """An independent classifier of images, trained on train and chosen on validation, that scores what plugins generate."""
    torch.manual_seed(run.seed)
    module = Judge(num_classes=len(run.classes))
    training = run.training(JUDGE_TRAINING, epochs=run._setting("judge_epochs"))
    key = {"data": run.data.checksum, "judge": module.config, "training": training, "seed": run.seed}
    return run.load_or_make(
        "judge", module, key, lambda checkpoint: _fit_images(run, module, module.loss, training, checkpoint, "judge")
    )[0]


def generators(run: Run, base: str, components: int = 5) -> dict[str, Callable[[Tensor, int], Tensor]]:
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
    ways["class Gaussians"] = class_gaussians(train.draw, train.y).sample
    ways["class mixtures"] = class_mixtures(train.draw, train.y, components, seed=run.seed).sample
    for flow, name in FLOW_NAMES.items():
        plugin = flow_plugin(run, base, flow)
        ways[name] = lambda y, seed, plugin=plugin: plugin.sample(y, seed=seed)
    return {name: decoded(sample) for name, sample in ways.items()}


def score_generator(run: Run, reader: Judge, x: Tensor, y: Tensor) -> dict[str, float]:
    """Right class, Fréchet distance to the test images, and diversity (a share of the test images') of images x for labels y."""
    test = run.data.test
    return {
        "right class": right_class_rate(reader, x, y),
        "Fréchet distance": frechet_distance(reader, test.x, x),
        "diversity": diversity(reader, x, y) / diversity(reader, test.x, test.y),
        "n": len(x),
    }


def score_plugin(
    plugin: FlowPlugin, sets: dict[str, Latents], features: str, prior: str = "flat"
) -> tuple[float, float]:
    """Train and test accuracy of classifying by Bayes' rule (eq. 17) on ``features``: "draw" or "mean" of the posteriors."""
    return tuple(
        float((plugin.predict(getattr(sets[split], features), prior) == sets[split].y).float().mean())
        for split in ("train", "test")
    )


def baseline(run: Run, name: str, base: str, features: str, **settings: Any) -> Scores:
    """A supervised classifier of ``classifiers.BASELINES`` on the latents of the base model named ``base`` (Table 1).

    It learns from train and validation together, for its cross-validation needs no set of its own. Its scores are kept.
    """
    model, base_key = _base_model(run, base)
    path = run.folder / "models" / f"{base}_{name}_{features}.json"
    key = artifacts.digest({"base": base_key, "baseline": name, "features": features, "seed": run.seed} | settings)
    if path.exists() and (kept := artifacts.read_json(path))["key"] == key:
        return Scores(**kept["scores"])
    sets = latents(run, model)
    z, y = (torch.cat([getattr(sets[split], kind) for split in ("train", "validation")]) for kind in (features, "y"))
    scores = BASELINES[name](z, y, getattr(sets["test"], features), sets["test"].y, seed=run.seed, **settings)
    artifacts.write_json(path, {"key": key, "scores": asdict(scores)})
    return scores


def _base_model(run: Run, name: str) -> tuple[nn.Module, str]:
    torch.manual_seed(run.seed)
    module = build_base_model(name, latent_dim=40).to(memory_format=torch.channels_last)  # a fifth faster on CPUs
    training = run.training(BASE_TRAINING[name], epochs=run._setting("base_epochs"))
    key = {"data": run.data.checksum, "base": name, "model": module.config, "training": training, "seed": run.seed}
    return run.load_or_make(
        name,
        module,
        key,
        lambda checkpoint: _fit_images(run, module, lambda x, y: module.loss(x), training, checkpoint, name),
    )


def _flow_settings(run: Run, base: str, width: int | None) -> tuple[dict, int]:
    """A plugin's shape and epochs. Batch norm, within and between layers, where the latents are large (section 5.1.1)."""
    if base == "ConvVAE":
        shape = {"hidden_features": width or run._setting("flow_width"), "num_layers": 5, "num_blocks": 2}
        return shape, run._setting("flow_epochs")
    layers, blocks = run._setting("ae_flow_layers"), run._setting("ae_flow_blocks")
    shape = {"hidden_features": width or 100, "num_layers": layers, "num_blocks": blocks, "batch_norm": True}
    return shape, run._setting("ae_flow_epochs")


def _fit_images(
    run: Run, module: nn.Module, loss: Callable, training: dict, checkpoint: Any, description: str
) -> History:
    train, validation = (
        (split.x.to(run.device), split.y.to(run.device)) for split in (run.data.train, run.data.validation)
    )
    return fit(
        module, loss, train, validation, seed=run.seed, checkpoint=checkpoint, description=description, **training
    )


def _posterior(base: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    if hasattr(base, "posterior"):
        return base.posterior(x)
    z = base.encode(x)
    return z, torch.zeros_like(z)
