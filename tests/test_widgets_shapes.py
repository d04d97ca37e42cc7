"""The panel of 3D shapes: what it shows is a function of its controls."""

import pytest
import torch

from fpnlib import Classes, FlowPlugin, FlowPluginNetwork
from fpnlib.base_models import PointFlow
from fpnlib.widgets import ShapeExplorer


@pytest.fixture(scope="module")
def panel():
    torch.manual_seed(0)
    small = {"hidden": (8,), "encoder_widths": (4, 4, 4, 8), "points": 20}
    base = PointFlow(4, method="euler", steps=2, **small)
    plugin = FlowPlugin(4, Classes(["chair", "table"]), hidden_features=8, num_layers=2)
    plugin.fit(torch.randn(60, 4), torch.arange(60) % 2, epochs=2)
    return ShapeExplorer(FlowPluginNetwork(base, plugin))


def test_the_controls_decide_what_is_shown(panel):
    first = panel.view.value
    assert first.startswith("<iframe") and "chair" in first
    panel.category.value = "table"
    second = panel.view.value
    assert "table" in second and second != first
    panel.again()
    assert panel.seed.value == 1 and panel.view.value not in (first, second)
    panel.category.value, panel.seed.value = "chair", 0
    assert panel.view.value == first == panel.picture("chair", 0)


def test_what_goes_wrong_stands_in_the_panel(panel):
    panel.temperature.min, panel.temperature.value = -1, -1
    assert "temperature must be 0 or more" in panel.message.value
    panel.temperature.value = 1
    assert not panel.message.value
    with pytest.raises(ValueError, match="did you mean 'chair'"):
        panel.picture("chiar", 0)
