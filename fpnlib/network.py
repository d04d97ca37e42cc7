"""``FlowPluginNetwork``: a frozen base model joined to a plugin (sections 3.3 to 3.5)."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from fpnlib import checks
from fpnlib.base_models.frozen import BATCH, Frozen, pair
from fpnlib.conditions import Attributes, Classes, Condition
from fpnlib.conditions.columns import joined
from fpnlib.latents import standard_normal, warn
from fpnlib.plugin import FlowPlugin
from fpnlib.reading import best_of

FEWEST = 32  # latents from which a reading of their range makes sense
OUTSIDE = 0.1  # share of them outside the range of the fit that is reported


class FlowPluginNetwork(nn.Module):
    """A frozen base model joined to a plugin: a conditional generator, a classifier and an editor.

    The network moves inputs to the device and the floating type of the base model's weights, and
    sets eval mode around every call, so that not one bit of the base model changes.

    Args:
        base: an object with ``encode`` and ``decode``; for others see ``adapt``. A base without
            ``encode``, such as a GAN, takes latents in the place of objects. The network turns the
            gradients of a module off.
        plugin: a ``FlowPlugin``, or the condition of the plugin that ``fit`` makes.
        classes: names of classes, short for ``plugin=Classes(names)``.
        attributes: names of attributes, short for ``plugin=Attributes(names)``.
        settings: of the plugin that ``fit`` makes: flow, spread, hidden_features, ….

    Raises:
        TypeError: a base model without ``decode``, or no condition.
        ValueError: a plugin for another latent_dim than the base's.

    Examples:
        >>> from fpnlib import FlowPluginNetwork
        >>> from fpnlib.base_models import ConvAE
        >>> _ = torch.manual_seed(0)
        >>> model, x, y = ConvAE(latent_dim=4), torch.rand(40, 1, 28, 28), ["cat", "dog"] * 20
        >>> fpn = FlowPluginNetwork(model, classes=["cat", "dog"], hidden_features=8)
        >>> _ = fpn.fit(x, y, epochs=2, progress=False)
        >>> fpn.generate("cat", n=16).shape
        torch.Size([16, 1, 28, 28])
        >>> len(fpn.classify(x)), set(fpn.classify(x)) <= {"cat", "dog"}
        (40, True)
        >>> fpn.edit(x, to="dog").shape
        torch.Size([40, 1, 28, 28])
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> fpn.save(folder.name + "/pets.safetensors")
        >>> fpn = FlowPluginNetwork.load(folder.name + "/pets.safetensors", model)
        >>> fpn.generate("dog", n=2).shape
        torch.Size([2, 1, 28, 28])
        >>> folder.cleanup()
    """

    plugin: FlowPlugin

    def __init__(
        self,
        base: Any,
        plugin: FlowPlugin | Condition | None = None,
        *,
        classes: Iterable[object] | None = None,
        attributes: Iterable[str] | None = None,
        **settings: Any,
    ):
        super().__init__()
        named = [part for part in (plugin, classes, attributes) if part is not None]
        if len(named) > 1 or (settings and isinstance(plugin, FlowPlugin)):
            raise TypeError(
                "give one of plugin, classes and attributes; settings only without a plugin"
            )
        if classes is not None:
            plugin = Classes(classes)
        elif attributes is not None:
            plugin = Attributes(attributes)
        if not isinstance(plugin, FlowPlugin | Condition):
            given = type(plugin).__name__
            raise TypeError(f"expected a plugin, condition, classes or attributes, got {given}")
        self._frozen, self.base, self._settings = Frozen(base), base, settings
        self.condition: Any = plugin if isinstance(plugin, Condition) else plugin.condition
        self._digest, self._version = "", -1
        if isinstance(plugin, FlowPlugin):
            self.plugin = plugin
            latent_dim = getattr(base, "latent_dim", None) or plugin.latent_dim
            if np.prod(latent_dim) != plugin.latent_dim:
                given = f"{latent_dim} and {plugin.latent_dim}"
                raise ValueError(f"base and plugin must share latent_dim, got {given}")
        for module in self._frozen.modules:
            for weight in module.parameters():  # TorchScript's modules have no requires_grad_
                weight.requires_grad_(False)
        if isinstance(base, nn.Module):
            base.eval()

    def __getattr__(self, name: str) -> Any:
        if name == "plugin" and "plugin" not in self._modules:
            raise AttributeError("the network has no plugin yet; fit it first")
        return super().__getattr__(name)

    def train(self, mode: bool = True) -> Self:
        """Set the plugin's mode; the base model stays in eval mode."""
        super().train(mode)
        if isinstance(self.base, nn.Module):
            self.base.eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the network, as ``to()`` and ``half()`` ask for, which is no change of weights."""
        self._notice_changes()
        super()._apply(fn, recurse)
        self._version = self._frozen.version()
        return self

    def fit(
        self,
        x: Any,
        y: object = None,
        *,
        validation: Any = None,
        progress: bool = True,
        **fitting: Any,
    ) -> Self:
        """Encode objects and fit the plugin to their latents; returns the network.

        Only the latents are kept in memory. Where the base model gives posteriors, each epoch
        draws from them anew.

        Args:
            x: objects (n, …), or a Dataset, or batches (x, y) such as a DataLoader. For a base
                without ``encode``, latents.
            y: their labels; None for batches.
            validation: (x, y) or batches that choose the best epoch; None: a tenth of x.
            progress: whether to show progress bars.
            fitting: further arguments of ``FlowPlugin.fit``.

        Raises:
            ValueError, TypeError: as ``FlowPlugin.fit``, or batches without labels.
        """
        mean, std, y = self._encoded(x, y, progress)
        if "plugin" not in self._modules:
            seed = checks.whole("seed", fitting.get("seed", 0))
            with torch.random.fork_rng([]):
                torch.manual_seed(seed)  # a DataLoader moves torch's seed
                self.plugin = FlowPlugin(mean.shape[1:], self.condition, **self._settings)
            self.plugin.to(mean.device)
        if validation is not None:
            pair = isinstance(validation, tuple | list) and not isinstance(
                validation[0], tuple | list
            )
            objects, labels = validation if pair else (validation, None)
            held_out, spread, labels = self._encoded(objects, labels, progress)
            if spread is not None:  # what is held out is drawn, as the training latents are
                generator = torch.Generator(held_out.device).manual_seed(0)
                held_out = held_out + spread * standard_normal(held_out, generator)
            fitting["validation"] = (held_out, labels)
        self.plugin.fit(mean, y, std=std, progress=progress, **fitting)
        self.condition = self.plugin.condition
        self._digest, self._version = self._frozen.digest(), self._frozen.version()
        return self

    def encode(self, x: Any) -> Tensor:
        """Latents (n, …) of objects x (n, …), by the frozen base model, in batches."""
        return self._frozen.encode(x)

    def decode(self, z: Tensor) -> Tensor:
        """Objects (n, …) of latents z (n, …), by the frozen base model, in batches."""
        return self._frozen.decode(z)

    def generate(
        self,
        y: object = None,
        n: int = 1,
        *,
        temperature: float = 1.0,
        confidence: float = 0.0,
        candidates: int = 1,
        seed: int | None = None,
    ) -> Tensor:
        """``n`` new objects for each label (section 3.3).

        Args:
            y: labels, as in ``FlowPlugin.sample``.
            n: objects for each label.
            temperature: standard deviation of the noise; below 1, objects are more alike.
            confidence: draw again, up to ten times, objects that are encoded again and read as
                asked with a smaller probability, as in ``FlowPlugin.sample``; 0: never. Without
                ``encode``, the latents are read.
            candidates: objects to decode for each that is returned. They are encoded again, and the
                one whose latent is the most probable for the label is kept.
            seed: of all draws; None: torch's global generator.

        Raises:
            TypeError: several candidates of a base model without ``encode``.
        """
        self._notice_changes()
        if checks.positive("candidates", candidates) > 1 and not self._frozen.encodes:
            raise TypeError(f"{type(self.base).__name__} has no encode; leave candidates at 1")
        settings: Any = {"temperature": temperature, "confidence": confidence, "seed": seed}
        settings["read_back"] = self._frozen.round_trip
        x = self.decode(self.plugin.sample(y, checks.positive("n", n) * candidates, **settings))
        if candidates == 1:
            return x
        values = self.plugin.condition.values(y).repeat_interleave(n * candidates, 0)
        return best_of(x, self.plugin.log_prob(self.encode(x), values), candidates)

    def classify(self, x: Any, prior: str | Tensor = "flat") -> Any:
        """The most probable labels of objects x (n, …) (eq. 17), of the kind that ``fit`` had.

        Args:
            x: objects.
            prior: of classes, as in ``FlowPlugin.log_posterior``.

        Raises:
            TypeError: a prior for a plugin of another condition than classes.
        """
        z = self._latents(x)
        condition = self.plugin.condition
        if isinstance(condition, Classes) or not isinstance(prior, str) or prior != "flat":
            return condition.labels(self.plugin.predict(z, prior).float()[:, None])
        return self.plugin.labels(z)

    def read(self, x: Any, y: object = None) -> pd.DataFrame:
        """The labels of objects with their probabilities, as in ``FlowPlugin.read``."""
        return self.plugin.read(self._latents(x), y)

    def reconstruct(self, x: Any) -> Tensor:
        """decode(encode(x)), without the plugin.

        Raises:
            TypeError: a base model without ``encode``.
        """
        if not self._frozen.encodes:
            raise TypeError(f"{type(self.base).__name__} has no encode, so nothing to reconstruct")
        return self.decode(self.encode(x))

    def edit(
        self,
        x: Any,
        y: object = None,
        to: object = None,
        *,
        strength: float = 1.0,
        confidence: float = 0.0,
    ) -> Tensor:
        """Objects (n, …) with other labels and their own noise (section 3.5).

        Args:
            x: objects (n, …).
            y: their labels; None: read from x.
            to: for classes, a class or one for each object; for other conditions edits by name
                (``"+Smiling -Eyeglasses"``), by value (``"Smiling=0.5"``, ``{"logP": 3.0}``), or
                values for all.
            strength: how far the context goes from y to ``to``: 1 all the way, 2 twice as far.
            confidence: with which the plugin must read what changed, or the strength is raised.

        Raises:
            TypeError: nothing to edit to.
        """
        if to is None:
            raise TypeError("say what to edit to: edit(x, to=…)")
        z = self._latents(x)
        return self.decode(self.plugin.edit(z, to, y, strength=strength, confidence=confidence))

    def save(self, path: str | Path) -> None:
        """Write the plugin as one safetensors file, with a digest of the base model's weights.

        The base model is not in it. Nothing is pickled.
        """
        notes: dict[str, Any] = {"digest": self._digest or self._frozen.digest()}
        notes |= {"type": type(self.base).__name__, "numpy": self._frozen.speaks_numpy}
        self.plugin.save(path, notes)

    @classmethod
    def load(cls, path: str | Path, base: Any, flow: nn.Module | None = None) -> Self:
        """Join a plugin that :meth:`save` wrote to its base model.

        A warning says if the weights are not those of the fit.

        Args:
            path: of the file.
            base: the base model of the fit.
            flow: as in ``FlowPlugin.load``.
        """
        network = cls(base, FlowPlugin.load(path, flow))
        notes = network.plugin.base_
        network._digest = notes.get("digest", "")
        network._frozen.speaks_numpy = notes.get("numpy", False)
        network._notice_changes()
        return network

    def _latents(self, x: Any) -> Tensor:
        """Latents of objects. Warns if they or the weights are not those of the fit."""
        self._notice_changes()
        plugin = self.plugin
        if not self._frozen.encodes:
            latents = f"latents for {type(self.base).__name__}, which has no encode,"
            return checks.array(x, ("n", *plugin.latent_shape), latents)
        z = self.encode(x)
        if len(z) >= FEWEST and z.shape[1:].numel() == plugin.latent_dim:
            outside = plugin.overflowed(z.flatten(1).to(plugin.loc_)).double().mean().item()
            if outside > OUTSIDE:
                said = f"{outside:.0%} of the latents lie far outside the range of the fit"
                warn(f"{said}; are base model and preprocessing the same?")
        return z

    def _notice_changes(self) -> None:
        """Warn if the base model's weights changed since the fit."""
        version = self._frozen.version()
        if not self._digest or version == self._version:
            return
        self._version = version
        if self._frozen.digest() != self._digest:
            weights = f"the weights of {type(self.base).__name__}"
            warn(f"{weights} are not those that the plugin was fitted to; fit it again")

    def _encoded(self, x: Any, y: object, progress: bool) -> tuple[Tensor, Tensor | None, object]:
        """Means, deviations and labels of objects or of batches of them."""
        if y is None:
            listed = hasattr(x, "__iter__") or hasattr(x, "__getitem__")
            if not listed or isinstance(x, Tensor | np.ndarray):
                given = type(x).__name__
                raise TypeError(f"fit needs labels: fit(x, y), or batches (x, y), got {given}")
            batches = DataLoader(x, BATCH) if isinstance(x, Dataset) else x
        else:
            batches = ((part, None) for part in self._frozen.batches(x) if len(part))
        means: list[Tensor] = []
        stds: list[Tensor] = []
        labels: list[Any] = []
        for batch in tqdm(batches, "encoding", unit="batch", leave=False, disable=not progress):
            objects, own = pair(batch) if y is None else batch
            mean, std = self._frozen.posterior(objects)
            means.append(mean.detach().float())
            stds += [] if std is None else [std]
            labels.append(own)
        if not means:
            raise ValueError("fit needs objects, got none")
        deviations = torch.cat(stds).detach().float() if stds else None
        return torch.cat(means), deviations, joined(labels) if y is None else y
