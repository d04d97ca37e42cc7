"""The steps of every experiment, once: data, base model, latents, plugin, judge, samples, scores.

A :class:`Study` applies them to one family of objects. Each step loads what the run or the
repository has and makes the rest. What it returns carries its own key.
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property, partial
from typing import Any

import torch
from joblib import cpu_count
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm.auto import tqdm

from fpnlib import checks, plots, store
from fpnlib.base_models.frozen import Frozen
from fpnlib.conditions import Condition
from fpnlib.data import Dataset, load
from fpnlib.families.encoding import Encoded, Latents, Sampler, encode, gaussian_samplers
from fpnlib.families.family import FLOW_NAMES, PRETRAINED, Base, Family, Settings, Trained
from fpnlib.families.parallel import run_in_processes
from fpnlib.families.settings import resolve
from fpnlib.network import FlowPluginNetwork
from fpnlib.plugin import FlowPlugin
from fpnlib.store.cache import Key
from fpnlib.store.run import Run
from fpnlib.store.tensors import Checkpoint
from fpnlib.training import History

Train = Callable[[Checkpoint], History]
SPLITS, DRAWS = ("train", "validation", "test"), ("fresh", "fixed")


class Study:
    """The steps of an experiment on one family of objects.

    Args:
        run: the notebook's part of a run.
        family: what differs between families, e.g. ``DIGITS``.
        dataset: a name in ``data.DATASETS`` or ``"module:loader"``; empty: the family's own.
        show_private: whether pictures of a private dataset may be shown in the notebook.

    Raises:
        ValueError, TypeError: an unknown setting of the family, or a value of another type.
    """

    def __init__(self, run: Run, family: Family, dataset: str = "", *, show_private: bool = False):
        self.run, self.family = run, family
        self.dataset = dataset or family.dataset
        self.show_private = show_private
        self.settings: Settings = resolve(family, run.profile, run.override)
        self._made: dict[str, Any] = {}

    @cached_property
    def data(self) -> Dataset:
        """The dataset, its splits drawn by the run's seed."""
        run, options = self.run, self.family.options(self.settings)
        loaded = load(self.dataset, run.data_dir or None, run.seed, not run.read_only, **options)
        run.used_data(loaded.name, loaded.checksum)
        return self.family.prepare(loaded, self.settings)

    @cached_property
    def condition(self) -> Condition:
        """What the plugins are conditioned on."""
        return self.family.condition(self.data.name, self.data.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, attributes or quantities."""
        return self.condition.names

    def base(self, name: str = "") -> Any:
        """Return a base model, trained on train and chosen on validation; frozen from here on.

        Args:
            name: of a base model of the family; empty: the first.
        """
        name, recipe = self.recipe(name)

        def make() -> Any:
            released = recipe.released(self.settings)
            if released is not None:
                return released.to(self.run.device)
            return self._trained(name, recipe)

        return self._once(name, make)

    def judge(self) -> Any:
        """Return what reads objects: a network, trained on the training split, or a function."""
        judge, name = self.family.judge, f"{self.family.name}_judge"
        if not isinstance(judge, Trained):
            return judge
        return self._once(name, lambda: self._trained(name, judge))

    def latents(self, base: str = "") -> Encoded:
        """Return the latents of the three splits under a base model."""
        name, recipe = self.recipe(base)
        model, kept_as = self.base(name), f"{name}_latents"
        key = self.key(f"{name}/latents", {}, model.key_)

        def encoded(split: str) -> Latents:
            seed = self.run.seed + SPLITS.index(split)
            return encode(model, getattr(self.data, split), seed)

        def means() -> dict[str, Tensor]:
            return {f"{split}.mean": encoded(split).mean for split in SPLITS}

        def latents(split: str) -> Latents:
            if not recipe.keep_latents:
                return encoded(split)
            mean = self.run.cache.tensors(kept_as, key, means)[f"{split}.mean"].to(self.run.device)
            y = getattr(self.data, split).y.to(mean.device)
            return Latents(mean, torch.zeros_like(mean), mean, y)

        return self._once(kept_as, lambda: Encoded(latents, key.digest))

    def plugin(
        self, base: str = "", flow: str = "maf", *, draws: str = "fresh", **shape: Any
    ) -> FlowPlugin:
        """Return the plugin of a base model, fitted to its latents (section 3.2).

        Args:
            base: name of a base model of the family; empty: the first.
            flow: "maf" or "realnvp", if the family has it for this base model.
            draws: "fresh": the posteriors are drawn anew in each epoch; "fixed": one draw for
                each object, as the authors do. Without a posterior both are the same.
            shape: arguments of ``FlowPlugin`` in place of the family's, e.g. hidden_features=40.
        """
        base, recipe = self.recipe(base)
        checks.known("flow", flow, recipe.flows)
        checks.known("draws", draws, DRAWS)
        name = _plugin_name(base, flow, draws, **shape)
        return self._once(name, lambda: self._fitted(name, base, flow, draws, shape))

    def network(self, base: str = "", flow: str = "maf") -> FlowPluginNetwork:
        """Return a base model joined to its plugin."""
        return FlowPluginNetwork(self.base(base), self.plugin(base, flow))

    @torch.no_grad()
    def decode(self, base: str, z: Tensor, seed: int = 0, **options: Any) -> Tensor:
        """Decode latents (n, latent_dim) in batches, with a progress bar for many.

        Args:
            base: name of the base model; empty: the first.
            z: latents (n, latent_dim).
            seed: of base models that draw while they decode.
            options: further arguments of the family's decoding, e.g. points=256.
        """
        name, recipe = self.recipe(base)
        model = self.base(name)
        batches = z.to(self.run.device).split(recipe.decode_batch)
        parts: list[Tensor] = []
        for z in tqdm(batches, "decoding", unit="batch", leave=False, disable=len(batches) < 4):
            parts.append(recipe.decode(model, z, seed + len(parts), **options))
        return torch.cat(parts)

    def sources(self, base: str = "", components: int = 0, **options: Any) -> dict[str, Callable]:
        """Return every way to draw objects for labels: name -> (labels (n,), seed) -> objects.

        They draw latents from Gaussians, mixtures, plugins and the base model's prior. As keywords
        they take temperature and confidence, which is that of the decoded objects, encoded again.

        Args:
            base: name of the base model; empty: the first.
            components: at most so many Gaussians in each class' mixture; 0: no mixtures.
            options: of the decoding.
        """
        base, recipe = self.recipe(base)
        ours = {FLOW_NAMES[flow]: self.plugin(base, flow).sample for flow in recipe.flows}
        latents, again = self.latents(base), recipe.again(self.settings)
        samplers = gaussian_samplers(latents, self.family.kind, components, self.run.seed) | ours
        if again["confidence"]:
            for name, sample in list(samplers.items()):
                samplers[f"{name}, drawn again"] = partial(sample, **again)
        if latents.train.std.any():
            samplers["unconditional"] = partial(_from_prior, latents.train.mean.shape[1])
        encode = Frozen(self.base(base)).encode

        def draw(sample: Sampler, y: Tensor, seed: int, **sampling: float) -> Tensor:
            def decode(z: Tensor) -> Tensor:
                return self.decode(base, z, seed, **options)

            return decode(sample(y, seed=seed, read_back=lambda z: encode(decode(z)), **sampling))

        return {name: partial(draw, sample) for name, sample in samplers.items()}

    @cached_property
    def score(self) -> Callable[[Tensor, Tensor], dict[str, float]]:
        """A function ``(x, y) -> numbers`` that scores objects beside the test split."""
        return self.family.score(self.judge(), self.data.test)

    def grid(self, objects: Any, **labels: Any) -> Figure:
        """Draw objects by ``plots.grid``, from where this dataset's are seen best."""
        return plots.grid(objects, **self.family.view(self.data.name), **labels)

    @property
    def may_be_shown(self) -> bool:
        """Whether pictures of the objects may stand in the executed notebook.

        Raises:
            ValueError: pictures of a private dataset are to be shown by a run in the project,
                from where they would be passed on.
        """
        if self.data.name not in self.family.private:
            return True
        inside = self.run.folder.resolve().is_relative_to(store.PROJECT.resolve())
        if self.show_private and inside:
            said = f"pictures of {self.data.name} must stay out of the project"
            raise ValueError(f"{said}, got out='{self.run.folder}'; choose a folder elsewhere")
        return self.show_private

    def figure(self, figure: Figure, name: str) -> Figure | None:
        """Save a picture of objects as ``Run.figure`` does; of a private dataset save nothing.

        Returns:
            The figure, or None if it must not be shown.
        """
        if self.data.name not in self.family.private:
            return self.run.figure(figure, name)
        return figure if self.may_be_shown else None

    def paper(self, name: str) -> tuple[float | None, float | None]:
        """Return the paper's accuracies on train and test; None if they are of another dataset."""
        if self.data.name != self.family.paper_dataset:
            return None, None
        return self.family.paper.get(name, (None, None))

    def prepare(self, *steps: tuple) -> None:
        """Make several missing things at once, a process and one thread for each core.

        On a GPU, or if at most one is missing, nothing is made here.

        Args:
            steps: a method and its arguments, e.g. ``("plugin", "ConvVAE", {"flow": "maf"})``.
        """
        calls = [_call(*step) for step in steps]
        missing = [call for call in calls if not self.run.cache.has(self._kept_as(*call))]
        if len(missing) < 2 or cpu_count() < 2 or self.run.device.type != "cpu":
            return
        here = self.run.arguments, self.family, self.dataset
        run_in_processes(_run_step, [(*here, call) for call in missing], cpu_count())

    def _kept_as(self, method: str, arguments: tuple, keywords: dict) -> str:
        """Return the name under which a step keeps what it makes."""
        if method == "plugin":
            return _plugin_name(*arguments, **keywords)
        return f"{self.family.name}_judge" if method == "judge" else arguments[0]

    def recipe(self, name: str = "") -> tuple[str, Base]:
        """Return the name of a base model and how it is made; empty: of the first."""
        bases = self.family.bases
        name = name or next(iter(bases))
        checks.known("base model", name, bases)
        return name, bases[name]

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what a step made before under a name, or else make it; models in eval mode."""
        if name not in self._made:
            self._made[name] = make()
        made = self._made[name]
        return made.eval() if isinstance(made, nn.Module) else made

    def key(self, kind: str, settings: dict, *parents: str) -> Key:
        """Return the key of something made by the run's seed from this dataset."""
        if self.run.seed:
            settings = settings | {"seed": self.run.seed}
        return Key(f"{self.family.name}/{kind}", settings, parents, self.data.checksum)

    def _trained(self, name: str, recipe: Trained) -> Any:
        settings = self.family.changed(self.settings, recipe.settings)
        torch.manual_seed(self.run.seed)
        module = recipe.build(self.data, self.settings)

        def train(checkpoint: Checkpoint) -> History:
            fitting = {"seed": self.run.seed, "checkpoint": checkpoint, "description": name}
            return recipe.fit(module, self.data, self.settings, **fitting)

        key = self.key(f"{name}/{recipe.version}", settings)
        return self.kept(name, key, module, train, recipe.pretrained_on)

    def _fitted(self, name: str, base: str, flow: str, draws: str, shape: dict) -> FlowPlugin:
        model, plug = self.base(base), self.family.bases[base].flows[flow]
        seed = self.run.seed + self.settings.get(plug.seed, 0)
        torch.manual_seed(seed)
        arguments = {**plug.shape(self.settings), **shape}
        plugin = FlowPlugin(model.latent_dim, self.condition, flow, **arguments)
        settings = self.family.changed(self.settings, (*plug.settings, plug.seed)) | shape
        if draws != "fresh":
            settings["draws"] = draws

        def train(checkpoint: Checkpoint) -> History:
            sets = self.training_latents(base), self.latents(base).validation
            fitting: dict[str, Any] = {"seed": seed, "checkpoint": checkpoint}
            fitting |= plug.training(self.data, self.settings)
            return plug.fit(plugin, *sets, draws == "fresh", **fitting)

        key = self.key(f"{base}/{flow}/{plug.version}", settings, model.key_)
        return self.kept(name, key, plugin, train, self.family.bases[base].pretrained_on)

    def kept(self, name: str, key: Key, module: nn.Module, train: Train, pretrained_on: str) -> Any:
        """Return a trained module, from the cache if it is there, with its ``history_``."""
        seconds = {}

        def keep(checkpoint: Checkpoint) -> dict:
            history = asdict(train(checkpoint))
            seconds[name] = round(history.pop("seconds"), 1)
            return {"history": history}

        pretrained = PRETRAINED / f"{pretrained_on or self.data.name}_{name}.safetensors"
        module, meta = self.run.cache.module(name, key, module, keep, pretrained)
        if seconds:  # they belong to this machine and not to the weights
            self.run.note("seconds", seconds)
        trained: Any = module
        trained.history_ = History(**meta["history"])
        return trained

    def training_latents(self, base: str) -> Latents:
        """Return the latents to train on: those of the training split, and mirrored ones if any."""
        latents = self.latents(base).train
        for side in self.family.bases[base].further(self.data):
            latents = latents.joined(encode(self.base(base), side, self.run.seed))
        return latents


def _from_prior(width: int, y: Tensor, seed: int, **unused: Any) -> Tensor:
    return torch.randn(len(y), width, generator=torch.Generator().manual_seed(seed))


def _call(method: str, *arguments: Any) -> tuple[str, tuple, dict]:
    """Return a step's method, its arguments, and its keyword arguments."""
    checks.known("step", method, ("base", "judge", "plugin"))
    if arguments and isinstance(arguments[-1], dict):
        return method, arguments[:-1], arguments[-1]
    return method, arguments, {}


def _run_step(run: dict, family: Family, dataset: str, call: tuple) -> None:
    """Run a step of a study in another process."""
    method, arguments, keywords = call
    getattr(Study(Run(**run), family, dataset), method)(*arguments, **keywords)


def _plugin_name(base: str, flow: str, draws: str = "fresh", **shape: Any) -> str:
    """Return the name under which a plugin is kept."""
    parts = [base, flow, *([draws] if draws != "fresh" else [])]
    parts += [f"{name}_{value}" for name, value in shape.items()]
    return "_".join(parts)
