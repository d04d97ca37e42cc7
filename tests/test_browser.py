"""The sliders in a real browser: a drag changes the picture, and the picture is the right one."""

import base64
import io
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

from fpnlib.data import load_drawn_faces
from fpnlib.families import study
from fpnlib.families.pretrained import pretrained
from fpnlib.store import PROJECT
from fpnlib.widgets import AttributeEditor

webdriver = pytest.importorskip("selenium.webdriver", reason="needs the extra 'test'")
CHROMES = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
CHROME = next(filter(None, CHROMES), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROME and DRIVER), reason="needs chromium and chromedriver")

PATIENCE = 180  # seconds at most, for a page on a busy machine
FETCH = """
const done = arguments[1];
fetch(arguments[0].src).then(answer => answer.blob()).then(blob => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result.split(',')[1]);
  reader.readAsDataURL(blob);
}).catch(() => done(null));
"""
RUN_ALL = """
const done = arguments[0];
const app = window.jupyterapp;
const ready = () => app && app.shell.currentWidget && app.shell.currentWidget.sessionContext;
if (!ready()) { done(false); } else {
  app.shell.currentWidget.sessionContext.ready
    .then(() => { app.commands.execute('notebook:run-all-cells'); done(true); })
    .catch(() => done(false));
}
"""


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROME
    off = ["gpu", "dev-shm-usage", "background-networking"]
    shape = ["headless=new", "no-sandbox", "window-size=1400,1000"]
    for argument in [*shape, *(f"disable-{part}" for part in off)]:
        options.add_argument(f"--{argument}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(PATIENCE)
    driver.set_script_timeout(PATIENCE)
    yield driver
    driver.quit()


@pytest.fixture
def serve(tmp_path):
    """Start a Jupyter server on a free port, with its files in ``tmp_path``; gives its address."""
    started = []

    def start(module: str | Path, *arguments: str) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        names = ("_CONFIG", "LAB_WORKSPACES", "LAB_SETTINGS", "_RUNTIME")
        environment = {f"JUPYTER{name}_DIR": str(tmp_path / name) for name in names}
        path = os.pathsep.join([str(Path(__file__).parent), str(PROJECT)])
        environment |= {"PYTHONPATH": path, "IPYTHONDIR": str(tmp_path / "ipython")}
        program = [str(module)] if isinstance(module, Path) else ["-m", module]
        command = [sys.executable, *program, *arguments, "--no-browser", f"--port={port}"]
        with open(tmp_path / "server.log", "w") as log:
            where = {"env": os.environ | environment, "cwd": tmp_path, "stdout": log, "stderr": log}
            started.append(subprocess.Popen(command, **where))
        return f"http://127.0.0.1:{port}"

    yield start
    for server in started:
        server.terminate()
        server.wait()


@pytest.fixture
def page(tmp_path):
    """Writes a notebook of one cell."""

    def write(code: str) -> Path:
        python = {"name": "python3", "display_name": "Python 3", "language": "python"}
        kernel = {"kernelspec": python}
        notebook = new_notebook(cells=[new_code_cell(code)], metadata=kernel)
        nbformat.write(notebook, tmp_path / "page.ipynb")
        return tmp_path / "page.ipynb"

    return write


@pytest.fixture
def faces():
    """The panel of notebook 07 and of the app, where its models are there."""
    if not (study.PRETRAINED / "drawn_faces_MSP_maf.json").is_file():
        pytest.skip("needs the pretrained models of drawn faces in outputs/pretrained")
    test = load_drawn_faces().test.first(100)
    return AttributeEditor(pretrained("faces"), test.x, test.y)


def wait(browser, condition):
    from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
    from selenium.webdriver.support.ui import WebDriverWait

    passing = StaleElementReferenceException, WebDriverException
    return WebDriverWait(browser, PATIENCE, ignored_exceptions=passing).until(condition)


def picture(browser, number):
    """The picture that the page shows, in [0, 1]; 0: the original, 1: the edited one."""
    image = browser.find_elements("css selector", "img.widget-image")[number]
    data = browser.execute_async_script(FETCH, image)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) / 255


def drag_and_look(browser, editor, name):
    """Drag a slider to the right, and wait for the picture that belongs to where it ends."""
    slider = wait(browser, lambda b: slider_of(b, name))
    before = wait(browser, lambda b: [picture(b, 1)])[0]
    np.testing.assert_allclose(before, shown(editor, {}), atol=0.01)
    start = slider.find_element("css selector", ".widget-readout").text

    def dragged(driver):
        """Drag, and say whether the slider moved; late panels may have pushed it off the mouse."""
        handle = slider.find_element("css selector", ".noUi-handle")
        moves = webdriver.ActionChains(driver).click_and_hold(handle)
        for _ in range(8):
            moves = moves.move_by_offset(6, 0)
        moves.release().perform()
        return slider.find_element("css selector", ".widget-readout").text != start

    def settled(driver):
        """The slider's value in a list, once the picture belongs to it; None before."""
        value = float(slider.find_element("css selector", ".widget-readout").text)
        there = np.allclose(picture(driver, 1), shown(editor, {name: value}), atol=0.01)
        return [value] if there else None

    wait(browser, dragged)
    value = wait(browser, settled)[0]
    values = editor.attributes.set(editor.y[0], {name: value})[0]
    assert value > float(start)
    assert abs(shown(editor, {name: value}) - before).max() > 0.1, "another picture is asked for"
    np.testing.assert_allclose(picture(browser, 0), before_of(editor), atol=0.01)
    for other in editor.attributes.excluded_by(name):
        says = float(slider_of(browser, other).find_element("css selector", ".widget-readout").text)
        expected = values[editor.attributes.column(other)].item()
        assert says == pytest.approx(expected, abs=0.006), other


def slider_of(browser, name):
    label = name.replace("_", " ")
    named = f"[label[normalize-space()='{label}']]"
    return browser.find_element("xpath", f"//div[contains(@class,'widget-slider')]{named}")


def shown(editor, values):
    return editor.picture(0, values).permute(1, 2, 0).clamp(0, 1).numpy()


def before_of(editor):
    return editor.x[0].permute(1, 2, 0).numpy()


FACES = """from fpnlib.data import load_drawn_faces
from fpnlib.families.pretrained import pretrained
from fpnlib.widgets import AttributeEditor
test = load_drawn_faces().test.first(100)
AttributeEditor(pretrained("faces"), test.x, test.y)"""


def test_a_drag_in_jupyterlab_changes_the_face(browser, serve, page, faces):
    in_jupyterlab(browser, serve, page(FACES))
    drag_and_look(browser, faces, "Eyeglasses")


def test_a_drag_in_the_app_changes_the_face_and_the_sliders_that_it_excludes(browser, serve, faces):
    address = serve(PROJECT / "notebooks" / "app" / "serve.py", "--Voila.ip=127.0.0.1")
    wait(browser, lambda b: b.get(address) or True)
    drag_and_look(browser, faces, "Bald")


def in_jupyterlab(browser, serve, path):
    """Open a notebook in JupyterLab and have it run."""
    address = serve(
        "jupyterlab",
        f"--ServerApp.root_dir={path.parent}",
        "--IdentityProvider.token=",
        "--ServerApp.allow_root=True",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.news_url=",
    )
    wait(browser, lambda b: b.get(f"{address}/lab/tree/{path.name}") or True)
    wait(browser, lambda b: b.execute_async_script(RUN_ALL))
