"""Latents for requested quantities: by a plugin, by PluGeN, and by three simpler ways."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from sklearn.neighbors import NearestNeighbors
from sklearn.neural_network import MLPRegressor
from torch import Tensor
from torch.nn.functional import pad

from fpnlib.base_models.frozen import Frozen
from fpnlib.families.editing import plugen
from fpnlib.families.encoding import Latents, Sampler
from fpnlib.families.study import Study
from fpnlib.plugin import FlowPlugin
from fpnlib.reading import best_of

NEAREST = 50  # training latents of which one is drawn for a request
LEARNED = 50_000  # training latents behind the predictor and the search for neighbours
CANDIDATES = 64  # unconditional latents of which one is kept for a request


def _linear_gaussian(train: Latents, asked: Tensor, seed: int, temperature: float) -> Tensor:
    """Draw from a Gaussian of quantities and latents together, given the quantities asked for."""
    both, quantities = torch.cat([train.y, train.draw], 1).double(), train.y.shape[1]
    mean, covariance = both.mean(0), both.T.cov()
    generator = torch.Generator().manual_seed(seed)
    z = mean[quantities:].repeat(len(asked), 1)
    noise = temperature * torch.randn(z.shape, generator=generator, dtype=z.dtype)
    for said in (~asked.isnan()).unique(dim=0):
        rows = (~asked.isnan() == said).all(1)
        known = said.nonzero()[:, 0]
        given = covariance[known][:, known]
        across = covariance[quantities:, known]
        weights = torch.linalg.solve(given, across.T).T
        left = covariance[quantities:, quantities:] - weights @ across.T
        beyond = asked[rows][:, known].double() - mean[known]
        z[rows] += beyond @ weights.T + noise[rows] @ torch.linalg.cholesky(left).T
    return z.float()


def _neighbours(train: Latents, noise: float, asked: Tensor, seed: int) -> Tensor:
    """Draw one of the training latents whose quantities are nearest to the request, with noise.

    The noise is a share of the latents' deviation.
    """
    latents, y = train.draw[:LEARNED], train.y[:LEARNED]
    generator = torch.Generator().manual_seed(seed)
    z = noise * latents.std(0) * torch.randn(len(asked), latents.shape[1], generator=generator)
    nearest = min(NEAREST, len(latents))
    chosen = torch.randint(nearest, (len(asked),), generator=generator)
    for said in (~asked.isnan()).unique(dim=0):
        rows = (~asked.isnan() == said).all(1).nonzero()[:, 0]
        scaled = pad((y / y.std(0))[:, said], (0, 1))  # with a column of zeros, if nothing is said
        search = NearestNeighbors(n_neighbors=nearest).fit(scaled.numpy())
        wanted = pad((asked / y.std(0))[rows][:, said], (0, 1))
        found = torch.from_numpy(search.kneighbors(wanted.numpy(), return_distance=False))
        z[rows] += latents[found[torch.arange(len(rows)), chosen[rows]]]
    return z


def _rejection(plugin: FlowPlugin, train: Latents) -> Sampler:
    """Return a way that keeps the best of many unconditional latents, by a predictor on latents."""
    mean, scale = train.y.mean(0), train.y.std(0)
    scaled = (train.y[:LEARNED] - mean) / scale
    predictor = MLPRegressor(hidden_layer_sizes=(128, 128), early_stopping=True, random_state=0)
    predictor.fit(train.draw[:LEARNED].numpy(), scaled.numpy())

    def sample(asked: Tensor, seed: int, temperature: float) -> Tensor:
        kept = []
        for number, some in enumerate(asked.split(1000)):
            n = CANDIDATES * len(some)
            z = plugin.sample(n=n, temperature=temperature, seed=seed + number).cpu()
            read = torch.from_numpy(predictor.predict(z.numpy()))
            wanted = ((some - mean) / scale).repeat_interleave(CANDIDATES, 0)
            misses = (read - wanted).square().nan_to_num(0).sum(1)
            kept.append(best_of(z, -misses, CANDIDATES))
        return torch.cat(kept)

    return sample


def _read_back(sample: Sampler, base: Frozen, plugin: FlowPlugin, candidates: int) -> Sampler:
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
    latents, plugin = study.latents(base).train, study.plugin(base)
    train = Latents(*map(Tensor.cpu, vars(latents).values()))  # for NumPy and scikit-learn
    model, temperature = Frozen(study.base(base)), study.settings["temperature"]

    def ours(asked: Tensor, seed: int, **settings: float) -> Tensor:
        return plugin.sample(asked, seed=seed, temperature=temperature, **settings)

    ways: dict[str, Sampler] = {
        "C-MAF": ours,
        "PluGeN": partial(plugen(study, base).sample, temperature=temperature),
        "linear Gaussian": partial(_linear_gaussian, train, temperature=temperature),
        "rejection": partial(_rejection(plugin, train), temperature=temperature),
        "nearest neighbours": partial(_neighbours, train, noise),
    }
    for name, way in list(ways.items()):
        ways[f"{name}, read back"] = _read_back(way, model, plugin, candidates)
    ways["C-MAF, drawn again"] = partial(ours, confidence=study.settings["confidence"])
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
