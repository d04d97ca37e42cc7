"""The book: its how-to pages run, its reference is whole, its panels stand still."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

import fpnlib

BOOK = Path(__file__).resolve().parents[1] / "notebooks" / "book"
HOW_TO = sorted((BOOK / "how_to").glob("*.md"))


@pytest.mark.filterwarnings("ignore")  # examples are fitted for two epochs
@pytest.mark.parametrize("page", HOW_TO, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    exec("\n".join(blocks), {"__name__": page.stem})


def test_the_reference_has_every_name_of_the_front_door_and_every_method_of_the_plugin():
    reference = "\n".join(path.read_text("utf-8") for path in (BOOK / "api").glob("*.md"))
    entries = set(re.findall(r"\.\. auto\w+:: (?:\S+\.)?(\w+)$", reference, re.MULTILINE))
    methods = {name for name in vars(fpnlib.FlowPlugin) if not name.startswith("_")}
    assert methods | set(fpnlib.__all__) - {"__version__"} <= entries


@pytest.fixture
def panels():
    spec = importlib.util.spec_from_file_location("panels", BOOK / "panels.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def with_panel(panels, **kept) -> nbformat.NotebookNode:
    """A notebook whose one output is the panel "box"."""
    view = {panels.VIEW: {"model_id": "box"}}
    cell = new_code_cell(outputs=[new_output("execute_result", data=view)])
    state = {"widgets": {panels.STATE: {"state": kept}}}
    return new_notebook(cells=[cell], metadata=state if kept else {})


def test_a_panel_shows_its_last_picture_and_the_values_of_its_controls(panels):
    inside = ["IPY_MODEL_image", "IPY_MODEL_slider", "IPY_MODEL_menu"]
    slider = {"value": 0.25, "min": 0, "max": 1, "step": 0.05, "description": "<Young>"}
    notebook = with_panel(
        panels,
        box={"model_name": "VBoxModel", "state": {"children": inside}},
        image={
            "model_name": "ImageModel",
            "state": {"format": "png"},
            "buffers": [{"path": ["value"], "data": "UE5H"}],
        },
        slider={"model_name": "FloatSliderModel", "state": slider},
        menu={
            "model_name": "DropdownModel",
            "state": {"_options_labels": ["cat", "dog"], "index": 1, "description": "class"},
        },
    )
    panels.still_panels(notebook)
    page = notebook.cells[0].outputs[0].data["text/html"]
    assert "src='data:image/png;base64,UE5H'" in page
    assert "&lt;Young&gt;" in page and "value=0.25" in page and "value='dog'" in page
    assert "widgets" not in notebook.metadata


def test_a_panel_without_its_state_is_a_line_of_text(panels):
    notebook = with_panel(panels)
    panels.still_panels(notebook)
    assert notebook.cells[0].outputs[0].data == {"text/html": panels.LOST}
