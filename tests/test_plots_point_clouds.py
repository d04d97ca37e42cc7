"""Pictures of point clouds: what is up, near and in front is drawn so; and the page to turn."""

import html
import json
import re

import numpy as np
import pytest

from fpnlib import plots
from fpnlib.data.drawn.shapes import draw_shape

CHAIR = draw_shape("chair", np.random.default_rng(0), 400)


def inked(picture):
    """Rows and columns of the pixels that are not paper."""
    return np.nonzero((picture < 0.97).any(-1))


def test_a_cloud_fills_its_picture_whatever_its_units():
    picture = plots.render(CHAIR, size=60)
    assert picture.shape == (60, 60, 3) and picture.min() >= 0 and picture.max() == 1
    rows, columns = inked(picture)
    assert max(np.ptp(rows), np.ptp(columns)) > 40
    assert np.allclose(picture, plots.render(7 * CHAIR + 3, size=60), atol=0.1)
    astray = np.concatenate([CHAIR, [[50.0, 50, 50]]])
    assert max(np.ptp(axis) for axis in inked(plots.render(astray, size=60))) > 40


@pytest.mark.parametrize("azimuth", [0, 35, 55, 180])
def test_no_ball_is_cut_off_at_the_edge(azimuth):
    rng = np.random.default_rng(0)
    stray = CHAIR[:4] * rng.uniform(1, 3, (4, 1))
    picture = plots.render(np.concatenate([CHAIR, stray]), azimuth=azimuth, size=60)
    edges = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    assert edges.min() > 0.9 and len(inked(picture)[0]) > 200


def test_a_surface_is_shaded_by_how_it_lies():
    """A roof's left side looks into the light; along its ridge either side has one shade."""
    rng = np.random.default_rng(0)
    x, z = rng.uniform(-1, 1, 8000), rng.uniform(-1, 1, 8000)
    picture = plots.render(np.stack([x, -abs(x), z], 1), azimuth=0, elevation=40, size=90).mean(-1)
    left, right = picture[35:60, 25:35], picture[35:60, 55:65]
    assert left.mean() > right.mean() + 0.05
    for side in (left, right):
        low, high = np.percentile(side, [20, 80], axis=0)
        assert (high - low).max() < 0.05


def test_up_is_up_right_is_right_and_it_turns():
    height = np.concatenate([[[0.0, 1, 0]] * 3 + [[0, -1, 0]] * 30, 0.01 * CHAIR[:30]])
    rows, _ = inked(
        plots.render(height + 1e-3 * np.random.default_rng(0).normal(size=height.shape), size=60)
    )
    assert rows.min() < 15 and rows.max() > 45
    line = np.stack([np.linspace(-1, 1, 200), np.zeros(200), np.zeros(200)], 1)
    across = {
        azimuth: np.ptp(inked(plots.render(line, azimuth=azimuth, elevation=0, size=60))[1])
        for azimuth in (0, 60, 90)
    }
    assert across[0] > 50 and across[0] > across[60] > across[90]


def test_what_is_in_front_hides_what_is_behind():
    """Two walls in frames that stay: both look like the nearer one alone, from either side."""
    rng = np.random.default_rng(0)

    def wall(z, low, high):
        x = rng.uniform(low, high, 4000) * rng.choice([-1, 1], 4000)
        return np.stack([x, rng.uniform(-1, 1, 4000), np.full(4000, z)], 1)

    frames = [wall(z, 0.9, 1) for z in (0.9, -0.9)]
    walls = [wall(z, 0, 0.85) for z in (0.9, -0.9)]
    for azimuth, (near, far) in ((0, walls), (180, walls[::-1])):
        parts = ([near, far], [near], [far])
        both, nearer, farther = (
            plots.render(np.concatenate([*frames, *part]), azimuth=azimuth, elevation=0, size=60)[
                25:35, 25:35
            ]
            for part in parts
        )
        assert 3 * np.abs(both - nearer).mean() < np.abs(both - farther).mean()


def test_the_turntable_is_a_page_of_its_own():
    frame = plots.turntable(CHAIR, title="a <chair>", size=300)
    look = 'width="300" height="300" style="border:0" sandbox="allow-scripts"'
    page = html.unescape(re.fullmatch(f'<iframe srcdoc="([^"]*)" {look}></iframe>', frame)[1])
    assert "a &lt;chair&gt;" in page and "http" not in page and "__" not in page
    points = np.array(json.loads(re.search(r"const points = (\[\[.*?\]\])", page)[1]))
    assert points.shape == (400, 3) and np.linalg.norm(points, axis=1).max() < 1.1
    correlation = np.corrcoef(points[:, 1], CHAIR[:, 1])[0, 1]
    assert correlation > 0.999
    levels = json.loads(re.search(r"levels = (\[.*?\])", page)[1])
    assert len(levels) == 400 and levels[CHAIR[:, 1].argmax()] == max(levels)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: plots.render(np.zeros((4, 2))), "points must have shape (n, 3), got (4, 2)"),
        (lambda: plots.render(CHAIR * np.nan), "1,200 NaN or infinite"),
        (lambda: plots.render(CHAIR, size=0), "size must be a positive"),
        (lambda: plots.turntable(np.zeros((4, 4))), "points must have shape (n, 3), got (4, 4)"),
    ],
)  # fmt: skip
def test_what_can_not_be_shown_is_said_in_one_line(call, line):
    with pytest.raises(ValueError, match=f"^.*{re.escape(line)}.*$"):
        call()
