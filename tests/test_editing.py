"""Scores of edits, held against editors and judges whose answers are known."""

import pandas as pd
import pytest
import torch
from laws import one_line, untrained_judge
from torch import nn
from torch.testing import assert_close

from fpnlib.conditions import Attributes
from fpnlib.metrics.editing import (
    LinearRegression,
    MeanDifferences,
    SingleEdits,
    accuracy_per_attribute,
    outside,
    score_edits,
)
from fpnlib.metrics.editing_tables import (
    OURS,
    chosen_strengths,
    mean_scores,
    paired_differences,
    shared_successes,
)
from fpnlib.metrics.judge import Judge, face_judge
from fpnlib.training import fit

HAIR = ("Bald", "Black_Hair", "Blond_Hair")
FOUR = Attributes([*HAIR, "Smiling"], exclusive=[HAIR])


class Pixels(nn.Module):
    """The first pixels of a face, less a half."""

    def forward(self, x):
        return x[:, 0, 0, :4] - 0.5


def reader():
    """A judge that reads attribute a off pixel (0, 0, a): there if it is above a half."""
    return untrained_judge(Pixels(), 4, exclusive=False)


def faces(y):
    x = torch.full((len(y), 3, 16, 16), 0.5)
    x[:, 0, 0, :4] = y.float()
    return x


def scored(before, after, y, to):
    """Scores of attributes in an array, and of wanted ones that are True or False."""
    return score_edits(reader().read(before), reader().read(after), y.numpy(), to.bool())


def test_single_edits_turn_one_attribute_into_its_opposite():
    y = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0]])
    edits = SingleEdits(FOUR, y.numpy(), each=2)
    before = y[edits.rows]
    m = torch.arange(len(edits.rows))
    assert len(m) == 8
    assert torch.equal(edits.to[m, edits.columns], 1 - before[m, edits.columns].float())
    assert (edits.to[:, :3].sum(1) <= 1).all(), "colours that exclude each other are cleared"
    others = edits.to != before
    others[m, edits.columns] = False
    assert not others[:, 3].any()


def test_a_perfect_edit_and_one_that_does_nothing():
    y = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 1]])
    to = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 1]])
    perfect = scored(faces(y), faces(to), y, to)
    assert perfect["achieved"].tolist() == [1, 1] and perfect["others"].tolist() == [0, 0]
    assert (perfect["moved"] > 0).all()
    nothing = scored(faces(y), faces(y), y, to)
    assert not any(score.any() for score in nothing.values())


def test_what_else_moves_is_counted_against_the_face_before():
    y = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 1]])
    to = torch.tensor([[0, 1, 0, 1], [0, 0, 1, 0]])
    # The first is done, but two others moved; the second isn't done, and nothing moved.
    after = torch.tensor([[1, 0, 0, 1], [0, 0, 1, 1]])
    scores = scored(faces(y), faces(after), y, to)
    assert scores["achieved"].tolist() == [1, 0]
    assert_close(scores["others"], torch.tensor([2 / 3, 0]))
    # A judge who misreads the face before does not count that as a move.
    blank = scored(faces(0 * y), faces(0 * y), y, to)
    assert blank["others"].tolist() == [0, 0]


def test_outside_looks_only_where_nothing_is_to_change():
    before = torch.zeros(2, 3, 16, 16)
    after = before.clone()
    after[0, :, :8] += 0.5
    changed = torch.zeros(2, 16, 16, dtype=torch.bool)
    changed[:, :8] = True
    assert outside(before, after, changed).tolist() == [0, 0]
    assert_close(outside(before, after, ~changed), torch.tensor([0.5, 0]))
    assert outside(before, after, torch.ones_like(changed)).tolist() == [0, 0]


def test_accuracy_is_per_attribute():
    y = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 1]])
    wrong = y.clone()
    wrong[0, 3] = 1
    assert accuracy_per_attribute(reader(), faces(y), wrong).tolist() == [1, 1, 1, 0.5]


def test_balanced_accuracy_gives_a_guess_a_half():
    y = torch.tensor([[1, 0, 1, 0]] + [[0, 1, 1, 0]] * 9)
    none = accuracy_per_attribute(reader(), faces(0 * y), y, balanced=True)
    assert_close(none[:2], torch.tensor([0.5, 0.5]))
    assert none[2:].isnan().all(), "all or none have it"
    assert_close(accuracy_per_attribute(reader(), faces(y), y, balanced=True)[:2], torch.ones(2))


def test_thresholds_are_put_where_they_tell_most():
    """Logits of -3 to 0 for attributes that begin at -1.5, at 0.5, or nowhere."""

    class Ramp(nn.Module):
        def forward(self, x):
            return x[:, 0, 0, :1].expand(-1, 128)

    judge, x = Judge(Ramp(), 128, outputs=3, exclusive=False), torch.zeros(31, 3, 16, 16)
    x[:, 0, 0, 0] = torch.linspace(-3, 0, 31)
    with torch.no_grad():
        judge.head[1].weight.fill_(1 / 128)
        judge.head[1].bias.zero_()
    nobody = torch.zeros(31, dtype=torch.bool)
    y = torch.stack([x[:, 0, 0, 0] > -1.45, torch.arange(31) % 2 == 0, nobody], 1).long()
    before = judge.head[1].bias.tolist()
    assert judge.calibrate(x, y.numpy()) is judge
    with one_line(ValueError, r"y must have shape \(31, 3\), got \(31, 1\)"):
        judge.calibrate(x, y[:, :1])
    assert accuracy_per_attribute(judge, x, y, balanced=True)[0] == 1
    assert judge.head[1].bias[0].item() == pytest.approx(1.45, abs=0.051)
    assert accuracy_per_attribute(judge, x, y, balanced=True)[1] > 0.5
    assert judge.head[1].bias[2] == before[2]
    kept = judge.head[1].bias.tolist()
    assert judge.calibrate(x, y).head[1].bias.tolist() == kept, "what tells most stays"
    upside_down = (x[:, 0, 0, :1] < -2.95).long().expand(-1, 3)
    # No threshold tells more than none.
    assert judge.calibrate(x, upside_down).head[1].bias.isfinite().all()


def test_the_difference_of_means_is_exact_where_effects_add_up():
    torch.manual_seed(0)
    directions = torch.randn(4, 6)
    y = torch.cartesian_prod(*[torch.tensor([0, 1])] * 4)  # independent attributes
    z = y.float() @ directions + torch.ones(6)
    editor = MeanDifferences(z, y)
    assert_close(editor.directions, directions, atol=1e-5, rtol=0)
    assert_close(editor(z, y, 1 - y), (1 - y).float() @ directions + 1, atol=1e-5, rtol=0)
    assert torch.equal(editor(z, y, y), z)
    with pytest.raises(ValueError, match="attribute 2 is the same in all 16 latents"):
        MeanDifferences(z, y * torch.tensor([1, 1, 0, 1]))
    for kind in (MeanDifferences, LinearRegression):
        with pytest.raises(ValueError, match=r"for -1 and 1 pass \(y \+ 1\) / 2"):
            kind(z, 2 * y - 1)


def test_a_regression_finds_effects_that_come_together():
    torch.manual_seed(0)
    directions = torch.randn(3, 6)
    y = (torch.rand(500, 3) < 0.5).long()
    y[:, 1] = torch.where(torch.rand(500) < 0.9, y[:, 0], y[:, 1])  # which means would mix up
    z = y.float() @ directions + torch.ones(6)
    assert_close(LinearRegression(z, y).directions, directions, atol=1e-3, rtol=0)
    assert not torch.allclose(MeanDifferences(z, y).directions, directions, atol=0.1)


CURVE = pd.DataFrame({"strength": [0, 1, 2, 3], "others": [0.0, 0.03, 0.09, 0.2]})


@pytest.mark.parametrize(
    ("achieved", "most", "expected"),
    [
        pytest.param((0, 0.5, 0.8, 1), 0.1, 2, id="nearly the most that few others allow"),
        pytest.param((0, 0.5, 0.8, 1), 0.5, 2.9, id="nearly all that is achieved"),
        pytest.param((0, 0.795, 0.8, 1), 0.1, 1, id="the smallest that does nearly as well"),
        pytest.param((0, 0.9, 0.8, 1), 0.1, 1, id="less may achieve more"),
    ],
)
def test_a_strength_is_chosen_by_what_it_achieves_and_changes(achieved, most, expected):
    achieving = CURVE.assign(editor="a", achieved=achieved)
    curve = pd.concat([achieving, CURVE.assign(editor="b", achieved=0)])
    assert chosen_strengths(curve, most) == {"a": expected, "b": 0}


def test_an_editor_that_always_changes_more_has_no_strength():
    curve = CURVE.assign(editor="a", achieved=0)[1:]
    with pytest.raises(ValueError, match=r"a changes 0\.030 of the others or more, not 0\.01"):
        chosen_strengths(curve, most=0.01)


def successes(achieved):
    """A table of edits from what each editor achieved in them."""
    frames = [pd.DataFrame({"editor": name, "achieved": v}) for name, v in achieved.items()]
    return pd.concat(frames, ignore_index=True)


def test_editors_are_compared_edit_by_edit_with_ours_or_with_another():
    ours = pd.Series([1.0, 1, 1, 0, 1, 1])
    theirs = pd.Series([1.0, 0, 1, 0, 0, 1])
    scores = successes({OURS: ours, "b": theirs, "c": ours})
    table = paired_differences(scores).set_index("editor")
    assert table["difference"].to_dict() == pytest.approx({"b": 1 / 3, "c": 0})
    expected = (ours - theirs).std() / 6**0.5
    assert table["standard error"].to_dict() == pytest.approx({"b": expected, "c": 0})
    from_another = paired_differences(scores, ours="b").set_index("editor")
    assert from_another["difference"].to_dict() == pytest.approx({OURS: -1 / 3, "c": -1 / 3})
    with pytest.raises(ValueError, match="b and c must have the same length, got 6 and 5"):
        paired_differences(scores[:-1], ours="b")


def test_shared_successes_are_edits_that_everyone_achieves_and_the_floor_does_not():
    done = {"ours": [1, 1, 1, 0], "theirs": [1, 1, 0, 1], "no edit": [0, 1, 0, 0]}
    scores = successes(done)
    shared = shared_successes(scores, floor="no edit")
    assert shared["editor"].tolist() == ["ours", "theirs"] and shared.index.tolist() == [0, 4]
    without = scores[scores["editor"] != "no edit"]
    assert shared_successes(without).index.tolist() == [0, 1, 4, 5]


def test_averages_are_over_groups_of_attributes():
    scores = pd.DataFrame({"editor": ["ours"] * 3 + ["theirs"] * 3})
    scores["attribute"] = ["Bald", "Bald", "Young"] * 2
    scores["achieved"] = [1.0, 0.0, 1.0, 1.0, 1.0, 0.0]
    groups = {"all": ["Bald", "Young"], "told well": ["Young"], "these too": ["Bald"]}
    table = mean_scores(scores, ["editor"], groups)
    assert table["group"].tolist() == ["all", "all", "told well", "told well"]
    assert table["attributes"].tolist() == [2, 2, 1, 1] and table["n"].tolist() == [3, 3, 1, 1]
    assert table["achieved"].tolist() == [0.75, 0.5, 1.0, 0.0], "every attribute counts alike"


def test_a_judge_learns_and_refuses_what_is_no_face_of_its_size():
    torch.manual_seed(0)
    judge = face_judge(2, size=16, width=4)
    y = torch.randint(0, 2, (128, 2))
    x = 0.3 * torch.rand(128, 3, 16, 16)
    x[:, 0, :8] += 0.6 * y[:, :1, None]
    x[:, 1, 8:] += 0.6 * y[:, 1:, None]
    fit(judge, judge.loss, (x, y), (x, y), epochs=30, batch_size=128, learning_rate=2e-2)
    assert (accuracy_per_attribute(judge, x, y) > 0.95).all()
    assert judge.features(x).shape == (128, judge.num_features)
    torch.testing.assert_close(judge.read(x).logits, judge.read(x.flip(3)).logits)
    with pytest.raises(ValueError, match=r"must have shape \(n, 3, 16, 16\), got \(2, 3, 64, 64\)"):
        judge(torch.zeros(2, 3, 64, 64))
    with pytest.raises(ValueError, match="multiple of 16"):
        face_judge(2, size=20)
