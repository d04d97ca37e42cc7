"""Names ⇄ contexts, and one clear line for every label that is none."""

import numpy as np
import pytest
import torch

from fpnlib.attributes import Classes

SHAPES = Classes(["chair", "sofa", "table"])


@pytest.mark.parametrize(
    "y",
    ["sofa", 1, np.int64(1), [1], ["sofa"], np.array([1]), np.array(["sofa"]), torch.tensor(1), torch.tensor([1.0])],
)
def test_every_way_to_say_a_class(y):
    assert SHAPES.index(y).tolist() == [1]
    assert SHAPES.encode(y).tolist() == [[0, 1, 0]]


def test_index_and_name_are_inverse():
    assert [SHAPES.names[i] for i in SHAPES.index(["table", "chair"])] == ["table", "chair"]
    assert Classes(range(10)).index("7").item() == 7 and Classes(range(10)).context_dim == 10


@pytest.mark.parametrize(
    "y, line",
    [
        (10, "class 10 is out of range; expected 0 to 9"),
        (-1, "class -1 is out of range"),
        ([0, 12], "class 12 is out of range"),
        (2.5, "whole numbers"),
        (float("nan"), "NaN"),
        (torch.zeros(2, 2), r"shape \(n,\)"),
        ("seven", "unknown class 'seven'"),
    ],
)
def test_labels_that_are_none(y, line):
    with pytest.raises((ValueError, TypeError), match=line) as error:
        Classes(range(10)).encode(y)
    assert "\n" not in str(error.value)


def test_a_misspelt_name_gets_the_nearest():
    with pytest.raises(ValueError, match="unknown class 'chiar'; did you mean 'chair'?"):
        SHAPES.encode("chiar")


@pytest.mark.parametrize("names, line", [([], "at least one"), (["a", "b", "a"], "'a' twice")])
def test_names_that_are_none(names, line):
    with pytest.raises(ValueError, match=line):
        Classes(names)
