"""Scores of edits, held against editors and judges whose answers are known."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from fpnlib.conditions import Attributes
from fpnlib.metrics.attribute_judge import AttributeJudge
from fpnlib.metrics.editing import (
    accuracy_per_attribute,
    balanced_accuracy_per_attribute,
    mean_differences,
    no_edit,
    outside,
    read,
    score_edits,
    single_edits,
    success_at,
)

FOUR = Attributes(
    ["Bald", "Black_Hair", "Blond_Hair", "Smiling"],
    exclusive=[("Bald", "Black_Hair", "Blond_Hair")],
)


class Reader(AttributeJudge):
    """Reads attribute a off pixel (0, 0, a): there where it is above a half."""

    def __init__(self):
        super().__init__(4, size=16, width=2)
        self.head = nn.Identity()

    def features(self, x):
        return x[:, 0, 0, :4] - 0.5


def faces(y):
    x = torch.full((len(y), 3, 16, 16), 0.5)
    x[:, 0, 0, :4] = y.float()
    return x


def scored(before, after, y, to):
    return score_edits(read(Reader(), before), read(Reader(), after), y, to)


def test_single_edits_turn_one_attribute_into_its_opposite():
    y = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0]])
    edits = single_edits(FOUR, y, each=2)
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
    assert (
        perfect.achieved.tolist() == [1, 1]
        and perfect.others.tolist() == [0, 0]
        and (perfect.moved > 0).all()
    )
    nothing = scored(faces(y), faces(y), y, to)
    assert (
        nothing.achieved.tolist() == [0, 0]
        and nothing.others.tolist() == [0, 0]
        and nothing.moved.tolist() == [0, 0]
    )


def test_what_else_moves_is_counted_against_the_face_before():
    y = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 1]])
    to = torch.tensor([[0, 1, 0, 1], [0, 0, 1, 0]])
    after = torch.tensor(
        [[1, 0, 0, 1], [0, 0, 1, 1]]
    )  # done, but two others moved; not done, but nothing else moved
    scores = scored(faces(y), faces(after), y, to)
    assert scores.achieved.tolist() == [1, 0]
    assert_close(scores.others, torch.tensor([2 / 3, 0]))
    # A judge who misreads the face before does not count that as a move.
    blank = scored(faces(0 * y), faces(0 * y), y, to)
    assert blank.others.tolist() == [0, 0]


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
    assert accuracy_per_attribute(Reader(), faces(y), wrong).tolist() == [1, 1, 1, 0.5]


def test_balanced_accuracy_gives_a_guess_a_half():
    y = torch.tensor([[1, 0, 1, 0]] + [[0, 1, 1, 0]] * 9)
    none = balanced_accuracy_per_attribute(Reader(), faces(0 * y), y)
    assert_close(none[:2], torch.tensor([0.5, 0.5]))
    assert none[2:].isnan().all(), "all or none have it"
    assert_close(balanced_accuracy_per_attribute(Reader(), faces(y), y)[:2], torch.ones(2))


def test_thresholds_are_put_where_they_tell_most():
    """Logits of -3 to 0 for attributes that begin at -1.5, at 0.5 (nothing lies there), or nowhere."""

    class Ramp(AttributeJudge):
        def features(self, x):
            return x[:, 0, 0, :1].expand(-1, 128)

    judge, x = Ramp(3, size=16, width=2).eval(), torch.zeros(31, 3, 16, 16)
    x[:, 0, 0, 0] = torch.linspace(-3, 0, 31)
    with torch.no_grad():
        judge.head[1].weight.fill_(1 / 128)
        judge.head[1].bias.zero_()
    y = torch.stack(
        [x[:, 0, 0, 0] > -1.45, torch.arange(31) % 2 == 0, torch.zeros(31, dtype=torch.bool)], 1
    ).long()
    before = judge.head[1].bias.tolist()
    assert judge.calibrate(x, y) is judge
    assert balanced_accuracy_per_attribute(judge, x, y)[0] == 1
    assert judge.head[1].bias[0].item() == pytest.approx(1.45, abs=0.051)
    assert (
        balanced_accuracy_per_attribute(judge, x, y)[1] > 0.5 and judge.head[1].bias[2] == before[2]
    )
    kept = judge.head[1].bias.tolist()
    assert judge.calibrate(x, y).head[1].bias.tolist() == kept, "what tells most stays"
    upside_down = (x[:, 0, 0, :1] < -2.95).long().expand(-1, 3)
    assert judge.calibrate(x, upside_down).head[1].bias.isfinite().all(), (
        "no threshold tells more than none"
    )


def test_no_edit_is_none():
    z = torch.randn(3, 4)
    assert no_edit(z, torch.zeros(3, 2), torch.ones(3, 2)) is z


def test_the_difference_of_means_is_exact_where_effects_add_up():
    torch.manual_seed(0)
    directions = torch.randn(4, 6)
    y = torch.cartesian_prod(*[torch.tensor([0, 1])] * 4)  # independent attributes
    z = y.float() @ directions + torch.ones(6)
    editor = mean_differences(z, y)
    assert_close(editor.directions, directions, atol=1e-5, rtol=0)
    assert_close(editor(z, y, 1 - y), (1 - y).float() @ directions + 1, atol=1e-5, rtol=0)
    assert torch.equal(editor(z, y, y), z)
    with pytest.raises(ValueError, match="attribute 2 is the same in all 16 latents"):
        mean_differences(z, y * torch.tensor([1, 1, 0, 1]))


def test_success_at_equal_cost():
    cost, success = np.array([0, 0.1, 0.3]), np.array([0, 0.6, 1.0])
    assert success_at(cost, success, 0.2) == pytest.approx(0.8)
    assert success_at(cost, success, 0.1) == pytest.approx(0.6)
    assert success_at(cost, success, 0.4) == 1.0, "all it reaches, at less"
    assert np.isnan(success_at(cost + 0.1, success, 0.05)), "all of it costs more"
    assert success_at(np.array([0, 0.2, 0.1]), success, 0.1) == 1.0, "a cost that falls again"


def test_a_judge_learns_and_refuses_what_is_no_face_of_its_size():
    torch.manual_seed(0)
    judge = AttributeJudge(2, size=16, width=4).train()
    y = torch.randint(0, 2, (128, 2))
    x = 0.3 * torch.rand(128, 3, 16, 16)
    x[:, 0, :8] += 0.6 * y[:, :1, None]
    x[:, 1, 8:] += 0.6 * y[:, 1:, None]
    optimizer = torch.optim.Adam(judge.parameters(), 1e-2)
    for _ in range(30):
        loss = judge.loss(x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (accuracy_per_attribute(judge, x, y) > 0.95).all()
    assert judge.features(x).shape == (128, judge.num_features)
    with pytest.raises(ValueError, match=r"must have shape \(n, 3, 16, 16\), got \(2, 3, 64, 64\)"):
        judge(torch.zeros(2, 3, 64, 64))
    with pytest.raises(ValueError, match="multiple of 16"):
        AttributeJudge(2, size=20)
