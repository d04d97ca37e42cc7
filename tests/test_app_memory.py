"""A tab of the page of sliders takes little memory of its own, so that a class fits one machine."""

import asyncio
import sys
from pathlib import Path

import nbformat
import psutil
import pytest

APP = Path(__file__).resolve().parents[1] / "notebooks" / "app"
LIMIT = 0.35e9  # bytes; .21e9 once numba has compiled what it keeps
PATIENCE = 300  # seconds at most for a cell on a busy machine
MOVE = """
panels = faces, digits, shapes, molecules
sliders = faces.sliders["Smiling"], digits.temperature
sliders = *sliders, shapes.temperature, molecules.sliders["logP"]
views = faces.edited, digits.image, shapes.view, molecules.view
for panel, slider, shown in zip(panels, sliders, views):
    before = shown.value
    slider.value = slider.max
    panel.show()  # at once; otherwise the kernel draws when the cell has ended
    assert shown.value != before and not panel.message.value, panel.message.value
"""


def cells() -> list[str]:
    """The page's code, with names for its panels, and code that moves their sliders."""
    notebook = nbformat.read(APP / "sliders.ipynb", as_version=4)
    first, *panels = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    names = "faces", "digits", "shapes", "molecules"
    named = [f"{name} = {code}" for name, code in zip(names, panels)]
    return [first, *named, MOVE]


async def memory_of_a_tab() -> int:
    """Bytes of its own of a kernel of the app that has built the panels and moved their sliders."""
    from serve import Forking

    manager = Forking()
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    await client.wait_for_ready(PATIENCE)
    try:
        for code in cells():
            options = {"output_hook": lambda message: None, "timeout": PATIENCE}
            reply = await client.execute_interactive(code, **options)
            assert reply["content"]["status"] == "ok", reply["content"]
        return psutil.Process(manager.provisioner.pid).memory_full_info().uss
    finally:
        client.stop_channels()
        await manager.shutdown_kernel()


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_a_tab_builds_and_moves_its_panels_in_little_memory_of_its_own(monkeypatch):
    monkeypatch.syspath_prepend(APP)
    private = asyncio.run(memory_of_a_tab())
    print(f"{private / 1e9:.2f} GB")
    assert private < LIMIT
