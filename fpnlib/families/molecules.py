"""Molecules on request: MOSES or NCI's, a SELFIES VAE, and a plugin for five quantities.

The paper's outlook names other kinds of data; PluGeN (Wołczyk et al. 2022, arXiv:2109.09011), by
some of its authors, asks a frozen autoencoder of molecules for such properties.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fpnlib.base_models import SelfiesVAE
from fpnlib.conditions import Reals
from fpnlib.data import Split
from fpnlib.families.family import Base, Family, Plug, Settings, training_of

QUANTITIES = ("logP", "TPSA", "SA", "QED", "weight")
"""Those of ``data.molecules.PROPERTIES``, which needs RDKit."""
# Learning rates are the peaks of a one-cycle schedule.
VAE_TRAINING = {"batch_size": 128, "learning_rate": 2e-3, "clip_norm": 1.0}
FLOW_TRAINING = {"batch_size": 1024, "learning_rate": 3e-3, "clip_norm": 5.0}
EPOCH = 100_000  # molecules that the VAE sees between two checkpoints


def _view(split: Split, settings: Settings, generator: torch.Generator | None) -> tuple:
    """View the validation split whole, and of the training split other molecules in each epoch."""
    if generator is None or len(split) <= EPOCH:
        return split.x, split.y
    rows = torch.randperm(len(split), generator=generator)[:EPOCH]
    return split.x[rows], split.y[rows]


def _flow_shape(settings: Settings) -> dict[str, Any]:
    layers = {"num_layers": settings["flow_layers"], "num_blocks": 2}
    return layers | {"hidden_features": settings["flow_width"]}


def _read(tokens: Tensor) -> Tensor:
    """The quantities (n, 5) of tokens (n, length) by RDKit, which no sampler asks."""
    from fpnlib.data.molecules import properties, to_smiles  # RDKit, which only molecules need

    return properties(to_smiles(tokens))


def _scores(judge: Callable[[Tensor], Tensor], test: Split) -> Callable:
    """Return a function that scores molecules for requests (n, 5), in deviations of the test's."""
    from fpnlib.metrics.molecules import request_scores

    spread = test.y.std(0)
    return lambda tokens, asked: request_scores(judge(tokens), asked, spread)


MOLECULES = Family(
    name="molecules",
    dataset="nci",
    kind="quantity",
    settings={
        "train_molecules": 250_000,  # at most so many to train on
        "vae_epochs": 40,  # of 100,000 molecules each; together an hour or two of a core
        "flow_layers": 6,
        "flow_width": 192,
        "flow_epochs": 10,
        "confidence": 0.5,  # latents read as asked with less of it are drawn again
        "temperature": 0.7,  # of latents for a request
    },
    options=lambda settings: {"molecules": settings["train_molecules"]},
    condition=lambda dataset, names: Reals(names, unknown=True),
    bases={
        "SelfiesVAE": Base(
            build=lambda data, settings: SelfiesVAE(),
            training=training_of(VAE_TRAINING, "vae_epochs"),
            settings=("train_molecules", "vae_epochs"),
            view=_view,
            pretrained_on="moses",
            flows={
                "maf": Plug(
                    shape=_flow_shape,
                    training=training_of(FLOW_TRAINING, "flow_epochs"),
                    settings=("train_molecules", "flow_"),
                )
            },
        )
    },
    judge=_read,
    score=_scores,
)
