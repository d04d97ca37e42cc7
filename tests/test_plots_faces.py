"""Scores of edits per attribute stand at their values."""

import pandas as pd
import pytest

from fpnlib import plots

TABLE = pd.DataFrame(
    {
        "editor": ["ours", "ours", "theirs", "theirs"],
        "attribute": ["Smiling", "Wearing_Hat"] * 2,
        "achieved": [0.9, 1.0, 0.5, 0.7],
        "others": [0.01, 0.02, 0.03, 0.04],
    }
)


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
        (lambda: plots.attribute_scores(TABLE, {"achived": "x"}), "did you mean 'achieved'"),
        (lambda: plots.attribute_scores(TABLE[:0], {"achieved": "x"}), "table must have rows"),
    ],
)
def test_what_cannot_be_shown_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
