"""The turntable in a real browser: a drag turns the shape."""

from urllib.parse import quote

import numpy as np
import pytest
from test_browser import browser, pytestmark  # noqa: F401 (fixtures)

from fpnlib.plots import turntable

INK = """
const side = document.querySelector("canvas").width;
const canvas2d = document.querySelector("canvas").getContext("2d");
const pixels = canvas2d.getImageData(0, 0, side, side).data;
const columns = [];
for (let k = 0; k < pixels.length; k += 4) if (pixels[k + 3] > 5) columns.push((k / 4) % side);
return (Math.max(...columns) - Math.min(...columns)) / side;
"""
POINTER = """
const canvas = document.querySelector("canvas");
for (const [kind, x] of arguments[0])
  canvas.dispatchEvent(new PointerEvent("pointer" + kind, {pointerId: 1, clientX: x, clientY: 0}));
"""


def board():
    """A thin board: seen from the side it is a line, and a quarter turn shows its whole breadth."""
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (500, 3)) * [1, 0.2, 0.01]


@pytest.fixture
def frame(browser):  # noqa: F811
    """The browser inside a board's turntable, 300 pixels wide, on a screen of 2 dots a pixel."""
    screen = {"width": 800, "height": 600, "deviceScaleFactor": 2, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get("data:text/html," + quote(f"<body>{turntable(board(), size=300)}</body>"))
    browser.switch_to.frame(0)
    yield browser
    browser.switch_to.default_content()
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def drag(driver, pixels):
    from selenium.webdriver import ActionChains

    canvas = driver.find_element("tag name", "canvas")
    ActionChains(driver).drag_and_drop_by_offset(canvas, pixels, 0).perform()


def view(driver):
    return driver.execute_script("return [azimuth, elevation, zoom];")


def test_a_drag_turns_the_shape(frame):
    drag(frame, 1)  # and it stops turning by itself
    before = frame.execute_script(INK)
    assert frame.execute_script(INK) == before
    turns = []
    for _ in range(16):
        drag(frame, 20)  # 0.2 radians
        turns.append(frame.execute_script(INK))
    assert max(turns) > 0.85 and min(turns) < 0.4  # 3.2 radians go past its edge and its face
    sizes = "return [canvas.width, canvas.clientWidth, devicePixelRatio];"
    width, shown, dots = frame.execute_script(sizes)
    assert shown == 300 and width == shown * dots
    assert not [line for line in frame.get_log("browser") if line["level"] == "SEVERE"]


@pytest.mark.parametrize("end", ["up", "cancel"])
def test_a_pointer_that_is_gone_turns_nothing(frame, end):
    # There is no real pointer to capture.
    frame.execute_script("canvas.setPointerCapture = () => {};")
    frame.execute_script(POINTER, [["down", 0], ["move", 30]])
    turned = view(frame)
    frame.execute_script(POINTER, [[end, 30], ["move", 90]])
    assert view(frame) == turned
    frame.execute_script(POINTER, [["down", 0], ["move", 30]])
    assert view(frame)[0] == pytest.approx(turned[0] + 0.3)
