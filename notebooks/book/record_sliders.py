"""Record the app's sliders as a moving picture: ``python notebooks/book/record_sliders.py``.

It drives the app in chromium, which needs the extra "test", chromium and chromedriver. The picture
is ``notebooks/app/sliders.webp``.
"""

import io
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

APP = Path(__file__).resolve().parents[1] / "app"
PICTURE = APP / "sliders.webp"
PATIENCE = 300  # seconds at most, for the page on a busy machine
SETTLED = 0.7  # seconds after which the picture belongs to the slider
FRAME, LAST = 140, 1500  # milliseconds of a frame, and of the last one of a drag
WIDTH = 840  # pixels of the picture
DRAGS = (
    ("Smiling", 8),
    ("Eyeglasses", 8),
    ("Bald", 8),
)  # sliders, and their steps to the right
PIXELS = 9  # of a step


def main() -> None:
    """Start the app, drag its sliders and save the frames."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(APP / "serve.py"), "--no-browser"]
    app = subprocess.Popen([*command, f"--port={port}", "--Voila.ip=127.0.0.1"])
    browser = start_browser()
    try:
        frames, durations = record(browser, f"http://127.0.0.1:{port}")
    finally:
        browser.quit()
        app.terminate()
        app.wait()
    first, *others = frames
    first.save(
        PICTURE,
        save_all=True,
        append_images=others,
        duration=durations,
        loop=0,
        quality=70,
        method=6,
    )
    print(f"{PICTURE}: {len(frames)} frames, {PICTURE.stat().st_size / 1e3:.0f} kB")


def start_browser() -> webdriver.Chrome:
    """A chromium without a window."""
    options = webdriver.ChromeOptions()
    found = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    options.binary_location = next(filter(None, found), "")
    for name in ("gpu", "dev-shm-usage", "background-networking"):
        options.add_argument(f"--disable-{name}")
    for argument in ("headless=new", "no-sandbox", "window-size=1400,1000"):
        options.add_argument(f"--{argument}")
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    browser = webdriver.Chrome(options=options, service=service)
    browser.set_page_load_timeout(PATIENCE)
    return browser


def record(browser: webdriver.Chrome, address: str) -> tuple[list[Image.Image], list[int]]:
    """Frames of the first panel while its sliders are dragged, and their milliseconds."""
    wait = WebDriverWait(browser, PATIENCE, ignored_exceptions=[Exception])
    wait.until(lambda driver: driver.get(address) or True)
    wait.until(lambda driver: driver.find_element("css selector", "iframe"))  # the last panel
    panel = find_slider(browser, DRAGS[0][0]).find_element(
        "xpath", "ancestor::div[contains(@class, 'jp-OutputArea-output')]"
    )
    time.sleep(3)
    frames, durations = [frame(panel)], [LAST]
    for name, steps in DRAGS:
        slider = find_slider(browser, name)
        handle = slider.find_element("css selector", ".noUi-handle")
        webdriver.ActionChains(browser).click_and_hold(handle).perform()
        for _ in range(steps):
            webdriver.ActionChains(browser).move_by_offset(PIXELS, 0).perform()
            time.sleep(SETTLED)
            frames.append(frame(panel))
            durations.append(FRAME)
        webdriver.ActionChains(browser).release().perform()
        durations[-1] = LAST
    return frames, durations


def find_slider(browser: webdriver.Chrome, name: str) -> WebElement:
    """The slider with this label."""
    label = f"[label[normalize-space()='{name}']]"
    return browser.find_element("xpath", f"//div[contains(@class, 'widget-slider')]{label}")


def frame(panel: WebElement) -> Image.Image:
    """What the panel shows."""
    image = Image.open(io.BytesIO(panel.screenshot_as_png)).convert("RGB")
    height = round(image.height * WIDTH / image.width)
    return image.resize((WIDTH, height), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
