"""One factor at a time: what a setup learns from, what is kept, and what the table says."""

import dataclasses

import pandas as pd
import pytest
import torch
from vectors import VECTORS, load_vectors

from fpnlib import data
from fpnlib.families import Run, Study, factors
from fpnlib.families.encoding import Latents
from fpnlib.families.factors import Setup, compare_setups, lead_over, mean_and_spread

SMALL = Setup("Linear", layers=1, width=4, seen=40)
SETUPS = {"C-MAF": SMALL, "Gaussian": dataclasses.replace(SMALL, flow="Gaussian")}
SETUPS["PCA"] = dataclasses.replace(SMALL, base="PCA 2", noise=0.1)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(data.DATASETS, "vectors", load_vectors)
        yield Study(Run("11", out=tmp_path_factory.mktemp("run")), VECTORS, "vectors")


def test_every_setup_is_scored_with_every_seed_and_kept(study, monkeypatch):
    scores = compare_setups(study, SETUPS, seeds=2, samples=6)
    assert list(zip(scores["setup"], scores["seed"])) == [(s, i) for s in SETUPS for i in (0, 1)]
    for measure in ("right class", "accuracy"):
        assert scores[measure].between(0, 1).all(), measure
    monkeypatch.setattr(factors, "_scores", lambda *_: pytest.fail("it would be trained anew"))
    again = compare_setups(study, {"another name": SMALL}, seeds=2, samples=6)
    ours = scores[scores["setup"] == "C-MAF"].drop(columns="setup")
    pd.testing.assert_frame_equal(again.drop(columns="setup"), ours)


def test_gaussians_read_classes_that_lie_apart(study):
    scores = compare_setups(study, {"Gaussian": SETUPS["Gaussian"]}, seeds=2, samples=12)
    assert scores["accuracy"].min() > 0.8


def test_as_many_of_each_class_are_labelled_and_a_tenth_of_them_is_held_out():
    y = torch.arange(300) % 3
    z = torch.arange(300.0)[:, None]
    train, held_out = factors._labelled(Latents(z, 0 * z, z, y), 3, 90, seed=1)
    assert train.y.bincount().tolist() == [27] * 3 and held_out.y.bincount().tolist() == [3] * 3
    assert not torch.isin(train.mean, held_out.mean).any()
    assert torch.equal(train.mean[:, 0].long() % 3, train.y)
    other, _ = factors._labelled(Latents(z, 0 * z, z, y), 3, 90, seed=2)
    assert not torch.equal(train.mean, other.mean)
    for labelled in (5, 301):
        with pytest.raises(ValueError, match=f"learns from 6 to 300 latents, not {labelled}"):
            factors._labelled(Latents(z, 0 * z, z, y), 3, labelled, seed=1)


def test_the_table_has_means_and_deviations_and_a_lead_is_paired():
    rows = {"setup": ["a", "a", "b", "b"], "seed": [0, 1, 0, 1], "right class": [3.0, 5, 1, 3]}
    scores = pd.DataFrame(rows)
    table = mean_and_spread(scores, ["right class"])
    assert table["right class"].tolist() == [4, 2]
    assert table["right class ±"].tolist() == pytest.approx([2**0.5] * 2)
    assert lead_over(scores, "a", "b", "right class") == (2, 0)
