"""What a family of objects is: values and small functions that a :class:`Study` puts to work.

A family says how its base models, plugins and judge are built and trained, and how its objects
are scored and drawn. The steps themselves stand in ``study.py``, once for all families.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fpnlib.conditions import Condition
from fpnlib.data import Dataset, Split
from fpnlib.families.encoding import Latents
from fpnlib.metrics.editing import Editor
from fpnlib.metrics.images import right_class_rate
from fpnlib.metrics.judge import Judge
from fpnlib.plugin import FlowPlugin
from fpnlib.store import PROJECT
from fpnlib.training import History, Loss, batch_size_for, fit

PRETRAINED = PROJECT / "outputs" / "pretrained"
FLOW_NAMES = {"maf": "C-MAF", "realnvp": "C-RNVP"}
"""The paper's names of the flows."""

Settings = Mapping[str, Any]
Score = Callable[[Tensor, Tensor], dict[str, float]]
View = Callable[[Split, Settings, torch.Generator | None], tuple[Tensor, Tensor]]


def training_of(
    training: Settings, epochs: str, batch: str = ""
) -> Callable[[Dataset, Settings], dict]:
    """Return a ``training`` of recipes with a batch size that suits the number of objects.

    Args:
        training: arguments of ``training.fit``; its batch size is the largest.
        epochs: name of the setting that gives the epochs.
        batch: name of the setting that gives the largest batch size instead; empty: none does.
    """

    def arguments(data: Dataset, settings: Settings) -> dict:
        largest = settings[batch] if batch else training["batch_size"]
        batch_size = batch_size_for(len(data.train), largest)
        return {**training, "batch_size": batch_size, "epochs": settings[epochs]}

    return arguments


@dataclass(frozen=True)
class Trained:
    """A module that a study trains.

    Args:
        build: makes the untrained module from the dataset and the settings.
        training: arguments of ``training.fit``.
        settings: names of the family's settings that it depends on, or prefixes that end in "_".
        objective: the module to train and its loss of a batch; they may wrap the one built. By
            default it is the module built and its method ``loss(x, y)``.
        view: the objects and labels of one epoch; by default those of the split. For validation
            the generator is None.
        before, after: called with the module and the dataset around the training.
        pretrained_on: the dataset whose pretrained weights serve all; empty: each has its own.
        version: to be raised when one of its defaults changes.
    """

    build: Callable[[Dataset, Settings], nn.Module]
    training: Callable[[Dataset, Settings], dict]
    settings: tuple[str, ...] = ()
    objective: Callable[[Any, Settings], tuple[nn.Module, Loss]] = lambda module, settings: (
        module,
        module.loss,
    )
    view: View = lambda split, settings, generator: (split.x, split.y)
    before: Callable[[Any, Dataset], Any] = lambda module, data: None
    after: Callable[[Any, Dataset], Any] = lambda module, data: None
    pretrained_on: str = ""
    version: int = 1

    def fit(self, module: nn.Module, data: Dataset, settings: Settings, **fitting: Any) -> History:
        """Train a module on the device on which it is.

        Args:
            module: what ``build`` made.
            data: the dataset; its validation split chooses the best epoch.
            settings: the family's.
            fitting: further arguments of ``training.fit``.
        """
        device = next(module.parameters()).device

        def view(split: Split, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
            x, y = self.view(split, settings, generator)
            return x.to(device), y.to(device)

        self.before(module, data)
        trained, loss = self.objective(module, settings)
        draw, held_out = partial(view, data.train), view(data.validation, None)
        fitting |= self.training(data, settings)
        history = fit(trained.to(device), loss, draw, held_out, **fitting)
        self.after(module.eval(), data)
        return history


@dataclass(frozen=True)
class Plug:
    """A flow plugin for one base model.

    Args:
        shape: arguments of ``FlowPlugin``.
        training: arguments of ``FlowPlugin.fit``.
        settings: names of the family's settings that it depends on, or prefixes that end in "_".
        noise: standard deviation of the noise on latents in training, as a share of theirs. It
            stands in for the posterior of a base model that has none.
        seed: name of a setting that is added to the run's seed, if the family has it.
        version: to be raised when one of its defaults changes.
    """

    shape: Callable[[Settings], dict]
    training: Callable[[Dataset, Settings], dict]
    settings: tuple[str, ...] = ()
    noise: float = 0.0
    seed: str = "flow_seed"
    version: int = 1

    def fit(
        self,
        plugin: FlowPlugin,
        train: Latents,
        validation: Latents,
        fresh: bool = True,
        **fitting: Any,
    ) -> History:
        """Fit a plugin to latents (eq. 14).

        Args:
            plugin: the plugin.
            train: training latents.
            validation: held-out latents, which choose the best epoch.
            fresh: draw the posteriors anew in each epoch; otherwise one draw is used throughout,
                and training takes half of the epochs, because one draw is memorised sooner.
            fitting: arguments of ``FlowPlugin.fit``.
        """
        z, std = train.mean, None
        if train.std.any() and fresh:
            std = train.std
        elif train.std.any():
            z, fitting["epochs"] = train.draw, max(1, fitting["epochs"] // 2)
        elif self.noise:
            std = self.noise * z.std(0).expand_as(z)
        held_out = validation.draw, validation.y
        return plugin.fit(z, train.y, std=std, validation=held_out, **fitting).history_


@dataclass(frozen=True)
class Base(Trained):
    """A frozen autoencoder with its plugins.

    Args:
        flows: the plugins by the name of their flow.
        released: loads a checkpoint that the originals' authors released, if the settings name
            one, else returns None; the module has its key as ``key_``.
        decode: objects of a batch of latents: (module, latents, seed, **options) -> objects.
        decode_batch: number of latents in such a batch.
        keep_latents: keep the posterior means in a file, because encoding is slow.
        further: what a plugin's training encodes beside the training split.
        editors: ways of its own to edit attributes, by name.
        again: "confidence" and "temperature" of samples that are drawn again while they are not
            read as asked; with a confidence of 0 none are.
    """

    flows: Mapping[str, Plug] = field(default_factory=dict)
    released: Callable[[Settings], nn.Module | None] = lambda settings: None
    decode: Callable[..., Tensor] = lambda module, z, seed, **options: module.decode(z)
    decode_batch: int = 1000
    keep_latents: bool = False
    further: Callable[[Dataset], Sequence[Split]] = lambda data: []
    editors: Callable[[Any], dict[str, Editor]] = lambda module: {}
    again: Callable[[Settings], dict[str, float]] = lambda settings: {"confidence": 0.0}


def _class_scores(judge: Judge, test: Split) -> Score:
    """Return a function that scores objects for classes by the judge alone."""
    return lambda x, y: {"right class": right_class_rate(judge, x, y), "n": len(x)}


@dataclass(frozen=True)
class Family:
    """A family of objects, e.g. digits.

    Args:
        name: what its settings are called by, e.g. "digits".
        dataset: name of its default dataset in ``data.DATASETS``.
        settings: every setting of its models and trainings with its default, the demo's value.
        condition: what its plugins are conditioned on, from the dataset's name and its classes.
        bases: the base models by name; the first is the default.
        judge: an independent network that reads the objects, or a function that does.
        score: of a judge and a test split a function that scores objects for labels:
            (objects, labels) -> numbers by name. By default it is the share of objects that the
            judge takes for their class.
        kind: what the dataset's classes are called in tables, e.g. "class".
        options: further arguments of the dataset's loader, from the settings.
        prepare: changes a loaded dataset, e.g. limits its size.
        redraw: objects of a split at some rows as they should look with other attributes, if
            that is known: (split, rows, attributes) -> objects or None.
        view: arguments of ``plots.grid`` for the dataset of that name.
        paper: the paper's accuracies on train and test by classifier.
        paper_dataset: name of the dataset that the paper's numbers are about.
        private: names of datasets whose pictures must not be passed on.
    """

    name: str
    dataset: str
    settings: Settings
    condition: Callable[[str, Sequence[str]], Condition]
    bases: Mapping[str, Base]
    judge: Trained | Callable[[Tensor], Any]
    score: Callable[[Any, Split], Score] = _class_scores
    kind: str = "class"
    options: Callable[[Settings], dict] = lambda settings: {}
    prepare: Callable[[Dataset, Settings], Dataset] = lambda data, settings: data
    redraw: Callable[[Split, Tensor, Tensor], Tensor | None] = lambda split, rows, y: None
    view: Callable[[str], dict] = lambda dataset: {}
    paper: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    paper_dataset: str = ""
    private: tuple[str, ...] = ()

    def changed(self, settings: Settings, names: Sequence[str]) -> dict[str, Any]:
        """Return those of the named settings that differ from their defaults.

        Args:
            settings: values of the family's settings.
            names: of settings; one that ends in "_" stands for all that begin with it.
        """
        prefixes = tuple(name for name in names if name.endswith("_"))
        kept = {}
        for name, default in self.settings.items():
            named = name in names or name.startswith(prefixes)
            if named and settings[name] != default:
                kept[name] = settings[name]
        return kept
