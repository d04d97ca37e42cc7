"""What a plugin's quality depends on: small trainings, one factor at a time, several seeds."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from sklearn.decomposition import PCA
from torch import Tensor
from tqdm.auto import tqdm

from fpnlib.families.encoding import Encoded, Latents, Sampler
from fpnlib.families.generation import first_of_each
from fpnlib.families.study import Study
from fpnlib.plugin import FlowPlugin
from fpnlib.rivals import POOLED, ClassGaussians, likeliest

TRAINING = {"batch_size": 128, "learning_rate": 4e-3, "clip_norm": 5.0, "progress": False}
MOST_EPOCHS = 200


@dataclass(frozen=True)
class Setup:
    """A plugin, or Gaussians in its place, and what it learns from.

    Args:
        base: name of a base model of the family, or "PCA 20": 20 principal components.
        flow: "maf", "realnvp" or "spline"; "Gaussian" for one Gaussian a class, whose covariance
            is pooled as far as held-out latents ask.
        layers: of the flow.
        width: hidden features of the flow.
        noise: on latents without posteriors, in their deviations.
        labelled: latents to learn from, as many of each class; a tenth chooses the epoch. 0: all.
        seen: latents that a training sees in all its epochs.
    """

    base: str
    flow: str = "maf"
    layers: int = 5
    width: int = 64
    noise: float = 0.0
    labelled: int = 0
    seen: int = 20_000


def compare_setups(
    study: Study, setups: Mapping[str, Setup], seeds: int, samples: int
) -> pd.DataFrame:
    """Train every setup with every seed, and score what it generates and reads.

    The scores of each setup are kept in the run.

    Args:
        study: of a family with classes.
        setups: by the labels of the table.
        seeds: number of trainings of each setup.
        samples: latents drawn for the classes of the first test objects, to decode and score.

    Returns:
        One row for each setup and seed: "setup", "seed", the family's scores, and the "accuracy" of
        Bayes' rule on one draw of each of these test objects.
    """
    tables = []
    for label, setup in tqdm(setups.items(), unit="setup"):
        parents = [study.judge().key_]
        if setup.base in study.family.bases:
            parents.append(study.base(setup.base).key_)
        key = study.key("setup/1", asdict(setup) | {"seeds": seeds, "samples": samples}, *parents)

        def make(setup: Setup = setup) -> dict:
            space = _space(study, setup.base)
            first = study.run.seed
            rows = [_scores(study, setup, *space, first + i, samples) for i in range(seeds)]
            return {"rows": rows}

        kept = study.run.cache.values(f"setup_{key.digest}", key, make)
        tables.append(pd.DataFrame(kept["rows"]).assign(setup=label))
    return pd.concat(tables, ignore_index=True)


def mean_and_spread(scores: pd.DataFrame, measures: list[str]) -> pd.DataFrame:
    """Return each setup's mean and standard deviation (n - 1) over the seeds of each measure."""
    of_setups = scores.groupby("setup", sort=False)[measures]
    return of_setups.mean().join(of_setups.std().add_suffix(" ±")).reset_index()


def lead_over(scores: pd.DataFrame, ours: str, rival: str, measure: str) -> tuple[float, float]:
    """Return a setup's mean lead over another on the same seeds, and its standard error.

    >>> rows = {"setup": ["a", "a", "b", "b"], "seed": [0, 1, 0, 1], "right class": [3, 5, 1, 2]}
    >>> lead_over(pd.DataFrame(rows), "a", "b", "right class")
    (2.5, 0.5)
    """
    by_seed = scores.pivot(index="seed", columns="setup", values=measure)
    apart = by_seed[ours] - by_seed[rival]
    return float(apart.mean()), float(apart.sem())


def _scores(
    study: Study, setup: Setup, latents: Encoded, decode: Callable, seed: int, samples: int
) -> dict[str, float]:
    train, held_out = _labelled(latents.train, len(study.names), setup.labelled, seed)
    shown, y = latents.test.draw[:samples], latents.test.y[:samples]
    with warnings.catch_warnings(action="ignore"):  # a flow behind Gaussians; latents clamped
        sample, predict = _fitted(study, setup, train, held_out, seed)
        z = sample(y, seed=seed)
    scores = {"seed": seed} | study.score(decode(z), y)
    scores["accuracy"] = (predict(shown).cpu() == y.cpu()).double().mean().item()
    return scores


def _fitted(
    study: Study, setup: Setup, train: Latents, held_out: Latents, seed: int
) -> tuple[Sampler, Callable[[Tensor], Tensor]]:
    """Train a flow or fit Gaussians; return ways to draw latents and to read their classes."""
    if setup.flow == "Gaussian":
        fit = partial(ClassGaussians, train.draw, train.y)
        _, gaussians = likeliest(fit, POOLED, held_out.draw, held_out.y)
        return gaussians.sample, lambda z: gaussians.log_prob(z).argmax(1)
    shape = {"num_layers": setup.layers, "hidden_features": setup.width}
    torch.manual_seed(seed)
    plugin = FlowPlugin(train.mean.shape[1], study.condition, setup.flow, **shape)
    training: dict[str, Any] = {"std": train.std} if train.std.any() else {"noise": setup.noise}
    training["epochs"] = max(1, min(MOST_EPOCHS, setup.seen // len(train.y)))
    training |= {"validation": (held_out.draw, held_out.y), "seed": seed} | TRAINING
    plugin.to(train.mean.device).fit(train.mean, train.y, **training)
    return plugin.sample, plugin.predict


def _labelled(latents: Latents, classes: int, labelled: int, seed: int) -> tuple[Latents, Latents]:
    """Return as many latents of each class, drawn by seed: nine tenths, and one to validate on."""
    order = torch.randperm(len(latents.y), generator=torch.Generator().manual_seed(seed))
    labelled = labelled or len(order)
    if not 2 * classes <= labelled <= len(order):
        wanted = f"from {2 * classes} to {len(order):,} latents"
        raise ValueError(f"a setup of {classes} classes learns {wanted}, not {labelled:,}")
    y, each = latents.y.cpu()[order], labelled // classes
    chosen = first_of_each(y, each, range(classes))
    held_out = first_of_each(y, max(1, each // 10), range(classes))
    train = chosen[~torch.isin(chosen, held_out)]
    return _rows(latents, order[train]), _rows(latents, order[held_out])


def _rows(latents: Latents, rows: Tensor) -> Latents:
    return Latents(*[part[rows.to(part.device)] for part in vars(latents).values()])


def _space(study: Study, base: str) -> tuple[Encoded, Callable[[Tensor], Tensor]]:
    """Return the latents under a base model, and its decoding."""
    kind, _, size = base.partition(" ")
    if kind != "PCA":
        return study.latents(base), partial(study.decode, base)
    shape = study.data.train.x.shape[1:]
    pca = PCA(int(size), random_state=0).fit(study.data.train.x.flatten(1))

    def encode(split: str) -> Latents:
        part = getattr(study.data, split)
        z = torch.from_numpy(pca.transform(part.x.flatten(1))).float()
        return Latents(z, torch.zeros_like(z), z, part.y)

    def decode(z: Tensor) -> Tensor:
        pixels = torch.from_numpy(pca.inverse_transform(z.numpy(force=True)))
        return pixels.float().clamp(0, 1).unflatten(1, shape)

    return Encoded(encode, base), decode
