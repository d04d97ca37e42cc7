"""Laws of the front door: any array, any labels, any base model, which stays exactly as it was."""

import warnings
from collections import OrderedDict
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from laws import one_line, refusals, same_state
from scipy.sparse import csr_matrix
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fpnlib import Attributes, Classes, FlowPlugin, FlowPluginNetwork, Reals, Several, Vector, adapt

pytestmark = pytest.mark.filterwarnings("ignore:the flow describes", "ignore:.*overflowed")

NAMES = ["cat", "dog", "owl"]
Y = torch.arange(90) % 3
X = torch.randn(90, 5, generator=torch.Generator().manual_seed(0)) + 3 * Y[:, None]
TEXTS = [NAMES[k] for k in Y]
QUICK = {"epochs": 2, "progress": False}


class Base(nn.Module):
    """A base model with batch norm and dropout, which a call in train mode would move."""

    latent_dim = 4

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.decoder = nn.Linear(4, 5)

    def encode(self, x):
        return self.encoder(x)

    def decode(self, z):
        return self.decoder(z)


class Coarse(Base):
    """Its objects show latents only roughly."""

    def decode(self, z):
        return super().decode(z).round()


def network(base=None, condition=None):
    torch.manual_seed(0)
    condition = Classes(NAMES) if condition is None else condition
    base = Base() if base is None else base
    return FlowPluginNetwork(base, condition, hidden_features=8, num_layers=2)


def batches(of_x, of_y):
    return [(of_x(X[rows]), of_y(rows)) for rows in torch.arange(90).split(40)]


OBJECTS = {
    "array": (X.numpy(), Y.numpy()),
    "doubles": (X.double(), Y),
    "lists": (X.tolist(), Y.tolist()),
    "sparse": (X.to_sparse(), Y),
    "SciPy's sparse": (csr_matrix(X.numpy()), Y),
    "list of tensors": ([*X], [*Y]),
    "column of arrays": (pd.Series([*X.numpy()]), Y),
    "table": (pd.DataFrame(X.numpy(), columns=[*"vwxyz"]), pd.Series(Y.numpy())),
    "DataLoader": (DataLoader(TensorDataset(X, Y), 40),),
    "Dataset": (TensorDataset(X, Y),),
    "batches of arrays": (batches(torch.Tensor.numpy, lambda rows: Y[rows].numpy()),),
    "batches of names": (batches(lambda x: x, lambda rows: [TEXTS[row] for row in rows]),),
    "generator": (pair for pair in batches(lambda x: x, lambda rows: pd.Series(Y[rows].numpy()))),
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_all_ways_to_give_the_data_fit_the_same(kind):
    given = OBJECTS[kind] if isinstance(OBJECTS[kind], tuple) else (OBJECTS[kind],)
    expected = network().fit(X, Y, **QUICK).generate("dog", 5, seed=0)
    assert torch.equal(network().fit(*given, **QUICK).generate("dog", 5, seed=0), expected)


def test_validation_may_be_a_loader_too():
    loader = DataLoader(TensorDataset(X[:30], Y[:30]), 16)
    by_pair = network().fit(X, Y, validation=(X[:30], Y[:30]), **QUICK).plugin.history_
    for batches in (loader, list(loader)):
        assert network().fit(X, Y, validation=batches, **QUICK).plugin.history_ == by_pair


def test_a_prior_is_of_classes():
    fpn = network(condition=Attributes(BOTH)).fit(X, TWO, **QUICK)
    with one_line(TypeError, "Bayes' rule chooses among Classes"):
        fpn.classify(X, "train")


RECORDS = [{"k": name, "size": size} for name, size in zip(TEXTS, X[:, 0].tolist())]
TWO, BOTH = torch.stack([Y == 0, Y == 1], 1), ["red", "tall"]
KINDS = {
    **{f"{dtype}": (Classes(range(3)), Y.to(dtype)) for dtype in (torch.uint8, torch.int32)},
    "names": (Classes(NAMES), TEXTS),
    "indices of names": (Classes(NAMES), Y),
    "array of names": (Classes(NAMES), np.array(TEXTS)),
    "column of names": (Classes(NAMES), pd.Series(TEXTS)),
    "category": (Classes(range(3)), pd.Series(Y.numpy()).astype("category")),
    "numbers out of order": (Classes([5, 3, 7]), torch.tensor([3, 5, 7])[Y]),
    "numbers as texts": (Classes(["7", "3", "5"]), np.array([3, 5, 7], "int16")[Y]),
    "another column": (Classes(NAMES), pd.DataFrame({"species": TEXTS})),
    "another column of bools": (Classes(["cat", "dog"]), pd.DataFrame({"dog": (Y > 0).numpy()})),
    "bools of two classes": (Classes(["cat", "dog"]), Y > 0),
    "array of bools": (Classes(["cat", "dog"]), (Y > 0).numpy()),
    "list of bools": (Classes(["cat", "dog"]), (Y > 0).tolist()),
    "column called type": (Several(type=Classes(NAMES)), {"type": TEXTS}),
    "bools": (Attributes(BOTH), TWO),
    "table of bools": (Attributes(BOTH), pd.DataFrame(TWO.numpy(), columns=BOTH)),
    "one bool": (Attributes(["red"]), TWO[:, 0].numpy()),
    "ordered": (Reals(["size"]), OrderedDict(size=X[:, 0])),
    "reals": (Reals(["size"]), X[:, 0].numpy()),
    "vector": (Vector(5), X),
    "column of vectors": (Vector(5), pd.Series([*X.numpy()])),
    "records": (Several(k=Classes(NAMES), size=Reals(["size"])), RECORDS),
    "mapping": (Several(k=Classes(NAMES), size=Reals(["size"])), {"k": TEXTS, "size": X[:, 0]}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_labels_come_back_in_the_kind_that_the_fit_had(kind):
    condition, y = KINDS[kind]
    fitted = network(condition=condition).fit(X, y, **QUICK)
    found = fitted.classify(X[:7])
    assert type(found) is (dict if isinstance(y, dict) else type(y))
    dtype = "int64" if kind == "category" else getattr(y, "dtype", None)
    assert str(getattr(found, "dtype", None)) == str(dtype)
    if isinstance(y, pd.DataFrame):
        assert list(fitted.read(X[:7]))[: len(y.columns)] == list(y)
        assert found.dtypes.equals(y.dtypes)
    if isinstance(condition, Classes):
        values = {str(label) for label in np.asarray(found).ravel()}
        assert values <= {str(label) for label in np.asarray(y).ravel()}
    first = next(iter(found.values())) if isinstance(y, dict) else found
    shape = () if isinstance(y, dict) else np.shape(y)[1:]
    assert np.shape(first) == (7, *shape)


def test_an_edit_reads_the_labels_where_they_are_not_given():
    fitted = network().fit(X, Y, **QUICK)
    read = fitted.classify(X)
    assert torch.equal(fitted.edit(X, to="owl"), fitted.edit(X, read, to="owl"))
    with pytest.raises(TypeError, match="say what to edit to"):
        fitted.edit(X, "owl")


class Spatial(nn.Module):
    """An encoder of squares (1, 2, 2), and a posterior around them."""

    def __init__(self, std):
        super().__init__()
        self.std = nn.Parameter(torch.tensor(std))

    def encode(self, x):
        mean = x[:, :4].unflatten(1, (1, 2, 2))
        return torch.distributions.Normal(mean, self.std.expand_as(mean)) if self.std else mean

    def decode(self, z):
        assert z.shape[1:] == (1, 2, 2)
        return z.flatten(1)


def test_latents_keep_their_shape():
    fitted = network(Spatial(0.0)).fit(X, Y, **QUICK)
    assert fitted.generate("cat", 1025).shape == (1025, 4)
    assert fitted.plugin.sample("cat").shape == (1, 1, 2, 2)
    torch.testing.assert_close(fitted.edit(X, Y, to=Y), X[:, :4], atol=1e-3, rtol=1e-3)


def test_a_distribution_is_the_posterior_of_the_fit():
    by_base = network(Spatial(0.3)).fit(X, Y, **QUICK).plugin
    z = X[:, :4].unflatten(1, (1, 2, 2))
    torch.manual_seed(0)
    by_hand = FlowPlugin((1, 2, 2), Classes(NAMES), hidden_features=8, num_layers=2)
    by_hand.fit(z, Y, std=torch.full_like(z, 0.3), **QUICK)
    assert torch.equal(by_base.sample("cat", 9, seed=0), by_hand.sample("cat", 9, seed=0))


def test_held_out_objects_are_drawn_from_their_posteriors_too(monkeypatch):
    """Means lie closer together than draws, and would choose another epoch."""
    given = []

    def fit(plugin, z, y, validation, **fitting):
        given.append(validation[0])

    monkeypatch.setattr(FlowPlugin, "fit", fit)
    for std in (0.0, 0.3):
        network(Spatial(std)).fit(X, Y, validation=(X, Y), **QUICK)
    means, draws = given
    assert torch.equal(means, X[:, :4].unflatten(1, (1, 2, 2)))
    assert (draws - means).std().item() == pytest.approx(0.3, rel=0.15)


class Arrays:
    """A base model that knows numpy's arrays only."""

    def encode(self, x):
        return np.tanh(np.asarray(x)[:, :2])

    def decode(self, z):
        assert isinstance(z, np.ndarray)
        return np.tile(z, 2)


class Wrapped(Arrays):
    """The same around a torch module."""

    def __init__(self):
        self.net = nn.Linear(5, 2)

    def encode(self, x):
        return self.net(torch.from_numpy(x)).numpy()


def test_a_numpy_model_around_a_module_is_given_arrays():
    model = Wrapped()
    ready = network(model).fit(X, Y, **QUICK)
    assert ready.generate("cat", 3).shape == (3, 4) and len(ready.classify(X.numpy())) == 90
    joined = FlowPluginNetwork(model, ready.plugin)
    assert joined.generate("cat", 3).shape == (3, 4)


def test_a_numpy_model_takes_any_number_of_rows():
    fitted = network(Arrays()).fit(X.numpy(), Y.numpy(), **QUICK)
    assert fitted.generate("cat", 1025).shape == (1025, 4)
    assert np.array_equal(fitted.classify(np.tile(X, (12, 1))), np.tile(fitted.classify(X), 12))


def test_a_model_without_encoder_generates_and_edits_latents():
    net = nn.Linear(5, 3)
    fitted = network(adapt(net, decode=net)).fit(X, Y, **QUICK)
    assert fitted.generate("cat", 2).shape == (2, 3)
    torch.testing.assert_close(fitted.edit(X, Y, to=Y), net(X), atol=1e-3, rtol=1e-3)
    with pytest.raises(TypeError, match="has no encode, so nothing to reconstruct"):
        fitted.reconstruct(X)
    with pytest.raises(TypeError, match="has no encode; leave candidates at 1"):
        fitted.generate("cat", candidates=2)


def test_of_several_candidates_the_most_probable_is_kept():
    fitted = network(Coarse()).fit(X, Y, **QUICK)
    everything = fitted.generate(["cat", "dog"], 12, seed=0)
    kept = fitted.generate(["cat", "dog"], 3, candidates=4, seed=0)
    labels = ["cat"] * 12 + ["dog"] * 12
    shown = fitted.plugin.log_prob(fitted.encode(everything), labels).view(6, 4)
    best = shown.argmax(1) + 4 * torch.arange(6)
    assert torch.equal(kept, everything[best])


@pytest.mark.filterwarnings("ignore:.* of 80 latents are read")
def test_objects_are_drawn_again_until_they_are_read_as_asked():
    coarse = adapt(None, encode=torch.clone, decode=torch.round)
    fitted = network(coarse).fit(X, Y, **QUICK | {"epochs": 30})
    asked = ["cat"] * 40 + ["dog"] * 40
    plain = fitted.generate(asked, seed=0)
    sure = fitted.generate(asked, confidence=0.6, seed=0)

    def read(x):
        found = fitted.plugin.log_posterior(fitted.encode(x)).exp()
        return found[torch.arange(80), torch.arange(80) // 40]

    before, after = read(plain), read(sure)
    assert torch.equal(sure[before >= 0.6], plain[before >= 0.6])
    assert (after >= before).all() and (after < 0.6).sum() < (before < 0.6).sum()


GLOBAL = Base()


class Slots:
    __slots__ = ("net",)

    def __init__(self, net):
        self.net = net

    def encode(self, x):
        return self.net.encode(x)

    def decode(self, z):
        return self.net.decode(z)


HOLDERS = {
    "module": lambda net: net,
    "functions": lambda net: adapt(None, encode=lambda x: net.encode(x) + 0, decode=net.decode),
    "nested": lambda net: adapt({"parts": [net]}, encode=net.encode, decode=lambda z: z),
    "slots": Slots,
    "global": lambda net: adapt(None, encode=lambda x: GLOBAL.encode(x) + 0, decode=lambda z: z),
}


def encode_by(lists, x):
    return lists[0][0][0][0][0].encode(x)


class Hiding(nn.Module):
    """A module that keeps another out of its state dict."""

    def __init__(self, net):
        super().__init__()
        self.nets = [net]
        self.encode, self.decode = net.encode, net.decode


HIDDEN = {  # from a look at the object, so that only calls show the module
    "list of a module": Hiding,
    "deep": lambda net: adapt(None, encode=partial(encode_by, [[[[[net]]]]]), decode=lambda z: z),
    "default": lambda net: adapt(None, encode=lambda x, of=net: of.encode(x), decode=lambda z: z),
}


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("holder", HOLDERS | HIDDEN)
def test_no_call_changes_the_base_and_its_mode_is_put_back(holder, mode):
    net = GLOBAL if holder == "global" else Base()
    built = network((HOLDERS | HIDDEN)[holder](net))
    net.train(mode)
    net.encoder[2].eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    modes = [part.training for part in net.modules()]
    calls = {
        "fit": lambda: built.fit(X, Y, **QUICK),
        "generate": lambda: built.generate("cat", 3),
        "classify": lambda: built.classify(X),
        "read": lambda: built.read(X),
        "edit": lambda: built.edit(X, to="dog"),
        "reconstruct": lambda: built.reconstruct(X),
    }
    for name, call in calls.items():
        call()
        assert same_state(net.state_dict(), before), name
        assert [part.training for part in net.modules()] == modes, name
        assert all(weight.grad is None for weight in net.parameters()), name
    assert holder in HIDDEN or not any(weight.requires_grad for weight in net.parameters())
    assert all(weight.requires_grad for weight in built.plugin.parameters())


def test_the_base_stays_in_eval_mode_if_the_network_is_set_to_train():
    net = Base()
    assert network(net).train().training and not net.training


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_give_nearly_the_same(dtype, recwarn):
    fitted = network().fit(X, Y, **QUICK)
    expected, labels = fitted.generate("cat", 9, seed=0), fitted.classify(X)
    recwarn.clear()
    found = fitted.to(dtype).generate("cat", 9, seed=0)
    assert found.dtype == dtype and fitted.edit(X.to(dtype), to="dog").dtype == dtype
    if dtype != torch.float64:  # its noise is another
        torch.testing.assert_close(found.float(), expected, atol=0.5, rtol=0.1)
    assert (fitted.classify(X.to(dtype)) == labels).float().mean() > 0.9
    assert not [w for w in recwarn.list if "weights" in str(w.message)]


def test_autocast_and_inference_mode_do_not_matter():
    expected = network().fit(X, Y, **QUICK).classify(X)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        fitted = network().fit(X, Y, **QUICK)
        assert (fitted.classify(X) == expected).float().mean() > 0.9
        assert fitted.generate("cat", 3).isfinite().all()
    assert len(fitted.fit(X, Y, **QUICK).classify(X)) == 90


class Other(Base):
    """The same base model with other weights."""

    def __init__(self):
        super().__init__()
        nn.init.ones_(self.decoder.weight)


CHANGES = {
    "in place": lambda net: net.decoder.weight.requires_grad_(False).add_(1),
    "other values": lambda net: net.load_state_dict(Other().state_dict()),
    "assigned": lambda net: net.load_state_dict(Other().state_dict(), assign=True),
    "a new layer": lambda net: setattr(net, "decoder", nn.Linear(4, 5)),
    "statistics": lambda net: net.train().encode(X),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_are_noticed_once(change, recwarn):
    net = Base()
    fitted = network(net).fit(X, Y, **QUICK)
    recwarn.clear()
    fitted.to("cpu").eval().generate("cat")
    assert not [w for w in recwarn.list if "weights" in str(w.message)]
    warnings.simplefilter("always")
    with torch.no_grad():
        CHANGES[change](net)
    fitted.generate("cat"), fitted.classify(X)
    assert len([w for w in recwarn.list if "weights of Base are not" in str(w.message)]) == 1


def test_latents_far_outside_the_range_are_noticed():
    fitted = network().fit(X, Y, **QUICK)
    with pytest.warns(UserWarning, match="100% of the latents lie far outside the range"):
        fitted.classify(255 * X + 1000)


def adapted(encode=lambda x: x, decode=lambda z: z):
    return network(adapt(None, encode=encode, decode=decode))


LOADER = DataLoader(TensorDataset(X))
FLAT = torch.distributions.TransformedDistribution(
    torch.distributions.Normal(torch.zeros(90, 4), 1.0), torch.distributions.TanhTransform()
)
SQUEEZED = adapted(decode=torch.squeeze)
READY = FlowPlugin(4, Classes("ab"))


test_what_cannot_be_gets_one_line = refusals(
    [
        (
            lambda: FlowPluginNetwork(Base(), classes=["a"], attributes=["b"]),
            "one of plugin",
            TypeError,
        ),
        (lambda: FlowPluginNetwork(Base(), READY, hidden_features=2), "one of plugin", TypeError),
        (lambda: FlowPluginNetwork(Base(), ["cat"]), "classes or attributes, got list", TypeError),
        (lambda: FlowPluginNetwork(nn.Linear(2, 2), Classes("ab")), "pass adapt", TypeError),
        (lambda: network().generate("cat"), "fit it first", AttributeError),
        (lambda: network().fit(X, **QUICK), "fit needs labels", TypeError),
        (
            lambda: network().fit(X, Y, validation=0.1, **QUICK),
            r"batches \(x, y\), got float",
            TypeError,
        ),
        (lambda: network().fit([X], **QUICK), r"be pairs \(x, y\), got Tensor; pass", TypeError),
        (lambda: network().fit([], **QUICK), "fit needs objects, got none"),
        (lambda: network().fit(LOADER, Y, **QUICK), "of batches pass no y", TypeError),
        (lambda: network().fit({"x": X}, Y, **QUICK), "x must be an array, got dict", TypeError),
        (
            lambda: SQUEEZED.encode(LOADER),
            "got DataLoader; of batches pass .* one batch at a time",
            TypeError,
        ),
        (lambda: SQUEEZED.encode(None), "x must be an array, got NoneType", TypeError),
        (
            lambda: network().fit([*TensorDataset(X, Y)], **QUICK),
            r"single objects, pass DataLoader",
            TypeError,
        ),
        (
            lambda: network().fit([(X, None)], **QUICK),
            r"a batch needs labels \(n,\), got None",
            TypeError,
        ),
        (
            lambda: adapted(lambda x: FLAT).fit(X, Y),
            "encode of Adapted returned Transformed",
            TypeError,
        ),
        (lambda: network().fit(X, Y[:9], **QUICK), "must have the same length, got 90 and 9"),
        (
            lambda: adapted(encode=lambda x: (x, x)).fit(X, Y),
            "encode of Adapted returned tuple",
            TypeError,
        ),
        (
            lambda: adapted(torch.Tensor.cfloat).fit(X, Y),
            "latents of Adapted must hold real",
            TypeError,
        ),
        (lambda: network().fit(X[:, 1:], Y), r"encode of Base does not take .*32 \(90, 4\): "),
        (lambda: network().fit(X.byte(), Y), r"uint8 .*; for bytes pass x.float\(\) / 255"),
        (lambda: adapted(encode=lambda x: x[:, 0]).fit(X, Y), r"encode of Adapted returned shape"),
        (lambda: SQUEEZED.fit(X, Y, **QUICK).generate(0), r"shape \(5,\) for 1 rows; expected \(1"),
        (
            lambda: adapted(decode=list).fit(X, Y, **QUICK).generate(0),
            "decode of Adapted returned",
            TypeError,
        ),
    ],
)
