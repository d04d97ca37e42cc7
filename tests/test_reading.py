"""Laws of readings: Bayes' rule on latents whose posterior is known, and of what is left unsaid."""

import numpy as np
import pandas as pd
import pytest
import torch

from fpnlib import Attributes, Classes, FlowPlugin, Reals, Several, Vector
from fpnlib.reading import Reader, fill_values

pytestmark = pytest.mark.filterwarnings("ignore:the flow describes", "ignore:.*overflowed")

FIT = {"epochs": 15, "batch_size": 200, "learning_rate": 1e-2, "progress": False}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fitted(condition, z, y, **more):
    torch.manual_seed(0)
    plugin = FlowPlugin(z.shape[1], condition, hidden_features=24, num_layers=3)
    return plugin.fit(z, y, **(FIT | more))


def attributes(n, seed=0):
    """Two attributes, of which the second is rarer without the first, and latents by them."""
    draws = torch.rand(n, 2, generator=torch.Generator().manual_seed(seed))
    red = (draws[:, 0] < 0.5).float()
    tall = (draws[:, 1] < 0.2 + 0.6 * red).float()
    y = torch.stack([red, tall], 1)
    return 3 * y + randn(n, 2, seed=seed + 1), y


def quantity(n, seed=0):
    """A quantity, uniform on [0, 4], and latents around lines through it."""
    y = 4 * torch.rand(n, generator=torch.Generator().manual_seed(seed))
    return torch.stack([y, -y], 1) + randn(n, 2, seed=seed + 1), y


@pytest.fixture(scope="module")
def three():
    y = torch.arange(600) % 3
    return fitted(Classes("abc"), randn(600, 2) + 2 * y[:, None], y, epochs=5)


@pytest.fixture(scope="module")
def sure():
    return fitted(Attributes(["red", "tall"]), *attributes(3000))


@pytest.fixture(scope="module")
def unsure():
    return fitted(Attributes(["red", "tall"], unknown=True), *attributes(4000), epochs=25)


@pytest.fixture(scope="module")
def measure():
    return fitted(Reals(["size"]), *quantity(3000))


def test_classes_are_read_by_bayes_rule(three):
    z = randn(200, 2, seed=9) * 2 + 2
    read, posterior = three.read(z), three.log_posterior(z).exp()
    assert read["class"].tolist() == three.predict(z).tolist()
    probability = torch.tensor(read["class probability"].to_numpy())
    torch.testing.assert_close(probability, posterior.amax(1), atol=1e-4, rtol=1e-4)


def test_each_attribute_is_read_given_the_others(sure):
    z, _ = attributes(500, seed=5)
    read = sure.read(z)
    other = torch.tensor(read["tall"].to_numpy())
    columns = [torch.stack([torch.full_like(other, red), other], 1) for red in (0, 1)]
    joint = torch.stack([sure.log_prob(z, column) for column in columns], 1)
    assert torch.equal(torch.tensor(read["red"].to_numpy()), joint.argmax(1).float())
    probability = torch.tensor(read["red probability"].to_numpy())
    torch.testing.assert_close(probability, joint.softmax(1).amax(1), atol=1e-3, rtol=1e-3)
    exact = torch.sigmoid(3 * z - 4.5)
    near = (read[["red", "tall"]].to_numpy() == (exact > 0.5).numpy()).mean()
    assert near > 0.97


def test_an_unknown_attribute_is_read_without_the_other(unsure):
    z, _ = attributes(1500, seed=5)
    read = unsure.read(z)
    log_odds = 3 * z - 4.5  # of each attribute's latent
    mixed = [(1 - p + p * log_odds[:, 1].exp()).log() for p in (0.2, 0.8)]
    exact = torch.sigmoid(log_odds[:, 0] + mixed[1] - mixed[0])
    found = read["red probability"].where(read["red"] == 1, 1 - read["red probability"])
    assert (torch.tensor(found.to_numpy()) - exact).abs().mean() < 0.05


def test_what_is_known_is_kept_and_used(unsure):
    z, _ = attributes(200, seed=6)
    read = unsure.read(z, {"tall": 1})
    assert (read["tall"] == 1).all() and (read["tall probability"] == 1).all()
    alone = unsure.read(z)
    assert not np.allclose(read["red probability"], alone["red probability"], atol=1e-3)
    by_row = unsure.read(z, torch.tensor([[torch.nan, 1.0]]).expand(200, -1))
    assert by_row.equals(read)


def test_a_quantity_has_its_exact_posterior(measure):
    z, y = quantity(500, seed=5)
    inner = (y > 1) & (y < 3)
    read = measure.read(z[inner])
    exact = (z[inner, 0] - z[inner, 1]) / 2  # the posterior is N(exact, 1/2) on [0, 4]
    value = torch.tensor(read["size"].to_numpy())
    inside = (exact > 0.8) & (exact < 3.2)
    assert (value - exact)[inside].abs().mean() < 0.15
    central = (exact > 1.5) & (exact < 2.5)
    deviation = torch.tensor(read["size deviation"].to_numpy())[central]
    assert (deviation - 0.66).abs().mean() < 0.08  # 0.71, cut off at 0 and 4
    assert torch.allclose(measure.labels(z[inner]), value)


def test_a_reading_of_several_is_that_of_its_parts():
    z, y = quantity(2000)
    z[:, 1] += 20 * (torch.arange(2000) % 2)
    condition = Several(kind=Classes(["low", "high"]), size=Reals(["size"]))
    labels = {"kind": torch.arange(2000) % 2, "size": y}
    plugin = fitted(condition, z, labels)
    read = plugin.read(z)
    assert (read["kind"] == np.arange(2000) % 2).mean() > 0.98
    assert np.abs(read["size"] - y.numpy()).mean() < 0.75
    assert list(read) == ["kind", "size", "kind probability", "size deviation"]


def test_a_vector_is_read_among_those_of_the_fit():
    y = torch.eye(4)[torch.arange(400) % 4]
    z = 4 * y[:, :3] + 0.3 * randn(400, 3)
    y[200:] = torch.nan
    plugin = fitted(Vector(4, unknown=True), z, y, epochs=25)
    found = plugin.labels(4 * torch.eye(4)[:, :3])
    assert torch.equal(found, torch.eye(4)) and plugin.seen_.sum(1).eq(1).all()
    assert (plugin.read(z[:200])["vector probability"] > 0.9).mean() > 0.95


def test_masking_hides_every_part_alone_and_together():
    condition = Several(
        kind=Classes("abc", unknown=True),
        face=Attributes(["red", "tall"]),
        size=Reals(["size"], unknown=True),
    )
    values = torch.ones(4000, condition.width)
    masked = condition.masked(values, torch.Generator().manual_seed(0))
    hidden = masked.isnan()
    assert not hidden[:, 1:3].any(), "what may not be unknown stays"
    pairs = pd.Series([*zip(hidden[:, 0].tolist(), hidden[:, 3].tolist())]).value_counts() / 4000
    assert len(pairs) == 4 and pairs[(False, False)] > 0.5
    assert pairs[(True, True)] > 0.1 and abs(pairs[(True, False)] - pairs[(False, True)]) < 0.03
    whole = Vector(3, unknown=True).masked(torch.ones(4000, 3), torch.Generator().manual_seed(0))
    assert torch.equal(whole.isnan().any(1), whole.isnan().all(1))


MIXED = Several(
    kind=Classes("ab", unknown=True),
    red=Attributes(["red"], unknown=True),
    size=Reals(["size"], unknown=True),
)


def mixed(n, seed=0):
    """Labels (n, 3) of MIXED: b is redder than a, what is red is larger, red a is never seen."""
    draws = torch.rand(n, 2, generator=torch.Generator().manual_seed(seed))
    kind = (draws[:, 0] < 0.4).float()
    red = kind * (draws[:, 1] < 0.7)
    return torch.stack([kind, red, 2 * red + randn(n, seed=seed + 1)], 1)


@pytest.fixture(scope="module")
def plain():
    """A plugin of latents that show each label of MIXED."""
    y = mixed(3000)
    z = y * torch.tensor([6.0, 6.0, 1.0]) + 0.3 * randn(3000, 3, seed=9)
    return fitted(MIXED, z, dict(zip(MIXED.names, y.T)), epochs=10)


@pytest.mark.parametrize(
    ("said", "chosen"),
    [
        ({}, lambda y: y[:, 0] >= 0),
        ({"kind": "b"}, lambda y: y[:, 0] == 1),
        ({"red": 0.2}, lambda y: y[:, 1] == 0),
        ({"size": 1.0}, lambda y: (y[:, 2] - 1).abs() < 0.1),
        ({"kind": "b", "size": 1.0}, lambda y: (y[:, 0] == 1) & ((y[:, 2] - 1).abs() < 0.1)),
    ],
)
def test_what_is_unsaid_has_the_frequencies_that_it_has_beside_what_is_said(plain, said, chosen):
    z = plain.sample(said, n=2000, seed=0)
    shown = torch.stack([z[:, 0] > 3, z[:, 1] > 3, z[:, 2]], 1)
    y = mixed(100_000, seed=5)
    unsaid = [name not in said for name in MIXED.names]
    expected = y[chosen(y)].mean(0)[unsaid]
    torch.testing.assert_close(shown.mean(0)[unsaid], expected, atol=0.05, rtol=0)
    if "kind" in said:
        assert shown[:, 0].mean() > 0.99
    if "size" in said:
        assert abs(shown[:, 2].mean() - 1) < 0.05


def test_what_is_said_is_kept_and_the_rest_is_that_of_one_row():
    seen = torch.tensor([[0, 1, 5], [0, 0, 6], [1, 0, torch.nan], [1, torch.nan, 8]])
    asked = torch.tensor([[0, torch.nan, torch.nan], [1, torch.nan, torch.nan], [1, 0.7, 3]])
    filled = fill_values(MIXED, asked.repeat(20, 1), seen, torch.Generator().manual_seed(0))
    rows = [{str(row) for row in filled[start::3].tolist()} for start in range(3)]
    assert rows[0] == {"[0.0, 1.0, 5.0]", "[0.0, 0.0, 6.0]"}
    assert rows[1] == {"[1.0, 0.0, nan]", "[1.0, nan, 8.0]"}, "unknown stays unknown"
    torch.testing.assert_close(filled[2], asked[2])


def test_quantities_are_drawn_from_the_nearest_rows():
    sizes = torch.arange(27.0)
    asked = torch.tensor([[13.0, torch.nan]]).repeat(200, 1)
    condition, seen = Reals(["size", "age"], unknown=True), torch.stack([sizes, 100 - sizes], 1)
    filled = fill_values(condition, asked, seen, torch.Generator().manual_seed(0))
    assert (filled[:, 0] == 13).all()
    assert set(filled[:, 1].tolist()) == set(range(83, 92))


def test_labels_that_never_go_together_are_left_to_the_flow_with_a_warning(plain):
    request = {"kind": "a", "red": 1}
    with pytest.warns(UserWarning, match="no kept training labels have all that 5 of 5"):
        z = plain.sample(request, n=5, seed=0)
    noise = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(z, plain.from_noise(noise, request))


def test_half_of_the_labels_are_enough():
    y = torch.arange(1200) % 3
    z = randn(1200, 2) + 3 * y[:, None]
    names = np.array(["a", "b", "c"])[y]
    labels = np.where(randn(1200, seed=1) < 0, None, names)
    plugin = fitted(Classes("abc", unknown=True), z, labels)
    assert (plugin.labels(z) == names).mean() > 0.93
    assert plugin.sample(n=3).shape == (3, 2) and plugin.sample([None, "a"], seed=0).shape == (2, 2)


@pytest.mark.parametrize(
    ("condition", "y"),
    [
        (Classes("ab"), None),
        (Attributes(["red"]), None),
        (Reals(["size", "age"]), {"size": 1.0}),
        (Several(kind=Classes("ab"), size=Reals(["size"], True)), {"size": 1.0}),
    ],
)
def test_what_must_be_said_is_asked_for(condition, y):
    with pytest.raises(ValueError, match="is unknown or unsaid; give it, drop the row, or make"):
        FlowPlugin(2, condition).sample(y)


def test_a_known_quantity_has_no_deviation():
    plugin = FlowPlugin(2, Reals(["size", "age"], unknown=True), hidden_features=8, num_layers=1)
    plugin.fit(randn(50, 2), randn(50, 2, seed=1), epochs=1, progress=False)
    read = plugin.read(randn(2, 2), {"size": [0.5, None]})
    assert read["size"][0] == 0.5 and read["size deviation"][0] == 0
    assert (read["age deviation"] > 0).all() and read["size deviation"][1] > 0


def test_a_row_is_read_by_itself_whatever_is_known_of_the_others():
    """A known 0 beside an unknown value is not the same as nothing."""
    z, y = attributes(600)
    plugin = fitted(Attributes(["red", "tall"], unknown=True), z, y)
    known = torch.tensor([[0.0, torch.nan], [torch.nan, torch.nan]]).repeat(5, 1)
    together = plugin.read(z[:10], known)
    alone = [plugin.read(z[row : row + 1], known[row : row + 1]) for row in range(10)]
    alone = pd.concat(alone, ignore_index=True)
    np.testing.assert_allclose(together.to_numpy(float), alone.to_numpy(float), atol=1e-4)


def test_the_deviation_of_a_quantity_far_from_zero_is_that_of_the_same_near_zero():
    z, y = quantity(600)
    near = fitted(Reals(["year"]), z, y, epochs=5).read(z[:20])
    far = fitted(Reals(["year"]), z, y + 2000, epochs=5).read(z[:20])
    deviations = near["year deviation"], far["year deviation"]
    np.testing.assert_allclose(*deviations, rtol=0.02)


class _Unit:
    """log p(z | a, b) of Gaussians around 4 a and 4 b, as far as a and b are known."""

    def log_prob(self, z, context):
        values, known = context[:, ::2], context[:, 1::2]
        return -(0.5 * (z - 4 * values).square() * known).sum(1)

    def class_log_prob(self, z, contexts):
        return torch.stack([self.log_prob(z, row.expand(len(z), -1)) for row in contexts], 1)


def test_unknown_attributes_that_latents_tell_are_filled_in_and_doubtful_ones_stay_unknown():
    reader = Reader(_Unit(), Attributes(["red", "tall"], unknown=True), torch.zeros(1, 2))
    z = torch.tensor([[4.0, 0.0], [2.0, 0.0], [0.0, 4.0]])
    known = torch.tensor([[torch.nan, 0.0], [torch.nan, 1.0], [torch.nan, torch.nan]])
    filled = reader.complete(z, known)
    expected = torch.tensor([[1.0, 0.0], [torch.nan, 1.0], [0.0, 1.0]])
    torch.testing.assert_close(filled, expected, equal_nan=True)
    again = reader.complete(z[1:2], filled[1:2])
    assert again.data_ptr() == filled[1:2].data_ptr(), "nothing is certain, so nothing is new"


def test_quantities_stay_unknown():
    known = torch.tensor([[torch.nan], [2.0]])
    filled = Reader(_Unit(), Reals(["size"], unknown=True), known).complete(known, known)
    assert filled is known
