"""Images, faces and clouds in rows and columns: each stands in its place, dot by dot."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from laws import refusals

from fpnlib import plots
from fpnlib.data.drawn.shapes import _draw_shape

IMAGES = torch.rand(4, 3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
FACES = torch.rand(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
CHAIR = _draw_shape("chair", np.random.default_rng(0), 400)


def canvas(figure, k=0):
    """The picture of all the pictures in a panel, (height, width, 3)."""
    return np.asarray(figure.axes[k].images[0].get_array())


def labels(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


def test_every_image_stands_in_its_place_by_its_label():
    figure = plots.grid(IMAGES, row_labels="abcd", column_labels="xyz")
    (ax,) = figure.axes
    assert labels(ax.yaxis) == list("abcd") and labels(ax.xaxis) == list("xyz")
    times = round(ax.get_yticks()[1] - ax.get_yticks()[0]) // 29  # a line of one pixel between
    for i, j in np.ndindex(4, 3):
        center = ax.get_yticks()[i], ax.get_xticks()[j]
        top, left = (round(place + 0.5) - 14 * times for place in center)
        shown = canvas(figure)[top : top + 28 * times, left : left + 28 * times, 0]
        np.testing.assert_allclose(shown[::times, ::times], 1 - IMAGES[i, j, 0], atol=1e-6)


@pytest.mark.parametrize(
    "pictures",
    [IMAGES, torch.rand(2, 3, 1, 8, 8), torch.rand(2, 3, 1, 100, 100), FACES, [[CHAIR] * 3] * 2],
    ids=["digits", "small", "large", "faces", "clouds"],
)
def test_every_dot_of_the_canvas_is_a_dot_of_the_figure(pictures):
    figure = plots.grid(pictures, ["a", "long label", "c", "d"][: len(pictures)], "xyz", "title")
    figure.savefig(saved := io.BytesIO(), dpi=figure.dpi)
    dots = plt.imread(io.BytesIO(saved.getvalue()))[..., :3]
    box = figure.axes[0].get_window_extent()
    top, left = dots.shape[0] - round(box.y1), round(box.x0)
    whole = canvas(figure)
    drawn = dots[top : top + whole.shape[0], left : left + whole.shape[1]]
    np.testing.assert_allclose(drawn, whole, atol=0.01)


def test_small_images_are_sharp_and_large_ones_have_a_dot_for_each_pixel():
    small, large = (plots.grid(torch.rand(1, 2, 1, side, side)) for side in (28, 100))
    assert small.dpi >= 200 and canvas(large).shape[0] == 100


def test_faces_keep_their_colours_and_long_labels_their_lines():
    edits = ["original", "+Smiling", "+Wearing_Lipstick -Young"]
    figure = plots.grid(FACES, ["a", "b"], edits, framed=[(1, 2)])
    (ax,) = figure.axes
    whole = canvas(figure)
    frame = ax.patches[0]
    left, top = (round(place + 0.5) for place in frame.get_xy())
    shown = whole[top : top + round(frame.get_height()), left : left + round(frame.get_width())]
    expected = FACES[1, 2].mean((1, 2))
    np.testing.assert_allclose(shown.mean((0, 1)), expected, atol=0.02)
    assert labels(ax.xaxis) == ["original", "+Smiling", "+Wearing\nLipstick\n-Young"]
    assert len(ax.patches) == 1


def test_a_row_with_fewer_clouds_is_filled_up_with_paper():
    """Every cloud stands in the row of its own label."""
    rows = [[CHAIR], [CHAIR] * 3, torch.zeros(0, 9, 3)]
    whole = canvas(plots.grid(rows, ["one", "three", "none"]))
    cells = whole.reshape(3, 100, 3, 100, 3).transpose(0, 2, 1, 3, 4)
    inked = (cells.reshape(3, 3, -1).min(-1) < 0.9).tolist()
    assert inked == [[True, False, False], [True, True, True], [False, False, False]]


def test_panels_stand_side_by_side_with_labels_of_their_own():
    pair = {"base": IMAGES[:2], "plugin": IMAGES}
    figure = plots.grid(pair, {"plugin": "abcd"}, row_title="requested class")
    left, right = figure.axes
    assert [ax.get_title() for ax in (left, right)] == ["base", "plugin"]
    assert labels(left.yaxis) == [] and labels(right.yaxis) == list("abcd")
    assert [ax.get_ylabel() for ax in (left, right)] == ["", "requested class"]
    assert left.get_window_extent().y1 == pytest.approx(right.get_window_extent().y1)
    both = plots.grid({"base": IMAGES, "plugin": IMAGES}, "abcd", row_title="class")
    assert [ax.get_ylabel() for ax in both.axes] == ["class", ""]
    assert all(labels(ax.yaxis) == list("abcd") for ax in both.axes)


@pytest.mark.parametrize(
    "names", [["car"], ["night_stand"] * 10, ["a_category_of_many_letters"] * 3]
)
def test_texts_have_room_and_do_not_meet(names):
    clouds, columns = [[CHAIR] * 2] * len(names), ["test", "reconstructed"]
    figure = plots.grid(clouds, names, columns, row_title="category")
    figure.draw_without_rendering()
    (ax,) = figure.axes
    texts = [ax.yaxis.label, *ax.get_yticklabels(), *ax.get_xticklabels()]
    title, *boxes = (text.get_window_extent() for text in texts)
    assert title.x1 < min(box.x0 for box in boxes)
    for box in [title, *boxes]:
        assert box.x0 >= 0 and box.y0 >= 0
        assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1


test_what_cannot_be_shown_is_said_in_one_line = refusals(
    [
        (lambda: plots.grid(torch.rand(28, 28)), r"clouds \(points, 3\), got .* of shape \(28,\)"),
        (lambda: plots.grid(255 * IMAGES), r"images must lie in \[0, 1\], got 0.0203 to 255"),
        (lambda: plots.grid(torch.rand(4, 2, 8, 8)), r"got rows of shape \(2, 8, 8\)"),
        (lambda: plots.grid(IMAGES * torch.nan), "pictures has 2,352 NaN or infinite"),
        (lambda: plots.grid(IMAGES, "abc"), "row_labels must name 4 rows, got 3"),
        (lambda: plots.grid(IMAGES, None, "ab"), "column_labels must name 3 columns, got 2"),
        (lambda: plots.grid([]), "pictures must have a picture in some row, got none"),
        (lambda: plots.grid(IMAGES[0], columns=0), "columns must be a positive whole number"),
    ],
)
