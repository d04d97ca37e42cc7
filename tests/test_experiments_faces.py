"""The steps with faces, on a few of them: models loaded where they fit, edits scored, strips that are edits."""

import ast
import dataclasses
import re

import nbformat
import pandas as pd
import pytest
import torch

from fpnlib import data, plots
from fpnlib.conditions import Attributes
from fpnlib.data.drawn.faces import ATTRIBUTES, load_drawn_faces
from fpnlib.experiments import (
    Run,
    attribute_judge,
    attribute_plugin,
    attributes,
    edit_scores,
    edited_faces,
    editors,
    face_figure,
    face_latents,
    may_be_shown,
    most_edited,
    msp,
    pretrained,
    sampled_scores,
    strips,
)
from fpnlib.experiments.faces import EXCLUSIVE, mirrored
from fpnlib.metrics.editing_tables import mean_scores
from fpnlib.network import FlowPluginNetwork
from fpnlib.store import PROJECT

SETTINGS = dict(
    dataset="drawn_faces",
    train_faces=300,
    msp_features=4,
    msp_decoder_features=8,
    msp_epochs=1,
    msp_fidelity=4.0,
    msp_sharpen=0.0,
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
        patch.setitem(
            data.DATASETS,
            "drawn_faces",
            lambda root, seed, download: load_drawn_faces(
                seed=seed, train=400, validation=40, test=60
            ),
        )
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


def test_what_is_pretrained_with_the_same_settings_is_taken(
    run, network, tmp_path, monkeypatch, capsys
):
    attribute_judge(run)
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    pretrained.keep(run.folder / "models", "drawn_faces", ["MSP", "MSP_maf", "face_judge"])
    other = Run("other", out=tmp_path / "run", **SETTINGS)
    taken = FlowPluginNetwork(msp(other), attribute_plugin(other))
    assert (
        capsys.readouterr().out.count("loaded, pretrained") == 2
    )  # MSP once, for itself and for the plugin
    assert not (tmp_path / "run" / "models").exists()
    x, y = run.data.test.x[:4], run.data.test.y[:4]
    assert torch.equal(taken.reconstruct(x), network.reconstruct(x)), (
        "a run computes with what it keeps"
    )
    torch.testing.assert_close(taken.edit(x, y, y), taken.reconstruct(x), atol=1e-3, rtol=0)
    msp(Run("other", out=tmp_path / "run", **SETTINGS | {"msp_features": 12}))
    assert "loaded, pretrained" not in capsys.readouterr().out, "another width is another model"


def test_msp_is_sharpened_where_it_is_asked_for(run, network, tmp_path, capsys):
    settings = SETTINGS | {"msp_sharpen": 10.0}
    sharper = msp(Run("sharper", out=tmp_path, **settings))
    assert sharper.config == network.base.config and not torch.equal(sharper.M, network.base.M)
    capsys.readouterr()
    assert (
        torch.equal(msp(Run("sharper", out=tmp_path, **settings)).M, sharper.M)
        and "MSP: loaded" in capsys.readouterr().out
    )


def test_edits_are_scored_for_every_editor(run, network):
    ways = editors(run, n=200)
    scores = edit_scores(run, ways, strengths=[0.0, 1.0], each=2)
    assert list(ways) == list(dict.fromkeys(scores["editor"])) and len(ways) == 3
    assert set(scores["attribute"]) == set(run.data.classes) and set(scores["edit"]) == {"+", "-"}
    nothing = scores[scores["strength"] == 0]
    assert nothing["outside"].max() < 1e-4 and not nothing["others"].any(), "no strength, no change"
    assert (scores[scores["strength"] == 1].groupby("editor")["moved"].mean() > 0.01).all()
    assert (
        scores[["achieved", "others", "outside", "truth"]]
        .apply(lambda column: column.between(0, 1))
        .all()
        .all()
    )
    table = mean_scores(scores, ["editor", "strength"])
    assert len(table) == 6 and table["achieved"].between(0, 1).all()


def test_the_split_decides_whose_edits_are_scored(run, monkeypatch):
    ways = {"C-MAF (ours)": editors(run, n=200)["C-MAF (ours)"]}
    test, validation = (edit_scores(run, ways, [1.0], 2, split) for split in ("test", "validation"))
    again = Run(**run.arguments)
    monkeypatch.setattr(again, "data", dataclasses.replace(run.data, test=run.data.validation))
    assert edit_scores(again, ways, [1.0], 2).equals(validation) and not test.equals(validation)


def test_what_excludes_each_other_never_goes_together_in_drawn_faces(run):
    y = load_drawn_faces(train=2_000).train.y
    for group in attributes(run).exclusive:
        assert (y[:, [ATTRIBUTES.index(name) for name in group]].sum(1) <= 1).all(), group


def test_strength_is_the_way_from_where_the_latent_stands(run, network):
    """Of MSP's own editing, too: half an edit is half of the whole, whatever M reads off the face."""
    latents = face_latents(run, network.base, "test", 6)
    z, y = latents.mean, latents.y.float()
    to = y.clone()
    to[:, 3] = 1 - to[:, 3]
    for name, editor in editors(run, n=200).items():
        if "ours" not in name:
            half, whole = (editor(z, y, torch.lerp(y, to, strength)) for strength in (0.5, 1.0))
            torch.testing.assert_close(half, torch.lerp(z, whole, 0.5), atol=1e-5, rtol=0)
            assert not torch.equal(whole, z)
            if "MSP" in name:
                wanted = torch.where(to != y, 2 * to - 1, network.base.read(z))
                torch.testing.assert_close(network.base.read(whole), wanted, atol=0.1, rtol=0)


def test_what_excludes_each_other_hardly_goes_together_in_celeba(shared):
    path = shared / "data" / "celeba" / "list_attr_celeba.txt"
    if not path.is_file():
        pytest.skip("needs CelebA's list of attributes under shared/data/celeba")
    has = pd.read_csv(path, sep=r"\s+", skiprows=1, nrows=50_000) > 0
    for group in EXCLUSIVE["celeba"]:
        assert (has[list(group)].sum(axis=1) > 1).mean() < 0.02, group


def test_faces_in_which_every_edit_changes_something_come_first():
    kinds = Attributes(["Bald", "Black_Hair", "Smiling"], [("Bald", "Black_Hair")])
    y = torch.tensor([[0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0]])
    assert most_edited(kinds, y, ["+Smiling", "+Bald", "-Black_Hair"]).tolist() == [3, 0, 1, 2]


def test_figures_are_made_of_edits(run, network):
    test = face_latents(run, network.base, "test", 3)
    x, y = run.data.test.x[:3], test.y
    grid = edited_faces(network, x, y, ["+Smiling", "-Smiling"])
    assert grid.shape == (3, 4, 3, 64, 64)
    assert torch.equal(grid[:, 0], x)
    torch.testing.assert_close(grid[:, 2], network.edit(x, y, "+Smiling"))
    grown = strips(network, x[:1], y[:1], ["Smiling", "Bald"], [0.0, 0.5, 1.0])
    assert grown.shape == (2, 3, 3, 64, 64)
    torch.testing.assert_close(
        grown[1, 2], network.edit(x[:1], y[:1], "+Bald")[0], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        grown[1, 0], network.edit(x[:1], y[:1], "-Bald")[0], atol=1e-5, rtol=0
    )
    halfway = network.edit(x[:1], y[:1], attributes(run).set(y[:1], {"Bald": 0.5}))
    torch.testing.assert_close(grown[1, 1], halfway[0], atol=1e-5, rtol=0)


def test_samples_are_judged_at_every_temperature(run):
    table = sampled_scores(run, [0.5, 1.0], n=20)
    assert table["faces"].tolist() == [
        "test faces",
        "reconstructions",
        "new, temperature 0.5",
        "new, temperature 1",
    ]
    assert (
        table[["right", "balanced"]].apply(lambda column: column.between(0, 1)).all().all()
        and (table["n"] == 20).all()
    )


def test_pictures_of_celeba_are_never_kept(run, network, tmp_path, monkeypatch):
    figure = plots.grid(run.data.test.x[:2, None])
    assert face_figure(run, figure, "drawn") is figure
    assert (run.folder / "figures" / "07_drawn.png").is_file()
    for shown in (False, True):
        real = Run("07", out=tmp_path, show_celeba=shown, **SETTINGS)
        real.data = dataclasses.replace(run.data, name="celeba")
        assert face_figure(real, figure, "real") is (figure if shown else None)
    assert not list(tmp_path.rglob("*.png"))


def test_celeba_is_never_shown_from_within_the_project(run, monkeypatch):
    real = Run("07", out="outputs/demo", show_celeba=True, **SETTINGS)
    monkeypatch.setattr(real, "data", dataclasses.replace(run.data, name="celeba"), raising=False)
    with pytest.raises(
        ValueError, match="show_celeba keeps pictures out of the project, got out='.*demo'"
    ):
        may_be_shown(real)


def test_every_picture_of_a_face_in_the_notebook_asks_whether_it_may_be_shown():
    """Whatever draws the faces of a run stands in a cell that goes through face_figure or may_be_shown."""
    cells = nbformat.read(PROJECT / "notebooks" / "07_attribute_editing.ipynb", as_version=4).cells
    drawing = [
        cell.source
        for cell in cells
        if re.search(r"plots\.grid|AttributeEditor|imshow|png\(", cell.source)
    ]
    assert len(drawing) >= 5
    for source in drawing:
        for statement in ast.parse(source).body:
            text = ast.unparse(statement)
            if re.search(r"plots\.grid|AttributeEditor|imshow|png\(", text):
                assert re.search(r"face_figure\(|may_be_shown\(|'digits'\)", text), text


def test_half_of_the_faces_are_mirrored():
    x = torch.rand(200, 3, 4, 4)
    out = mirrored(x, torch.Generator().manual_seed(0))
    kept, turned = ((out == other).flatten(1).all(1) for other in (x, x.flip(3)))
    assert (kept | turned).all() and 60 < turned.sum() < 140
