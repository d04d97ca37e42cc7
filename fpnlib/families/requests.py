"""Latents for requested quantities: by a plugin, and by three ways without one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sklearn.neighbors import NearestNeighbors
from sklearn.neural_network import MLPRegressor
from torch import Tensor

from fpnlib.families.encoding import Latents, Sampler, sampler
from fpnlib.families.family import FLOW_NAMES
from fpnlib.families.study import Study
from fpnlib.plugin import FlowPlugin

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

    def sample(self, asked: Tensor, seed: int = 0) -> Tensor:
        """Draw latents (n, D) for requests (n, q), with NaN for what is unsaid."""
        generator = torch.Generator().manual_seed(seed)
        z = self.mean[self.quantities :].repeat(len(asked), 1)
        noise = torch.randn(z.shape, generator=generator, dtype=z.dtype)
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

    def sample(self, asked: Tensor, seed: int = 0) -> Tensor:
        """Draw latents (n, D) for requests (n, q), with NaN for what is unsaid."""
        wanted = (asked - self.mean) / self.scale
        kept = []
        for number, some in enumerate(wanted.split(1000)):
            z = self.plugin.sample(n=self.candidates * len(some), seed=seed + number)
            read = torch.from_numpy(self.predictor.predict(z.numpy()))
            groups = read.reshape(len(some), self.candidates, -1)
            misses = (groups - some[:, None]).square().nan_to_num(0).sum(2)
            best = misses.argmin(1) + self.candidates * torch.arange(len(some))
            kept.append(z[best])
        return torch.cat(kept)


def request_samplers(study: Study, noise: float, base: str = "") -> dict[str, Sampler]:
    """Return the ways to draw latents for requests (n, q), by name: the plugins first.

    Args:
        study: of a family with quantities.
        noise: on neighbours' latents, as a share of their deviation.
        base: name of the base model; empty: the first.
    """
    train, recipe = study.latents(base).train, study.recipe(base)[1]
    ways: dict[str, Sampler] = {}
    for flow in recipe.flows:
        ways[FLOW_NAMES[flow]] = sampler(study.plugin(base, flow))
    ways["linear Gaussian"] = LinearGaussian(train).sample
    ways["nearest neighbours"] = Neighbours(train, noise).sample
    ways["rejection"] = Rejection(study.plugin(base), train).sample
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
