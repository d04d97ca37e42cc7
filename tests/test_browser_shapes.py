"""The turntable in a real browser: a drag turns the shape, and what went to the right is what came to the front."""

import shutil
from urllib.parse import quote

import numpy as np
import pytest

from fpnlib.plots import turntable

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install fpnlib[test]")
CHROME = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROME and DRIVER), reason="needs a browser: chromium and chromedriver")

INK = """
const canvas = document.querySelector("canvas"), pixels = canvas.getContext("2d").getImageData(0, 0, 300, 300).data;
const columns = [];
for (let k = 0; k < pixels.length; k += 4) if (pixels[k] < 250) columns.push((k / 4) % 300);
return [Math.min(...columns), Math.max(...columns)];
"""


@pytest.fixture
def browser(tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROME
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def test_a_drag_turns_the_shape(browser):
    """A thin board: seen from the side it is a line, and a quarter turn shows its whole breadth."""
    from selenium.webdriver import ActionChains

    rng = np.random.default_rng(0)
    board = np.stack([rng.uniform(-1, 1, 500), rng.uniform(-0.2, 0.2, 500), rng.uniform(-0.01, 0.01, 500)], 1)
    browser.get("data:text/html," + quote(f"<body>{turntable(board, size=300)}</body>"))
    browser.switch_to.frame(0)
    canvas = browser.find_element("tag name", "canvas")

    def drag(pixels):
        ActionChains(browser).drag_and_drop_by_offset(canvas, pixels, 0).perform()

    def breadth():
        low, high = browser.execute_script(INK)
        return high - low

    drag(1)  # and it stops turning by itself
    before = breadth()
    assert breadth() == before
    turns = []
    for _ in range(16):
        drag(20)  # 0.2 radians
        turns.append(breadth())
    assert max(turns) > 250 and min(turns) < 120  # 3.2 radians go past its edge and its face
    assert not [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
