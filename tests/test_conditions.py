"""Names ⇄ contexts, and one clear line for every label that is none."""

import numpy as np
import pytest
import torch
from laws import one_line

from fpnlib.conditions import Attributes, Classes

SHAPES = Classes(["chair", "sofa", "table"])


NUMBERS = [1, np.int64(1), [1], np.array([1]), torch.tensor(1), torch.tensor([1.0])]


@pytest.mark.parametrize("y", [*NUMBERS, "sofa", ["sofa"], np.array(["sofa"])])
def test_every_way_to_say_a_class(y):
    assert SHAPES.index(y).tolist() == [1]
    assert SHAPES.encode(y).tolist() == [[0, 1, 0]]


def test_index_and_name_are_inverse():
    assert [SHAPES.names[i] for i in SHAPES.index(["table", "chair"])] == ["table", "chair"]
    assert Classes(range(10)).index("7").item() == 7 and Classes(range(10)).context_dim == 10


@pytest.mark.parametrize(
    ("y", "line"),
    [
        (10, "class 10 is out of range; expected 0 to 9"),
        ([0, 12], "class 12 is out of range"),
        (2.5, "whole numbers"),
        (torch.zeros(2, 2), r"shape \(n,\)"),
    ],
)
def test_labels_that_are_none(y, line):
    with one_line((ValueError, TypeError), line):
        Classes(range(10)).encode(y)


def test_a_misspelt_name_gets_the_nearest():
    with pytest.raises(ValueError, match="unknown class 'chiar'; did you mean 'chair'?"):
        SHAPES.encode("chiar")


@pytest.mark.parametrize(("names", "line"), [([], "at least one"), (["a", "b", "a"], "'a' twice")])
def test_names_that_are_none(names, line):
    with pytest.raises(ValueError, match=line):
        Classes(names)


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


def test_what_excludes_it_is_cleared():
    y = torch.tensor([[0.0, 1, 1, 0, 1]])
    assert FACE.edited(y, "+Blond_Hair").tolist() == [[0, 1, 0, 1, 1]]
    assert FACE.edited(y, "+Bald").tolist() == [[1, 0, 0, 0, 1]]
    assert FACE.edited(y, "-Bald").tolist() == y.tolist()


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
    with pytest.raises(ValueError, match="did you mean 'Bald'"):
        FACE.set(y, {"Bold": 1})
    with pytest.raises(ValueError, match="finite"):
        FACE.set(y, {"Bald": float("inf")})


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


def test_values_that_are_no_attributes_are_refused():
    for values, kind, message in (
        (torch.zeros(3, 4), ValueError, r"attributes must have shape \(n, 5\), got \(3, 4\)"),
        (torch.full((1, 5), torch.nan), ValueError, "'Bald' of row 0 is unknown or unsaid"),
        ([["a"] * 5], TypeError, "attributes must be numbers"),
    ):
        with pytest.raises(kind, match=message):
            FACE.encode(values)
    with pytest.raises(ValueError, match="got '7' twice"):
        Attributes([*"7767"])
    with pytest.raises(ValueError, match="unknown attribute 'Bold'; did you mean 'Bald'"):
        Attributes(["Bald"], exclusive=[("Bald", "Bold")])


def test_what_cannot_be_learned_is_refused():
    with pytest.raises(ValueError, match="'Bald' is 0 in all 2 samples"):
        FACE.learn(torch.tensor([[0.0, 1, 1, 0, 1], [0, 0, 0, 1, 0]]))
    with pytest.raises(ValueError, match=r"for -1 and 1 pass \(y \+ 1\) / 2"):
        FACE.learn(torch.tensor([[-1.0] * 5, [1] * 5]))
