"""The paper's idea: a conditional flow p(z | y) on the latents of a frozen autoencoder (section 3).

``FlowPlugin`` is the flow with its attributes; ``FlowPluginNetwork`` joins it to a base model, which it freezes.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.transforms import BatchNorm
from torch import Tensor, nn

from fpnlib import checks
from fpnlib.base_models import Autoencoder
from fpnlib.conditions import Attributes, Classes
from fpnlib.flows import ConditionalFlow, build_flow
from fpnlib.training import History, batch_size_for, fit

REDRAWS = 10
# nflows' couplings scale by sigmoid(·) + 1e-3: they only ever contract, and at a deviation of 1 a class density narrower than
# the unit normal would be out of reach.
SPREAD = {"maf": 1.0, "realnvp": 4.0}


def _inference(method: Callable) -> Callable:
    """``method`` without gradients and in eval mode: batch norm must not learn from contexts that are only tried out.

    Each module's own mode is put back.
    """

    @functools.wraps(method)
    def inferred(self: FlowPlugin, *args: Any, **kwargs: Any) -> Any:
        at_work = (
            self.training or self.flow.training
        )  # in eval mode the tree, of a thousand modules, is not walked
        training = [module for module in self.modules() if module.training] if at_work else []
        for module in training:
            module.training = False
        try:
            with torch.no_grad():
                return method(self, *args, **kwargs)
        finally:
            for module in training:
                module.training = True

    return inferred


class FlowPlugin(nn.Module):
    """p(z | y): a conditional normalizing flow over latents, which are standardised on the way in.

    What ``fit`` learns beside the flow's weights ends in ``_``: ``loc_`` and ``scale_`` (latent_dim,) standardise the
    latents, ``low_`` and ``high_`` (latent_dim,) bound the box in which samples are trusted, ``log_prior_`` (K,) holds
    the log frequencies of the classes or attributes, and ``history_`` the loss of each epoch.

    Labels ``y`` are what ``attributes.encode`` takes: of ``Classes``, names or indices (n,); of ``Attributes``, values (n, A)
    or names. One label stands for all.

    **Noise that overflows.** The inverse of a flow can run away on rare noise, and of a barely trained one on most. A
    latent counts as overflowed when an entry is NaN or infinite or lies further outside the range of the training
    latents than that range is wide. ``sample`` draws such latents again (up to ten times); ``from_noise``, which must
    answer for the noise it was given, and what is left after ten draws, are clamped to that box. Both warn with the
    count and add it to ``overflows_``; before ``fit`` there is no box, and non-finite latents raise instead.

    Args:
        latent_dim: width D of the latents.
        attributes: what the flow is conditioned on; gives the context.
        flow: "maf", "realnvp" (section 5.1.1), or an nflows ``Flow`` of that latent and context width on a
            ``StandardNormal``; its weights are shared, not copied.
        spread: standard deviation, above 0, to which the latents are brought on the way in; None: 1, and 4 for "realnvp".
        settings: of the flow, as ``flows.build_flow`` takes them (hidden_features, num_layers, num_blocks, …).

    The flow of a plugin also loads nflows' own state dicts, whose masks are checked and not kept.

    Raises:
        ValueError: an unknown flow, a latent_dim below 1, a spread that is not positive, or a Flow of other widths.
        TypeError: a Flow on another distribution.
    """

    def __init__(
        self,
        latent_dim: int,
        attributes: Classes | Attributes,
        flow: str | Flow = "maf",
        *,
        spread: float | None = None,
        **settings: Any,
    ):
        super().__init__()
        self.latent_dim = checks.positive("latent_dim", latent_dim)
        self.attributes = attributes
        if spread is None:
            spread = SPREAD.get(flow if isinstance(flow, str) else "", 1.0)
        if not 0 < spread < float("inf"):
            raise ValueError(f"spread must be above 0 and finite, got {spread}")
        self.spread = float(spread)
        widths = latent_dim, attributes.context_dim
        self.flow = (
            _conditional(flow, *widths)
            if isinstance(flow, Flow)
            else build_flow(flow, *widths, **settings)
        )
        self.config = {
            "latent_dim": latent_dim,
            "attributes": repr(attributes),
            "flow": flow if isinstance(flow, str) else type(flow).__name__,
            "spread": self.spread,
            **settings,
        }
        if not isinstance(flow, Flow):  # a flow of the user's own may be trained: it stays as it is
            _prepare(self.flow)
        self.register_buffer("loc_", torch.zeros(latent_dim))
        self.register_buffer("scale_", torch.ones(latent_dim))
        self.register_buffer("low_", torch.full((latent_dim,), -torch.inf))
        self.register_buffer("high_", torch.full((latent_dim,), torch.inf))
        self.register_buffer(
            "log_prior_", torch.full((len(attributes),), 1 / len(attributes)).log()
        )
        self.history_ = History()
        self.overflows_ = 0
        if isinstance(flow, Flow):
            self._try()

    def fit(
        self,
        z: Tensor,
        y: object,
        *,
        std: Tensor | None = None,
        validation: tuple[Tensor, object] | None = None,
        epochs: int = 40,
        batch_size: int | None = None,
        learning_rate: float = 2e-3,
        seed: int = 0,
        **training: Any,
    ) -> FlowPlugin:
        """Minimise the conditional negative log-likelihood, -Σ log p(zᵢ | yᵢ) (eq. 14); returns self.

        Args:
            z: latents (n, latent_dim); with ``std``, the means of the encoder's posteriors.
            y: their labels; every class needs at least one, every attribute both values.
            std: standard deviations (n, latent_dim) of a VAE's posteriors: z is then drawn anew for each epoch.
            validation: held-out (latents, labels), which choose the best epoch; None: a tenth of ``z``, by seed, for
                which ten latents or more are needed.
            batch_size: None: 512, or less for few latents.
            training: further settings of ``training.fit`` (one_cycle, patience, weight_decay, clip_norm, checkpoint, …).

        Latents that an encoder gave with their graph are taken without it: no gradient reaches the base model.

        Raises:
            ValueError, TypeError: bad latents, labels of another length, or a class or an attribute that never varies.
            FloatingPointError: the loss became NaN or infinite.
        """
        z, context = self._pair(z, y)
        if std is not None:
            std = checks.latents(std, self.latent_dim, "std").detach().to(z)
            checks.same_length(z, std, ("z", "std"))
        if validation is None:
            if len(z) < 10:
                raise ValueError(
                    f"validation is a tenth of z, for which {len(z)} latents are too few; pass validation=(z, y), or ten or more"
                )
            order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed)).to(
                z.device
            )
            kept_back = torch.isin(
                order, torch.cat([context.argmax(0), context.argmin(0)])
            )  # a rare class is to be learned
            order = order[kept_back.to(torch.uint8).argsort(stable=True)]
            held_out, kept = order.split([len(z) // 10, len(z) - len(z) // 10])
            z_validation, context_validation = z[held_out], context[held_out]
            if std is not None:
                z_validation = z_validation + std[held_out] * _normal(z_validation, seed)
            z, context, std = z[kept], context[kept], None if std is None else std[kept]
        else:
            z_validation, context_validation = self._pair(*validation, name="validation z")

        self.attributes.refuse_unseen(context)
        with torch.no_grad():
            self.log_prior_.copy_((context.sum(0) / len(context)).log())
            self._standardise(z, torch.zeros_like(z) if std is None else std)

        def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
            drawn = (
                z
                if std is None
                else z
                + std * torch.randn(z.shape, generator=generator, device=z.device, dtype=z.dtype)
            )
            return (drawn - self.loc_) / self.scale_, context

        held_out = (z_validation - self.loc_) / self.scale_, context_validation
        # The loss is per dimension of standardised latents: comparable between base models.
        self.history_ = fit(
            self.flow,
            lambda inputs, context: -self.flow.log_prob(inputs, context).mean() / self.latent_dim,
            draw,
            held_out,
            epochs=epochs,
            batch_size=batch_size or batch_size_for(len(z)),
            learning_rate=learning_rate,
            seed=seed,
            **{"description": f"flow {self.config['flow']}"} | training,
        )
        self.eval()
        return self

    @_inference
    def log_prob(self, z: Tensor, y: object) -> Tensor:
        """log p(z | y) (n,) in nats (eq. 3), of latents (n, latent_dim) under their labels or one label for all."""
        z, context = self._pair(z, y)
        return self.flow.log_prob((z - self.loc_) / self.scale_, context) - self.scale_.log().sum()

    @_inference
    def to_noise(self, z: Tensor, y: object) -> Tensor:
        """u = T⁻¹(z | y) (n, latent_dim): the noise that y turns into z (section 3.5, first half)."""
        z, context = self._pair(z, y)
        return self.flow.transform_to_noise((z - self.loc_) / self.scale_, context)

    @_inference
    def from_noise(self, u: Tensor, y: object) -> Tensor:
        """z = T(u | y) (n, latent_dim): the latent that noise u becomes under y (section 3.5, second half)."""
        u, context = self._pair(u, y, name="u")
        z = self._inverse(u, context)
        return self._clamp(z, self._overflowed(z))

    @_inference
    def sample(
        self, y: object, n: int = 1, *, temperature: float = 1.0, seed: int | None = None
    ) -> Tensor:
        """Latents z ~ p(z | y) (section 3.3): ``n`` for each of m labels, label after label, (m·n, latent_dim).

        Args:
            y: one label or m of them.
            temperature: standard deviation of the noise; below 1 nearer to each class's mode.
            seed: of the noise; None: torch's global generator.

        Raises:
            ValueError, TypeError: n below 1, a temperature that is negative or not finite, or an unknown label.
        """
        checks.positive("n", n)
        if not 0 <= temperature < float("inf"):
            raise ValueError(f"temperature must be 0 or more and finite, got {temperature}")
        context = self.attributes.encode(y).to(self.loc_).repeat_interleave(n, 0)
        generator = None if seed is None else torch.Generator(self.loc_.device).manual_seed(seed)
        z = self._inverse(
            temperature * _normal(self.loc_.expand(len(context), -1), generator), context
        )
        bad = again = self._overflowed(z)
        for _ in range(REDRAWS):
            if not again.any():
                break
            z[again] = self._inverse(temperature * _normal(z[again], generator), context[again])
            again = self._overflowed(z)
        if (drawn_again := int(bad.sum()) - int(again.sum())) > 0:
            self._count(drawn_again, len(z), "drawn again")
        return self._clamp(z, again)

    @_inference
    def log_posterior(self, z: Tensor, prior: str | Tensor = "flat") -> Tensor:
        """log P(y | z) (n, K) by Bayes' rule (eqs. 15, 16).

        Args:
            prior: "flat", "train" (the frequencies seen in ``fit``), or probabilities (K,).

        Raises:
            TypeError: a plugin for attributes; only classes exclude each other.
        """
        if not isinstance(self.attributes, Classes):
            raise TypeError(
                f"Bayes' rule chooses among Classes; this plugin is for {len(self.attributes)} attributes"
            )
        z = checks.latents(z, self.latent_dim).to(self.loc_)
        contexts = self.attributes.encode(range(len(self.attributes))).to(self.loc_)
        joint = self.flow.class_log_prob((z - self.loc_) / self.scale_, contexts) + self._log_prior(
            prior
        )
        return joint.log_softmax(-1)

    def predict(self, z: Tensor, prior: str | Tensor = "flat") -> Tensor:
        """The most probable class (n,), int64 indices (eq. 17)."""
        return self.log_posterior(z, prior).argmax(-1)

    def _pair(self, z: object, y: object, name: str = "z") -> tuple[Tensor, Tensor]:
        """Latents or noise, checked, and the context (n, C) of each."""
        z = checks.latents(z, self.latent_dim, name).detach().to(self.loc_)
        context = self.attributes.encode(y).to(z)
        context = context.expand(len(z), -1) if len(context) == 1 else context
        checks.same_length(z, context, (name, "y"))
        return z, context

    def _log_prior(self, prior: str | Tensor) -> Tensor:
        if isinstance(prior, str):
            priors = {"flat": torch.zeros_like(self.log_prior_), "train": self.log_prior_}
            if prior not in priors:
                raise checks.unknown("prior", prior, priors)
            return priors[prior]
        prior = torch.as_tensor(prior).to(self.loc_)
        if (
            prior.shape != self.log_prior_.shape
            or not (prior >= 0).all()
            or not 0.999 < prior.sum() < 1.001
        ):
            raise ValueError(
                f"prior must be {len(self.attributes)} probabilities that sum to 1, got {prior.tolist()}"
            )
        return prior.log()

    def _standardise(self, z: Tensor, std: Tensor) -> None:
        """Centre and scale by the aggregate posterior (its variance: that of the means and the mean of the variances)."""
        scale = (z.var(0, unbiased=False) + std.square().mean(0)).sqrt() / self.spread
        self.loc_.copy_(z.mean(0))
        self.scale_.copy_(torch.where(scale > 0, scale, 1.0))
        low, high = (z - 4 * std).amin(0), (z + 4 * std).amax(0)
        self.low_.copy_(low - (high - low))
        self.high_.copy_(high + (high - low))

    def _inverse(self, u: Tensor, context: Tensor) -> Tensor:
        return self.flow.transform_from_noise(u, context) * self.scale_ + self.loc_

    def _overflowed(self, z: Tensor) -> Tensor:
        return ~((z >= self.low_) & (z <= self.high_) & z.isfinite()).all(-1)

    def _clamp(self, z: Tensor, overflowed: Tensor) -> Tensor:
        if not overflowed.any():
            return z
        count = int(overflowed.sum())
        if self.low_.isinf().any():
            raise FloatingPointError(
                f"{count:,} of {len(z):,} latents overflowed; fit the plugin before it samples"
            )
        self._count(count, len(z), "clamped to the range of the training latents")
        z = torch.where(z.isnan(), self.loc_, z)
        return z.clamp(self.low_, self.high_)

    def _count(self, count: int, of: int, fate: str) -> None:
        self.overflows_ += count
        said = f"{count:,} of {of:,} latents overflowed in the flow and were {fate}"
        warnings.warn(said, RuntimeWarning, stacklevel=_frames_here())

    @_inference
    def _try(self) -> None:
        """One latent through a Flow of the user's own, to refuse other widths here and not in the middle of a fit."""
        try:
            self.flow.log_prob(self.loc_[None], self.loc_.new_zeros(1, self.attributes.context_dim))
        except (RuntimeError, ValueError) as error:
            widths = f"{self.latent_dim} latents and a context of {self.attributes.context_dim}"
            raise ValueError(f"flow does not take {widths}: {str(error).splitlines()[0]}") from None


class FlowPluginNetwork(nn.Module):
    """A frozen base model joined to a plugin: a conditional generator, a classifier and an editor (sections 3.3–3.5).

    What a base model with weights is given is brought to their device and floating type first.

    Args:
        base: anything with ``encode``, ``decode`` and ``latent_dim``. Its parameters lose their gradients and it stays
            in eval mode, so that not one bit of it changes.
        plugin: a ``FlowPlugin`` of the same latent_dim.

    Raises:
        TypeError: a base model that lacks one of the three.
        ValueError: another latent_dim.
    """

    def __init__(self, base: Autoencoder, plugin: FlowPlugin):
        super().__init__()
        for name in ("encode", "decode", "latent_dim"):
            if not hasattr(base, name):
                raise TypeError(
                    f"a base model needs encode, decode and latent_dim; {type(base).__name__} has no {name}"
                )
        if base.latent_dim != plugin.latent_dim:
            raise ValueError(
                f"base and plugin must share latent_dim, got {base.latent_dim} and {plugin.latent_dim}"
            )
        self.base, self.plugin = base, plugin
        if isinstance(base, nn.Module):
            base.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> FlowPluginNetwork:
        """The plugin's mode; the base model stays in eval mode, or its batch norm would move."""
        super().train(mode)
        if isinstance(self.base, nn.Module):
            self.base.eval()
        return self

    def generate(
        self, y: object, n: int = 1, *, temperature: float = 1.0, seed: int | None = None
    ) -> Tensor:
        """``n`` new objects for each label (section 3.3), as :meth:`FlowPlugin.sample` orders and checks them."""
        return self._batched(
            self.base.decode, self.plugin.sample(y, n, temperature=temperature, seed=seed)
        )

    def classify(self, x: Tensor, prior: str | Tensor = "flat") -> Tensor:
        """The most probable class (n,) of each object (eq. 17)."""
        return self.plugin.predict(self._batched(self.base.encode, x), prior)

    def reconstruct(self, x: Tensor) -> Tensor:
        """What the base model alone makes of x: decode(encode(x))."""
        return self._batched(self.base.decode, self._batched(self.base.encode, x))

    def edit(self, x: Tensor, y: object, to: object) -> Tensor:
        """The objects x (n, …) of labels ``y`` with labels ``to`` instead, their noise kept (section 3.5).

        Args:
            to: a class, or one for each object; of attributes, edits by name (``"+Smiling -Eyeglasses"``), by value
                (``"Smiling=0.5"``, ``{"Smiling": 0.5}``), or the values that all are to have.
        """
        noise = self.plugin.to_noise(self._batched(self.base.encode, x), y)
        return self._batched(
            self.base.decode, self.plugin.from_noise(noise, self.plugin.attributes.edited(y, to))
        )

    @torch.no_grad()
    def _batched(self, function: Callable[[Tensor], Tensor], x: Tensor, size: int = 1024) -> Tensor:
        """In batches, so that memory is bounded whatever n is."""
        if not isinstance(x, Tensor):
            return function(x)
        parts = [function(self._placed(part)) for part in x.split(size)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _placed(self, x: Tensor) -> Tensor:
        """``x`` on the device and in the floating type of the base model's weights, where it has any."""
        weights = self.base.parameters() if isinstance(self.base, nn.Module) else ()
        weight = next((weight for weight in weights if weight.is_floating_point()), None)
        if weight is None:
            return x
        return x.to(weight.device, weight.dtype if x.is_floating_point() else x.dtype)


def _conditional(flow: Flow, latent_dim: int, context_dim: int) -> ConditionalFlow:
    """A ``Flow`` of nflows' own with what a plugin needs beside it; the weights are the same tensors."""
    if isinstance(flow, ConditionalFlow):
        return flow
    if not isinstance(flow._distribution, StandardNormal):
        raise TypeError(
            f"flow must have a StandardNormal distribution, got {type(flow._distribution).__name__}"
        )
    return ConditionalFlow(flow._transform, latent_dim, context_dim, flow._embedding_net).train(
        flow.training
    )


def _prepare(flow: Flow) -> None:
    """What a new flow needs: a state dict without nflows' masks, and batch norms that serve before they have seen much."""
    for module in flow.modules():
        # The masks are as large as the weights and follow from the widths.
        if masks := {"mask", "degrees"} & module._buffers.keys():
            module._non_persistent_buffers_set |= masks
            module.register_load_state_dict_pre_hook(_take_masks)
        if isinstance(module, BatchNorm):
            module.running_var.fill_(
                1
            )  # nflows starts at 0: in eval mode after few steps the flow would overflow


def _take_masks(module: nn.Module, tensors: dict[str, Tensor], prefix: str, *rest: Any) -> None:
    """The masks of nflows' own state dict are no surplus where they are the module's, and an error where they are not."""
    *_, errors = rest
    for name in ("mask", "degrees"):
        mask, own = tensors.pop(prefix + name, None), module._buffers.get(name)
        if mask is not None and own is not None and not torch.equal(mask.to(own), own):
            errors.append(
                f"{prefix}{name} is of other widths, or drawn at random; expected the sequential one"
            )


def _frames_here() -> int:
    """The ``stacklevel`` with which a warning given one call up points at the line that called into this file."""
    level, frame = 0, sys._getframe(1)
    while frame is not None and frame.f_code.co_filename == __file__:
        level, frame = level + 1, frame.f_back
    return level + 1


def _normal(like: Tensor, source: torch.Generator | int | None) -> Tensor:
    """Standard normal noise of the shape, type and device of ``like``."""
    if isinstance(source, int):
        source = torch.Generator(like.device).manual_seed(source)
    return torch.randn(like.shape, generator=source, device=like.device, dtype=like.dtype)
