"""The kept models of drawn faces reach what notebook 07 shows, here on fewer edits."""

import pandas as pd
import pytest
import torch

from fpnlib import runs
from fpnlib.data.drawn.faces import ATTRIBUTES, load_drawn_faces
from fpnlib.experiments import (
    Run,
    attribute_judge,
    attribute_plugin,
    edit_scores,
    editors,
    msp,
    pretrained,
    pretrained_faces,
    true_scores,
)
from fpnlib.metrics.editing_tables import mean_scores
from fpnlib.network import FlowPluginNetwork
from fpnlib.store import PROJECT, read_json

NOTEBOOK = PROJECT / "notebooks" / "07_attribute_editing.ipynb"
EACH = 10


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with the notebook's defaults that trains nothing, as the notebook must not."""
    if not (pretrained.FOLDER / "drawn_faces_MSP.json").is_file():
        pytest.skip("needs outputs/pretrained, which comes with the repository")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Run, "load_or_make", lambda run, name, *more: pytest.fail(f"{name} would be trained")
        )
        settings = runs.parameters(NOTEBOOK) | {"out": str(tmp_path_factory.mktemp("run"))}
        yield Run("07", dataset=settings.pop("faces"), **settings)


@pytest.fixture(scope="module")
def network(run):
    return FlowPluginNetwork(msp(run), attribute_plugin(run))


def test_editing_to_ones_own_attributes_and_there_and_back_is_the_reconstruction(run, network):
    test, plugin = run.data.test.first(50), network.plugin
    rebuilt = network.reconstruct(test.x)
    torch.testing.assert_close(network.edit(test.x, test.y, test.y), rebuilt, atol=1e-3, rtol=0)
    there = plugin.condition.edited(test.y, "+Smiling")
    z = plugin.from_noise(plugin.to_noise(network.base.encode(test.x), test.y), there)
    with torch.no_grad():
        back = network.base.decode(plugin.from_noise(plugin.to_noise(z, there), test.y))
    torch.testing.assert_close(back, rebuilt, atol=1e-3, rtol=0)


def test_edits_are_achieved_and_leave_the_rest(run, network):
    ours = {name: way for name, way in editors(run, n=500).items() if "ours" in name}
    scores = mean_scores(edit_scores(run, ours, [1.0], EACH), ["editor"]).iloc[0]
    assert scores["achieved"] >= 0.95
    assert scores["others"] <= 0.03


def test_the_committed_run_shows_what_was_promised():
    """On all faces that it edited, and with the weights that are kept."""
    folder = PROJECT / "outputs" / "drawn_faces"
    table = pd.read_csv(folder / "tables" / "07_attribute_editing_editors.csv").set_index(
        ["editor", "faces"]
    )
    for faces in ("validation", "test"):
        ours = table.loc[("C-MAF (ours)", faces)]
        assert ours["attributes"] == len(ATTRIBUTES) and ours["n"] >= 1_000
        assert ours["achieved"] >= 0.95 and ours["others"] <= 0.03, faces
    results = {
        row["quantity"]: row["value"]
        for row in read_json(folder / "results" / "07_attribute_editing.json")
    }
    for quantity in ("edit to one's own attributes", "edit there and back"):
        assert results[f"{quantity}, largest difference"] <= 1e-3
    manifest = read_json(folder / "manifest.json")
    assert manifest["data"]["drawn_faces"] == load_drawn_faces().checksum


def test_the_judge_reads_every_edit_of_a_face_drawn_again_and_no_other_change(run):
    """``others`` counts nothing that an edit truly brings, such as the hair of a bald head."""
    attribute_judge(run)
    each = mean_scores(true_scores(run, EACH), ["attribute"])
    assert each["achieved"].mean() > 0.98 and each["achieved"].min() >= 0.8
    assert each["others"].mean() < 0.005 and each["others"].max() < 0.02


def test_the_app_has_the_notebooks_network(run, network):
    taken, x, y = pretrained_faces(5)
    assert torch.equal(x, run.data.test.x[:5]) and torch.equal(y, run.data.test.y[:5])
    torch.testing.assert_close(
        taken.edit(x, y, "+Smiling"), network.edit(x, y, "+Smiling"), atol=1e-4, rtol=0
    )
