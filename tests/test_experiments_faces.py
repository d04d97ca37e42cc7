"""The steps with faces, on a few of them: models loaded where they fit, edits scored, strips that are edits."""

import dataclasses

import pandas as pd
import pytest
import torch

from fpnlib import data, plots
from fpnlib.data.drawn_faces import ATTRIBUTES, load_drawn_faces
from fpnlib.experiments import (
    Run,
    at_equal_cost,
    attribute_judge,
    attribute_plugin,
    attributes,
    edit_scores,
    edited_faces,
    editors,
    face_figure,
    face_latents,
    msp,
    pretrained,
    sampled_scores,
    strips,
    summary,
)
from fpnlib.experiments.faces import EXCLUSIVE, mirrored
from fpnlib.plugin import FlowPluginNetwork

SETTINGS = dict(
    dataset="drawn_faces",
    train_faces=300,
    msp_features=4,
    msp_epochs=1,
    face_flow_layers=2,
    face_flow_blocks=1,
    face_flow_width=32,
    face_flow_embedding=8,
    face_flow_epochs=8,
    face_judge_epochs=1,
)


@pytest.fixture(scope="module")
def few():
    """Few drawn faces in the place of many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(data.DATASETS, "drawn_faces", lambda root, seed, download: load_drawn_faces(seed, 400, 40, 60))
        yield


@pytest.fixture(scope="module")
def run(few, tmp_path_factory):
    return Run("07", out=tmp_path_factory.mktemp("faces"), **SETTINGS)


@pytest.fixture(scope="module")
def network(run):
    return FlowPluginNetwork(msp(run), attribute_plugin(run))


def test_models_are_made_once_and_loaded_afterwards(run, network, capsys):
    again = Run("again", out=run.folder, **SETTINGS)
    for step, name in ((msp, "MSP"), (attribute_plugin, "MSP_maf")):
        capsys.readouterr()
        step(again)
        assert f"{name}: loaded" in capsys.readouterr().out
    attribute_judge(run)


def test_what_is_pretrained_with_the_same_settings_is_taken(run, network, tmp_path, monkeypatch, capsys):
    attribute_judge(run)
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    pretrained.keep(run.folder / "models", "drawn_faces", ["MSP", "MSP_maf", "face_judge"])
    other = Run("other", out=tmp_path / "run", **SETTINGS)
    taken = FlowPluginNetwork(msp(other), attribute_plugin(other))
    assert capsys.readouterr().out.count("loaded, pretrained") == 3  # MSP for itself and for the plugin
    assert not (tmp_path / "run" / "models").exists()
    x, y = run.data.test.x[:4], run.data.test.y[:4]
    assert torch.equal(taken.reconstruct(x), network.reconstruct(x)), "a run computes with what it keeps"
    torch.testing.assert_close(taken.edit(x, y, y), taken.reconstruct(x), atol=1e-3, rtol=0)
    msp(Run("other", out=tmp_path / "run", **SETTINGS | {"msp_features": 12}))
    assert "loaded, pretrained" not in capsys.readouterr().out, "another width is another model"


def test_edits_are_scored_for_every_editor(run, network):
    ways = editors(run, n=200)
    scores = edit_scores(run, ways, strengths=[0.0, 1.0], each=2)
    assert list(ways) == list(dict.fromkeys(scores["editor"])) and len(ways) == 3
    assert set(scores["attribute"]) == set(run.data.classes) and set(scores["edit"]) == {"+", "-"}
    nothing = scores[scores["strength"] == 0]
    assert nothing["outside"].max() < 1e-4 and not nothing["others"].any(), "no strength, no change"
    assert (scores[scores["strength"] == 1].groupby("editor")["moved"].mean() > 0.01).all()
    assert scores[["achieved", "others", "outside", "truth"]].apply(lambda column: column.between(0, 1)).all().all()
    table = summary(scores, ["editor", "strength"])
    assert len(table) == 6 and table["achieved"].between(0, 1).all()


def test_the_split_decides_whose_edits_are_scored(run, monkeypatch):
    ways = {"C-MAF (ours)": editors(run, n=200)["C-MAF (ours)"]}
    test, validation = (edit_scores(run, ways, [1.0], 2, split) for split in ("test", "validation"))
    monkeypatch.setattr(run, "data", dataclasses.replace(run.data, test=run.data.validation))
    assert edit_scores(run, ways, [1.0], 2).equals(validation) and not test.equals(validation)


def test_what_excludes_each_other_never_goes_together_in_drawn_faces(run):
    y = load_drawn_faces(train=2_000).train.y
    for group in attributes(run).exclusive:
        assert (y[:, [ATTRIBUTES.index(name) for name in group]].sum(1) <= 1).all(), group


def test_what_excludes_each_other_hardly_goes_together_in_celeba(shared):
    has = pd.read_csv(shared / "data" / "celeba" / "list_attr_celeba.txt", sep=r"\s+", skiprows=1, nrows=50_000) > 0
    for group in EXCLUSIVE["celeba"]:
        assert (has[list(group)].sum(axis=1) > 1).mean() < 0.02, group


def test_equal_cost_compares_at_ours():
    curve = pd.DataFrame(
        {
            "editor": ["C-MAF (ours)"] * 3 + ["means"] * 3,
            "strength": [0.5, 1, 1.5] * 2,
            "others": [0.01, 0.02, 0.04, 0.01, 0.03, 0.05],
            "achieved": [0.5, 0.9, 1.0, 0.2, 0.6, 0.8],
        }
    )
    assert at_equal_cost(curve, "others")["achieved"].tolist() == pytest.approx([0.9, 0.4])
    easy = curve.assign(achieved=1.0)
    both = pd.concat([curve.assign(attribute="Smiling"), easy.assign(attribute="Bald")])
    each = at_equal_cost(both, "others")
    assert each["attribute"].tolist() == ["Smiling", "Smiling", "Bald", "Bald"]
    assert each["achieved"].tolist() == pytest.approx([0.9, 0.4, 1, 1])


def test_figures_are_made_of_edits(run, network):
    test = face_latents(run, network.base, "test", 3)
    x, y = run.data.test.x[:3], test.y
    grid = edited_faces(network, x, y, ["+Smiling", "-Smiling"])
    assert grid.shape == (3, 4, 3, 64, 64)
    assert torch.equal(grid[:, 0], x)
    torch.testing.assert_close(grid[:, 2], network.edit(x, y, "+Smiling"))
    grown = strips(network, x[:1], y[:1], ["Smiling", "Bald"], [0.0, 0.5, 1.0])
    assert grown.shape == (2, 3, 3, 64, 64)
    torch.testing.assert_close(grown[1, 2], network.edit(x[:1], y[:1], "+Bald")[0], atol=1e-5, rtol=0)
    bald = attributes(run).column("Bald")
    without = attributes(run).edited(y[:1], "+Bald")
    without[:, bald] = 0
    assert not torch.equal(grown[1, 0], grown[1, 2])


def test_samples_are_judged_at_every_temperature(run):
    table = sampled_scores(run, [0.5, 1.0], n=20)
    assert table["faces"].tolist() == ["test faces", "reconstructions", "new, temperature 0.5", "new, temperature 1"]
    assert (
        table[["right", "balanced"]].apply(lambda column: column.between(0, 1)).all().all() and (table["n"] == 20).all()
    )


def test_pictures_of_celeba_are_never_kept(run, network, tmp_path, monkeypatch):
    figure = plots.face_grid(run.data.test.x[:2, None])
    assert face_figure(run, figure, "drawn") is figure
    assert (run.folder / "figures" / "07_drawn.png").is_file()
    for shown in (False, True):
        real = Run("07", out=tmp_path, show_celeba=shown, **SETTINGS)
        real.data = dataclasses.replace(run.data, name="celeba")
        assert face_figure(real, figure, "real") is (figure if shown else None)
    assert not list(tmp_path.rglob("*.png"))


def test_half_of_the_faces_are_mirrored():
    x = torch.rand(200, 3, 4, 4)
    out = mirrored(x, torch.Generator().manual_seed(0))
    kept, turned = ((out == other).flatten(1).all(1) for other in (x, x.flip(3)))
    assert (kept | turned).all() and 60 < turned.sum() < 140
