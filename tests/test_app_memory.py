"""The page of sliders fits where Binder starts it: in 2 GB, which it shares with a server."""

import subprocess
import sys
from pathlib import Path

APP = Path(__file__).resolve().parents[1] / "notebooks" / "app" / "sliders.ipynb"
LIMIT = 1.5e9  # bytes for the notebook's process, half a GB less than there is
SCRIPT = """
import sys
import nbformat
import ipykernel.kernelapp  # what such a process has loaded besides
from memory import peak

cells = nbformat.read(sys.argv[1], as_version=4).cells
first, *panels = [cell.source for cell in cells if cell.cell_type == "code"]
exec(first)
faces, digits, shapes = map(eval, panels)
sliders = faces.sliders["Smiling"], digits.temperature, shapes.temperature
views = faces.edited, digits.image, shapes.view
for panel, slider, shown in zip((faces, digits, shapes), sliders, views):
    before = shown.value
    slider.value = slider.max
    assert shown.value != before and not panel.message.value, panel.message.value
print(peak())
"""


def test_the_sliders_are_built_and_moved_within_binders_memory():
    run = [sys.executable, "-c", SCRIPT, str(APP)]
    pipes = {"stdout": subprocess.PIPE, "text": True, "cwd": Path(__file__).parent}
    done = subprocess.run(run, check=True, **pipes)
    print(f"{int(done.stdout) / 1e9:.2f} GB")
    assert int(done.stdout) < LIMIT
