"""Names ⇄ contexts, and one clear line for every label that is none."""

import numpy as np
import pandas as pd
import pytest
import torch
from laws import one_line, refusals

from fpnlib.conditions import Attributes, Classes, Several, Vector

SHAPES = Classes(["chair", "sofa", "table"])


NUMBERS = [1, np.int64(1), [1], np.array([1]), torch.tensor(1), torch.tensor([1.0])]


@pytest.mark.parametrize("y", [*NUMBERS, "sofa", ["sofa"], np.array(["sofa"])])
def test_every_way_to_say_a_class(y):
    assert SHAPES.index(y).tolist() == [1]
    assert SHAPES.encode(y).tolist() == [[0, 1, 0]]


def test_index_and_name_are_inverse():
    assert [SHAPES.names[i] for i in SHAPES.index(["table", "chair"])] == ["table", "chair"]
    assert Classes(range(10)).index("7").item() == 7 and Classes(range(10)).context_dim == 10


FACE = Attributes(
    ["Bald", "Bangs", "Black_Hair", "Blond_Hair", "Smiling"],
    exclusive=[("Bald", "Black_Hair", "Blond_Hair"), ("Bald", "Bangs")],
)


def test_attributes_by_name_and_by_value():
    assert FACE.context_dim == len(FACE) == 5
    assert FACE.encode("+Bangs +Smiling").tolist() == [[0, 1, 0, 0, 1]]
    assert FACE.encode([0, 1, 0, 0, 0.5]).tolist() == [[0, 1, 0, 0, 0.5]]
    assert FACE.encode(torch.eye(5, dtype=torch.bool)).dtype == torch.float32
    y = torch.tensor([[0.0, 0, 1, 0, 0], [0, 1, 1, 0, 1]])
    assert FACE.edited(y, "+Smiling -Bangs").tolist() == [[0, 0, 1, 0, 1]] * 2
    assert FACE.edited(y, "Smiling=1.5").tolist() == [[0, 0, 1, 0, 1.5], [0, 1, 1, 0, 1.5]]
    assert FACE.edited(y, {"Smiling": 0.25}).tolist() == FACE.edited(y, "Smiling=0.25").tolist()
    assert FACE.edited(y, torch.zeros(5)).tolist() == [[0] * 5]
    assert y[0, 4] == 0, "the caller's tensor stays as it was"


def test_what_excludes_it_goes_as_it_comes():
    y = torch.tensor([[0.0, 1, 0.8, 0, 1]])
    assert FACE.excluded_by("Bald") == ["Black_Hair", "Blond_Hair", "Bangs"]
    assert FACE.excluded_by("Smiling") == []
    for value, kept in ((-0.5, 1), (0, 1), (0.25, 0.75), (1, 0), (1.5, 0)):
        expected = torch.tensor([[value, kept, 0.8 * kept, 0, 1]])
        torch.testing.assert_close(FACE.set(y, {"Bald": value}), expected)
        torch.testing.assert_close(FACE.edited(y, f"Bald={value}"), expected)
    both = {"Black_Hair": 0.5, "Blond_Hair": 0.5}  # named attributes have their own values
    assert FACE.set(y, both).tolist() == [[0, 1, 0.5, 0.5, 1]]
    assert FACE.edited(y.round(), "+Blond_Hair").tolist() == [[0, 1, 0, 1, 1]]
    assert FACE.edited(y.round(), "-Bald").tolist() == y.round().tolist()


TABLE = pd.DataFrame({"tall": [0, 1], "red": [1, 0]})
LOOK, RED_TALL = Attributes(["red", "tall"]), [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("condition", "y", "expected"),
    [
        (LOOK, ["+red", "+tall"], RED_TALL),
        (LOOK, [{"red": 1}, {"tall": 1}], RED_TALL),
        (LOOK, TABLE, RED_TALL),
        (LOOK, pd.DataFrame(RED_TALL), RED_TALL),
        (LOOK, TABLE.iloc[0], [[1, 0]]),
        (Vector(2), pd.DataFrame(RED_TALL, columns=["e0", "e1"]), RED_TALL),
        (Vector(2), pd.Series([np.array(row) for row in RED_TALL]), RED_TALL),
    ],
)
def test_rows_and_tables_have_their_names(condition, y, expected):
    assert condition.values(y).tolist() == expected


@pytest.mark.parametrize("to", [["+red", "-red"], [{"red": 1}, {"red": 0}], TABLE[["red"]]])
def test_each_row_has_its_own_edit_which_changes_nothing_else(to):
    assert LOOK.edited(torch.eye(2).flip(0), to).tolist() == [[1, 1], [0, 0]]
    assert LOOK.edited([0, 1], to).tolist() == [[1, 1], [0, 1]]
    assert LOOK.edited(torch.zeros(2, 2), TABLE.iloc[0][["red"]]).tolist() == [[1, 0], [1, 0]]


TEN, NAN = Classes(range(10)), float("nan")
ALL_BALD_ARE_0 = torch.tensor([[0.0, 1, 1, 0, 1], [0, 0, 0, 1, 0]])
test_what_makes_no_sense_gets_one_line = refusals(
    [
        (lambda: TEN.encode(10), "class 10 is out of range; expected 0 to 9"),
        (lambda: TEN.encode([0, 12]), "class 12 is out of range"),
        (lambda: TEN.encode(2.5), "whole numbers", TypeError),
        (lambda: TEN.encode(torch.zeros(2, 2)), r"shape \(n,\)"),
        (lambda: SHAPES.encode("chiar"), "unknown class 'chiar'; did you mean 'chair'?"),
        (lambda: Classes([]), "at least one"),
        (lambda: Classes(["a", "b", "a"]), "'a' twice"),
        (lambda: Attributes([*"7767"]), "got '7' twice"),
        (lambda: Attributes(["Bald"], [("Bald", "Bold")]), "'Bold'; did you mean 'Bald'"),
        (
            lambda: Attributes(["Bald", "Bangs"], ("Bald", "Bangs")),
            "exclusive groups need a list",
            TypeError,
        ),
        (lambda: Several([SHAPES]), r"need names, as in Several\(kind=Classes", TypeError),
        (lambda: FACE.encode(torch.zeros(3, 4)), r"must have shape \(n, 5\), got \(3, 4\)"),
        (lambda: FACE.encode(torch.full((1, 5), NAN)), "'Bald' of row 0 is unknown or unsaid"),
        (lambda: FACE.encode(["Bald", "Bangs"]), r"an edit begins with \+ or -, got 'Bald'"),
        (lambda: FACE.edited(torch.zeros(3, 5), ["+Bald", "-Bald"]), "y and to must have the same"),
        (lambda: FACE.encode([["a"] * 5]), "attributes must be numbers", TypeError),
        (lambda: FACE.learn(ALL_BALD_ARE_0), "'Bald' is 0 in all 2 samples"),
        (lambda: FACE.learn(2 * ALL_BALD_ARE_0 - 1), r"for -1 and 1 pass \(y \+ 1\) / 2"),
        (lambda: FACE.set(torch.zeros(5), {"Bold": 1}), "did you mean 'Bald'"),
        (lambda: FACE.set(torch.zeros(5), {"Bald": float("inf")}), "finite"),
    ]
)


@pytest.mark.parametrize(
    ("edits", "kind", "message"),
    [
        ("+Smilling", ValueError, "unknown attribute 'Smilling'; did you mean 'Smiling'?"),
        ("Smiling", ValueError, r"an edit begins with \+ or -, got 'Smiling'; did you mean"),
        ("+Smiling -Smiling", ValueError, "edits: 'Smiling' is both 1.0 and 0.0"),
        ("+Bald +Bangs", ValueError, "contradictory edits: 'Bald' and 'Bangs' exclude each other"),
        ("-Smiling=0.5", ValueError, r"one sign or a value, got '-Smiling=0.5'; write '\+Smiling'"),
        ("+-Smiling", ValueError, r"an edit has one sign or a value, got '\+-Smiling'"),
        ("Smiling=much", TypeError, "the value of 'Smiling' must be a number, got 'much'"),
        ({"Smiling": float("nan")}, ValueError, "'Smiling' of row 0 is unknown or unsaid"),
    ],
)
def test_an_edit_that_makes_no_sense_gets_one_line(edits, kind, message):
    with one_line(kind, message):
        FACE.edited(torch.zeros(5), edits)
