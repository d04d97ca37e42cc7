"""A toy family: a dozen vectors a split, of two classes, and a linear autoencoder."""

import torch
from torch import nn

from fpnlib.conditions import Classes
from fpnlib.data import Dataset, Split
from fpnlib.families import Base, Family, Plug, Trained
from fpnlib.metrics.judge import Judge


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.latent_dim, self.config = 3, {"latent_dim": 3}
        self.encode, self.decode = nn.Linear(6, 3), nn.Linear(3, 6)

    def loss(self, x, y):
        return (self.decode(self.encode(x)) - x).square().mean()


def load_vectors(root=None, seed=0, download=False):
    generator, y = torch.Generator().manual_seed(seed), torch.arange(2).repeat(6)
    splits = []
    for _ in range(3):
        x = 4 * y[:, None] + torch.randn(12, 6, generator=generator)
        splits.append(Split(x, y))
    return Dataset("vectors", *splits, ("low", "high"), f"checksum of seed {seed}")


def training(epochs):
    return lambda data, s: {"batch_size": 6, "learning_rate": 1e-2, "epochs": s[epochs]}


FLOW = Plug(
    shape=lambda s: {"hidden_features": s["flow_width"], "num_layers": 2},
    training=training("flow_epochs"),
    settings=("flow_epochs", "flow_width"),
    noise=0.05,
)
BASE = Base(
    build=lambda data, s: Linear(),
    training=training("epochs"),
    settings=("epochs",),
    flows={"maf": FLOW, "realnvp": FLOW},
)
VECTORS = Family(
    name="vectors",
    dataset="vectors:load_vectors",
    settings={"epochs": 2, "flow_epochs": 2, "flow_width": 4, "flow_seed": 0, "judge_epochs": 1},
    condition=lambda dataset, names: Classes(names),
    bases={"Linear": BASE},
    judge=Trained(
        build=lambda data, s: Judge(nn.Linear(6, 4), 4, outputs=2),
        training=training("judge_epochs"),
        settings=("judge_epochs",),
    ),
)
