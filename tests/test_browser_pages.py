"""A run's page in a real browser, wide and narrow.

Nothing sticks out, every picture is there, and nothing is asked of a network.
"""

import io

import pytest
from laws import note_files
from PIL import Image
from test_browser import browser, pytestmark  # noqa: F401 (fixtures)
from test_report import folder  # noqa: F401 (fixture)

from fpnlib import store
from fpnlib.runs import report
from fpnlib.store import Manifest

SEEN = """
document.querySelectorAll("details").forEach(details => details.open = true);
const all = [...document.querySelectorAll("body *")];
const resources = performance.getEntriesByType("resource");
const screen = document.documentElement.clientWidth;
const outside = e => e.getBoundingClientRect().right > screen + 1 && !e.closest(".scroll, nav");
return {
  page: document.documentElement.scrollWidth - screen,
  outside: all.filter(outside).map(e => e.outerHTML.slice(0, 80)),
  pictures: [...document.images].map(image => image.complete && image.naturalWidth),
  asked: resources.map(entry => entry.name).filter(name => !name.startsWith("data:")),
};
"""


@pytest.fixture
def page(folder):  # noqa: F811
    """The page of a run with long names, wide tables and large pictures."""
    (folder / "figures" / "04_some_figure_7.png").unlink()  # it has no pixels
    for name, size in (("wide", (2400, 300)), ("tall", (300, 2000))):
        png = io.BytesIO()
        Image.new("L", size, 128).save(png, "png")
        store.write(folder / "figures" / f"04_some_{name}.png", png.getvalue())
    cells = ["a rather long name of a column, " * 2] + [f"{k / 7}" for k in range(30)]
    row = ",".join(f'"{cell}"' for cell in cells)
    store.write(folder / "tables" / "04_some_wide.csv", f"{row}\n" * 5)
    results = store.Results(folder / "results" / "04_some.json")
    for k in range(20):
        quantity = f"right class at temperature {k / 10}, ConvVAE + C-MAF, test images"
        results.record(quantity, 0.9, paper=0.8, n=10_000)
    long = {"temperatures": list(range(60)), "data_dir": "/a/very/long" * 20}
    manifest = Manifest(folder)
    manifest.note("notebooks", {"04_some": {"parameters": long, "seconds": 81.3}})
    manifest.note("environment", {"processor": "of a long name " * 5})
    note_files(folder)
    store.write(folder / "tables" / f"{'not_in_the_manifest' * 6}.csv", "a\n1\n")
    return report.write(folder)


@pytest.mark.parametrize("width", [1280, 380])
def test_a_runs_page_fits_the_screen_and_needs_no_network(page, width, browser):  # noqa: F811
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get(page.as_uri())
    seen = browser.execute_script(SEEN)
    assert sorted(seen.pop("pictures")) == [300, 2400]
    assert seen == {"page": 0, "outside": [], "asked": []}
