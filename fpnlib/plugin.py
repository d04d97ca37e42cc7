"""``FlowPlugin``: a conditional flow p(z | y) on the latents of an autoencoder (section 3)."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import pandas as pd
import torch
from torch import Tensor, nn

from fpnlib import checks
from fpnlib.conditions import Classes, from_spec
from fpnlib.density import LEAST_WIDTH, SPREAD, LatentDensity
from fpnlib.latents import draw_again, inference, standard_normal
from fpnlib.reading import fill_values
from fpnlib.store.tensors import load_plugin, save_plugin
from fpnlib.training import History

STRENGTHS = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0)  # of edits until they are read, as shares of the first


class FlowPlugin(LatentDensity):
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
        settings: of the flow, as ``flows.build_flow`` takes them (num_layers, …). Flows by name
            have as many hidden_features as latents by default, from 40 to 256 ("spline": 128).

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
        >>> plugin
        FlowPlugin((3,), Classes([cat, dog]), 'maf')
    """

    def __repr__(self) -> str:
        return f"FlowPlugin({self.latent_shape}, {self.condition}, {self.config['flow']!r})"

    @inference
    def to_noise(self, z: Tensor, y: object) -> Tensor:
        """u = T⁻¹(z | y), shaped as z: the noise that becomes z under y (section 3.5)."""
        return self._shaped(self._noise(*self._pair(z, y)), z)

    @inference
    def from_noise(self, u: Tensor, y: object) -> Tensor:
        """z = T(u | y), shaped as u: the latent that noise u becomes under y (section 3.5)."""
        return self._shaped(self._latent(*self._pair(u, y, name="u")), u)

    @inference
    def edit(
        self,
        z: Tensor,
        to: object,
        y: object = None,
        *,
        strength: float = 1.0,
        confidence: float = 0.0,
    ) -> Tensor:
        """Change the labels of latents and keep their noise (section 3.5).

        Args:
            z: latents (n, *latent_shape).
            to: labels, or edits of some: ``"+Smiling"``, ``"logP=3"``, ``{"logP": 3}``.
            y: the labels of z; None: read from z.
            strength: how far the context goes from y to ``to``: 1 all the way, 2 twice as far.
            confidence: raise the strength of each edit, up to three times, until the plugin reads
                what changed as asked with this probability, as :meth:`sample` does. 0: never.
        """
        if not -float("inf") < strength < float("inf"):
            raise ValueError(f"strength must be finite, got {strength}")
        flat = self._flat(z)
        values = self._read(z, None)[0] if y is None else self.condition.values(y)
        values = self._rows(self.condition.known(values), flat)
        edited = self._rows(self._requested(self.condition.edited(values, to)), flat)
        own, wanted = self.condition.context(values), self.condition.context(edited)
        noise = self._noise(flat, own)
        changed = edited.where(edited != values, torch.nan)
        judged = self.condition.judged(changed, confidence)
        result, rows = flat.clone(), torch.arange(len(flat), device=flat.device)
        for factor in STRENGTHS:
            if not len(rows):
                break
            context = torch.lerp(own[rows], wanted[rows], float(strength) * factor)
            result[rows] = self._latent(noise[rows], context)
            rows = rows[self._confidence(result[rows], edited[rows], judged[rows]) < confidence]
        self.report_unsure(len(rows), len(flat), confidence)
        return self._shaped(result, z)

    @inference
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

        If labels may be unknown, up to 2 MB of training labels are in it: samples draw from them.

        Args:
            path: of the file.
            base: JSON-able notes on the base model, which ``base_`` has after loading.

        Raises:
            ValueError: a path that does not end in ".safetensors".
        """
        indexed = [column.indexed for column in self.condition.columns]
        about = {
            "latent_shape": self.latent_shape,
            "condition": self.condition.spec,
            "labels": {"kind": self.condition.label_kind_, "indexed": indexed},
            "flow": self.config["flow"],
            "own_flow": self.own_flow,
            "spread": self.spread,
            "settings": self.settings,
            "history": asdict(self.history_),
        }
        save_plugin(path, self.state_dict(), about, self.base_ if base is None else base)

    @classmethod
    def load(cls, path: str | Path, flow: nn.Module | None = None) -> Self:
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
            remedy = f"pass flow, a {about['flow']}"
            raise ValueError(f"{path} was made with a flow of your own: {remedy}")
        try:
            settings = about["settings"]
            if about["flow"] in SPREAD:  # files of earlier versions leave this default out
                settings = {"hidden_features": LEAST_WIDTH} | settings
            plugin = cls(
                about["latent_shape"],
                from_spec(about["condition"]),
                about["flow"] if flow is None else flow,
                spread=about["spread"],
                **settings,
            )
            plugin.condition.label_kind_ = about["labels"]["kind"]
            for column, indexed in zip(plugin.condition.columns, about["labels"]["indexed"]):
                column.indexed = indexed
            plugin.history_ = History(**about["history"])
            plugin.to(tensors["loc_"].dtype).load_state_dict(tensors)
        except (KeyError, RuntimeError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} is of another flow or damaged: {reason:.200}") from None
        plugin.base_ = base
        return plugin.eval()

    @inference
    def sample(
        self,
        y: object = None,
        n: int = 1,
        *,
        temperature: float = 1.0,
        confidence: float = 0.0,
        read_back: Callable[[Tensor], Tensor] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Draw latents z ~ p(z | y) (section 3.3).

        Args:
            y: one label or m of them. If the condition has ``unknown=True``, each sample draws
                what is unsaid from training labels that have what is said, or are nearest to it.
            n: latents for each label.
            temperature: standard deviation of the noise; below 1, samples lie nearer to the mode.
            confidence: draw again, up to ten times, what the plugin itself reads as asked with a
                smaller probability (eq. 17); the most probable draw is kept. Of several labels the
                least probable counts; of a quantity, its two-sided tail probability. 0: never.
            read_back: function of latents (m, *latent_shape); what it returns is read in their
                place, e.g. the latents of their objects: ``lambda z: encode(decode(z))``.
            seed: of all draws; None: torch's global generator.

        Returns:
            Latents (m·n, *latent_shape), label after label.

        Raises:
            ValueError, TypeError: n below 1, a temperature that is negative or not finite, a
                confidence outside [0, 1) or in vectors, or an unknown label.
        """
        checks.positive("n", n)
        checks.sampling(temperature, confidence)
        values = self.condition.values(y).to(self.loc_.device)
        values = self._requested(values).repeat_interleave(n, 0)
        generator = None if seed is None else self._generator(seed)
        filled = fill_values(self.condition, values, self.training_values_, generator)
        context = self.condition.context(filled).to(self.loc_)
        judged = self.condition.judged(values, confidence)

        def draw(rows: Tensor) -> tuple[Tensor, Tensor]:
            noise = standard_normal(self.loc_.expand(len(rows), -1), generator)
            z = self._inverse(temperature * noise, context[rows])
            fine = ~self.overflowed(z)
            sure = torch.where(fine, 0.0, -1.0).to(z)
            if confidence and fine.any():
                rows, seen = rows[fine], z[fine]
                if read_back:
                    seen = self._flat(read_back(self._shaped(seen)), "what read_back returns")
                sure[fine] = self._confidence(seen, values[rows], judged[rows])
            return z, sure

        rows = torch.arange(len(context), device=context.device)
        z, first, sure = draw_again(draw, rows, confidence)
        self.report_draws(first, sure, confidence)
        return self._shaped(self.clamp(z, sure < 0))

    @inference
    def log_posterior(self, z: Tensor, prior: str | Tensor = "flat") -> Tensor:
        """log P(y | z) (n, K) by Bayes' rule (eqs. 15, 16).

        Args:
            z: latents (n, *latent_shape).
            prior: "flat", "train" (the frequencies that ``fit`` saw), or probabilities (K,).

        Raises:
            TypeError: a plugin for attributes, which do not exclude each other.
        """
        if not isinstance(self.condition, Classes):
            raise TypeError(f"Bayes' rule chooses among Classes, not {self.condition}; see read")
        z = self._flat(z)
        contexts = torch.eye(len(self.condition)).to(self.loc_)
        log_likelihood = self.flow.class_log_prob(self.standardise(z), contexts)
        return (log_likelihood + self._log_prior(prior)).log_softmax(-1)

    def predict(self, z: Tensor, prior: str | Tensor = "flat") -> Tensor:
        """The most probable class (n,) of each latent, an int64 index (eq. 17)."""
        return self.log_posterior(z, prior).argmax(-1)

    def _noise(self, z: Tensor, context: Tensor) -> Tensor:
        return self.flow.transform_to_noise(self.standardise(z), context)

    def _latent(self, noise: Tensor, context: Tensor) -> Tensor:
        z = self._inverse(noise, context)
        return self.clamp(z, self.overflowed(z))

    def _confidence(self, z: Tensor, asked: Tensor, judged: Tensor) -> Tensor:
        """How surely latents are read as asked (n,); 0 if they overflowed."""
        return self._reader().confidence(self.standardise(z), asked, judged).nan_to_num(0)

    @inference
    def _read(self, z: Tensor, y: object) -> tuple[Tensor, Tensor]:
        """Values (n, V) of latents, and how sure they are (n, parts)."""
        flat = self._flat(z)
        nothing = torch.full((1, self.condition.width), torch.nan)
        known = self._rows(nothing if y is None else self.condition.values(y), flat)
        return self._reader().read(self.standardise(flat), known)

    def _log_prior(self, prior: str | Tensor) -> Tensor:
        if isinstance(prior, str):
            priors = {"flat": torch.zeros_like(self.log_prior_), "train": self.log_prior_}
            checks.known("prior", prior, priors)
            return priors[prior]
        if prior is None:
            raise TypeError(f"prior must be 'flat', 'train' or {len(self.condition)} probabilities")
        prior = checks.numbers(prior, "prior").to(self.loc_)
        right_shape = prior.shape == self.log_prior_.shape
        if not right_shape or (prior < 0).any() or not 0.999 < prior.sum() < 1.001:
            said = f"prior must be {len(self.condition)} probabilities that sum to 1"
            raise ValueError(f"{said}, got {prior.tolist()}")
        return prior.log()
