"""Scores of images, against cases whose answer is known."""

import pytest
import torch
from laws import refusals, untrained_judge
from torch.testing import assert_close

from fpnlib import data
from fpnlib.metrics.images import diversity, frechet_distance, right_class_rate
from fpnlib.metrics.judge import digit_judge
from fpnlib.training import fit


class Pixels(torch.nn.Module):
    """The first four pixels of an image."""

    def forward(self, x):
        return x[:, 0, 0, :4]


def pixel_judge():
    """Its features are the first four pixels, its class the brightest: scores have closed forms."""
    return untrained_judge(Pixels(), 4)


def picture(features):
    """Images whose pixel_judge features are these (n, 4)."""
    x = torch.zeros(len(features), 1, 28, 28)
    x[:, 0, 0, :4] = features
    return x


def labelled():
    y = torch.arange(4).repeat_interleave(5)
    return picture(torch.eye(4)[y]), y


@pytest.fixture(scope="module")
def trained():
    digits = data.load("digits")
    torch.manual_seed(0)
    judge = digit_judge()
    sets = [(split.x, split.y) for split in (digits.train, digits.validation)]
    fit(judge, judge.loss, *sets, epochs=4, batch_size=64, learning_rate=5e-3)
    return judge, digits.test


def test_judge_reads_digits_it_has_not_seen(trained):
    judge, test = trained
    assert right_class_rate(judge, test.x, test.y) > 0.9
    assert judge.features(test.x).shape == (len(test), judge.num_features)
    twin = digit_judge(**judge.config)
    twin.load_state_dict(judge.state_dict())
    assert torch.equal(twin.eval()(test.x), judge(test.x))


def test_scores_are_those_of_eval_mode(trained):
    judge, test = trained
    expected = right_class_rate(judge, test.x, test.y)
    judge.train()
    assert right_class_rate(judge, test.x, test.y) == expected


def test_the_right_class_is_counted():
    x, y = labelled()
    assert right_class_rate(pixel_judge(), x, y) == 1
    asked = y.clone()
    asked[:2] = 3  # two images of class 0 that were to be 3
    assert right_class_rate(pixel_judge(), x, asked) == pytest.approx(18 / 20)


def test_frechet_distance_is_the_closed_form_between_gaussians():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4000, 4, generator=generator, dtype=torch.float64)
    noise -= noise.mean(0)
    whitening = torch.linalg.inv(torch.linalg.cholesky(noise.T.cov())).T
    noise = noise @ whitening  # mean 0 and covariance 1, exactly
    mean, std = torch.tensor([0.1, -0.2, 0.3, 0.0]), torch.tensor([0.5, 2.0, 1.0, 1.5])
    pictures = picture(noise.float()), picture((noise * std + mean).float())
    distance = frechet_distance(*(pixel_judge().read(x).features for x in pictures))
    expected = mean.square().sum() + (std - 1).square().sum()
    assert distance == pytest.approx(expected.item(), abs=1e-4)


def test_diversity_is_the_mean_distance_within_classes():
    x, y = labelled()
    assert diversity(pixel_judge().read(x).features, y) == 0
    x = x.clone()
    # One of five in each class stands 0.5 aside.
    x[0::5, 0, 0, :4] += torch.tensor([0.0, 0.0, 0.3, 0.4])
    assert diversity(pixel_judge().read(x).features, y) == pytest.approx(0.5 * 4 / 10)


test_bad_input_gets_one_line = refusals(
    [
        (lambda x, y: right_class_rate(digit_judge(), x, y[1:]), "same length"),
        (lambda x, y: right_class_rate(digit_judge(), x[:0], y[:0]), "no objects"),
        (lambda x, y: right_class_rate(digit_judge(), x * 255, y), r"\[0, 1\]"),
        (lambda x, y: right_class_rate(digit_judge(), x[..., :20], y), r"\(n, 1, 28, 28\)"),
        (lambda x, y: digit_judge().read(x * torch.nan), "NaN"),
        (lambda x, y: digit_judge().read((x * 255).byte()), "uint8", TypeError),
        (lambda x, y: frechet_distance(x[:, 0, 0], x[:1, 0, 0]), "two objects or more of each"),
        (lambda x, y: frechet_distance(x[:, 0, 0], x[:, 0, 0, :4]), r"\(n, 28\), got \(20, 4\)"),
        (lambda x, y: diversity(x[:, 0, 0], 2 * y), "got 0 of class 1"),
        (lambda x, y: diversity(x[:, 0, 0], y[1:]), "same length"),
        (lambda x, y: digit_judge(0), "num_classes"),
    ],
    given=labelled,
)


def test_distortion_is_seeded_and_stays_readable(trained):
    judge, test = trained
    kept, distorted = test.x.clone(), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        distorted.append(judge.augment(test.x))
    one, again, other = distorted
    assert torch.equal(test.x, kept) and torch.equal(one, again)
    moved = (one - other).flatten(1).abs().amax(1)
    assert moved.min() > 0 and one.shape == test.x.shape and one.min() >= 0 and one.max() <= 1
    assert right_class_rate(judge, one, test.y) > 0.75
    ink = one.flatten(1).sum(1) / test.x.flatten(1).sum(1)
    assert ink.min() > 0.7 and ink.max() < 1.4, "a digit left the frame"


def test_doubles_are_read_as_floats_are(trained):
    judge, test = trained
    assert_close(judge(test.x[:9].double()), judge(test.x[:9]))
