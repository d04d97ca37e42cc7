"""Notebooks executed whole, by the runner and by papermill, at small sizes.

``make demo`` executes all of them, and ``make test-browser`` in JupyterLab.
"""

import json

import nbformat
import numpy as np
import papermill
import pytest
from small import small

from fpnlib.data.drawn import shapes
from fpnlib.families import FACES, SHAPES, Plug, Run, Trained, study
from fpnlib.runs import execute
from fpnlib.runs.copies import code_cells
from fpnlib.store import PROJECT

# The second notebook needs models that the first one trains.
NOTEBOOKS = ["02_base_models", "03_flow_plugins"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebooks") / "run"
    two = {"only": NOTEBOOKS, "values": small(*NOTEBOOKS), "side_by_side": 2}
    execute.run("demo", out=str(folder), **two)
    return folder


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_runs_and_leaves_figures_and_results(folder, name):
    executed = nbformat.read(folder / "notebooks" / f"{name}.ipynb", as_version=4)
    code = code_cells(executed.cells)
    assert all(cell.execution_count for cell in code if cell.source)
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    assert list((folder / "figures").glob(f"{name}_*.png"))
    assert json.loads((folder / "results" / f"{name}.json").read_text())


def test_plain_papermill_gives_the_same_bits_from_any_folder(folder, tmp_path):
    """The runner executed it beside the notebook that trains half of its models."""
    name = NOTEBOOKS[-1]
    source, given = PROJECT / "notebooks" / f"{name}.ipynb", small(name)
    given["out"] = str(tmp_path / "run")
    executed = papermill.execute_notebook(
        source, tmp_path / "out.ipynb", given, cwd=tmp_path, progress_bar=False
    )
    assert all(cell.execution_count for cell in code_cells(executed.cells) if cell.source)
    results = f"results/{name}.json"
    assert (tmp_path / "run" / results).read_bytes() == (folder / results).read_bytes()


@pytest.mark.parametrize("family", [SHAPES, FACES], ids=lambda family: family.name)
def test_what_the_repository_keeps_trained_fits_the_familys_defaults(tmp_path, monkeypatch, family):
    """Else the demo would train it anew. What a shape looks like does not matter here."""

    def train(*_, **__):
        raise AssertionError("it would be trained anew")

    monkeypatch.setattr(Trained, "fit", train)
    monkeypatch.setattr(Plug, "fit", train)
    monkeypatch.setattr(shapes, "_draw_shape", lambda *_: np.zeros((shapes.POOL, 3), np.float32))
    kept = study.Study(Run("kept", out=tmp_path), family)
    for base, recipe in family.bases.items():
        for flow in recipe.flows:
            kept.plugin(base, flow)
    kept.judge()
