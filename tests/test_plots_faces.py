"""Figures of faces show what they were given, and refuse what they can't show."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from fpnlib import plots

FACES = torch.rand(2, 3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TABLE = pd.DataFrame(
    {
        "editor": ["ours", "ours", "theirs", "theirs"],
        "attribute": ["Smiling", "Wearing_Hat"] * 2,
        "achieved": [0.9, 1.0, 0.5, 0.7],
        "others": [0.01, 0.02, 0.03, 0.04],
    }
)


def test_faces_stand_where_they_were_put():
    figure = plots.face_grid(
        FACES, ["a", "b"], ["original", "+Smiling", "+Hat"], "title", framed=[(1, 2)]
    )
    assert plt.get_fignums() == []
    grid = np.array(figure.axes).reshape(2, 3)
    shown = grid[1, 2].images[0].get_array()
    np.testing.assert_allclose(shown, FACES[1, 2].permute(1, 2, 0), atol=1e-6)
    assert [ax.get_title() for ax in grid[0]] == ["original", "+Smiling", "+Hat"]
    assert [ax.get_ylabel() for ax in grid[:, 0]] == ["a", "b"]
    assert [len(ax.patches) for ax in grid.flat] == [0] * 5 + [1]


def test_scores_stand_at_their_values():
    figure = plots.attribute_scores(TABLE, {"achieved": "achieved", "others": "others changed"})
    first, second = figure.axes
    assert first.get_xlabel() == "achieved" and second.get_xlabel() == "others changed"
    assert [line.get_xdata().tolist() for line in first.lines] == [[0.9, 1.0], [0.5, 0.7]]
    assert [label.get_text() for label in first.get_yticklabels()] == ["Smiling", "Wearing Hat"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ours", "theirs"]


def test_the_floor_is_shown_where_the_panel_reaches_down_to_it():
    floor = TABLE[TABLE["editor"] == "ours"].assign(editor="no edit", achieved=0.6, others=0.0)
    figure = plots.attribute_scores(
        pd.concat([TABLE, floor]),
        {"achieved": "achieved", "others": "others changed"},
        floor="no edit",
    )
    first, second = figure.axes
    assert (
        first.lines[-1].get_xdata().tolist() == [0.6, 0.6]
        and first.lines[-1].get_label() == "no edit"
    )
    assert len(second.lines) == 2 and first.get_xlim()[0] < 0.6


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.face_grid(FACES[0]), "faces must have shape"),
        (lambda: plots.face_grid(FACES * torch.nan), "faces has .* NaN"),
        (lambda: plots.face_grid(FACES, ["a"]), "row_labels must name 2 rows, got 1"),
        (lambda: plots.attribute_scores(TABLE, {"achived": "x"}), "did you mean 'achieved'"),
        (lambda: plots.attribute_scores(TABLE[:0], {"achieved": "x"}), "table must have rows"),
    ],
)
def test_what_cannot_be_shown_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
