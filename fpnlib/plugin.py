"""``FlowPlugin``: a conditional flow p(z | y) on the latents of an autoencoder (section 3)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from nflows.flows import Flow
from torch import Tensor

from fpnlib import checks
from fpnlib.conditions import Classes, Condition
from fpnlib.flows import build_flow
from fpnlib.flows.adapters import adapt_flow, prepare_flow
from fpnlib.latents import LatentSpace, Posteriors, standard_normal
from fpnlib.training import History, batch_size_for, fit

MAX_REDRAWS = 10
# nflows' couplings scale by sigmoid(·) + 1e-3: they only contract, and need a wide input.
SPREAD = {"maf": 1.0, "realnvp": 4.0}


def _inference(method: Callable) -> Callable:
    """Run a method without gradients and in eval mode, then put every module's mode back.

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
            with torch.no_grad():
                return method(self, *args, **kwargs)
        finally:
            for module in training:
                module.training = True

    return inferred


class FlowPlugin(LatentSpace):
    """p(z | y): a conditional normalizing flow over latents, which it standardises on the way in.

    Besides the weights, ``fit`` learns the buffers of ``LatentSpace``, ``log_prior_`` (K,), the log
    frequencies of the classes or attributes, and ``history_``, the loss of each epoch.

    Labels ``y`` are what ``condition.encode`` takes. For ``Classes`` these are names or indices
    (n,); for ``Attributes`` values (n, A) or edits by name. A single label serves all latents.

    **Overflow.** The inverse of a flow can run away on rare noise, and a barely trained one does on
    most. ``sample`` draws latents that overflow again, up to ten times. ``from_noise`` clamps them
    to the box of ``LatentSpace``; so does ``sample`` with the rest. Both warn with the count.

    Args:
        latent_dim: width D of the latents.
        condition: what the flow is conditioned on, ``Classes`` or ``Attributes``.
        flow: "maf", "realnvp" (section 5.1.1), or an nflows ``Flow`` on a ``StandardNormal`` with
            these latent and context widths. The plugin shares the weights of such a flow.
        spread: standard deviation of the latents inside the plugin; None: 4 for "realnvp", else 1.
        settings: of the flow, as ``flows.build_flow`` takes them (hidden_features, num_layers, …).

    Raises:
        ValueError: an unknown flow, a latent_dim below 1, a spread that is not positive, or a
            ``Flow`` of other widths.
        TypeError: a ``Flow`` on another distribution.

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

    def __init__(
        self,
        latent_dim: int,
        condition: Condition,
        flow: str | Flow = "maf",
        *,
        spread: float | None = None,
        **settings: Any,
    ):
        name = flow if isinstance(flow, str) else type(flow).__name__
        spread = float(SPREAD.get(name, 1.0) if spread is None else spread)
        if not 0 < spread < float("inf"):
            raise ValueError(f"spread must be above 0 and finite, got {spread:g}")
        super().__init__(checks.positive("latent_dim", latent_dim), spread)
        self.condition = condition
        self.config = {
            "latent_dim": latent_dim,
            "condition": repr(condition),
            "flow": name,
            "spread": spread,
            **settings,
        }
        flat = torch.full((len(condition),), 1 / len(condition))
        self.register_buffer("log_prior_", flat.log())
        self.history_ = History()
        if isinstance(flow, Flow):
            self.flow = adapt_flow(flow, latent_dim, condition.context_dim)
            self._try_widths()
        else:
            self.flow = build_flow(flow, latent_dim, condition.context_dim, **settings)
            prepare_flow(self.flow)

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
        """Minimise -Σ log p(zᵢ | yᵢ) (eq. 14); returns the plugin, in eval mode.

        No gradient reaches the base model, even if its encoder left a graph on the latents.

        Args:
            z: latents (n, latent_dim); with ``std``, the means of the encoder's posteriors.
            y: labels. Every class needs at least one; every attribute needs both values.
            std: standard deviations (n, latent_dim) of a VAE's posteriors: each epoch draws z anew.
            validation: held-out (latents, labels) that choose the best epoch; None: a tenth of z,
                for which z needs ten rows or more.
            epochs: passes over z.
            batch_size: None: 512, or less for few latents.
            learning_rate: the peak of a one-cycle schedule.
            seed: of the split, the draws and the batches.
            training: further settings of ``training.fit`` (one_cycle, patience, checkpoint, …).

        Raises:
            ValueError, TypeError: bad latents, labels of another length, or a class or an attribute
                that never varies.
            FloatingPointError: the loss became NaN or infinite.
        """
        train = self._posteriors(z, y, std)
        if validation is None:
            train, held_out = train.split(seed)
        else:
            held_out = self._posteriors(*validation, name="validation z")
        self.condition.check_coverage(train.context)
        self.learn(train)

        def draw(latents: Posteriors, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            return self.standardise(latents.draw(generator)), latents.context

        self.history_ = fit(
            self.flow,
            self._loss,
            functools.partial(draw, train),
            draw(held_out, self._generator(seed)),
            epochs=epochs,
            batch_size=batch_size or batch_size_for(len(train.mean)),
            learning_rate=learning_rate,
            seed=seed,
            **{"description": f"flow {self.config['flow']}"} | training,
        )
        return self.eval()

    def learn(self, latents: Posteriors) -> None:
        """Take mean, scale, box and frequencies from training latents."""
        super().learn(latents)
        frequencies = latents.context.sum(0) / len(latents.context)
        self.log_prior_.copy_(frequencies.log())

    @_inference
    def log_prob(self, z: Tensor, y: object) -> Tensor:
        """log p(z | y) (n,) in nats (eq. 3), for latents z (n, latent_dim)."""
        z, context = self._pair(z, y)
        return self.flow.log_prob(self.standardise(z), context) - self.scale_.log().sum()

    @_inference
    def to_noise(self, z: Tensor, y: object) -> Tensor:
        """u = T⁻¹(z | y) (n, latent_dim): the noise that becomes z under y (section 3.5)."""
        z, context = self._pair(z, y)
        return self.flow.transform_to_noise(self.standardise(z), context)

    @_inference
    def from_noise(self, u: Tensor, y: object) -> Tensor:
        """z = T(u | y) (n, latent_dim): the latent that noise u becomes under y (section 3.5)."""
        u, context = self._pair(u, y, name="u")
        z = self._inverse(u, context)
        return self.clamp(z, self.overflowed(z))

    @_inference
    def sample(
        self, y: object, n: int = 1, *, temperature: float = 1.0, seed: int | None = None
    ) -> Tensor:
        """Draw latents z ~ p(z | y) (section 3.3).

        Args:
            y: one label or m of them.
            n: latents for each label.
            temperature: standard deviation of the noise; below 1, samples lie nearer to the mode.
            seed: of the noise; None: torch's global generator.

        Returns:
            Latents (m·n, latent_dim), label after label.

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
        return self.clamp(z, overflowed)

    @_inference
    def log_posterior(self, z: Tensor, prior: str | Tensor = "flat") -> Tensor:
        """log P(y | z) (n, K) by Bayes' rule (eqs. 15, 16).

        Args:
            z: latents (n, latent_dim).
            prior: "flat", "train" (the frequencies that ``fit`` saw), or probabilities (K,).

        Raises:
            TypeError: a plugin for attributes, which do not exclude each other.
        """
        count = len(self.condition)
        if not isinstance(self.condition, Classes):
            raise TypeError(
                f"Bayes' rule chooses among Classes; this plugin is for {count} attributes"
            )
        z = checks.latents(z, self.latent_dim).to(self.loc_)
        contexts = self.condition.encode(range(count)).to(self.loc_)
        log_likelihood = self.flow.class_log_prob(self.standardise(z), contexts)
        return (log_likelihood + self._log_prior(prior)).log_softmax(-1)

    def predict(self, z: Tensor, prior: str | Tensor = "flat") -> Tensor:
        """The most probable class (n,) of each latent, an int64 index (eq. 17)."""
        return self.log_posterior(z, prior).argmax(-1)

    def _pair(self, z: object, y: object, name: str = "z") -> tuple[Tensor, Tensor]:
        """Checked latents or noise (n, D) and the context (n, C) of each."""
        latents = checks.latents(z, self.latent_dim, name).detach().to(self.loc_)
        context = self.condition.encode(y).to(latents)
        if len(context) == 1:
            context = context.expand(len(latents), -1)
        checks.same_length(latents, context, (name, "y"))
        return latents, context

    def _posteriors(self, z: object, y: object, std: object = None, name: str = "z") -> Posteriors:
        mean, context = self._pair(z, y, name)
        if std is None:
            return Posteriors(mean, None, context)
        deviation = checks.latents(std, self.latent_dim, "std").detach().to(mean)
        checks.same_length(mean, deviation, ("z", "std"))
        return Posteriors(mean, deviation, context)

    def _loss(self, z: Tensor, context: Tensor) -> Tensor:
        """Nats per dimension of standardised latents, which compare between base models."""
        return -self.flow.log_prob(z, context).mean() / self.latent_dim

    def _log_prior(self, prior: str | Tensor) -> Tensor:
        if isinstance(prior, str):
            priors = {"flat": torch.zeros_like(self.log_prior_), "train": self.log_prior_}
            if prior not in priors:
                raise checks.unknown("prior", prior, priors)
            return priors[prior]
        prior = torch.as_tensor(prior).to(self.loc_)
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
        return torch.Generator(self.loc_.device).manual_seed(seed)

    @_inference
    def _try_widths(self) -> None:
        """Refuse a ``Flow`` of other widths now instead of in the middle of a fit."""
        widths = f"{self.latent_dim} latents and a context of {self.condition.context_dim}"
        context = self.loc_.new_zeros(1, self.condition.context_dim)
        try:
            self.flow.log_prob(self.loc_[None], context)
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"flow does not take {widths}: {reason}") from None
