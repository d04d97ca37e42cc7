"""The faces' family on a few faces: models, edits and their scores, and what must not be shown."""

import ast
import dataclasses
import re
from functools import partial

import nbformat
import pandas as pd
import pytest
import torch
from test_faces import write_faces

from fpnlib import data
from fpnlib.data.drawn.faces import load_drawn_faces
from fpnlib.families import FACES, Run, Study
from fpnlib.families.editing import (
    OURS,
    edit_scores,
    editors,
    edits_in_a_row,
    sampled_scores,
    until_judged,
)
from fpnlib.families.faces import EXCLUSIVE, _mirrored
from fpnlib.metrics.editing_tables import mean_scores
from fpnlib.store import PROJECT

SETTINGS = {"train_faces": 300, "msp_features": 4, "msp_decoder_features": 8, "msp_epochs": 1}
SETTINGS |= {"flow_layers": 2, "flow_blocks": 1, "flow_width": 32, "flow_embedding": 8}
SETTINGS |= {"flow_epochs": 8, "judge_epochs": 1}
SMALL = dataclasses.replace(FACES, settings=FACES.settings | SETTINGS)


@pytest.fixture(scope="module", autouse=True)
def few_drawn_faces():
    with pytest.MonkeyPatch.context() as patch:
        few = partial(load_drawn_faces, train=400, validation=40, test=60)
        patch.setitem(data.DATASETS, "drawn_faces", lambda root, seed, download: few(seed=seed))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("faces")


def start(folder, override="", **options):
    return Study(Run("07", out=folder, override=override), SMALL, **options)


@pytest.fixture(scope="module")
def study(folder):
    return start(folder)


@pytest.fixture(scope="module")
def network(study):
    return study.network()


@pytest.fixture(scope="module")
def ways(study):
    return editors(study, n=200)


def flipped(study, n):
    """Latents and labels of the first test faces, and the labels with one attribute flipped."""
    latents = study.latents().test
    z, y = latents.mean[:n], latents.y[:n].float()
    to = y.clone()
    to[:, 3] = 1 - to[:, 3]
    return z, y, to


def test_so_many_faces_and_no_more_are_trained_on(study):
    assert len(study.data.train) == 300


def test_edits_are_scored_for_every_editor(study, ways):
    scores = edit_scores(study, ways, strengths=[0.0, 1.0], each=1)
    assert list(ways) == list(dict.fromkeys(scores["editor"])) and len(ways) == 5
    assert set(scores["attribute"]) == set(study.names) and set(scores["edit"]) == {"+", "-"}
    nothing = scores[scores["strength"] == 0]
    assert nothing["outside"].max() < 1e-4 and not nothing["others"].any()
    whole = scores[scores["strength"] == 1]
    assert (whole.groupby("editor")["moved"].mean() > 0.01).all()
    for name in ("achieved", "others", "outside", "truth"):
        assert scores[name].between(0, 1).all(), name
    assert len(mean_scores(scores, ["editor", "strength"])) == 10


def test_edits_until_read_are_those_of_the_plugin_at_every_strength(study, folder):
    sure = start(folder, "faces.confidence=0.9")
    until_read = editors(sure, n=200)[f"{OURS}, until read"]
    z, y, to = flipped(study, 20)
    torch.testing.assert_close(until_read(z, y, y), z, atol=1e-4, rtol=0)
    for strength in (0.5, 1.0):
        found = until_read(z, y, torch.lerp(y, to, strength))
        wanted = study.plugin().edit(z, to, y, strength=strength, confidence=0.9)
        assert torch.equal(found, wanted)
        assert not torch.equal(found, study.plugin().edit(z, to, y, strength=strength))


def test_an_edit_is_raised_to_the_first_strength_that_the_judge_confirms(study, ways):
    one, strengths = {"linear regression": ways["linear regression"]}, [0.5, 1.0, 4.0]
    z, y, _ = flipped(study, 30)
    to = study.condition.set(y, {"Smiling": 1 - y[:, study.condition.column("Smiling")]})
    raised = until_judged(study, one, strengths)["linear regression"](z, y, to)
    left = torch.ones(30, dtype=torch.bool)
    for strength in strengths:
        edited = one["linear regression"](z, y, torch.lerp(y, to, strength))
        seen = study.judge().predict(study.decode("", edited))
        done = left & ((seen == (to > 0.5)) | (to == y)).all(1)
        torch.testing.assert_close(raised[done], edited[done])
        left &= ~done
    torch.testing.assert_close(raised[left], edited[left])


def test_edits_in_a_row_start_where_the_one_before_ended(study, ways):
    names = ["Smiling", "Eyeglasses", "Smiling"]
    one = {"linear regression": ways["linear regression"]}
    table = edits_in_a_row(study, one, names, n=10)
    assert table.groupby("edits").size().tolist() == [10, 10, 10]
    after = [table[table["edits"] == count].reset_index() for count in (1, 2, 3)]
    assert (after[1]["moved"] != after[0]["moved"]).all()
    assert (after[1]["achieved"] <= after[0]["achieved"]).all(), "each in its turn"
    # The third takes back the first, so the second alone is left.
    alone = edits_in_a_row(study, one, ["Eyeglasses"], n=10)
    assert after[2]["moved"].tolist() == pytest.approx(alone["moved"].tolist(), abs=1e-3)


def test_the_split_decides_whose_edits_are_scored(study, folder, ways):
    ours = {OURS: ways[OURS]}
    test = edit_scores(study, ours, [1.0], 2, "test")
    validation = edit_scores(study, ours, [1.0], 2, "validation")
    other = start(folder)
    other.data = dataclasses.replace(study.data, test=study.data.validation)
    assert edit_scores(other, ours, [1.0], 2).equals(validation)
    assert not test.equals(validation)


def test_strength_is_the_way_from_where_the_latent_stands(study, network, ways):
    """Half an edit of MSP's is half of the whole, whatever M reads off the face."""
    z, y, to = flipped(study, 6)
    for name, editor in ways.items():
        if name in (OURS, "PluGeN"):
            continue  # they move along curves
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


def test_samples_are_judged_at_every_temperature(study):
    table = sampled_scores(study, [0.5, 1.0], n=20)
    new = ["new, temperature 0.5", "new, temperature 1"]
    assert table["faces"].tolist() == ["test faces", "reconstructions", *new]
    assert table["right"].between(0, 1).all() and table["balanced"].between(0, 1).all()
    assert (table["n"] == 20).all()


def test_own_faces_with_attributes_of_their_own(tmp_path):
    write_faces(tmp_path, n=40, size=64)
    own = Study(Run("07", out=tmp_path / "run", data_dir=str(tmp_path)), SMALL, "celeba")
    edited = own.network().edit(own.data.test.x, own.data.test.y, "+Hat")
    assert own.names == ("Glasses", "Hat") and edited.shape == (4, 3, 64, 64)


def test_pictures_of_celeba_are_never_kept_and_never_shown_from_within_the_project(study, tmp_path):
    figure = study.grid(study.data.test.x[:2, None])
    assert study.figure(figure, "drawn") is figure
    assert (study.run.folder / "figures" / "07_drawn.png").is_file()
    for shown in (False, True):
        real = start(tmp_path, show_private=shown)
        real.data = dataclasses.replace(study.data, name="celeba")
        assert real.figure(figure, "real") is (figure if shown else None)
    assert not list(tmp_path.rglob("*.png"))
    within = start("outputs/demo", show_private=True)
    within.data = real.data
    with pytest.raises(ValueError, match="must stay out of the project, got out='.*demo'"):
        assert within.may_be_shown


def test_every_picture_of_a_face_in_the_notebook_asks_whether_it_may_be_shown():
    """What draws faces goes through ``study.figure`` or stands beside ``may_be_shown``."""
    cells = nbformat.read(PROJECT / "notebooks" / "07_attribute_editing.ipynb", as_version=4).cells
    sources = [cell.source for cell in cells if "import" not in cell.source]
    drawing = [s for s in sources if re.search(r"study\.grid|AttributeEditor|imshow", s)]
    assert len(drawing) >= 5
    for source in drawing:
        assert ast.parse(source) and re.search(r"study\.figure\(|may_be_shown", source), source
        assert "run.figure" not in source, source


def test_half_of_the_faces_are_mirrored():
    x = torch.rand(200, 3, 4, 4)
    out = _mirrored(x, torch.Generator().manual_seed(0))
    kept, turned = ((out == other).flatten(1).all(1) for other in (x, x.flip(3)))
    assert (kept | turned).all() and 60 < turned.sum() < 140
