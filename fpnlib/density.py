"""p(z | y): a conditional flow on standardised latents, its fit and its density (section 3.2)."""

import copy
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from fpnlib import checks
from fpnlib.conditions import Attributes, Classes, Condition
from fpnlib.flows import build_flow
from fpnlib.flows.adapters import adapt_flow, prepare_flow
from fpnlib.gaussians import gaussian_loss
from fpnlib.latents import LatentSpace, Posteriors, inference, standard_normal, warn
from fpnlib.reading import Reader
from fpnlib.training import History, batch_size_for, fit

# nflows' couplings scale by sigmoid(·) + 1e-3: they only contract, and need a wide input.
SPREAD = {"maf": 1.0, "realnvp": 4.0}
# A masked layer with fewer hidden features than latents has latents that no other depends on.
LEAST_WIDTH, MOST_WIDTH = 40, 256  # of those flows, by default (section 5.1.1: 40 for 40 latents)
MARGIN = 0.01  # nats a dimension by which a flow must be worse than Gaussians to be reported
SEEN = 64  # rows of training values that a plugin keeps, to begin a reading from
KEPT = 2**19  # numbers, 2 MB, of training values that a plugin keeps to fill in unsaid ones
FITS = 3  # at most, if labels are unknown: each reads more of them with certainty
LEAST_NOISE, MOST_NOISE = 0.05, 0.6  # shares of the latents' deviation
STEPS = 2_000  # of a fit whose number of epochs the data's size decides


class LatentDensity(LatentSpace):
    """p(z | y) of latents. ``FlowPlugin``, which describes the arguments, puts it to use."""

    free_shapes = ("training_values_",)  # as many rows as there are, or none in older files
    log_prior_: Tensor
    seen_: Tensor
    training_values_: Tensor

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
        latent_shape = tuple(checks.positive("latent_dim", size) for size in shape)
        super().__init__(math.prod(latent_shape), spread)
        self.latent_shape, self.condition = latent_shape, copy.deepcopy(condition)
        if name in SPREAD:
            width = max(LEAST_WIDTH, min(self.latent_dim, MOST_WIDTH))
            settings = {"hidden_features": width} | settings
        self.settings, self.own_flow = settings, not isinstance(flow, str)
        self.config = {"latent_dim": self.latent_dim, "condition": repr(condition), "flow": name}
        self.config |= {"spread": spread, **settings}
        self.register_buffer("log_prior_", torch.full((len(condition),), 1 / len(condition)).log())
        kept = not isinstance(condition, Classes | Attributes)  # of those the start is known
        self.register_buffer("seen_", torch.zeros(SEEN, condition.width), persistent=kept)
        self.register_buffer(
            "training_values_", torch.zeros(0, condition.width), persistent=condition.unknown
        )
        self.history_ = History()
        self.base_: Mapping[str, Any] = {}
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
    ) -> Self:
        """Minimise -Σ log p(zᵢ | yᵢ) (eq. 14); returns the plugin, in eval mode.

        If classes or attributes are unknown, up to three fits follow each other: what one reads
        with certainty is known to the next. A warning says if Gaussians fit the latents better.

        Args:
            z: latents (n, *latent_shape); with ``std``, the means of the encoder's posteriors.
            y: labels. Every class needs at least one; every attribute needs both values.
            std: standard deviations, shaped as z, of a VAE's posteriors: each epoch draws z anew.
            validation: held-out (latents, labels) that choose the best epoch; None: a tenth of z.
            epochs: passes over z; None: by the size of z, fewer if the validation loss rises.
            batch_size: None: 512, or less for few latents.
            learning_rate: the peak of a one-cycle schedule.
            noise: on z without ``std``, in deviations of z; None: by its size, or 0 with epochs.
            seed: of the split, the draws and the batches.
            training: further settings of ``training.fit`` (one_cycle, patience, progress, …).

        Raises:
            ValueError, TypeError: bad latents or labels, or a class or attribute that never varies.
            FloatingPointError: the loss became NaN or infinite.
        """
        train, held_out = self._sets(z, y, std, validation, checks.whole("seed", seed))
        n = len(train.mean)
        size = batch_size_for(n) if batch_size is None else batch_size
        batch_size = checks.positive("batch_size", size)
        if epochs is None:
            epochs = max(40, min(200, STEPS * batch_size // n))
            training.setdefault("patience", max(10, epochs // 4))
            noise = self._noise_level(n) if noise is None else noise
        train = self._noisy(train, noise or 0.0)
        training.setdefault("description", f"flow {self.config['flow']}")
        shape = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
        run = functools.partial(fit, self.flow, self._loss, seed=seed, **shape)
        seconds = 0.0
        for _ in range(FITS):
            shown = self._drawn(held_out, self._generator(seed))
            self.history_ = run(functools.partial(self._drawn, train), validation=shown, **training)
            seconds += self.history_.seconds
            known, train = train.values, self._completed(train)
            if train.values is known:
                break
            held_out, training["checkpoint"] = self._completed(held_out), None  # the first used it
        self.history_.seconds = seconds
        self._keep(train.values)
        self._compare(self._drawn(train, self._generator(seed)), shown)
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

    @inference
    def log_prob(self, z: Tensor, y: object) -> Tensor:
        """log p(z | y) (n,) in nats (eq. 3), for latents z (n, *latent_shape)."""
        z, context = self._pair(z, y)
        return self.flow.log_prob(self.standardise(z), context) - self.scale_.log().sum()

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

    def _requested(self, values: Tensor) -> Tensor:
        """Values (n, V) that are asked for. Warns if the fit has not seen the like of them."""
        if self.low_.isinf().any():
            warn("the plugin is not fitted, so its samples and edits mean nothing; call fit first")
        values = self.condition.known(values)
        for column, place in self.condition.places():
            remark = column.outside(values[:, place])
            if remark:
                warn(f"{remark}; the samples may not have it")
        return values

    def _posteriors(self, z: object, y: object, std: object = None, name: str = "z") -> Posteriors:
        mean = self._flat(z, name)
        values = self._rows(self.condition.known(self.condition.values(y)), mean, name)
        if std is None:
            return Posteriors(mean, None, values)
        deviation = self._flat(std, "std")
        checks.same_length(mean, deviation, ("z", "std"))
        if (deviation < 0).any():
            raise ValueError("std must be 0 or more; for log-variances pass (0.5 * logvar).exp()")
        return Posteriors(mean, deviation, values)

    def _sets(
        self, z: object, y: object, std: object, validation: object, seed: int
    ) -> tuple[Posteriors, Posteriors]:
        """Training and held-out latents; takes scales and names from the training ones."""
        y = list(y) if isinstance(y, Iterator) else y
        train = self._posteriors(z, y, std)
        self.condition.learn(train.values)
        if validation is None:
            train, held_out = train.split(self.condition.context(train.values), seed)
        elif isinstance(validation, tuple | list) and len(validation) == 2:
            z_held, y_held = validation
            held_out = self._posteriors(z_held, y_held, name="validation z")
        else:
            raise TypeError(f"validation must be (z, y), got {type(validation).__name__}")
        self.condition.remember(y)
        self.learn(train)
        return train, held_out

    def _noisy(self, latents: Posteriors, noise: float) -> Posteriors:
        """Latents without posteriors with noise, a share of their deviation."""
        if not 0 <= noise < float("inf"):
            raise ValueError(f"noise must be 0 or more and finite, got {noise}")
        if not noise or latents.std is not None:
            return latents
        z = latents.mean
        return latents._replace(std=float(noise) * z.std(0).expand_as(z))

    def _drawn(self, latents: Posteriors, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Standardised latents and contexts of an epoch."""
        drawn = self.standardise(latents.draw(generator))
        hidden = self.condition.masked(latents.values, generator)
        constant = self.low_ == self.high_
        if constant.any():  # noise, because a flow does not learn a dimension without width
            drawn = torch.where(constant, standard_normal(drawn, generator), drawn)
        return drawn, self.condition.context(hidden)

    @inference
    def _completed(self, latents: Posteriors) -> Posteriors:
        values = self._reader().complete(self.standardise(latents.mean), latents.values)
        return latents._replace(values=values)

    def _keep(self, values: Tensor) -> None:
        """Keep training values (n, V), or as many drawn at random as there is room for."""
        if self.condition.unknown:
            order = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))
            rows = order[: KEPT // self.condition.width].to(values.device)
            self.training_values_ = values[rows].to(self.loc_)

    def _reader(self) -> Reader:
        start = self.seen_
        if isinstance(self.condition, Attributes):
            start = self.log_prior_[None] > math.log(0.5)
        return Reader(self.flow, self.condition, start.to(self.loc_))

    def _noise_level(self, n: int) -> float:
        """Noise for n latents without posteriors: the fewer for each dimension, the more."""
        level = math.sqrt(self.latent_dim / n)
        return min(level, MOST_NOISE) if level > LEAST_NOISE else 0.0

    def _compare(self, train: tuple[Tensor, Tensor], shown: tuple[Tensor, Tensor]) -> None:
        """Note the validation loss of Gaussians, and warn if the flow's is worse."""
        classes = isinstance(self.condition, Classes)
        gaussian = gaussian_loss(train, shown, classes)
        self.history_.gaussian, loss = gaussian, self.history_.best_validation
        if gaussian is not None and loss > gaussian + MARGIN:
            model = "a Gaussian for each class" if classes else "a linear-Gaussian model"
            said = f"the flow describes the validation latents worse than {model} does"
            losses = f"({loss:.3f} against {gaussian:.3f} nats a dimension)"
            warn(f"{said} {losses}; more latents, more noise or a smaller flow may help")

    def _loss(self, z: Tensor, context: Tensor) -> Tensor:
        """Nats per dimension of standardised latents, which compare between base models."""
        return -self.flow.log_prob(z, context).mean() / self.latent_dim

    def _inverse(self, u: Tensor, context: Tensor) -> Tensor:
        return self.restore(self.flow.transform_from_noise(u, context))

    def _generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self.loc_.device).manual_seed(checks.whole("seed", seed))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the plugin, as ``to()`` and ``half()`` ask for, but keep single precision."""

        def moved(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            return tensor.to(result.device) if result.dtype in checks.HALF else result

        return super()._apply(moved, recurse)

    @inference
    def _try_widths(self) -> None:
        """Refuse a ``Flow`` of other widths now instead of in the middle of a fit."""
        widths = f"{self.latent_dim} latents and a context of {self.condition.context_dim}"
        context = self.loc_.new_zeros(1, self.condition.context_dim)
        try:
            self.flow.log_prob(self.loc_[None], context)
        except (RuntimeError, ValueError, AttributeError, TypeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"flow does not take {widths}: {reason}") from None


def _note_condition(density: LatentDensity, state: dict, prefix: str, metadata: dict) -> None:
    """Let the names travel with the weights."""
    metadata["condition"] = density.condition.spec


def _check_condition(
    density: LatentDensity, state: dict, prefix: str, metadata: dict, *rest: Any
) -> None:
    """Report weights that belong to other names. Make room for the training values, if any."""
    if density.condition.unknown:
        own = density.training_values_
        rows = len(state.setdefault(f"{prefix}training_values_", own[:0]))
        density.training_values_ = own.new_empty(rows, density.condition.width)
    theirs, ours = metadata.get("condition"), density.condition.spec
    if theirs is not None and theirs != ours:
        rest[-1].append(f"the weights are of {theirs}, this plugin is for {ours}")
