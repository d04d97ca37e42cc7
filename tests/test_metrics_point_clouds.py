"""Distances between clouds, scores of sets of them, and the judge."""

import itertools

import pytest
import torch
from laws import refusals

from fpnlib.data.drawn.shapes import SHAPES, load_drawn_shapes
from fpnlib.metrics import point_clouds as metrics
from fpnlib.metrics.images import right_class_rate
from fpnlib.metrics.judge import cloud_judge
from fpnlib.training import fit


def clouds(n, points=7, seed=0):
    return torch.randn(n, points, 3, generator=torch.Generator().manual_seed(seed))


def compared(samples, reference, distance="chamfer"):
    """Two clouds of one class beside two others."""
    return metrics.compare(samples, [0, 0], reference, [0, 0], 1, distance)


def test_chamfer_by_hand():
    """PointFlow's: means of squared distances, both ways."""
    a = torch.tensor([[0.0, 0, 0], [1, 0, 0]])
    b = torch.tensor([[[0.0, 0, 0], [3, 0, 0], [0, 2, 0]]])
    assert metrics._chamfer(a, b).item() == pytest.approx((0 + 1) / 2 + (0 + 4 + 4) / 3)


def test_earth_movers_is_the_best_matching():
    a, b = clouds(2, 5), clouds(3, 5, seed=1)
    for i, j in itertools.product(range(2), range(3)):
        ways = torch.cdist(a[i], b[j])
        best = min(ways[range(5), order].mean() for order in itertools.permutations(range(5)))
        assert metrics._earth_movers(a[i], b)[j] == pytest.approx(best.item(), rel=1e-5)


@pytest.mark.parametrize("distance", metrics.DISTANCES)
def test_distances_are_of_sets(distance, monkeypatch):
    a, b = clouds(4), clouds(3, seed=1)

    def measure(a, b):
        return torch.stack([metrics.DISTANCES[distance](cloud, b) for cloud in a])

    whole = measure(a, b)
    assert torch.allclose(whole, measure(b, a).T, atol=1e-5)
    assert torch.allclose(measure(a[:, torch.randperm(7)], b), whole, atol=1e-5)
    assert torch.allclose(measure(a + 100, b + 100), whole, atol=1e-3)
    many = clouds(2, 64) + 3
    assert measure(many, many).diagonal().max() < 1e-5
    monkeypatch.setattr(metrics, "AT_ONCE", 10)
    assert torch.allclose(measure(a, b), whole, atol=1e-6)
    assert torch.allclose(metrics._pairwise(a, b, distance), whole, atol=1e-5)
    assert torch.allclose(metrics._pairwise(a, None, distance), measure(a, a), atol=1e-5)


def at(*places):
    """Clouds of two points at these places of a line: the earth mover's distances are theirs."""
    return torch.tensor([[[place, 0, 0], [place, 1, 0]] for place in places])


@pytest.mark.parametrize(
    ("second", "told_apart"),
    [
        (0.1, None),  # 0.1 is as far from 0 as from 0.2
        (0.09, 2 / 6),  # nearest: 0 and 0.09 each other, 9→9.3, 0.2→0.09, 5→9, 9.3→9
    ],
)
def test_scores_by_hand(second, told_apart):
    y = torch.zeros(3, dtype=torch.long)
    samples, reference = at(0, second, 9), at(0.2, 5, 9.3)
    scores = metrics.compare(samples, y, reference, y, 1, "earth mover's")
    assert scores["coverage"] == pytest.approx([2 / 3] * 2)
    assert scores["mmd"] == pytest.approx([(0.2 - second + 4 + 0.3) / 3] * 2)
    if told_apart is not None:
        assert scores["1-nna"] == pytest.approx([told_apart] * 2)


def test_equal_distributions_score_a_half_and_others_do_not():
    y = torch.arange(2).repeat_interleave(40)
    shift = y[:, None, None] * 3.0

    def draw(seed, spread=1.0):
        means = spread * torch.randn(80, 1, 3, generator=torch.Generator().manual_seed(seed))
        return means + 0.1 * clouds(80, 6, seed) + shift

    same = metrics.compare(draw(1), y, draw(2), y, classes=3)
    narrow = metrics.compare(draw(1, 0.2), y, draw(2), y, classes=3)
    for part in range(3):
        assert 0.35 < same["1-nna"][part] < 0.65 < narrow["1-nna"][part]
        assert same["coverage"][part] > 0.4 > narrow["coverage"][part]
        assert same["mmd"][part] < narrow["mmd"][part]
    assert all(torch.tensor(scores[3]).isnan() for scores in same.values())
    copies = metrics.compare(draw(2), y, draw(2), y, classes=2)
    assert copies["1-nna"][0] < 0.05 and copies["coverage"][0] == 1 and copies["mmd"][0] < 1e-4


def test_more_samples_than_needed_are_left_out():
    y, x = torch.tensor([0, 0, 1, 1, 1]), clouds(5)
    reference, y_ref = clouds(3, seed=1), torch.tensor([1, 0, 1])
    some = metrics.compare(x, y, reference, y_ref, classes=2)
    assert some == metrics.compare(x[[0, 2, 3]], y[[0, 2, 3]], reference, y_ref, classes=2)


test_bad_input_gets_one_clear_line = refusals(
    [
        (lambda: metrics._pairwise(clouds(2), clouds(2), "chamfr"), "did you mean 'chamfer'"),
        (lambda: compared(clouds(2)[..., :2], clouds(2)), r"samples must .* got \(2, 7, 2\)"),
        (lambda: compared(clouds(2), clouds(2) * torch.nan), "reference has 42 NaN"),
        (lambda: compared(clouds(2), torch.ones(2, 4, 3)), r"reference\[0\] is degenerate"),
        (lambda: compared(clouds(2), clouds(2, 8), "earth mover's"), "to as many, got 7 and 8"),
        (lambda: metrics.compare(clouds(2), [0], clouds(2), [0, 0], 1), "samples and y_samples"),
        (lambda: metrics.compare(clouds(2), [0, 3], clouds(2), [0, 0], 2), "class 3 is out"),
        (lambda: metrics.compare(clouds(2), [0, 0], clouds(2), [0, 1], 2), "class 1 has 0 samples"),
        (lambda: cloud_judge(3)(torch.zeros(2, 4, 3)), "is degenerate"),
        (lambda: cloud_judge(0), "num_classes must be a positive"),
    ],
)


def test_the_judge_learns_shapes_whatever_their_units():
    data, sets = load_drawn_shapes(n=120, points=64), []
    three = torch.tensor([list(SHAPES).index(name) for name in ("table", "airplane", "lamp")])
    for split in (data.train, data.validation, data.test):
        rows = torch.isin(split.y, three)
        sets.append((split.x[rows], (split.y[rows, None] == three).int().argmax(1)))
    torch.manual_seed(0)
    judge = cloud_judge(3, widths=(16, 16, 32, 64), head_widths=(32, 16))
    fit(judge, judge.loss, *sets[:2], epochs=30, batch_size=8, learning_rate=1e-2)
    x, y = sets[2]
    assert right_class_rate(judge, x, y) > 0.9
    assert torch.allclose(judge(x), judge(5 * x + 1), atol=1e-3)
    assert torch.equal(judge(x), judge(x))
