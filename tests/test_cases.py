"""What users really give: names of every kind, few samples, dead dimensions, odd settings."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from laws import refusals
from nflows.flows import MaskedAutoregressiveFlow

from fpnlib import Attributes, Classes, FlowPlugin, Reals, Several, Vector

Y = torch.arange(60) % 3
Z = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)) + 4 * Y[:, None]
QUICK = {"epochs": 2, "progress": False}
pytestmark = pytest.mark.filterwarnings("ignore:the flow describes", "ignore:.*overflowed")


def plugin(condition=None, latent_dim=4):
    torch.manual_seed(0)
    condition = Classes("abc") if condition is None else condition
    return FlowPlugin(latent_dim, condition, hidden_features=8, num_layers=1)


@pytest.mark.parametrize("flow", ["maf", "realnvp", "spline"])
def test_a_constant_dimension_stays_constant_and_overflows_nothing(flow):
    torch.manual_seed(0)
    dead = FlowPlugin(5, Classes("abc"), flow, hidden_features=16, num_layers=2)
    dead.fit(torch.cat([Z, torch.full((60, 1), 0.1)], 1), Y, epochs=30, learning_rate=1e-2)
    z = dead.sample(range(3), n=100, seed=0)
    assert (z[:, 4] == torch.tensor(0.1)).all() and dead.overflows_ < 30
    assert dead.log_prob(torch.cat([Z, torch.full((60, 1), 0.1)], 1), Y).isfinite().all()


def said(fit):
    """The warnings of a fit, besides that on Gaussians."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit()
    found = [str(warning.message) for warning in caught]
    return [line for line in found if not line.startswith("the flow describes")]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("classes", [10, 1000])
def test_one_sample_of_each_class_is_fitted_and_said(classes, seed):
    z = torch.randn(classes, 4, generator=torch.Generator().manual_seed(seed))
    made = plugin(Classes(range(classes)))
    lines = said(lambda: made.fit(z, range(classes), seed=seed, **QUICK))
    held = f"nothing is held out: training needs all {classes:,} latents"
    assert lines == [f"{held}, also to choose the epoch"]
    assert made.sample(classes - 1, n=2, seed=0).isfinite().all()
    torch.testing.assert_close(made.log_prior_.exp(), torch.full((classes,), 1 / classes))


def test_ten_samples_of_two_classes_hold_one_out():
    made = plugin(Classes("ab"))
    assert not said(lambda: made.fit(Z[:10], [*"aabbabbbab"], **QUICK))
    count = made.condition.encode([*"aabbabbbab"]).sum(0)
    frequencies = made.log_prior_.exp() * 9
    assert (count - frequencies).sum().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (set("gecadfb"), tuple("abcdefg")),
        (torch.arange(3), ("0", "1", "2")),
        ([torch.tensor(5), np.int64(7)], ("5", "7")),
        (np.array(["cat", "dog"]), ("cat", "dog")),
        (pd.Series([2, 1, 0]).unique(), ("2", "1", "0")),
        (pd.Series(["a", "b"]).astype("category").cat.categories, ("a", "b")),
        ({"dog": 1, "cat": 0}, ("cat", "dog")),
        ({1: "dog", 0: "cat"}, ("cat", "dog")),
        ({"1": "dog", "0": "cat"}, ("cat", "dog")),
        ({"2": 0, "0": 1, "1": 2}, ("2", "0", "1")),
        (np.array([b"cat", b"dog"]), ("cat", "dog")),
        ((str(k) for k in range(2)), ("0", "1")),
        ([True, False], ("True", "False")),
    ],
)
def test_names_of_every_kind(names, expected):
    assert Classes(names).names == expected


@pytest.mark.parametrize("names", [[2, 1, 0], ["2", "1", "0"], [2.0, 1.0, 0.0]])
def test_numbers_are_looked_up_by_value(names):
    fitted = plugin(Classes(names)).fit(Z, Y, epochs=40, learning_rate=1e-2, progress=False)
    means = [fitted.sample(names[2 - k], n=50, seed=0).mean().item() for k in range(3)]
    assert means[0] + 1 < means[1] < means[2] - 1
    assert Classes([3, 5, 7]).index(torch.tensor([7, 3])).tolist() == [2, 0]
    assert Classes(["cat", "dog"]).index([1, 0]).tolist() == [1, 0]
    assert Classes(["True", "False"]).index([False, np.True_]).tolist() == [1, 0]
    assert Classes([0.1, 0.3]).index(torch.tensor([0.3, 0.1])).tolist() == [1, 0]
    assert Classes(["cat", "dog"]).encode({"class": ["dog"]}).tolist() == [[0, 1]]
    with pytest.raises(ValueError, match="unknown class '4'; known: 3, 5, 7"):
        Classes([3, 5, 7]).index([4])


@pytest.mark.parametrize("said", ["+Wearing Hat", "+wearing_hat", "+WEARINGHAT", "Wearing hat = 1"])
def test_spaces_and_case_of_names_do_not_matter(said):
    face = Attributes(["Wearing Hat", "Wearing", "big_nose"])
    assert face.encode(said).tolist() == [[1, 0, 0]]
    assert face.encode(f"+Big Nose {said} -wearing").tolist() == [[1, 0, 1]]
    assert face.encode({"wearing hat": 1, "BIG NOSE": 0.5}).tolist() == [[1, 0, 0.5]]


def test_names_that_differ_in_case_only_are_told_apart():
    assert Classes(["Cat", "cat"]).index(["cat", "Cat"]).tolist() == [1, 0]
    with pytest.raises(ValueError, match="unknown class 'CAT'; did you mean 'cat'"):
        Classes(["Cat", "cat"]).index("CAT")
    both = Several(kind=Classes(["sea lion", "cat"]), size=Reals(["size"]))
    assert both.values("Kind=Sea Lion SIZE=2").tolist() == [[0, 2]]
    assert both.values("size=2 kind = sea lion").tolist() == [[0, 2]]
    with pytest.raises(ValueError, match="unknown class 'cat fish'"):
        both.values("kind=cat fish size=2")


def test_weights_of_other_names_are_refused():
    state = plugin(Classes(["cat", "dog"])).state_dict()
    with pytest.raises(RuntimeError, match="the weights are of .*cat.*, this plugin is for .*dog"):
        plugin(Classes(["dog", "cat"])).load_state_dict(state)
    plugin(Classes(["cat", "dog"])).load_state_dict(state)


@pytest.mark.parametrize("seed", [np.int64(3), np.uint8(3), torch.tensor(3)])
def test_whole_numbers_of_any_kind_are_seeds(seed):
    expected = plugin().fit(Z, Y, seed=3, **QUICK).sample("a", 9, seed=3)
    assert torch.equal(plugin().fit(Z, Y, seed=seed, **QUICK).sample("a", 9, seed=seed), expected)


def test_labels_of_an_iterator_are_names_too():
    fitted = plugin().fit(Z, map("abc".__getitem__, Y.tolist()), **QUICK)
    assert set(fitted.labels(Z)) <= set("abc")


def test_numbers_of_numpy_are_confidences():
    fitted = plugin().fit(Z, Y, **QUICK)
    for kind in (np.float32, np.float64, torch.tensor):
        sure = fitted.sample("a", 9, confidence=kind(0.25), seed=0)
        assert torch.equal(sure, fitted.sample("a", 9, confidence=0.25, seed=0))


SIZE, UNCONDITIONAL = Reals(["size"]), MaskedAutoregressiveFlow(4, 8, 2, 1)
BAD = [
    (lambda: plugin().fit(Z, Y, std=torch.full_like(Z, -2.0)), r"\(0.5 \* logvar\).exp\(\)"),
    (lambda: plugin().fit(Z, torch.eye(3)[Y]), r"for one-hot rows pass y.argmax\(1\)"),
    (
        lambda: plugin().fit(Z, Y, validation=[(Z, Y)]),
        r"validation must be \(z, y\), got list",
        TypeError,
    ),
    (lambda: plugin().fit(Z, Y, validation=(Z[:0], Y[:0]), epochs=1), "0 validation samples"),
    (lambda: plugin().fit(Z, Y, noise=-1.0), "noise must be 0 or more and finite, got -1"),
    (
        lambda: plugin().fit(Z, Y, batch_size=2.5),
        "batch_size must be a positive whole number",
        TypeError,
    ),
    (lambda: plugin().fit(Z, Y, epochs=0), "epochs must be a positive whole number, got 0"),
    (lambda: plugin().fit(Z, [None, *Y.tolist()[1:]]), r"label 0 is missing"),
    (lambda: plugin().fit(np.ma.masked_less(Z.numpy(), 0), Y), "NaN or infinite entries"),
    (lambda: plugin().fit(Z, np.ma.masked_equal(Y.numpy(), 0)), "label 0 is missing"),
    (lambda: plugin(SIZE).fit(Z, Y, validation=(Z[:2], [1, None])), "of row 1 is unknown"),
    (lambda: plugin(SIZE).edit(Z[:2], 1.0, [1, None]), "of row 1 is unknown or unsaid"),
    (lambda: Classes(pd.Series(["a", None]).unique()), "name 1 of classes is missing"),
    (lambda: FlowPlugin(4, Classes("ab"), UNCONDITIONAL), "flow does not take 4 latents and a con"),
    (lambda: plugin().fit(Z, Y, seed=None), "seed must be a whole number, got None", TypeError),
    (lambda: plugin().sample("a", seed=1.5), "seed must be a whole number, got 1.5", TypeError),
    (lambda: plugin().sample({"a": 0.5}), "unknown label 'a'; known: class"),
    (
        lambda: plugin().predict(Z, None),
        "prior must be 'flat', 'train' or 3 probabilities",
        TypeError,
    ),
    (
        lambda: plugin().predict(Z, {"a": 1}),
        "prior must be a tensor or an array of numbers",
        TypeError,
    ),
    (lambda: Classes("abc").index([True]), "unknown class 'True'; known: a, b, c"),
    (lambda: Classes("abc").index([np.inf]), "whole numbers or names, got inf", TypeError),
    (lambda: Classes(["", "a"]).index(["b"]), "unknown class 'b'"),
    (
        lambda: Classes(10),
        r"classes need a list of names, got 10; for numbers write range\(n\)",
        TypeError,
    ),
    (
        lambda: Attributes("Smiling"),
        r"attributes need a list of names; write \['Smiling'\]",
        TypeError,
    ),
    (lambda: SIZE.values(pd.Series(["a", "b"])), "quantities must be numbers", TypeError),
    (lambda: FlowPlugin(4, ["a"]), "condition must be Classes", TypeError),
    (lambda: FlowPlugin((), Classes("ab")), "latent_dim must be a positive whole number, got 0"),
]
test_what_makes_no_sense_gets_one_line = refusals(BAD)


def test_a_part_of_one_column_has_its_part_s_name_everywhere():
    both = Several(tall=Attributes(["is_tall"], [("is_tall",)]), size=Vector(2, unknown=True))
    values = both.values({"tall": [1, 0], "size": [[1.0, 2.0], None]})
    torch.testing.assert_close(
        values, torch.tensor([[1, 1, 2], [0, torch.nan, torch.nan]]), equal_nan=True
    )
    assert both.values({"tall": 1, "size": None}).isnan().tolist() == [[False, True, True]]
    for labels in ({"tall": [1, 0], "size": [[1.0, 2.0], None]}, pd.DataFrame({"tall": [1, 0]})):
        labels["size"] = [np.array([1.0, 2.0]), None]
        both.remember(labels)
        returned = both.values(both.labels(values))
        torch.testing.assert_close(returned, values, equal_nan=True)


VALUES = torch.tensor([[1.0, 1, 2], [0, torch.nan, torch.nan]])
VECTORS = pd.Series([np.array([1.0, 2.0]), None])


@pytest.mark.parametrize(
    ("condition", "labels"),
    [
        (Several(digit=Classes([3, 5]), size=Vector(2, unknown=True)), VALUES),
        (Several(digit=Classes([3, 5]), size=Vector(2, unknown=True)), VALUES.numpy()),
        (Several(digit=Classes([3, 5]), size=Vector(2, unknown=True)), VALUES.tolist()),
        (Several(digit=Classes([3, 5]), size=Reals(["x", "y"], unknown=True)), VALUES),
        (Vector(2, unknown=True), VECTORS),
    ],
)
def test_labels_that_are_returned_are_accepted_as_labels(condition, labels):
    condition.remember(labels)
    values = condition.values(labels)
    returned = condition.labels(values)
    assert type(returned) is type(labels)
    torch.testing.assert_close(condition.values(returned), values, equal_nan=True)
