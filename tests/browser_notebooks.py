"""Every notebook in JupyterLab, in a real browser, from its first cell to its last.

This takes minutes, so only ``make test-browser`` runs it.
"""

import nbformat
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from small import small
from test_browser import browser, in_jupyterlab, pytestmark, serve  # noqa: F401 (fixtures)

from fpnlib.store import PROJECT

NAMES = [path.stem for path in sorted((PROJECT / "notebooks").glob("*.ipynb"))]

LONGEST = 600  # seconds that a notebook may take at its small size
STATE = """const cells = [...window.jupyterapp.shell.currentWidget.content.widgets];
const code = cells.filter(c => c.model.type === "code" && c.model.sharedModel.getSource().trim());
const shown = c => Array.from({length: c.model.outputs.length}, (_, k) => c.model.outputs.get(k));
const outputs = code.flatMap(shown).map(output => output.toJSON());
return {waiting: code.filter(c => !c.model.executionCount).length,
        errors: outputs.filter(o => o.output_type === "error").map(o => `${o.ename}: ${o.evalue}`),
        figures: outputs.filter(o => o.data && o.data["image/png"]).length};"""


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_in_jupyterlab_without_an_edit(browser, serve, tmp_path, name):  # noqa: F811
    from selenium.webdriver.support.ui import WebDriverWait

    source = PROJECT / "notebooks" / f"{name}.ipynb"
    notebook = parameterize_notebook(
        load_notebook_node(str(source)), small(name) | {"out": str(tmp_path / "run")}
    )
    nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    in_jupyterlab(browser, serve, tmp_path / f"{name}.ipynb")

    def done(driver):
        state = driver.execute_script(STATE)
        return state if state["errors"] or not state["waiting"] else None

    state = WebDriverWait(browser, LONGEST, poll_frequency=1).until(done)
    assert state["errors"] == [] and state["figures"]
