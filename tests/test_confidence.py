"""Laws of drawing again: what comes back is read as asked, and is p(z | y) where it is."""

import pytest
import torch

from fpnlib import Attributes, Classes, FlowPlugin, Reals, Several, Vector

SETTINGS = {"hidden_features": 16, "num_layers": 2}
FIT = {"epochs": 12, "learning_rate": 1e-2, "progress": False}


@pytest.fixture(scope="module")
def classes():
    """Two classes on a line, which overlap."""
    torch.manual_seed(0)
    y = torch.arange(2000) % 2
    z = torch.randn(2000, 2) + 1.5 * y[:, None]
    return FlowPlugin(2, Classes(["a", "b"]), **SETTINGS).fit(z, y, **FIT)


@pytest.fixture(scope="module")
def several():
    """An attribute and a quantity, either of which may be unsaid."""
    torch.manual_seed(0)
    y = {"on": (torch.rand(2000) > 0.5).float(), "size": 4 * torch.rand(2000)}
    z = torch.stack([*y.values()], 1) * torch.tensor([2.0, 1.0]) + 0.4 * torch.randn(2000, 2)
    parts = Several(on=Attributes(["on"], unknown=True), size=Reals(["size"], unknown=True))
    return FlowPlugin(2, parts, **SETTINGS).fit(z, y, **FIT)


@pytest.mark.parametrize("confidence", [0.5, 0.8])
def test_samples_are_read_as_asked(classes, confidence):
    y = torch.arange(2).repeat_interleave(300)
    z = classes.sample(y, confidence=confidence, seed=0)
    posterior = classes.log_posterior(z).exp()[torch.arange(600), y]
    assert posterior.min() >= confidence


def test_what_is_read_back_is_read_as_asked(classes):
    def moved(z):
        assert not classes.overflowed(z).any()
        return z + 0.7

    z = classes.sample("b", n=300, confidence=0.6, read_back=moved, seed=0)
    assert classes.log_posterior(moved(z))[:, 1].exp().min() >= 0.6
    assert classes.log_posterior(z)[:, 1].exp().min() < 0.6


def test_latents_read_back_as_they_are_change_nothing(classes):
    plain = classes.sample("a", n=300, confidence=0.8, seed=0)
    same = classes.sample("a", n=300, confidence=0.8, read_back=torch.clone, seed=0)
    assert torch.equal(same, plain)


def test_what_is_read_back_in_another_shape_is_refused(classes):
    with pytest.raises(ValueError, match="what read_back returns must have shape"):
        classes.sample("a", confidence=0.5, read_back=lambda z: z[:, :1])


def test_the_distribution_is_that_of_samples_that_are_read_as_asked(classes):
    kept = classes.sample("a", n=4000, confidence=0.8, seed=0)
    plain = classes.sample("a", n=4000, seed=1)
    plain = plain[classes.log_posterior(plain)[:, 0].exp() >= 0.8]
    error = plain.std(0) * (1 / len(plain) + 1 / len(kept)) ** 0.5
    assert ((kept.mean(0) - plain.mean(0)).abs() < 4 * error).all()
    assert kept.std(0) == pytest.approx(plain.std(0), rel=0.1)


def test_the_seed_decides_and_the_samples_drawn_again_are_counted(classes):
    before, plain = classes.redrawn_, classes.sample("a", n=500, seed=5)
    assert torch.equal(classes.sample("a", n=500, confidence=0.0, seed=5), plain)
    assert classes.redrawn_ == before
    first = classes.sample("a", n=500, confidence=0.8, seed=5)
    assert torch.equal(first, classes.sample("a", n=500, confidence=0.8, seed=5))
    changed = (first != plain).any(1)
    assert classes.redrawn_ - before == 2 * int(changed.sum()) > 0
    unsure = classes.log_posterior(plain)[:, 0].exp() < 0.8
    assert torch.equal(changed, unsure)


def test_what_is_never_read_as_asked_keeps_its_most_probable_draw_and_is_counted(classes):
    with pytest.warns(UserWarning, match=r"of 200 latents .* confidence of 0.9999"):
        z = classes.sample("a", n=200, confidence=0.9999, seed=0)
    plain = classes.sample("a", n=200, seed=0)
    gain = classes.log_posterior(z)[:, 0] - classes.log_posterior(plain)[:, 0]
    assert (gain >= 0).all() and (gain > 0).any()


@pytest.mark.parametrize("asked", [{"on": 1, "size": 1.0}, {"size": 1.0}, {"on": 0}])
def test_parts_that_are_said_are_read_near_to_what_was_asked(several, asked):
    plain = several.sample(asked, n=400, seed=0)
    sure = several.sample(asked, n=400, confidence=0.3, seed=0)
    for name, value in asked.items():
        misses = [(several.read(z)[name] - value).abs().mean() for z in (plain, sure)]
        assert misses[1] < misses[0] or misses[1] == 0


def test_unsaid_parts_are_not_judged(several):
    before = several.redrawn_
    assert torch.equal(several.sample(n=50, confidence=0.9, seed=1), several.sample(n=50, seed=1))
    assert several.redrawn_ == before


def test_a_quantity_draws_its_confidence_again(several):
    """Tail probabilities are uniform, so a confidence of 0.4 draws two of five again."""
    before = several.redrawn_
    several.sample({"size": 2.0}, n=1000, confidence=0.4, seed=0)
    assert (several.redrawn_ - before) / 1000 == pytest.approx(0.4, abs=0.1)


def test_an_edit_takes_the_smallest_strength_that_is_read(classes):
    torch.manual_seed(1)
    z = torch.randn(200, 2)
    weak = classes.edit(z, "b", "a", strength=0.5)
    edited = classes.edit(z, "b", "a", strength=0.5, confidence=0.6)
    read = classes.log_posterior(weak)[:, 1].exp() >= 0.6
    assert read.any() and not read.all()
    assert torch.equal(edited[read], weak[read])
    unread = classes.log_posterior(edited)[:, 1].exp() < 0.6
    assert unread.sum() < (~read).sum()
    assert torch.equal(edited[unread], classes.edit(z, "b", "a", strength=1.5)[unread])


def test_an_edit_to_what_is_there_changes_nothing_more(classes):
    z = torch.randn(20, 2)
    assert torch.equal(classes.edit(z, "a", "a", confidence=0.9), classes.edit(z, "a", "a"))


@pytest.mark.parametrize("confidence", [-0.1, 1.0, float("nan")])
def test_no_confidence_outside_0_and_1(classes, confidence):
    with pytest.raises(ValueError, match="confidence must be 0 or more and below 1"):
        classes.sample("a", confidence=confidence)
    with pytest.raises(ValueError, match="confidence must be 0 or more and below 1"):
        classes.edit(torch.zeros(1, 2), "a", confidence=confidence)


def test_a_vector_has_no_confidence():
    plugin = FlowPlugin(2, Vector(3), **SETTINGS)
    plugin.fit(torch.randn(60, 2), torch.randn(60, 3), epochs=1, progress=False)
    with pytest.raises(TypeError, match="'vector' is a vector"):
        plugin.sample(torch.zeros(1, 3), confidence=0.5)
