"""What panels are made of: pictures, messages, gathered calls and a layout for any screen."""

import asyncio
import html
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ipywidgets as widgets
from PIL import Image
from torch import Tensor

from fpnlib.network import FlowPluginNetwork

DELAY = 0.02  # seconds for which changes are gathered
PIXELS = 288  # side of a picture on the screen
STEP = 0.05  # of a slider
ERROR = "color: var(--jp-error-color0, #b00020); line-height: 1.4"
LOWEST, HIGHEST = -0.5, 1.5  # of a picture: what lies further outside has another range


def png(image: Tensor) -> bytes:
    """An image (1 or 3, h, w) in [0, 1] as a PNG; a grey image is drawn dark on white.

    Raises:
        ValueError: another shape or range, with what brings it to this one.
    """
    shape, remedy = tuple(image.shape), ""
    if image.ndim != 3 or shape[0] not in (1, 3):
        remedy = "x[:3] leaves out the transparency" if shape[0] == 4 else ""
        remedy = "x.permute(2, 0, 1)" if shape[-1] in (1, 3, 4) else remedy
        raise ValueError(f"a picture must have shape (1 or 3, h, w), got {shape}; {remedy}")
    low, high = float(image.min()), float(image.max())
    if low < LOWEST or high > HIGHEST:
        remedy = "x / 255" if high > HIGHEST else "(x + 1) / 2"
        raise ValueError(f"a picture must lie in [0, 1], got {low:.3g} to {high:.3g}; {remedy}")
    pixels = image.detach().cpu().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    if pixels.shape[2] != 3:
        pixels = 255 - pixels[:, :, 0]
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "png", compress_level=1)
    return data.getvalue()


class Panel(widgets.VBox):  # type: ignore[misc]
    """A panel over a network: a view of what its controls ask for, and room for a message.

    Args:
        network: with a plugin for conditions of the class ``kind``.
        kind: e.g. ``Classes``.

    Raises:
        TypeError: a plugin for another kind of condition.
    """

    def __init__(self, network: FlowPluginNetwork, kind: type):
        super().__init__()
        self.network, self.condition = network, network.plugin.condition
        if not isinstance(self.condition, kind):
            given = type(self.condition).__name__
            raise TypeError(f"the panel needs a plugin for {kind.__name__}, got one for {given}")
        room = widgets.Layout(height="60px", overflow="auto")  # three lines
        self.message = widgets.HTML(layout=room)
        self._waiting = False  # whether ``show_soon`` is about to show

    @contextmanager
    def reported(self) -> Iterator[None]:
        """Show an error in the panel, because nobody sees the error of a callback."""
        try:
            yield
            self.message.value = ""
        except Exception as error:  # noqa: BLE001 (whatever a model raises)
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            self.message.value = f'<div style="{ERROR}">{html.escape(line)}</div>'

    def drawn(self) -> Any:
        """What the controls ask for, as the view takes it."""
        raise NotImplementedError

    def show(self) -> None:
        """Draw what the controls ask for."""
        with self.reported():
            self.view.value = self.drawn()

    def show_soon(self, change: object = None) -> None:
        """Show once, soon after the first of many changes; at once without an event loop."""
        if self._waiting:
            return
        try:
            asyncio.get_running_loop().call_later(DELAY, self._show_late)
            self._waiting = True
        except RuntimeError:
            self.show()

    def _show_late(self) -> None:
        self._waiting = False
        self.show()

    @staticmethod
    def row(*parts: widgets.Widget) -> widgets.HBox:
        """Parts side by side, or one below the other on a narrow screen."""
        return widgets.HBox(parts, layout=widgets.Layout(flex_flow="row wrap", width="100%"))

    @staticmethod
    def column(width: int) -> widgets.Layout:
        """The layout of a column whose width no message changes."""
        return widgets.Layout(flex=f"0 1 {width + 24}px", min_width="0")

    @staticmethod
    def slider(description: str, low: float, high: float, value: float) -> widgets.FloatSlider:
        """A slider with steps of ``STEP``."""
        look = {"layout": widgets.Layout(width="auto"), "style": {"description_width": "135px"}}
        numbers = {"min": low, "max": high, "step": STEP, "readout_format": ".2f"}
        return widgets.FloatSlider(value, description=description, **numbers, **look)

    @staticmethod
    def frame() -> widgets.Image:
        """Room for a picture."""
        return widgets.Image(format="png", width=PIXELS, height=PIXELS)


class Explorer(Panel):
    """A panel with a seed among its controls, and a button that takes the next seed."""

    def arrange(self, view: widgets.Widget, controls: list[widgets.Widget], again: str) -> None:
        """Lay the panel out; the button is called ``again``."""
        self.view = view
        self.seed = widgets.BoundedIntText(0, min=0, max=2**31 - 1, description="seed")
        self.draw = widgets.Button(description=again, icon="random")
        self.draw.on_click(lambda button: self.again())
        controls = [*controls, self.seed]
        for control in controls:
            for part in getattr(control, "children", None) or [control]:
                part.observe(self.show_soon, "value")
        column = [*controls, self.draw, self.message]
        self.children = [self.row(view, widgets.VBox(column, layout=self.column(PIXELS)))]
        self.show()

    def again(self) -> None:
        """Draw by the next seed."""
        self.seed.value += 1
