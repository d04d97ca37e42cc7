"""``FlowPlugin``: a conditional flow p(z | y) on the latents of an autoencoder (section 3)."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from fpnlib import checks
from fpnlib.conditions import Attributes, Classes, Condition, from_spec
from fpnlib.flows import build_flow
from fpnlib.flows.adapters import adapt_flow, prepare_flow
from fpnlib.gaussians import gaussian_loss
from fpnlib.latents import LatentSpace, Posteriors, standard_normal, warn
from fpnlib.reading import read_values
from fpnlib.saving import load_plugin, save_plugin
from fpnlib.training import History, batch_size_for, fit

MAX_REDRAWS = 10
# nflows' couplings scale by sigmoid(·) + 1e-3: they only contract, and need a wide input.
SPREAD = {"maf": 1.0, "realnvp": 4.0}
MARGIN = 0.01  # nats a dimension by which a flow must be worse than Gaussians to be reported
SEEN = 64  # rows of training values that a plugin keeps, to begin a reading from
_ARGUMENTS = {"latent_dim", "condition", "flow", "spread"}
STEPS = 2_000  # of a fit whose number of epochs the data's size decides


def _inference(method: Callable) -> Callable:
    """Run a method in eval mode, without gradients and autocast; then put the modes back.

    In train mode batch norm would learn from contexts that are only tried out.
    """

    @functools.wraps(method)
    def inferred(self: FlowPlugin, *args: Any, **kwargs: Any) -> Any:
        training = []
        if self.training or self.flow.training:  # walking a thousand modules takes time
            training = [module for module in self.modules() if module.training]
        for module in training:
            module.training = False
        try:
            with torch.no_grad(), torch.autocast(self.loc_.device.type, enabled=False):
                return method(self, *args, **kwargs)
        finally:
            for module in training:
                module.training = True

    return inferred


class FlowPlugin(LatentSpace):
    """p(z | y): a conditional normalizing flow over latents, which it standardises on the way in.

    Besides the weights, ``fit`` learns the buffers of ``LatentSpace``, ``log_prior_`` (K,), the log
    frequencies of the classes or attributes, and ``history_``, the loss of each epoch.
    ``base_`` has notes on the base model, if a network saved the plugin.

    Labels ``y`` are what ``condition.values`` takes: names, indices, values, mappings. A single
    label serves all latents; None leaves it unsaid.

    **Overflow.** The inverse of a flow can run away on rare noise, and a barely trained one does on
    most. ``sample`` draws latents that overflow again, up to ten times. ``from_noise`` clamps them
    to the box of ``LatentSpace``; so does ``sample`` with the rest. Both warn with the count.

    **Precision.** The plugin computes in float32, or in float64 after ``double()``. Half precision
    is accepted, and latents come back in it.

    Args:
        latent_dim: width D of the latents, or their shape, e.g. ``(4, 8, 8)``.
        condition: what the flow is conditioned on: ``Classes``, ``Attributes``, ``Reals``,
            ``Vector``, or ``Several`` of them. The plugin keeps a copy.
        flow: "maf", "realnvp" (section 5.1.1), "spline", or an nflows or zuko ``Flow`` with a
            standard normal base and these latent and context widths, whose weights are shared.
        spread: standard deviation of the latents inside the plugin; None: 4 for "realnvp", else 1.
        settings: of the flow, as ``flows.build_flow`` takes them (hidden_features, num_layers, …).

    Raises:
        ValueError: an unknown flow, a latent_dim below 1, a spread that is not positive, or a
            ``Flow`` of other widths.
        TypeError: a ``Flow`` on another distribution, or no condition.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> y = torch.arange(200) % 2
        >>> z = y[:, None] + 0.1 * torch.randn(200, 3)
        >>> plugin = FlowPlugin(3, Classes(["cat", "dog"]), hidden_features=8, num_layers=2)
        >>> plugin = plugin.fit(z, y, epochs=20, learning_rate=1e-2)
        >>> plugin.sample("dog", n=5, seed=0).shape
        torch.Size([5, 3])
        >>> plugin.log_prob(z[:4], "cat").shape
        torch.Size([4])
        >>> (plugin.predict(z) == y).float().mean().item() > 0.9
        True
    """

    log_prior_: Tensor
    seen_: Tensor

    @torch.inference_mode(False)
    def __init__(
        self,
        latent_dim: int | Sequence[int],
        condition: Condition,
        flow: str | nn.Module = "maf",
        *,
        spread: float | None = None,
        **settings: Any,
    ):
        if not isinstance(condition, Condition):
            raise TypeError(f"condition must be Classes, Attributes, …, got {condition!r:.80}")
        name = flow if isinstance(flow, str) else type(flow).__name__
        spread = float(SPREAD.get(name, 1.0) if spread is None else spread)
        if not 0 < spread < float("inf"):
            raise ValueError(f"spread must be above 0 and finite, got {spread:g}")
        shape = tuple(latent_dim) or (0,) if isinstance(latent_dim, Sequence) else (latent_dim,)
        self_shape = tuple(checks.positive("latent_dim", size) for size in shape)
        super().__init__(math.prod(self_shape), spread)
        self.latent_shape = self_shape
        self.condition = copy.deepcopy(condition)
        self.config = {
            "latent_dim": self.latent_dim,
            "condition": repr(condition),
            "flow": name,
            "spread": spread,
            **settings,
        }
        flat = torch.full((len(condition),), 1 / len(condition))
        self.register_buffer("log_prior_", flat.log())
        kept = not isinstance(condition, Classes | Attributes)  # of those the start is known
        self.register_buffer("seen_", torch.zeros(SEEN, condition.width), persistent=kept)
        self.history_ = History()
        self.base_: Mapping[str, Any] = {}
        self.own_flow = not isinstance(flow, str)
        if isinstance(flow, str):
            self.flow = build_flow(flow, self.latent_dim, condition.context_dim, **settings)
            prepare_flow(self.flow)
        else:
            self.flow = adapt_flow(flow, self.latent_dim, condition.context_dim)
            self._try_widths()
        self.register_state_dict_post_hook(_note_condition)
        self.register_load_state_dict_pre_hook(_check_condition)

    @torch.inference_mode(False)
    def fit(
        self,
        z: Tensor,
        y: object,
        *,
        std: Tensor | None = None,
        validation: tuple[Tensor, object] | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float = 2e-3,
        noise: float | None = None,
        seed: int = 0,
        **training: Any,
    ) -> FlowPlugin:
        """Minimise -Σ log p(zᵢ | yᵢ) (eq. 14); returns the plugin, in eval mode.

        No gradient reaches the base model, even if its encoder left a graph on the latents. A
        warning says if the flow describes the validation latents worse than Gaussians do
        (``history_.gaussian``, in the unit of the losses: nats per dimension).

        Args:
            z: latents (n, *latent_shape); with ``std``, the means of the encoder's posteriors.
            y: labels. Every class needs at least one; every attribute needs both values.
            std: standard deviations, shaped as z, of a VAE's posteriors: each epoch draws z anew.
            validation: held-out (latents, labels) that choose the best epoch; None: a tenth of z.
            epochs: passes over z; None: 40 or more by the size of z, fewer if the validation loss
                stops falling.
            batch_size: None: 512, or less for few latents.
            learning_rate: the peak of a one-cycle schedule.
            noise: standard deviation of noise on latents without ``std``, as a share of theirs;
                None: by the size of z if ``epochs`` is None too, otherwise 0.
            seed: of the split, the draws and the batches.
            training: further settings of ``training.fit`` (one_cycle, patience, progress, …).

        Raises:
            ValueError, TypeError: bad latents, labels of another length, or a class or an attribute
                that never varies.
            FloatingPointError: the loss became NaN or infinite.
        """
        seed, train = int(seed), self._posteriors(z, y, std)
        self.condition.learn(train.values)
        if validation is None:
            train, held_out = train.split(self.condition.context(train.values), seed)
        else:
            held_out = self._posteriors(*_pair_of(validation), name="validation z")
        self.condition.remember(y)
        self.learn(train)
        batch_size = batch_size_for(len(train.mean)) if batch_size is None else batch_size
        if epochs is None:
            epochs = max(40, min(200, STEPS * batch_size // len(train.mean)))
            training = {"patience": max(10, epochs // 4)} | training
            noise = self._noise_level(len(train.mean)) if noise is None else noise
        if noise is not None and not 0 <= noise < float("inf"):
            raise ValueError(f"noise must be 0 or more and finite, got {noise}")
        if noise and std is None:
            train = train._replace(std=float(noise) * train.mean.std(0).expand_as(train.mean))

        def draw(latents: Posteriors, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            drawn = self.standardise(latents.draw(generator))
            hidden = self.condition.masked(latents.values, generator)
            return self._without_constants(drawn, generator), self.condition.context(hidden)

        shown = draw(held_out, self._generator(seed))
        gaussian = gaussian_loss(
            draw(train, self._generator(seed)), shown, isinstance(self.condition, Classes)
        )
        self.history_ = fit(
            self.flow,
            self._loss,
            functools.partial(draw, train),
            shown,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            **{"description": f"flow {self.config['flow']}"} | training,
        )
        self.history_.gaussian = gaussian
        self._compare(gaussian)
        return self.eval()

    def learn(self, latents: Posteriors) -> None:
        """Take mean, scale, box and frequencies from training latents."""
        super().learn(latents)
        condition, values = self.condition, latents.values
        if isinstance(condition, Classes):
            values = condition.context(values)
            self.log_prior_.copy_((values.sum(0) / values.sum()).log())
        elif isinstance(condition, Attributes):
            self.log_prior_.copy_(values.nanmean(0).log())
        else:
            whole = values[~values.isnan().any(1)]
            values = whole if len(whole) else values.nan_to_num(0)
            self.seen_.copy_(values[torch.arange(SEEN, device=values.device) * len(values) // SEEN])

    @_inference
    def log_prob(self, z: Tensor, y: object) -> Tensor:
        """log p(z | y) (n,) in nats (eq. 3), for latents z (n, *latent_shape)."""
        z, context = self._pair(z, y)
        return self.flow.log_prob(self.standardise(z), context) - self.scale_.log().sum()

    @_inference
    def to_noise(self, z: Tensor, y: object) -> Tensor:
        """u = T⁻¹(z | y), shaped as z: the noise that becomes z under y (section 3.5)."""
        return self._shaped(self._noise(*self._pair(z, y)), z)

    @_inference
    def from_noise(self, u: Tensor, y: object) -> Tensor:
        """z = T(u | y), shaped as u: the latent that noise u becomes under y (section 3.5)."""
        return self._shaped(self._latent(*self._pair(u, y, name="u")), u)

    @_inference
    def edit(self, z: Tensor, to: object, y: object = None) -> Tensor:
        """Change the labels of latents and keep their noise (section 3.5).

        Args:
            z: latents (n, *latent_shape).
            to: labels, or edits of some: ``"+Smiling"``, ``"logP=3"``, ``{"logP": 3}``.
            y: the labels of z; None: read from z.
        """
        values = self._read(z, None)[0] if y is None else self.condition.values(y)
        values = self.condition.known(values).to(self.loc_)
        edited = self.condition.edited(values, to).to(self.loc_)
        flat = self._flat(z)
        noise = self._noise(flat, self._rows(self.condition.context(values), flat))
        return self._shaped(
            self._latent(noise, self._rows(self.condition.context(edited), flat)), z
        )

    @_inference
    def read(self, z: Tensor, y: object = None) -> pd.DataFrame:
        """Read labels back from latents, all values alike a priori (eq. 17).

        Classes, attributes and quantities are read each given the others, or, if they may be
        unknown, without the unknown others; a vector is the most probable of 64 training vectors.

        Args:
            z: latents (n, *latent_shape).
            y: labels that are known; unknown parts of them are read. None: none is known.

        Returns:
            A table of n rows: for each name the most probable value, and its probability, or for a
            quantity the standard deviation of its posterior.

        >>> _ = torch.manual_seed(0)
        >>> y = torch.rand(200)
        >>> from fpnlib import Reals
        >>> plugin = FlowPlugin(2, Reals(["tilt"]), hidden_features=8, num_layers=2)
        >>> plugin = plugin.fit(y[:, None] + 0.1 * torch.randn(200, 2), y, epochs=2)
        >>> list(plugin.read(torch.zeros(3, 2)))
        ['tilt', 'tilt deviation']
        """
        values, scores = self._read(z, y)
        table = pd.DataFrame(self.condition.named(values))
        for name, column, score in zip(list(table), self.condition.columns, scores.T):
            table[f"{name} {column.score}"] = score.cpu().numpy()
        return table

    def labels(self, z: Tensor) -> Any:
        """The most probable labels of latents, of the kind that ``fit`` was given."""
        return self.condition.labels(self._read(z, None)[0])

    def save(self, path: str | Path, base: Mapping[str, Any] | None = None) -> None:
        """Write the plugin as one safetensors file. Nothing is pickled.

        Args:
            path: of the file.
            base: JSON-able notes on the base model, which :attr:`base_` has after loading.

        Raises:
            ValueError: a path that does not end in ".safetensors".
        """
        indexed = [getattr(column, "indexed", True) for column in self.condition.columns]
        settings = {key: self.config[key] for key in self.config if key not in _ARGUMENTS}
        about = {
            "latent_shape": self.latent_shape,
            "condition": self.condition.spec,
            "labels": {"kind": self.condition.label_kind_, "indexed": indexed},
            "flow": self.config["flow"],
            "own_flow": self.own_flow,
            "spread": self.spread,
            "settings": settings,
            "history": asdict(self.history_),
        }
        save_plugin(path, self.state_dict(), about, self.base_ if base is None else base)

    @classmethod
    def load(cls, path: str | Path, flow: nn.Module | None = None) -> FlowPlugin:
        """Read a plugin that :meth:`save` wrote, in eval mode on the CPU.

        Args:
            path: of the file.
            flow: a flow of the same architecture, if the plugin was made with one of your own.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a damaged file, one of another kind or format, or a missing ``flow``.
        """
        tensors, about, base = load_plugin(path)
        if about["own_flow"] and flow is None:
            raise ValueError(
                f"{path} was made with a flow of your own: pass flow, a {about['flow']}"
            )
        plugin = cls(
            about["latent_shape"],
            from_spec(about["condition"]),
            about["flow"] if flow is None else flow,
            spread=about["spread"],
            **about["settings"],
        )
        plugin.condition.label_kind_ = about["labels"]["kind"]
        for column, indexed in zip(plugin.condition.columns, about["labels"]["indexed"]):
            column.indexed = indexed
        try:
            plugin.to(tensors["loc_"].dtype).load_state_dict(tensors)
        except (KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} is of another flow or damaged: {reason:.200}") from None
        plugin.history_, plugin.base_ = History(**about["history"]), base
        return plugin.eval()

    @_inference
    def sample(
        self, y: object = None, n: int = 1, *, temperature: float = 1.0, seed: int | None = None
    ) -> Tensor:
        """Draw latents z ~ p(z | y) (section 3.3).

        Args:
            y: one label or m of them; what is unsaid is left to the flow if its condition has
                ``unknown=True``.
            n: latents for each label.
            temperature: standard deviation of the noise; below 1, samples lie nearer to the mode.
            seed: of the noise; None: torch's global generator.

        Returns:
            Latents (m·n, *latent_shape), label after label.

        Raises:
            ValueError, TypeError: n below 1, a temperature that is negative or not finite, or an
                unknown label.
        """
        checks.positive("n", n)
        if not 0 <= temperature < float("inf"):
            raise ValueError(f"temperature must be 0 or more and finite, got {temperature}")
        context = self.condition.encode(y).to(self.loc_).repeat_interleave(n, 0)
        generator = None if seed is None else self._generator(seed)
        noise = standard_normal(self.loc_.expand(len(context), -1), generator)
        z = self._inverse(temperature * noise, context)
        first = overflowed = self.overflowed(z)
        for _ in range(MAX_REDRAWS):
            if not overflowed.any():
                break
            noise = standard_normal(z[overflowed], generator)
            z[overflowed] = self._inverse(temperature * noise, context[overflowed])
            overflowed = self.overflowed(z)
        redrawn = int(first.sum() - overflowed.sum())
        if redrawn > 0:
            self.report(redrawn, len(z), "drawn again")
        return self._shaped(self.clamp(z, overflowed))

    @_inference
    def log_posterior(self, z: Tensor, prior: str | Tensor = "flat") -> Tensor:
        """log P(y | z) (n, K) by Bayes' rule (eqs. 15, 16).

        Args:
            z: latents (n, *latent_shape).
            prior: "flat", "train" (the frequencies that ``fit`` saw), or probabilities (K,).

        Raises:
            TypeError: a plugin for attributes, which do not exclude each other.
        """
        count = len(self.condition)
        if not isinstance(self.condition, Classes):
            raise TypeError(
                f"Bayes' rule chooses among Classes; this plugin is for {self.condition}; see read"
            )
        z = self._flat(z)
        contexts = torch.eye(count).to(self.loc_)
        log_likelihood = self.flow.class_log_prob(self.standardise(z), contexts)
        return (log_likelihood + self._log_prior(prior)).log_softmax(-1)

    def predict(self, z: Tensor, prior: str | Tensor = "flat") -> Tensor:
        """The most probable class (n,) of each latent, an int64 index (eq. 17)."""
        return self.log_posterior(z, prior).argmax(-1)

    def _read(self, z: Tensor, y: object) -> tuple[Tensor, Tensor]:
        """Values (n, V) of latents, and how sure they are (n, parts)."""
        flat = self._flat(z)
        nothing = torch.full((1, self.condition.width), torch.nan)
        known = self._rows(nothing if y is None else self.condition.values(y), flat)
        start = self.seen_.to(self.loc_)
        if isinstance(self.condition, Attributes):
            start = (self.log_prior_ > math.log(0.5)).to(self.loc_)[None]
        return self._reading(flat, known, start)

    @_inference
    def _reading(self, z: Tensor, known: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        return read_values(self.flow, self.condition, self.standardise(z), known, start)

    def _flat(self, z: object, name: str = "z") -> Tensor:
        """Latents (n, *latent_shape) as checked rows (n, D) of the plugin's own type."""
        checked = checks.array(z, ("n", *self.latent_shape), name)
        return checked.detach().flatten(1).to(self.loc_)

    def _shaped(self, z: Tensor, like: object = None) -> Tensor:
        """Rows (n, D) in the latents' shape, and in half precision if ``like`` is."""
        shaped = z.unflatten(1, self.latent_shape)
        if isinstance(like, Tensor) and like.dtype in checks.HALF:
            return shaped.to(like.dtype)
        return shaped

    def _pair(self, z: object, y: object, name: str = "z") -> tuple[Tensor, Tensor]:
        """Latents or noise as rows (n, D), and the context (n, C) of each."""
        latents = self._flat(z, name)
        return latents, self._rows(self.condition.encode(y), latents, name)

    def _rows(self, rows: Tensor, z: Tensor, name: str = "z") -> Tensor:
        """One row for each latent: a single one serves all."""
        rows = rows.to(z).expand(len(z), -1) if len(rows) == 1 else rows.to(z)
        checks.same_length(z, rows, (name, "y"))
        return rows

    def _noise(self, z: Tensor, context: Tensor) -> Tensor:
        return self.flow.transform_to_noise(self.standardise(z), context)

    def _latent(self, noise: Tensor, context: Tensor) -> Tensor:
        z = self._inverse(noise, context)
        return self.clamp(z, self.overflowed(z))

    def _posteriors(self, z: object, y: object, std: object = None, name: str = "z") -> Posteriors:
        mean = self._flat(z, name)
        values = self._rows(self.condition.known(self.condition.values(y)), mean, name)
        if std is None:
            return Posteriors(mean, None, values)
        deviation = self._flat(std, "std")
        checks.same_length(mean, deviation, ("z", "std"))
        if (deviation < 0).any():
            raise ValueError(
                "std must be 0 or more, got negative entries;"
                " for log-variances pass std=(0.5 * logvar).exp()"
            )
        return Posteriors(mean, deviation, values)

    def _without_constants(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """Standardised latents with noise in the dimensions that are constant in training."""
        constant = self.low_ == self.high_
        if constant.any():
            z = torch.where(constant, standard_normal(z, generator), z)
        return z

    def _noise_level(self, n: int) -> float:
        """Noise for n latents without posteriors: the fewer for each dimension, the more."""
        return min(0.3, self.latent_dim / n) if n < 50 * self.latent_dim else 0.0

    def _compare(self, gaussian: float | None) -> None:
        """Warn if the flow is worse than Gaussians on the validation latents."""
        loss = self.history_.best_validation
        if gaussian is not None and loss > gaussian + MARGIN:
            model = "a Gaussian for each class"
            if not isinstance(self.condition, Classes):
                model = "a linear-Gaussian model"
            warn(
                f"the flow describes the validation latents worse than {model} does"
                f" ({loss:.3f} against {gaussian:.3f} nats a dimension);"
                " more latents, more noise or a smaller flow may help"
            )

    def _loss(self, z: Tensor, context: Tensor) -> Tensor:
        """Nats per dimension of standardised latents, which compare between base models."""
        return -self.flow.log_prob(z, context).mean() / self.latent_dim

    def _log_prior(self, prior: str | Tensor) -> Tensor:
        if isinstance(prior, str):
            priors = {"flat": torch.zeros_like(self.log_prior_), "train": self.log_prior_}
            if prior not in priors:
                raise checks.unknown("prior", prior, priors)
            return priors[prior]
        if prior is None:
            raise TypeError(f"prior must be 'flat', 'train' or {len(self.condition)} probabilities")
        prior = checks.numbers(prior, "prior").to(self.loc_)
        right_shape = prior.shape == self.log_prior_.shape
        if not right_shape or (prior < 0).any() or not 0.999 < prior.sum() < 1.001:
            raise ValueError(
                f"prior must be {len(self.condition)} probabilities that sum to 1,"
                f" got {prior.tolist()}"
            )
        return prior.log()

    def _inverse(self, u: Tensor, context: Tensor) -> Tensor:
        return self.restore(self.flow.transform_from_noise(u, context))

    def _generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self.loc_.device).manual_seed(int(seed))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FlowPlugin:
        """Move the plugin, as ``to()`` and ``half()`` ask for, but keep single precision."""

        def moved(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            return tensor.to(result.device) if result.dtype in checks.HALF else result

        return super()._apply(moved, recurse)

    @_inference
    def _try_widths(self) -> None:
        """Refuse a ``Flow`` of other widths now instead of in the middle of a fit."""
        widths = f"{self.latent_dim} latents and a context of {self.condition.context_dim}"
        context = self.loc_.new_zeros(1, self.condition.context_dim)
        try:
            self.flow.log_prob(self.loc_[None], context)
        except (RuntimeError, ValueError, AttributeError, TypeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"flow does not take {widths}: {reason}") from None


def _pair_of(validation: object) -> tuple[Any, Any]:
    if not isinstance(validation, tuple | list) or len(validation) != 2:
        raise TypeError(f"validation must be (z, y), got {type(validation).__name__}")
    return validation[0], validation[1]


def _note_condition(plugin: FlowPlugin, state: dict, prefix: str, metadata: dict) -> None:
    """Let the names travel with the weights."""
    metadata["condition"] = plugin.condition.spec


def _check_condition(
    plugin: FlowPlugin, state: dict, prefix: str, metadata: dict, *rest: Any
) -> None:
    """Report weights that belong to other names."""
    theirs, ours = metadata.get("condition"), plugin.condition.spec
    if theirs is not None and theirs != ours:
        rest[-1].append(f"the weights are of {theirs}, this plugin is for {ours}")
