"""Every notebook from its first cell to its last, through papermill, at sizes that say nothing but finish soon."""

import json

import nbformat
import pytest

from fpnlib import runner
from fpnlib.artifacts import PROJECT

NAMES = [path.stem for path in sorted((PROJECT / "notebooks").glob("*.ipynb"))]
SMALL = {
    "base_epochs": 2,
    "ae_epochs": 2,
    "flow_epochs": 3,
    "ae_flow_epochs": 3,
    "ae_flow_layers": 2,
    "ae_flow_blocks": 1,
    "flow_width": 16,
    "judge_epochs": 1,
    "samples_per_class": 10,
    "components": 2,
    "points": 60,
    "shapes_per_category": 2,
    "judged_per_category": 3,
    "clouds_per_category": 2,
    "score_points": 32,
    "automl_trials": 2,
    "n": 400,
    "epochs": 3,
    "resolution": 40,
    "train_faces": 400,
    "msp_features": 4,
    "msp_epochs": 1,
    "face_flow_layers": 2,
    "face_flow_blocks": 1,
    "face_flow_width": 32,
    "face_flow_embedding": 8,
    "face_flow_epochs": 4,
    "face_judge_epochs": 1,
    "edits_each": 2,
    "curve_each": 2,
    "sampled_faces": 20,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebooks") / "run"
    runner.run("demo", out=str(folder), values=SMALL, side_by_side=2)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_and_leaves_figures_and_results(folder, name):
    executed = nbformat.read(folder / "notebooks" / f"{name}.ipynb", as_version=4)
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code if cell.source)
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    assert list((folder / "figures").glob(f"{name}_*.png"))
    assert json.loads((folder / "results" / f"{name}.json").read_text())


def test_two_runs_with_one_seed_give_the_same_bits_side_by_side_or_not(folder, tmp_path):
    chosen = [name for name in NAMES if name.startswith(("04", "08"))]
    declared = {key for name in chosen for key in runner.parameters(PROJECT / "notebooks" / f"{name}.ipynb")}
    small = {key: value for key, value in SMALL.items() if key in declared}
    runner.run("demo", out=str(tmp_path), only=chosen, values=small, side_by_side=1)
    for name in chosen:
        again, before = ((where / "results" / f"{name}.json").read_bytes() for where in (tmp_path, folder))
        assert again == before, name
