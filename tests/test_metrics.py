"""Scores of images and latents, against cases whose answer is known."""

import pytest
import torch
from torch.testing import assert_close

from fpnlib import data
from fpnlib.metrics.baselines import class_gaussians, class_mixtures
from fpnlib.metrics.images import confusion, diversity, features, frechet_distance, right_class_rate
from fpnlib.metrics.judge import Judge, distorted
from fpnlib.training import fit


class PixelJudge(torch.nn.Module):
    """Its features are the first four pixels, its class the brightest of them: scores have closed forms."""

    num_features, config = 4, {"num_classes": 4}

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def features(self, x):
        return self.scale * x[:, 0, 0, :4]

    def forward(self, x):
        return self.features(x)


def picture(features):
    """Images whose PixelJudge features are these (n, 4)."""
    x = torch.zeros(len(features), 1, 28, 28)
    x[:, 0, 0, :4] = features
    return x


@pytest.fixture
def labelled():
    y = torch.arange(4).repeat_interleave(5)
    return picture(torch.eye(4)[y]), y


@pytest.fixture(scope="module")
def trained():
    digits = data.load("digits")
    torch.manual_seed(0)
    judge = Judge()
    sets = [(split.x, split.y) for split in (digits.train, digits.validation)]
    fit(judge, judge.loss, *sets, epochs=6, batch_size=64, learning_rate=5e-3)
    return judge, digits.test


def test_judge_reads_digits_it_has_not_seen(trained):
    judge, test = trained
    assert right_class_rate(judge, test.x, test.y) > 0.9
    assert judge.features(test.x).shape == (len(test), judge.num_features)
    twin = Judge(**judge.config)
    twin.load_state_dict(judge.state_dict())
    assert torch.equal(twin.eval()(test.x), judge(test.x))


def test_scores_are_those_of_eval_mode(trained):
    judge, test = trained
    expected = right_class_rate(judge, test.x, test.y)
    judge.train()
    assert right_class_rate(judge, test.x, test.y) == expected


def test_right_class_and_confusion_count(labelled):
    x, y = labelled
    assert right_class_rate(PixelJudge(), x, y) == 1
    asked = y.clone()
    asked[:2] = 3  # two images of class 0 that were to be 3
    assert right_class_rate(PixelJudge(), x, asked) == pytest.approx(18 / 20)
    expected = 5 * torch.eye(4, dtype=torch.int64)
    expected[0, 0], expected[3, 0] = 3, 2
    assert torch.equal(confusion(PixelJudge(), x, asked), expected)


def test_frechet_distance_is_the_closed_form_between_gaussians():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4000, 4, generator=generator, dtype=torch.float64)
    noise -= noise.mean(0)
    noise = (
        noise @ torch.linalg.inv(torch.linalg.cholesky(noise.T.cov())).T
    )  # mean 0 and covariance 1, exactly
    mean, std = torch.tensor([0.1, -0.2, 0.3, 0.0]), torch.tensor([0.5, 2.0, 1.0, 1.5])
    pictures = picture(noise.float()), picture((noise * std + mean).float())
    distance = frechet_distance(*(features(PixelJudge(), x) for x in pictures))
    assert distance == pytest.approx(
        float(mean.square().sum() + (std - 1).square().sum()), abs=1e-4
    )


def test_frechet_distance_is_zero_between_identical_sets_and_grows_with_damage(trained):
    judge, test = trained
    real, *damaged = (features(judge, test.x * (1 - share)) for share in (0.0, 0.0, 0.2, 0.4))
    distances = [frechet_distance(real, fake) for fake in damaged]
    assert distances[0] == pytest.approx(0, abs=1e-3)
    assert distances[0] < distances[1] < distances[2]


def test_diversity_is_the_mean_distance_within_classes(labelled):
    x, y = labelled
    assert diversity(features(PixelJudge(), x), y) == 0
    x = x.clone()
    x[0::5, 0, 0, :4] += torch.tensor(
        [0.0, 0.0, 0.3, 0.4]
    )  # one of five in each class stands 0.5 aside
    assert diversity(features(PixelJudge(), x), y) == pytest.approx(0.5 * 4 / 10)


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (lambda x, y: right_class_rate(Judge(), x, y[1:]), "same length"),
        (lambda x, y: right_class_rate(Judge(), x[:0], y[:0]), "no images"),
        (lambda x, y: right_class_rate(Judge(), x * 255, y), r"\[0, 1\]"),
        (lambda x, y: confusion(Judge(), x[..., :20], y), r"\(n, 1, 28, 28\)"),
        (lambda x, y: features(Judge(), x * torch.nan), "NaN"),
        (lambda x, y: frechet_distance(x[:, 0, 0], x[:1, 0, 0]), "two fake images or more, got 1"),
        (
            lambda x, y: frechet_distance(x[:, 0, 0], x[:, 0, 0, :4]),
            r"fake must have shape \(n, 28\), got \(20, 4\)",
        ),
        (lambda x, y: diversity(x[:, 0, 0], 2 * y), "got 0 of class 1"),
        (lambda x, y: diversity(x[:, 0, 0], y[1:]), "same length"),
        (lambda x, y: Judge(0), "num_classes"),
    ],
)
def test_bad_input_gets_one_line(labelled, score, said):
    with pytest.raises(ValueError, match=said) as raised:
        score(*labelled)
    assert "\n" not in str(raised.value)


def test_distortion_is_seeded_and_stays_readable(trained):
    judge, test = trained
    kept = test.x.clone()
    one, again, other = (
        distorted(test.x, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(test.x, kept) and torch.equal(one, again)
    moved = (one - other).flatten(1).abs().amax(1)
    assert moved.min() > 0 and one.shape == test.x.shape and 0 <= one.min() and one.max() <= 1
    assert right_class_rate(judge, one, test.y) > 0.75
    ink = one.flatten(1).sum(1) / test.x.flatten(1).sum(1)
    assert 0.7 < ink.min() and ink.max() < 1.4, "a digit left the frame"


def test_bytes_are_refused_by_the_judge(labelled):
    with pytest.raises(TypeError, match="uint8"):
        Judge()((labelled[0] * 255).byte())


def test_doubles_are_read_as_floats_are(trained):
    judge, test = trained
    assert_close(judge(test.x[:9].double()), judge(test.x[:9]))


def test_class_gaussians_recover_mean_and_covariance():
    generator = torch.Generator().manual_seed(0)
    factor = torch.tensor([[1.0, 0.0], [0.8, 0.3]])
    means = torch.tensor([[5.0, 0.0], [-5.0, 2.0]])
    y = torch.arange(20_000) % 2
    z = means[y] + torch.randn(20_000, 2, generator=generator) @ factor.T
    sampled = class_gaussians(z, y).sample(y, seed=1)
    for k in range(2):
        assert_close(sampled[y == k].mean(0), means[k], atol=0.05, rtol=0)
        assert_close(sampled[y == k].T.cov(), factor @ factor.T, atol=0.05, rtol=0)


def test_class_mixtures_keep_modes_that_one_gaussian_blurs():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2_000, 2, generator=generator) * 0.2
    y = torch.arange(2_000) % 2
    z[:1000, 0] += 3  # each class has two clumps, and nothing between them
    between = lambda model: (model.sample(y)[:, 0].sub(1.5).abs() < 0.7).float().mean()  # noqa: E731
    assert between(class_mixtures(z, y, components=2)) < 0.01
    assert between(class_gaussians(z, y)) > 0.2


def test_samples_follow_the_seed_and_the_classes_asked_for():
    z, y = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
    z[y == 1] += 100
    model = class_mixtures(z, y, components=3)
    asked = torch.tensor([1, 0, 0, 1])
    assert torch.equal(model.sample(asked, seed=4), model.sample(asked, seed=4))
    assert not torch.equal(model.sample(asked, seed=4), model.sample(asked, seed=5))
    assert torch.equal(model.sample(asked).mean(1) > 50, asked.bool())


@pytest.mark.parametrize(
    ("fail", "said"),
    [
        (lambda z, y: class_gaussians(z, y, num_classes=3), "class 2 has 0 samples"),
        (lambda z, y: class_gaussians(z, 2 * y), "class 1 has 0 samples"),
        (lambda z, y: class_mixtures(z, y, components=31), "class 0 has 30 samples"),
        (lambda z, y: class_gaussians(z * torch.inf, y), "infinite"),
        (lambda z, y: class_gaussians(z, y[1:]), "same length"),
        (lambda z, y: class_mixtures(z, y, components=0), "components"),
        (lambda z, y: class_gaussians(z, y).sample(torch.tensor([2])), "class 2 is out of range"),
    ],
)
def test_class_baselines_refuse_in_one_line(fail, said):
    with pytest.raises(ValueError, match=said):
        fail(torch.randn(60, 3), torch.arange(60) % 2)
