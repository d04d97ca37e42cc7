"""Pictures of point clouds: what is up, near and in front is drawn so; and the page to turn."""

import html
import json
import re

import numpy as np
import pytest
from laws import refusals

from fpnlib import plots
from fpnlib.data.drawn.shapes import _draw_shape

CHAIR = _draw_shape("chair", np.random.default_rng(0), 400)


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
        assert (high - low).max() < 0.12  # dots on a paler surface


def test_up_is_up_right_is_right_and_it_turns():
    height = np.concatenate([[[0.0, 1, 0]] * 3 + [[0, -1, 0]] * 30, 0.01 * CHAIR[:30]])
    height += 1e-3 * np.random.default_rng(0).normal(size=height.shape)
    rows, _ = inked(plots.render(height, size=60))
    assert rows.min() < 15 and rows.max() > 45
    line = np.stack([np.linspace(-1, 1, 200), np.zeros(200), np.zeros(200)], 1)
    across = {}
    for azimuth in (0, 60, 90):
        _, columns = inked(plots.render(line, azimuth=azimuth, elevation=0, size=60))
        across[azimuth] = np.ptp(columns)
    assert across[0] > 50 and across[0] > across[60] > across[90]


def test_what_is_in_front_hides_what_is_behind():
    """Two walls in frames that stay: both look like the nearer one alone, from either side."""
    rng = np.random.default_rng(0)

    def wall(z, low, high, n):
        x = rng.uniform(low, high, n) * rng.choice([-1, 1], n)
        return np.stack([x, rng.uniform(-1, 1, n), np.full(n, z)], 1)

    frames = [wall(z, 0.9, 1, 100) for z in (0.9, -0.9)]
    walls = [wall(z, 0, 0.85, 1500) for z in (0.9, -0.9)]
    for azimuth, (near, far) in ((0, walls), (180, walls[::-1])):
        pictures = []
        for part in ([near, far], [near], [far]):
            cloud = np.concatenate([*frames, *part])
            picture = plots.render(cloud, azimuth=azimuth, elevation=0, size=60)
            pictures.append(picture[25:35, 25:35])
        both, nearer, farther = pictures
        assert 3 * np.abs(both - nearer).mean() < np.abs(both - farther).mean()


def test_thin_parts_stay_thin():
    """A rod beside a plate: what closes the plate's surface makes no sausage of the rod."""
    rng = np.random.default_rng(0)
    plate = np.stack([rng.uniform(0, 1, 1500), rng.uniform(-1, 1, 1500), np.zeros(1500)], 1)
    rod = np.stack([np.full(60, -0.7), np.linspace(-1, 1, 60), np.zeros(60)], 1)
    cloud = np.concatenate([plate, rod])
    picture = plots.render(cloud, azimuth=0, elevation=0, size=100).mean(-1)
    middle = picture[30:70]
    rod_width = (middle[:, 5:35] < 0.97).sum(1)
    plate_part = middle[:, 60:75]
    assert rod_width.max() <= 5 and (plate_part < 0.97).mean() > 0.95


def test_the_background_may_be_dark():
    light, dark = plots.render(CHAIR, size=60), plots.render(CHAIR, size=60, paper=0.1)
    empty = (light > 0.99).all(-1)
    assert np.allclose(dark[empty], 0.1) and (dark[~empty] != 0.1).any(-1).mean() > 0.95
    assert np.median(dark[~empty].max(-1)) > 0.25  # the cloud stands out


def test_points_that_repeat_change_nothing():
    """A cloud of few points beside larger ones repeats its own."""
    again = np.concatenate([CHAIR, CHAIR, CHAIR[:100]])
    assert np.array_equal(plots.render(again, size=60), plots.render(CHAIR, size=60))


def test_of_many_points_some_of_every_part_are_drawn():
    """The first points of a file may be those of its first part."""
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(6000, 3)) * 0.1 + [x, 0, 0] for x in (-1, 1)]
    _, columns = inked(plots.render(np.concatenate(parts), azimuth=0, size=60))
    assert columns.min() < 15 and columns.max() > 45


def test_the_turntable_is_a_page_of_its_own():
    frame = plots.turntable(CHAIR, title="a <chair>", size=300)
    look = 'width="300" height="300" style="border:0;[^"]*" sandbox="allow-scripts"'
    page = html.unescape(re.fullmatch(f'<iframe srcdoc="([^"]*)" {look}></iframe>', frame)[1])
    assert "a &lt;chair&gt;" in page and "http" not in page and "__" not in page
    points = np.array(json.loads(re.search(r"const points = (\[\[.*?\]\])", page)[1]))
    assert points.shape == (400, 3) and np.linalg.norm(points, axis=1).max() < 1.1
    correlation = np.corrcoef(points[:, 1], CHAIR[:, 1])[0, 1]
    assert correlation > 0.999
    normals = np.array(json.loads(re.search(r"normals = (\[\[.*?\]\])", page)[1]))
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=0.02)
    colors = np.array(json.loads(re.search(r"colors = (\[\[.*?\]\])", page)[1]))
    greens = colors[:, 1]  # the top of the colour map has most green
    assert len(colors) == 400 and greens[CHAIR[:, 1].argmax()] == greens.max()
    assert "background: transparent" in page  # of a dark theme, too


test_what_can_not_be_shown_is_said_in_one_line = refusals(
    [
        (lambda: plots.render(np.zeros((4, 2))), r"points must have shape \(n, 3\), got \(4, 2\)"),
        (lambda: plots.render(CHAIR * np.nan), "1,200 NaN or infinite"),
        (lambda: plots.render(CHAIR, size=0), "size must be a positive"),
        (lambda: plots.turntable(np.zeros((4, 4))), r"must have shape \(n, 3\), got \(4, 4\)"),
    ],
)
