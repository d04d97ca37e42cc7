"""Molecules on request: a slider and a check box for each quantity, and live drawings."""

from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets
from rdkit import Chem
from rdkit.Chem import Draw

from fpnlib.conditions import Reals
from fpnlib.conditions.columns import Scaled
from fpnlib.data.molecules import PROPERTIES, properties, to_smiles
from fpnlib.network import FlowPluginNetwork
from fpnlib.widgets.parts import Explorer

ROWS, ACROSS = 2, 3  # of molecules that are drawn at a time
properties(["C"])  # reads the table behind SA now, so that a page's tabs share it
SETTINGS: dict[str, Any] = {"candidates": 4, "temperature": 0.7}  # as in notebook 10
SIZE = (230, 170)  # of a drawing in pixels
REACH = 2.5  # deviations on each side of the mean that a slider goes
STEPS = 50  # of a slider


class MoleculeExplorer(Explorer):
    """Molecules that have the quantities asked for; an unchecked one is left unsaid (section 3.3).

    Args:
        network: a base model of molecules with a plugin for quantities.

    Raises:
        TypeError: a plugin for classes or attributes.
    """

    def __init__(self, network: FlowPluginNetwork):
        super().__init__(network, Reals)
        self.names = self.condition.names
        self.asked: dict[str, widgets.Checkbox] = {}
        self.sliders: dict[str, widgets.FloatSlider] = {}
        rows: list[widgets.Widget] = []
        for column in self.condition.columns:
            first = not rows  # is asked for, so that there is something to see
            box = widgets.Checkbox(first, indent=False, layout=widgets.Layout(width="24px"))
            self.asked[column.name], self.sliders[column.name] = box, _slider(column)
            rows.append(widgets.HBox([box, self.sliders[column.name]]))
        view = widgets.HTML(layout=widgets.Layout(max_width="100%"))
        self.arrange(view, rows, "other molecules")

    def picture(self, request: Mapping[str, float], seed: int) -> str:
        """Drawings of six molecules with what RDKit computes of them, as SVG.

        Args:
            request: values of the quantities that are asked for, by name.
            seed: of the noise.

        Raises:
            ValueError: an unknown quantity.
        """
        asked = request or None
        smiles = to_smiles(self.network.generate(asked, ROWS * ACROSS, seed=seed, **SETTINGS))
        shown = list(request) or list(self.names)
        captions = []
        for row in properties(smiles).tolist():
            values = dict(zip(PROPERTIES, row))
            captions.append(", ".join(f"{name} {values[name]:.3g}" for name in shown))
        molecules = [Chem.MolFromSmiles(one) for one in smiles]
        width, height = SIZE
        # Not by MolsToGridImage, which returns something else within a kernel.
        drawing = Draw.MolDraw2DSVG(ACROSS * width, ROWS * height, width, height)
        drawing.drawOptions().drawMolsSameScale = False
        drawing.DrawMolecules(molecules, legends=captions)
        drawing.FinishDrawing()
        narrow = "<svg style='max-width: 100%; height: auto'"  # shrinks with the page
        return drawing.GetDrawingText().replace("<svg", narrow, 1)

    def request(self) -> dict[str, float]:
        """What the checked sliders ask for, by name."""
        return {name: self.sliders[name].value for name in self.names if self.asked[name].value}

    def drawn(self) -> str:
        """The molecules that the controls ask for, as SVG."""
        return self.picture(self.request(), self.seed.value)


def _slider(column: Scaled) -> widgets.FloatSlider:
    """A slider over most of a quantity's values in the data."""
    middle, reach = float(column.loc_), REACH * float(column.scale_)
    low, high = float(column.range_[0]), float(column.range_[1])
    numbers = {"min": max(low, middle - reach), "max": min(high, middle + reach)}
    look = {"layout": widgets.Layout(width="320px"), "readout_format": ".3g"}
    step = 2 * reach / STEPS
    return widgets.FloatSlider(middle, description=column.name, step=step, **numbers, **look)
