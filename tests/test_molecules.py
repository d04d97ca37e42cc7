"""Laws of the molecules: tokens, properties, the SELFIES VAE, requests, scores and the panel."""

import re
import sys

import numpy as np
import pytest
import torch
from laws import one_line

from fpnlib import FlowPlugin, FlowPluginNetwork, Reals, adapt, data
from fpnlib.base_models import SelfiesVAE, pieces
from fpnlib.base_models.frozen import Frozen
from fpnlib.base_models.selfies_vae import LENGTH, MERGES, TOKENS
from fpnlib.data import molecules
from fpnlib.data.molecules import properties, to_smiles, to_tokens
from fpnlib.families.encoding import Latents
from fpnlib.families.molecules import QUANTITIES
from fpnlib.families.requests import (
    _linear_gaussian,
    _neighbours,
    _read_back,
    _rejection,
    targets,
)
from fpnlib.metrics.molecules import (
    frechet_chemnet_distance,
    request_scores,
    set_scores,
    similarity,
)
from fpnlib.training import fit
from fpnlib.widgets.molecules import MoleculeExplorer

SMILES = ["CCO", "c1ccccc1", "CC(=O)Oc1ccccc1C(=O)O", "CCN(CC)CC", "O=C1CCCN1", "CC(C)Cc1ccncc1"]
NAN = torch.nan


@pytest.fixture
def moses(tmp_path, monkeypatch):
    """A folder with twelve molecules of MOSES' layout; what is prepared goes there as well."""
    monkeypatch.setattr(molecules, "PROJECT", tmp_path)
    monkeypatch.setattr(molecules, "VALIDATION", 2)
    (tmp_path / "moses").mkdir()
    for part in ("train", "test"):
        (tmp_path / "moses" / f"{part}.csv").write_text("\n".join(["SMILES", *SMILES]))
    return tmp_path


def tiny_network():
    torch.manual_seed(0)
    base = SelfiesVAE(latent_dim=4, hidden=16, encoder_hidden=8).eval()
    z, y = torch.randn(60, 4), torch.rand(60, len(QUANTITIES))
    plugin = FlowPlugin(4, Reals(QUANTITIES, unknown=True), hidden_features=8, num_layers=1)
    return FlowPluginNetwork(base, plugin.fit(z, y, epochs=1, progress=False))


def test_tokens_give_back_their_molecule():
    assert to_smiles(to_tokens(SMILES)) == SMILES


def test_every_sequence_of_tokens_is_a_valid_molecule():
    tokens = torch.randint(len(TOKENS), (200, LENGTH), generator=torch.Generator().manual_seed(0))
    smiles = to_smiles(tokens)
    assert [molecules._molecule(one) is not None for one in smiles] == [True] * 200


def test_the_family_names_the_properties_of_the_data():
    assert tuple(molecules.PROPERTIES) == QUANTITIES


def test_kept_properties_are_those_computed_again(moses, monkeypatch):
    first = data.load("moses", moses)
    monkeypatch.setattr(molecules, "_prepare", None)  # a second call must not compute
    second = data.load("moses", moses)
    for one, other in zip((first.train, first.test), (second.train, second.test)):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.y, other.y)
    assert torch.equal(properties(to_smiles(second.test.x)), second.test.y)


def test_train_and_validation_share_no_molecule(moses):
    dataset = data.load("moses", moses, molecules=3)
    kept, held_out = to_smiles(dataset.train.x), to_smiles(dataset.validation.x)
    assert len(kept) == 3 and not set(kept) & set(held_out)


def test_molecules_that_do_not_fit_are_counted_and_named(moses):
    path = moses / "moses" / "test.csv"
    path.write_text("\n".join(["SMILES", *SMILES, "[Na]", "C" * 60]))
    with pytest.warns(UserWarning, match=r"2 of 14 molecules are left out, e\.g\. '.*' has"):
        dataset = data.load("moses", moses)
    assert len(dataset.test) == len(SMILES)


@pytest.mark.parametrize("header", ["smiles,logP", "SMILES,SPLIT", ",Smiles", '"id","SMILES"'])
def test_the_column_of_smiles_is_told_by_its_name(moses, header):
    first = data.load("moses", moses)
    columns = header.replace('"', "").split(",")
    place = next(k for k, name in enumerate(columns) if name.lower() == "smiles")
    rows = ["".join([one, ",7"] if place == 0 else ["7,", one]) for one in SMILES]
    for part in ("train", "test"):
        (moses / "moses" / f"{part}.csv").write_text("\r\n".join([header, *rows]), "utf-8-sig")
    assert torch.equal(data.load("moses", moses).test.x, first.test.x)


def test_of_few_molecules_a_tenth_is_held_out(moses, monkeypatch):
    monkeypatch.setattr(molecules, "VALIDATION", 5_000)
    dataset = data.load("moses", moses)
    assert [len(dataset.train), len(dataset.validation)] == [len(SMILES) - 1, 1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("\n".join(SMILES).encode(), "train.csv has no column SMILES"),
        (b"SMILES;id\nCCO;7", "train.csv has no column SMILES"),
        ("SMILES\nCCO".encode("utf-16"), "train.csv is damaged .*utf-8.*; expected CSV"),
        (b"", "train.csv is damaged .No columns"),
    ],
)
def test_a_file_of_moses_that_cannot_be_read_is_named(moses, content, said):
    (moses / "moses" / "train.csv").write_bytes(content)
    with one_line(ValueError, said):
        data.load("moses", moses)


def test_one_molecule_may_come_without_a_list():
    assert torch.equal(properties("CCO"), properties(["CCO"]))


def test_a_missing_or_empty_file_of_moses_is_named(moses, tmp_path):
    (moses / "moses" / "test.csv").write_text("SMILES\n")
    with one_line(ValueError, r"test\.csv has no molecules; set FPN_DATA"):
        data.load("moses", tmp_path)
    (moses / "moses" / "train.csv").unlink()
    with one_line(FileNotFoundError, r"train\.csv is not in .*; set FPN_DATA"):
        data.load("moses", tmp_path)


@pytest.mark.parametrize(
    ("smiles", "said"),
    [
        ("C1CC", "'C1CC' is no molecule that RDKit can read"),
        ("[Na]", r"'\[Na\]' has the token \[Na.*\], which the model does not know"),
        ("C" * 60, "has 60 tokens; the model takes 51"),
    ],
)
def test_a_molecule_that_does_not_fit_is_named_in_one_line(smiles, said):
    with one_line(ValueError, said):
        to_tokens(["CCO", smiles])


def test_without_the_extra_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "selfies", None)
    monkeypatch.delitem(sys.modules, "fpnlib.data.molecules")
    with one_line(ValueError, r"pip install -e '\.\[molecules\]'"):
        data.load("nci")


def test_pieces_give_back_their_tokens():
    x = torch.randint(1, 4, (200, 12), generator=torch.Generator().manual_seed(0))
    x = x * (torch.arange(12) < torch.arange(200)[:, None] % 13)  # of every length, 0 too
    merges = pieces.learn(x, tokens=4, merges=20)
    found = pieces.merge(x, merges, tokens=4)
    assert found.shape[1] < 12
    assert torch.equal(pieces.expand(found, pieces.table(merges, tokens=4), 12), x)


def test_a_pair_of_equal_tokens_is_merged_from_the_left():
    x = torch.tensor([[1, 1, 1, 2, 1, 1], [1, 1, 1, 1, 1, 0]])
    found = pieces.merge(x, [(1, 1)], tokens=3)
    assert found.tolist() == [[3, 1, 2, 3, 0], [3, 3, 1, 0, 0]]


def test_the_models_pieces_are_common_parts_of_molecules():
    tokens = to_tokens(SMILES)
    found = pieces.merge(tokens, MERGES, len(TOKENS))
    assert 2 * (found > 0).sum() < (tokens > 0).sum()


def test_a_latent_depends_on_its_own_molecule_alone():
    base = SelfiesVAE(latent_dim=4, hidden=16, encoder_hidden=8).eval()
    tokens = to_tokens(SMILES)
    together = base.encode(tokens)
    for row, latent in zip(tokens, together):
        short = row[None, : int((row > 0).sum())]
        assert torch.allclose(base.encode(short)[0], latent, atol=1e-6)


@pytest.mark.parametrize("tokens", [torch.full((1, 4), len(TOKENS)), torch.ones(1, 60)])
def test_the_base_model_refuses_what_is_no_molecule(tokens):
    with pytest.raises(ValueError, match="tokens"):
        SelfiesVAE(latent_dim=4, hidden=16, encoder_hidden=8).encode(tokens)


def test_the_base_model_learns_to_rebuild_molecules_exactly():
    torch.manual_seed(0)
    base, tokens = SelfiesVAE(latent_dim=8, hidden=64, encoder_hidden=32), to_tokens(SMILES)
    many = tokens.repeat(20, 1)
    fit(base, base.loss, (many,), (tokens,), epochs=12, batch_size=12, learning_rate=1e-2)
    assert to_smiles(base.decode(base.encode(tokens))) == SMILES
    assert base.decode(torch.zeros(0, 8)).shape == (0, 52)


def joint(n=4000):
    """Latents that are the quantities with noise."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(n, 2, generator=generator)
    z = torch.cat([3 * y[:, :1] + 1, y[:, 1:]], 1)
    z = z + 0.1 * torch.randn(z.shape, generator=generator)
    return Latents(z, torch.zeros_like(z), z, y)


def test_a_linear_gaussian_draws_what_is_asked_for_and_leaves_the_rest():
    z = _linear_gaussian(joint(), torch.tensor([[2.0, NAN]]).repeat(2000, 1), 0, temperature=1.0)
    assert z.mean(0).tolist() == pytest.approx([7.0, 0.0], abs=0.1)
    assert z.std(0).tolist() == pytest.approx([0.1, 1.0], abs=0.06)
    cold = _linear_gaussian(joint(), torch.tensor([[2.0, NAN]]).repeat(9, 1), 0, temperature=0.0)
    assert cold.std(0).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_neighbours_have_about_what_is_asked_for():
    z = _neighbours(joint(), 0.0, torch.tensor([[1.0, NAN], [NAN, -1.0]]), seed=0)
    assert z[0, 0].item() == pytest.approx(4.0, abs=0.5)
    assert z[1, 1].item() == pytest.approx(-1.0, abs=0.5)
    few = joint(9)  # fewer than are looked for
    z = _neighbours(few, 0.0, torch.full((5, 2), NAN), seed=0)
    assert (z[:, None] == few.draw).all(2).any(1).all(), "any serves if nothing is asked for"


def test_rejection_keeps_the_latent_that_is_read_nearest_to_the_request():
    class Prior:
        def sample(self, n, temperature, seed):
            return joint(n).mean

    z = _rejection(Prior(), joint())(torch.tensor([[1.0, NAN]]).repeat(50, 1), 0, temperature=1.0)
    assert (z[:, 0] - 4).abs().mean() < 0.5


def test_reading_back_keeps_what_the_object_shows_and_not_what_the_latent_promised():
    drawn = torch.randn(1600, 2, generator=torch.Generator().manual_seed(0))
    coarse = Frozen(adapt(None, encode=lambda x: x, decode=torch.round))
    z, y = torch.randn(200, 2), torch.rand(200, 1)
    plugin = FlowPlugin(2, Reals(["u"])).fit(z, y, epochs=1, progress=False)
    asked = torch.full((400, 1), 0.5)
    kept = _read_back(lambda y, seed: drawn, coarse, plugin, 4)(asked, 0)
    shown = plugin.log_prob(drawn.round(), asked[:1]).view(400, 4)
    assert torch.isin(kept, drawn).all()
    assert torch.equal(plugin.log_prob(kept.round(), asked), shown.max(1).values)


def test_targets_are_what_real_molecules_have():
    y = joint().y
    asked = targets(y, [1], 100)
    low, high = y[:, 1].quantile(0.05), y[:, 1].quantile(0.95)
    assert asked[:, 0].isnan().all()
    assert ((asked[:, 1] >= low) & (asked[:, 1] <= high)).all()
    assert set(asked[:, 1].tolist()) <= set(y[:, 1].tolist())


def test_set_scores_count_what_they_say():
    scores = set_scores(["CCO", "CCO", "C", None], ["C"])
    assert scores == {"valid": 0.75, "unique": pytest.approx(2 / 3), "novel": 0.5, "n": 4}


def test_similarity_is_one_to_itself_and_less_to_others():
    found = similarity(SMILES, np.roll(SMILES, 1).tolist())
    assert similarity(SMILES, SMILES).tolist() == [1.0] * len(SMILES)
    assert (found < 1).all()
    with pytest.raises(ValueError, match="smiles and others must have the same length"):
        similarity(SMILES, SMILES[:1])
    with one_line(ValueError, "'C1CC' is no molecule"):
        similarity(["CCO"], ["C1CC"])
    with pytest.raises(ValueError, match=r"found must have shape \(2, 3\), got \(2, 1\)"):
        request_scores(torch.zeros(2, 1), torch.zeros(2, 3), torch.ones(3))
    assert request_scores(np.ones((2, 1)), np.zeros((2, 1)), np.ones(1))["error"] == 1


def test_the_chemnet_distance_of_a_set_to_itself_is_zero():
    assert frechet_chemnet_distance(SMILES, SMILES) == pytest.approx(0, abs=1e-3)
    assert frechet_chemnet_distance(SMILES, ["CCCC", "CCCCC", "CCCCCC"]) > 1


def test_a_request_outside_the_data_is_drawn_with_a_warning():
    with pytest.warns(UserWarning, match=r"logP=12 is outside the range of the fit, .* to "):
        tokens = tiny_network().generate({"logP": 12.0}, n=2, seed=0)
    assert tokens.shape == (2, LENGTH)


def test_an_unknown_property_is_named():
    with pytest.raises(ValueError, match=r"unknown quantity 'logD'; did you mean 'logP'\?"):
        tiny_network().generate({"logD": 1.0})


def test_the_panel_asks_for_what_is_checked_and_draws_it():
    panel = MoleculeExplorer(tiny_network())
    before = panel.view.value
    assert list(panel.request()) == ["logP"]
    panel.asked["logP"].value = False
    assert panel.request() == {} and panel.view.value != before
    assert re.search("<svg", panel.view.value) and panel.message.value == ""


def test_the_panels_picture_is_of_the_request_and_the_seed():
    panel = MoleculeExplorer(tiny_network())
    assert panel.picture({"QED": 0.5}, 1) == panel.picture({"QED": 0.5}, 1)
    assert panel.picture({"QED": 0.5}, 1) != panel.picture({"QED": 0.5}, 2)


def test_the_panel_shows_its_picture_within_a_kernel_too():
    from rdkit.Chem.Draw import IPythonConsole  # which changes RDKit's functions at once

    IPythonConsole.InstallIPythonRenderer()
    try:
        panel = MoleculeExplorer(tiny_network())
        assert "<svg" in panel.picture({"QED": 0.5}, 1)
    finally:
        IPythonConsole.UninstallIPythonRenderer()
