"""Simple densities of each class: their limits, what is chosen, and bad input."""

import numpy as np
import pytest
import torch
from laws import refusals
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from torch.testing import assert_close

from fpnlib.baselines import rda
from fpnlib.rivals import POOLED, ClassGaussians, ClassMixtures, likeliest


def ellipses(n=3_000, seed=0):
    """Three classes of other shapes, in doubles."""
    generator, y = torch.Generator().manual_seed(seed), torch.arange(n) % 3
    factors = torch.tensor([[[1.0, 0.0], [0.8, 0.3]], [[0.5, 0.0], [0.0, 2.0]], [[2, 0], [-1, 1]]])
    noise = torch.randn(n, 2, 1, generator=generator)
    return ((factors[y] @ noise).squeeze(2) + 2 * y[:, None]).double(), y


@pytest.mark.parametrize(
    ("pooled", "theirs"),
    [(0.0, QuadraticDiscriminantAnalysis()), (1.0, LinearDiscriminantAnalysis(solver="lsqr"))],
)
def test_the_ends_of_rda_are_quadratic_and_linear_discriminant_analysis(pooled, theirs):
    (z, y), (z_test, _) = ellipses(), ellipses(seed=1)
    ours = ClassGaussians(z, y, pooled).log_prob(z_test).softmax(1)
    assert_close(ours.numpy(), theirs.fit(z, y).predict_proba(z_test), atol=5e-3, rtol=0)


def test_a_mixture_of_one_is_the_gaussian_of_its_class():
    z, y = ellipses()
    assert_close(ClassMixtures(z, y, 1).log_prob(z), ClassGaussians(z, y).log_prob(z))


def test_the_densities_integrate_to_one():
    z, y = ellipses()
    side = torch.linspace(-14, 18, 321, dtype=z.dtype)
    cells = torch.cartesian_prod(side, side)
    for model in (ClassGaussians(z, y, 0.3), ClassMixtures(z, y, 3)):
        total = model.log_prob(cells).exp().sum(0) * 0.01
        assert_close(total, torch.ones(3).to(z), atol=1e-3, rtol=0)


def test_validation_latents_choose_and_training_latents_do_not():
    z, y = ellipses(60)
    tried = []

    def fit(components):
        tried.append(components)
        return ClassMixtures(z, y, components)

    chosen, model = likeliest(fit, [1, 2, 4, 8, 16], *ellipses(seed=1))
    assert chosen == 1 and tried == [1, 2]
    assert_close(model.means, ClassMixtures(z, y, 1).means)
    on_training, _ = likeliest(fit, [1, 2, 4, 8, 16], z, y)
    assert on_training > 1


def test_few_latents_of_one_shape_share_their_covariance():
    generator, y = torch.Generator().manual_seed(0), torch.arange(60) % 3
    z = torch.randn(60, 12, generator=generator)
    held_out = torch.randn(600, 12, generator=generator), torch.arange(600) % 3
    share, _ = likeliest(lambda share: ClassGaussians(z, y, share), POOLED, *held_out)
    assert share == 1
    assert rda(z, y, *held_out, n_jobs=1).settings["pooled"] in POOLED


def test_samples_have_the_mean_and_covariance_of_their_class():
    z, y = ellipses(20_000)
    sampled = ClassMixtures(z, y, 1).sample(y, seed=1)
    for k in range(3):
        mine, theirs = sampled[y == k], z[y == k]
        assert_close(mine.mean(0), theirs.mean(0), atol=0.1, rtol=0)
        assert_close(mine.T.cov(), theirs.T.cov(), atol=0.15, rtol=0)


def test_class_mixtures_keep_modes_that_one_gaussian_blurs():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2_000, 2, generator=generator) * 0.2
    y = torch.arange(2_000) % 2
    z[:1000, 0] += 3  # each class has two clumps, and nothing between them
    between = lambda model: (model.sample(y)[:, 0].sub(1.5).abs() < 0.7).float().mean()  # noqa: E731
    assert between(ClassMixtures(z, y, components=2)) < 0.01
    assert between(ClassMixtures(z, y, 1)) > 0.2


def test_samples_follow_the_seed_and_the_classes_asked_for():
    z, y = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
    z[y == 1] += 100
    model = ClassMixtures(z, y, components=3)
    asked = torch.tensor([1, 0, 0, 1])
    assert torch.equal(model.sample(asked, seed=4), model.sample(asked, seed=np.int64(4)))
    assert not torch.equal(model.sample(asked, seed=4), model.sample(asked, seed=5))
    assert torch.equal(model.sample(asked).mean(1) > 50, asked.bool())


test_class_baselines_refuse_in_one_line = refusals(
    [
        (lambda z, y: ClassMixtures(z, 2 * y, 1), "class 1 has 0 samples"),
        (lambda z, y: ClassMixtures(z, y, components=31), "class 0 has 30 samples"),
        (lambda z, y: ClassMixtures(z * torch.inf, y), "infinite"),
        (lambda z, y: ClassMixtures(z, y[1:], 1), "same length"),
        (lambda z, y: ClassMixtures(z, y, components=0), "components"),
        (lambda z, y: ClassMixtures(z, y, 1).sample(torch.tensor([2])), "class 2 is out of range"),
        (lambda z, y: ClassGaussians(z, y).sample(y, temperature=-1), "temperature must be 0 or"),
        (lambda z, y: ClassGaussians(z, y).sample(y, confidence=2), "confidence must be 0 or"),
        (lambda z, y: ClassGaussians(z, y, 1.5), "pooled must be between 0 and 1"),
        (lambda z, y: likeliest(lambda share: ClassGaussians(z, y), [], z, y), "no option"),
    ],
    given=lambda: (torch.randn(60, 3), torch.arange(60) % 2),
)


def test_what_a_mixture_does_not_read_as_asked_is_drawn_again():
    torch.manual_seed(0)
    y = torch.arange(400) % 2
    gaussians = ClassGaussians(torch.randn(400, 2) + y[:, None], y)
    asked = torch.arange(2).repeat_interleave(200)
    plain, sure = gaussians.sample(asked, seed=0), gaussians.sample(asked, seed=0, confidence=0.6)
    read = gaussians.log_prob(sure).softmax(1)[torch.arange(400), asked]
    assert read.min() >= 0.6
    kept = gaussians.log_prob(plain).softmax(1)[torch.arange(400), asked] >= 0.6
    assert torch.equal(sure[kept], plain[kept]) and not kept.all()


def test_a_temperature_stretches_the_deviations():
    y = torch.arange(40) % 2
    gaussians = ClassGaussians(torch.randn(40, 3), y)
    cold, warm = gaussians.sample(y, seed=1), gaussians.sample(y, seed=1, temperature=2.0)
    centre = gaussians.means[y, 0]
    assert torch.allclose(warm - centre, 2 * (cold - centre), atol=1e-5)
