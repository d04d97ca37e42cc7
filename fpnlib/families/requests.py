"""Latents for requested quantities: by a plugin, by PluGeN, and by three simpler ways."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from sklearn.neighbors import NearestNeighbors
from sklearn.neural_network import MLPRegressor
from torch import Tensor

from fpnlib.base_models.frozen import Frozen
from fpnlib.families.editing import plugen
from fpnlib.families.encoding import Latents, Sampler, sampler
from fpnlib.families.study import Study
from fpnlib.plugin import FlowPlugin
from fpnlib.reading import best_of

NEAREST = 50  # training latents of which one is drawn for a request
LEARNED = 50_000  # training latents behind the predictor and the search for neighbours


class LinearGaussian:
    """A Gaussian of quantities and latents together, conditioned on what is asked for.

    Args:
        train: training latents with their quantities.
    """

    def __init__(self, train: Latents):
        self.quantities = train.y.shape[1]
        both = torch.cat([train.y, train.draw], 1).double()
        self.mean, self.covariance = both.mean(0), both.T.cov()

    def sample(self, asked: Tensor, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Draw latents (n, D) for requests (n, q), with NaN for what is unsaid."""
        generator = torch.Generator().manual_seed(seed)
        z = self.mean[self.quantities :].repeat(len(asked), 1)
        noise = temperature * torch.randn(z.shape, generator=generator, dtype=z.dtype)
        for said in (~asked.isnan()).unique(dim=0):
            rows = (~asked.isnan() == said).all(1)
            known = said.nonzero()[:, 0]
            given = self.covariance[known][:, known]
            across = self.covariance[self.quantities :, known]
            weights = torch.linalg.solve(given, across.T).T
            left = self.covariance[self.quantities :, self.quantities :] - weights @ across.T
            beyond = asked[rows][:, known].double() - self.mean[known]
            z[rows] += beyond @ weights.T + noise[rows] @ torch.linalg.cholesky(left).T
        return z.float()


class Neighbours:
    """One of the training latents whose quantities are nearest to the request, with noise.

    Args:
        train: training latents with their quantities.
        noise: its standard deviation, as a share of the latents'.
    """

    def __init__(self, train: Latents, noise: float):
        self.z, self.y = train.draw[:LEARNED], train.y[:LEARNED]
        self.noise = noise * self.z.std(0)

    def sample(self, asked: Tensor, seed: int = 0) -> Tensor:
        """Draw latents (n, D) for requests (n, q), with NaN for what is unsaid."""
        generator = torch.Generator().manual_seed(seed)
        z = self.noise * torch.randn(len(asked), self.z.shape[1], generator=generator)
        chosen = torch.randint(NEAREST, (len(asked),), generator=generator)
        scaled = self.y / self.y.std(0)
        for said in (~asked.isnan()).unique(dim=0):
            rows = (~asked.isnan() == said).all(1).nonzero()[:, 0]
            search = NearestNeighbors(n_neighbors=NEAREST).fit(scaled[:, said].numpy())
            wanted = (asked / self.y.std(0))[rows][:, said]
            found = torch.from_numpy(search.kneighbors(wanted.numpy(), return_distance=False))
            z[rows] += self.z[found[torch.arange(len(rows)), chosen[rows]]]
        return z


class Rejection:
    """The best of many unconditional latents of a plugin, by a predictor on latents.

    Args:
        plugin: draws the latents.
        train: training latents with their quantities, from which the predictor learns.
        candidates: latents drawn for each that is kept.
    """

    def __init__(self, plugin: FlowPlugin, train: Latents, candidates: int = 64):
        self.plugin, self.candidates = plugin, candidates
        self.mean, self.scale = train.y.mean(0), train.y.std(0)
        self.predictor = MLPRegressor(
            hidden_layer_sizes=(128, 128), early_stopping=True, random_state=0
        )
        scaled = (train.y[:LEARNED] - self.mean) / self.scale
        self.predictor.fit(train.draw[:LEARNED].numpy(), scaled.numpy())

    def sample(self, asked: Tensor, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Draw latents (n, D) for requests (n, q), with NaN for what is unsaid."""
        kept = []
        for number, some in enumerate(asked.split(1000)):
            n = self.candidates * len(some)
            z = self.plugin.sample(n=n, temperature=temperature, seed=seed + number)
            read = torch.from_numpy(self.predictor.predict(z.numpy()))
            wanted = ((some - self.mean) / self.scale).repeat_interleave(self.candidates, 0)
            misses = (read - wanted).square().nan_to_num(0).sum(1)
            kept.append(best_of(z, -misses, self.candidates))
        return torch.cat(kept)


def read_back(sample: Sampler, base: Frozen, plugin: FlowPlugin, candidates: int) -> Sampler:
    """Return a way that decodes several latents for a request and keeps the best of them.

    As in ``FlowPluginNetwork.generate`` each object is encoded again, and the one whose latent is
    the most probable for the request is kept.

    Args:
        sample: draws the latents.
        base: the autoencoder.
        plugin: has the probabilities.
        candidates: latents for a request.
    """

    def draw(asked: Tensor, seed: int) -> Tensor:
        many = asked.repeat_interleave(candidates, 0)
        z = sample(many, seed)
        return best_of(z, plugin.log_prob(base.encode(base.decode(z)), many), candidates)

    return draw


def request_samplers(
    study: Study, noise: float, candidates: int, base: str = ""
) -> dict[str, Sampler]:
    """Return the ways to draw latents for requests (n, q), by name: the plugin first.

    All but the neighbours' noise have the family's ``temperature``.

    Args:
        study: of a family with quantities.
        noise: on neighbours' latents, as a share of their deviation.
        candidates: latents that are decoded for a request by the ways that read back.
        base: name of the base model; empty: the first.
    """
    train, plugin = study.latents(base).train, study.plugin(base)
    model = Frozen(study.base(base))
    warm: dict[str, Sampler] = {
        "C-MAF": sampler(plugin),
        "PluGeN": plugen(study, base).sample,
        "linear Gaussian": LinearGaussian(train).sample,
        "rejection": Rejection(plugin, train).sample,
    }
    temperature = study.settings["temperature"]
    ways: dict[str, Sampler] = {}
    for name, way in warm.items():
        ways[name] = partial(way, temperature=temperature)
    ways["nearest neighbours"] = Neighbours(train, noise).sample
    for name, way in list(ways.items()):
        ways[f"{name}, read back"] = read_back(way, model, plugin, candidates)
    ways["C-MAF, drawn again"] = partial(ways["C-MAF"], confidence=study.settings["confidence"])
    return ways


def targets(y: Tensor, columns: Sequence[int], n: int) -> Tensor:
    """Return requests (n, q) for some quantities, with NaN for the others.

    They are what real molecules have, as far as all of it lies between the 5th and the 95th
    percentile, so that what is asked for goes together.

    Args:
        y: quantities (m, q) of real molecules.
        columns: of those to ask for.
        n: requests; the molecules repeat if they are fewer.
    """
    low, high = y.quantile(0.05, 0), y.quantile(0.95, 0)
    usual = ((y >= low) & (y <= high))[:, columns].all(1).nonzero()[:, 0]
    rows = usual[torch.arange(n) % len(usual)]
    asked = torch.full((n, y.shape[1]), torch.nan)
    asked[:, columns] = y[rows][:, columns]
    return asked
