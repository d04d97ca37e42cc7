"""Sliders over a plugin: an editor of faces and an explorer of digits, for notebooks and for a page of their own.

What a panel shows is a pure function of what its controls say, ``picture``; the widgets around it only carry values there
and the picture back. A drag sends values faster than faces are drawn: those that arrive meanwhile are passed over, so the
picture keeps up. Whatever goes wrong stands in the panel, in one line.
"""

from __future__ import annotations

import asyncio
import html
import io
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import ipywidgets as widgets
import torch
from PIL import Image
from torch import Tensor

from fpnlib import checks
from fpnlib.conditions import Attributes, Classes
from fpnlib.network import FlowPluginNetwork
from fpnlib.plots import turntable

DELAY = 0.02  # seconds in which changes are gathered
PIXELS = 288  # a picture's side on the screen
RANGE = (-0.5, 1.5)  # of a slider: 0 lacks the attribute, 1 has it
STEP = 0.05  # of a slider


class AttributeEditor(widgets.VBox):
    """A face beside its edit, and a slider for each attribute (section 3.5).

    As a slider rises, those of the attributes that it excludes fall: there is one colour of hair, and a bald head has none.

    Args:
        network: a base model of faces with a plugin for attributes.
        x: faces to choose from (n, 3, size, size) in [0, 1].
        y: their attributes (n, A), 0 or 1.

    Raises:
        TypeError: a plugin for classes.
        ValueError: faces that the base model refuses, or another number of attributes.
    """

    def __init__(self, network: FlowPluginNetwork, x: Tensor, y: Tensor):
        attributes = network.plugin.condition
        if not isinstance(attributes, Attributes):
            raise TypeError(
                f"the editor needs a plugin for Attributes, got one for {type(attributes).__name__}"
            )
        checks.same_length(x, y, ("x", "y"))
        self.network, self.attributes = network, attributes
        self.x, self.y = x, attributes.encode(y)
        with torch.no_grad():
            self.noise = network.plugin.to_noise(network.base.encode(x.to(network.plugin.loc_)), y)

        self.face = widgets.BoundedIntText(0, min=0, max=len(x) - 1, description="face")
        self.random = widgets.Button(description="another face", icon="random")
        self.reset = widgets.Button(description="reset", icon="undo")
        self.edits = widgets.Text(
            placeholder="+Smiling -Eyeglasses", description="edits", continuous_update=False
        )
        self.sliders = {
            name: _slider(name.replace("_", " "), *RANGE, 0.0) for name in attributes.names
        }
        self.original, self.edited, self.message = _image(), _image(), _message()
        self._show, self._held, self._moving = _Gathered(self.show), False, None
        for name, slider in self.sliders.items():
            slider.observe(partial(self._moved, name), "value")
        self.face.observe(lambda change: self.start(), "value")
        self.edits.observe(lambda change: self.apply(change["new"]), "value")
        self.random.on_click(lambda button: setattr(self.face, "value", random.randrange(len(x))))
        self.reset.on_click(lambda button: self.start())
        columns = widgets.GridBox(
            list(self.sliders.values()),
            layout=widgets.Layout(grid_template_columns="repeat(2, 330px)"),
        )
        pictures = widgets.HBox(
            [_titled("original", self.original), _titled("edited", self.edited)]
        )
        left = widgets.VBox(
            [pictures, widgets.HBox([self.face, self.random, self.reset]), self.edits, self.message]
        )
        super().__init__(
            [widgets.HBox([left, columns], layout=widgets.Layout(flex_flow="row wrap"))]
        )
        self.start()

    def picture(self, face: int, values: Mapping[str, float]) -> Tensor:
        """The face (3, size, size) number ``face`` with the attributes named in ``values`` set to them, its noise kept.

        Raises:
            ValueError, TypeError: as :meth:`latent`.
        """
        with torch.no_grad():
            return self.network.base.decode(self.latent(face, values))[0]

    def latent(self, face: int, values: Mapping[str, float]) -> Tensor:
        """What :meth:`picture` decodes, (1, latent_dim).

        Raises:
            ValueError, TypeError: a face out of range, or what :meth:`Attributes.set` refuses.
        """
        if not 0 <= face < len(self.x):
            raise ValueError(f"face {face} is out of range; expected 0 to {len(self.x) - 1}")
        context = self.attributes.set(self.y[face], values)
        return self.network.plugin.from_noise(self.noise[face : face + 1], context)

    def start(self) -> None:
        """Show the chosen face as it is: every slider at what the face has."""
        self.edits.value = ""
        self._slide_to(self.y[self.face.value], self.sliders)
        self.original.value = png(self.x[self.face.value])
        self.show()

    def apply(self, edits: str) -> None:
        """Move the sliders as an edit such as "+Smiling -Eyeglasses" says; nothing said, nothing done."""
        if not edits.strip():
            return
        with _reported(self.message):
            values = self.attributes.edited(self._values(), edits)[0]
            if not ((values >= RANGE[0]) & (values <= RANGE[1])).all():
                raise ValueError(f"the sliders go from {RANGE[0]} to {RANGE[1]}, got '{edits}'")
            self._slide_to(values, self.sliders)
            self.show()

    def show(self) -> None:
        """Bring the edited picture up to date with the sliders."""
        with _reported(self.message):
            values = {name: slider.value for name, slider in self.sliders.items()}
            self.edited.value = png(self.picture(self.face.value, values))

    def _moved(self, name: str, change: Mapping) -> None:
        """A slider was moved by hand: those that it excludes follow, from where they stood when it began to move."""
        if (
            self._held or abs(change["new"] - change["old"]) < STEP / 2
        ):  # no hand's: a browser's rounding
            return
        if name != self._moving:
            self._moving, self._before = name, self._values()
        values = self.attributes.set(self._before, {name: change["new"]})[0]
        self._slide_to(values, self.attributes.excluded_by(name), moving=name)
        self._show()

    def _values(self) -> list[float]:
        return [slider.value for slider in self.sliders.values()]

    def _slide_to(self, values: Tensor, names: Iterable[str], moving: str | None = None) -> None:
        """Put the named sliders where ``values`` (A,) has them, to the nearest step, and show nothing meanwhile.

        A browser sends back what it had to bring to a step, and that would count as moved by hand.
        """
        self._moving, self._held = moving, True
        for name in names:
            steps = round(values[self.attributes.column(name)].item() / STEP)
            self.sliders[name].value = round(steps * STEP, 2)
        self._held = False


class DigitExplorer(widgets.VBox):
    """Objects of a class on request, at a temperature, and on the way from one class to another (sections 3.3, 3.5).

    Args:
        network: a base model of images with a plugin for classes.

    Raises:
        TypeError: a plugin for attributes.
    """

    def __init__(self, network: FlowPluginNetwork):
        self.network, names = network, _class_names(network)
        self.first = widgets.Dropdown(options=names, value=names[0], description="class")
        self.second = widgets.Dropdown(options=names, value=names[-1], description="morphs to")
        self.amount = _slider("morph", 0.0, 1.0, 0.0)
        self.temperature = _slider("temperature", 0.0, 1.5, 0.8)
        self.draw = widgets.Button(description="new draw", icon="random")
        self.image, self.message, self.seed = _image(), _message(), 0
        self._show = _Gathered(self.show)
        for control in (self.first, self.second, self.amount, self.temperature):
            control.observe(self._show, "value")
        self.draw.on_click(lambda button: self.again())
        controls = [self.first, self.second, self.amount, self.temperature, self.draw, self.message]
        super().__init__([widgets.HBox([self.image, widgets.VBox(controls)])])
        self.show()

    @torch.no_grad()
    def picture(
        self, first: str, second: str, amount: float, temperature: float, seed: int
    ) -> Tensor:
        """One image (channels, h, w): the same noise under both classes, and ``amount`` of the way between their latents.

        Raises:
            ValueError: an unknown class, an amount outside [0, 1], or a temperature below 0.
        """
        if not 0 <= amount <= 1 or not 0 <= temperature < float("inf"):
            raise ValueError(
                f"morph must lie in [0, 1] and temperature be 0 or more, got {amount} and {temperature}"
            )
        plugin = self.network.plugin
        noise = temperature * torch.randn(
            1, plugin.latent_dim, generator=torch.Generator().manual_seed(seed)
        )
        start, end = (plugin.from_noise(noise.to(plugin.loc_), name) for name in (first, second))
        return self.network.base.decode(torch.lerp(start, end, amount))[0]

    def again(self) -> None:
        """Draw other noise."""
        self.seed += 1
        self.show()

    def show(self) -> None:
        """Bring the picture up to date with the controls."""
        with _reported(self.message):
            controls = (
                self.first.value,
                self.second.value,
                self.amount.value,
                self.temperature.value,
            )
            self.image.value = png(self.picture(*controls, self.seed))


class ShapeExplorer(widgets.VBox):
    """A 3D shape of a category on request, to be turned with the mouse (section 3.3).

    Args:
        network: a base model of point clouds with a plugin for classes.

    Raises:
        TypeError: a plugin for attributes.
    """

    def __init__(self, network: FlowPluginNetwork):
        self.network = network
        self.category = widgets.Dropdown(options=_class_names(network), description="category")
        self.seed = widgets.BoundedIntText(0, min=0, max=2**31 - 1, description="seed")
        self.temperature = _slider("temperature", 0.0, 1.5, 1.0)
        self.draw = widgets.Button(description="another shape", icon="random")
        self.view, self.message = widgets.HTML(), _message()
        self._show = _Gathered(self.show)
        for control in (self.category, self.seed, self.temperature):
            control.observe(self._show, "value")
        self.draw.on_click(lambda button: self.again())
        controls = [self.category, self.seed, self.temperature, self.draw, self.message]
        super().__init__([widgets.HBox([self.view, widgets.VBox(controls)])])
        self.show()

    def picture(self, category: str, seed: int, temperature: float = 1.0) -> str:
        """HTML that turns the shape (see :func:`fpnlib.plots.turntable`); the same for the same category and seed.

        Raises:
            ValueError: an unknown category, or a temperature below 0.
        """
        cloud = self.network.generate(category, temperature=temperature, seed=seed)[0]
        return turntable(cloud, title=category)

    def again(self) -> None:
        """Take the next seed."""
        self.seed.value += 1

    def show(self) -> None:
        """Bring the shape up to date with the controls."""
        with _reported(self.message):
            self.view.value = self.picture(
                self.category.value, self.seed.value, self.temperature.value
            )


def png(image: Tensor) -> bytes:
    """An image (1 or 3, h, w) in [0, 1] as a PNG; grey ones dark on white, as they are drawn elsewhere."""
    pixels = image.detach().cpu().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    pixels = pixels if pixels.shape[2] == 3 else 255 - pixels[:, :, 0]
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "png", compress_level=1)
    return data.getvalue()


def _class_names(network: FlowPluginNetwork) -> list[str]:
    classes = network.plugin.condition
    if not isinstance(classes, Classes):
        raise TypeError(
            f"the explorer needs a plugin for Classes, got one for {type(classes).__name__}"
        )
    return list(classes.names)


class _Gathered:
    """Calls a function soon after the first of many calls, once; at once where no event loop runs."""

    def __init__(self, function: Callable[[], None]):
        self.function, self.waiting = function, False

    def __call__(self, change: object = None) -> None:
        if self.waiting:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.function()
            return
        self.waiting = True
        loop.call_later(DELAY, self._run)

    def _run(self) -> None:
        self.waiting = False
        self.function()


@contextmanager
def _reported(message: widgets.HTML) -> Iterator[None]:
    """What goes wrong within stands in the panel, for an error of a callback would be seen by nobody."""
    try:
        yield
        message.value = ""
    except Exception as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        message.value = f'<span style="color: #b00020">{html.escape(line)}</span>'


def _slider(description: str, low: float, high: float, value: float) -> widgets.FloatSlider:
    layout, style = widgets.Layout(width="320px"), {"description_width": "130px"}
    return widgets.FloatSlider(
        value,
        min=low,
        max=high,
        step=STEP,
        description=description,
        layout=layout,
        style=style,
        readout_format=".2f",
    )


def _image() -> widgets.Image:
    return widgets.Image(format="png", width=PIXELS, height=PIXELS)


def _message() -> widgets.HTML:
    return widgets.HTML()


def _titled(title: str, widget: widgets.Widget) -> widgets.VBox:
    return widgets.VBox([widgets.Label(title), widget])
