"""Arrays and labels of every kind: a function takes what the door takes, and gives the same."""

import re
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from lamps import lamps
from laws import one_line, untrained_judge
from torch import nn

from fpnlib import Classes, FlowPlugin, FlowPluginNetwork, adapt, checks
from fpnlib.base_models import ConvVAE
from fpnlib.baselines import logistic_regression
from fpnlib.metrics.editing import MeanDifferences
from fpnlib.metrics.images import diversity, frechet_distance, right_class_rate
from fpnlib.metrics.latents import class_separation, two_sample_accuracy
from fpnlib.rivals import ClassMixtures
from fpnlib.training import fit
from fpnlib.widgets import AttributeEditor, DigitExplorer

Y = torch.arange(60) % 3
NOISE = torch.randint(-8, 9, (60, 4), generator=torch.Generator().manual_seed(0)) / 4
Z = NOISE + 4 * Y[:, None]

ARRAYS = {
    "numpy": lambda z: z.numpy(),
    "doubles": lambda z: z.double(),
    "big-endian": lambda z: z.numpy().astype(">f4"),
    "turned round": lambda z: z.flip(0).numpy()[::-1],
    "objects": lambda z: z.numpy().astype(object),
    "lists": lambda z: z.tolist(),
    "with a graph": lambda z: z.clone().requires_grad_() * 1,
    "table": lambda z: pd.DataFrame(z.numpy()),
    "half": lambda z: z.half(),
    "bfloat16": lambda z: z.bfloat16(),
    "whole numbers": lambda z: (4 * z).long(),
    "complex": lambda z: z.cfloat(),
    "texts": lambda z: z.numpy().astype(str),
    "NaN": lambda z: z.where(z > 0, torch.nan),
}
LABELS = {
    "numpy": lambda y: y.numpy(),
    "bytes of a file": lambda y: y.numpy().astype(np.uint8),
    "list": lambda y: y.tolist(),
    "column": lambda y: y[:, None],
    "column of a table": lambda y: pd.Series(y.numpy(), index=range(100, 160)),
    "floats": lambda y: y.double(),
    "one-hot": lambda y: torch.eye(3)[y],
    "with gaps": lambda y: y.where(y > 0, torch.nan),
    "halves": lambda y: y / 2,
    "texts": lambda y: [str(k) for k in y.tolist()],
    "bytes": lambda y: [str(k).encode() for k in y.tolist()],
    "array of texts": lambda y: y.numpy().astype(str),
    "category": lambda y: pd.Series(y.numpy()).astype("category"),
    "None": lambda y: [None, *y.tolist()[1:]],
    "pd.NA": lambda y: pd.array([pd.NA, *y.tolist()[1:]], dtype="Int64"),
    "bfloat16": lambda y: y.bfloat16(),
}


def judge():
    """A judge whose class is the largest of three numbers."""
    return untrained_judge(nn.Identity(), 3, prepare=checks.latents)


def regression(z, y):
    return logistic_regression(z, y, z, y, grid=(1.0,), n_jobs=1).test_accuracy


def plugin():
    torch.manual_seed(0)
    return FlowPlugin(4, Classes(range(3)), num_layers=1, hidden_features=4)


@cache
def fitted():
    return plugin().fit(Z, Y, epochs=1, progress=False)


def network():
    return FlowPluginNetwork(adapt(None, encode=lambda x: x, decode=lambda z: z), fitted())


def fit_plugin(z, y, **more):
    return plugin().fit(z, y, epochs=1, progress=False, **more).log_prob(Z, Y)


OF_ARRAYS = {
    "fit": lambda z: fit_plugin(z, Y),
    "fit with std": lambda z: fit_plugin(Z, Y, std=checks.latents(z).abs()),
    "validation": lambda z: fit_plugin(Z, Y, validation=(z, Y)),
    "log_prob": lambda z: fitted().log_prob(z, Y),
    "to_noise": lambda z: fitted().to_noise(z, Y),
    "from_noise": lambda z: fitted().from_noise(z, Y),
    "predict": lambda z: fitted().predict(z),
    "log_posterior": lambda z: fitted().log_posterior(z),
    "read": lambda z: fitted().read(z).to_numpy(),
    "edit": lambda z: fitted().edit(z, to=1),
    "classify": lambda z: network().classify(z),
    "frechet_distance": lambda z: frechet_distance(z, Z + 1),
    "two_sample_accuracy": lambda z: two_sample_accuracy(z, Z.flip(1)),
    "class_separation": lambda z: class_separation(z, Y),
    "diversity": lambda z: diversity(z, Y),
    "right_class_rate": lambda z: right_class_rate(judge(), z, Y),
    "ClassMixtures": lambda z: ClassMixtures(z, Y, 1).means,
    "MeanDifferences": lambda z: MeanDifferences(z, torch.eye(3)[Y]).directions,
    "logistic_regression": lambda z: regression(z, Y),
}
OF_LABELS = {
    "fit": lambda y: fit_plugin(Z, y),
    "validation": lambda y: fit_plugin(Z, Y, validation=(Z, y)),
    "log_prob": lambda y: fitted().log_prob(Z, y),
    "to_noise": lambda y: fitted().to_noise(Z, y),
    "from_noise": lambda y: fitted().from_noise(Z, y),
    "sample": lambda y: fitted().sample(y, seed=0),
    "generate": lambda y: network().generate(y, seed=0),
    "edit from": lambda y: network().edit(Z, y, to=2),
    "edit to": lambda y: network().edit(Z, Y, to=y),
    "class_separation": lambda y: class_separation(Z, y),
    "diversity": lambda y: diversity(Z, y),
    "right_class_rate": lambda y: right_class_rate(judge(), Z, y),
    "ClassMixtures": lambda y: ClassMixtures(Z, y, 1).means,
    "logistic_regression": lambda y: regression(Z, y),
}


def refusal(door):
    """What a door raises; None if it takes what it is given."""
    try:
        door()
    except (TypeError, ValueError) as error:
        return error
    return None


@cache
def expected(function, whole=False, labels=False):
    """What a function gives for plain arrays or labels."""
    return torch.as_tensor(function(Y if labels else 4 * Z if whole else Z)).float()


def agrees(function, given, refused, **plain):
    """Hold a function to what the door says of its input."""
    if refused is not None:
        _, said = str(refused).split(" ", 1)  # after the name of what is refused
        with one_line(type(refused), re.escape(said)):
            function(given)
        return
    found = torch.as_tensor(function(given))
    near = 0.02 if found.dtype in checks.HALF else 1e-4
    torch.testing.assert_close(found.float(), expected(function, **plain), atol=near, rtol=near)


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("name", OF_ARRAYS)
def test_arrays(name, kind):
    given = ARRAYS[kind](Z)
    refused = refusal(lambda: checks.latents(given))
    agrees(OF_ARRAYS[name], given, refused, whole=kind == "whole numbers")


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("name", OF_LABELS)
def test_labels(name, kind):
    given = LABELS[kind](Y)
    refused = refusal(lambda: checks.labels(given, range(3)))
    agrees(OF_LABELS[name], given, refused, labels=True)


def test_a_fit_to_latents_with_a_graph_reaches_no_base_model():
    z = Z.clone().requires_grad_()
    fit_plugin(z * 1, Y, std=z.exp(), validation=(z * 1, Y))
    assert z.grad is None


@pytest.mark.parametrize("kind", ["numpy", "with a graph"])
def test_a_fit_takes_arrays_and_no_gradient_leaves_it(kind):
    def weights(x):
        torch.manual_seed(0)
        net = nn.Linear(4, 1)
        fit(net, lambda x: net(x).square().mean(), (x,), (x,), epochs=2, batch_size=20,
            learning_rate=0.1)  # fmt: skip
        return net.weight

    assert torch.equal(weights(ARRAYS[kind](Z)), weights(Z))


@pytest.mark.parametrize("part", ["train", "validation"])
def test_images_of_another_range_are_refused_before_the_first_epoch(part):
    x, model = torch.rand(8, 1, 28, 28), ConvVAE(latent_dim=2)
    before = model.fc_mu.weight.clone()
    train, held_out = (255 * x, x) if part == "train" else (x, 255 * x)
    with one_line(ValueError, r"must lie in \[0, 1\]"):
        fit(model, model.loss, (train,), (held_out,), epochs=1, batch_size=8, learning_rate=0.1)
    assert torch.equal(model.fc_mu.weight, before)


def test_the_editor_takes_arrays():
    network, x, y = lamps()
    given = AttributeEditor(network, x.numpy(), y.tolist())
    assert given.edited.value == AttributeEditor(network, x, y).edited.value
    assert not given.message.value


class Decoder:
    """A base model that draws one picture for all latents."""

    latent_dim = 2

    def __init__(self, picture):
        self.picture = picture

    def encode(self, x):
        return x.flatten(1)[:, :2]

    def decode(self, z):
        return self.picture.expand(len(z), *self.picture.shape)


@pytest.mark.parametrize(
    ("picture", "remedy"),
    [
        (2 * torch.rand(1, 8, 8) - 1, "(x + 1) / 2"),
        (255 * torch.rand(3, 8, 8), "x / 255"),
        (torch.full((1, 8, 8), 200, dtype=torch.uint8), "x / 255"),
        (torch.rand(8, 8, 3), "x.permute(2, 0, 1)"),
        (torch.rand(8, 8, 1), "x.permute(2, 0, 1)"),
        (torch.rand(4, 8, 8), "x[:3]"),
        (torch.rand(8, 8), "must have shape (1 or 3, h, w), got (8, 8)"),
    ],
    ids=["tanh", "0 to 255", "bytes", "channels last", "grey channels last", "RGBA", "flat"],
)
def test_the_explorer_refuses_what_is_no_picture_and_names_the_remedy(picture, remedy):
    y = torch.arange(60) % 2
    plugin = FlowPlugin(2, Classes("ab"), num_layers=1, hidden_features=4)
    plugin.fit(Z[:, :2], y, epochs=1)
    with one_line(ValueError, "a picture must") as caught:
        DigitExplorer(FlowPluginNetwork(Decoder(picture), plugin))
    assert remedy in str(caught.value)
