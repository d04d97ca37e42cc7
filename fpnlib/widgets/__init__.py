"""Sliders over a plugin, for notebooks and for a page of their own: faces, digits and 3D shapes.

A panel's method ``picture`` computes what its controls ask for; the widgets only carry values in
and the picture out. Values that arrive while a picture is drawn are skipped. Errors stand in the
panel.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from random import randrange
from typing import Any

import ipywidgets as widgets
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from fpnlib import checks
from fpnlib.conditions import Attributes, Classes
from fpnlib.network import FlowPluginNetwork
from fpnlib.plots import turntable
from fpnlib.widgets.parts import PIXELS, STEP, Explorer, Panel, png

BATCH = 10  # faces that are encoded at a time
NARROW = "320px"  # least width of a column of sliders
RANGE = (-0.5, 1.5)  # of a slider: 0 lacks the attribute, 1 has it


class AttributeEditor(Panel):
    """A face beside its edit, and a slider for each attribute (section 3.5).

    As a slider rises, those of the attributes that it excludes fall: a bald head has no fringe.

    Args:
        network: a base model of faces with a plugin for attributes.
        x: faces to choose from (n, 3, size, size) in [0, 1].
        y: their attributes (n, A), 0 or 1.
        strength: how far the flow's context goes when a slider goes from 0 to 1.

    Raises:
        TypeError: a plugin for classes.
        ValueError: faces that the base model refuses, or another number of attributes.
    """

    def __init__(self, network: FlowPluginNetwork, x: Tensor, y: Tensor, strength: float = 1.0):
        super().__init__(network, Attributes)
        self.attributes = attributes = self.condition
        self.strength = strength
        self.x = checks.array(x, ("n", "channels", "h", "w"))
        self.y = attributes.encode(y)
        checks.same_length(self.x, self.y, ("x", "y"))
        self.noise = self._noise(self.x, self.y)
        self.face = widgets.BoundedIntText(0, min=0, max=len(x) - 1, description="face")
        self.random = widgets.Button(description="another face", icon="random")
        self.reset = widgets.Button(description="reset", icon="undo")
        self.upload = widgets.FileUpload(accept="image/*", description="your own image")
        self.edits = widgets.Text(placeholder="+Smiling -Eyeglasses", continuous_update=False)
        self.edits.description = "edits"
        self.sliders: dict[str, widgets.FloatSlider] = {}
        for name in attributes.names:
            self.sliders[name] = self.slider(name.replace("_", " "), *RANGE, 0.0)
        self.original, self.edited = self.frame(), self.frame()
        self.view = self.edited
        self._held = False  # whether the sliders move by themselves
        self._moving: str | None = None  # the slider that moves by hand
        self._connect()
        self.children = [self._layout()]
        self.start()

    def picture(self, face: int, values: Mapping[str, float]) -> Tensor:
        """The edited face (3, size, size). Arguments and errors as for :meth:`latent`."""
        with torch.no_grad():
            return self.network.decode(self.latent(face, values))[0]

    def latent(self, face: int, values: Mapping[str, float]) -> Tensor:
        """The latent (1, latent_dim) of a face with other attributes and its own noise.

        Args:
            face: its number.
            values: attributes to change, by name.

        Raises:
            ValueError, TypeError: a face out of range, or what ``Attributes.set`` refuses.
        """
        if not 0 <= face < len(self.x):
            raise ValueError(f"face {face} is out of range; expected 0 to {len(self.x) - 1}")
        own = self.y[face : face + 1]
        context = torch.lerp(own, self.attributes.set(own, values).to(own), self.strength)
        return self.network.plugin.from_noise(self.noise[face : face + 1], context)

    def add(self, image: Image.Image) -> None:
        """Show an image of one's own: its middle, scaled to the model's size.

        The plugin reads its attributes, because nobody has said them.
        """
        height, width = self.x.shape[-2:]
        fitted = ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (width, height))
        x = torch.from_numpy(np.array(fitted)).permute(2, 0, 1)[None].to(self.x) / 255
        y = self.attributes.encode(self.network.classify(x)).to(self.y)
        self.noise = torch.cat([self.noise, self._noise(x, y)])
        self.x, self.y = torch.cat([self.x, x]), torch.cat([self.y, y])
        self.face.max = len(self.x) - 1
        self.face.value = self.face.max

    def start(self) -> None:
        """Show the chosen face as it is, with its attributes on the sliders."""
        self.edits.value = ""
        self._slide_to(self.y[self.face.value], self.sliders)
        self.original.value = png(self.x[self.face.value])
        self.show()

    def apply(self, edits: str) -> None:
        """Move the sliders as an edit such as "+Smiling -Eyeglasses" says."""
        if not edits.strip():
            return
        with self.reported():
            values = self.attributes.edited(self._values(), edits)[0]
            if not ((values >= RANGE[0]) & (values <= RANGE[1])).all():
                raise ValueError(f"the sliders go from {RANGE[0]} to {RANGE[1]}, got '{edits}'")
            self._slide_to(values, self.sliders)
            self.show()

    def drawn(self) -> bytes:
        """The edited picture that the sliders ask for, as a PNG."""
        return png(self.picture(self.face.value, dict(zip(self.sliders, self._values()))))

    def _connect(self) -> None:
        """Let the controls call the methods."""
        for name, slider in self.sliders.items():
            slider.observe(partial(self._moved, name), "value")
        self.face.observe(lambda change: self.start(), "value")
        self.edits.observe(lambda change: self.apply(change["new"]), "value")
        self.random.on_click(lambda button: self.face.set_trait("value", randrange(len(self.x))))
        self.reset.on_click(lambda button: self.start())
        self.upload.observe(lambda change: self._uploaded(change["new"]), "value")

    def _uploaded(self, files: Sequence[Mapping]) -> None:
        with self.reported():
            for file in files:
                self.add(Image.open(io.BytesIO(file["content"])))

    @torch.no_grad()
    def _noise(self, x: Tensor, y: Tensor) -> Tensor:
        """The noise (n, latent_dim) of faces with these attributes, in batches that save memory."""
        plugin, parts = self.network.plugin, []
        for faces, attributes in zip(x.to(plugin.loc_).split(BATCH), y.split(BATCH)):
            parts.append(plugin.to_noise(self.network.encode(faces), attributes))
        return torch.cat(parts)

    def _layout(self) -> widgets.Widget:
        original = widgets.VBox([widgets.Label("original"), self.original])
        edited = widgets.VBox([widgets.Label("edited"), self.edited])
        pictures, buttons = self.row(original, edited), self.row(self.face, self.random, self.reset)
        asked = self.row(self.edits, self.upload)
        self.face.layout.width = "190px"
        for button in (self.random, self.reset, self.upload):
            button.layout.width = "auto"
        parts = [pictures, buttons, asked, self.message]
        left = widgets.VBox(parts, layout=self.column(PIXELS * 2))
        columns = widgets.Layout(grid_template_columns=f"repeat(auto-fill, minmax({NARROW}, 1fr))")
        columns.flex, columns.align_content = f"1 1 {NARROW}", "flex-start"
        return self.row(left, widgets.GridBox(list(self.sliders.values()), layout=columns))

    def _moved(self, name: str, change: Mapping) -> None:
        """Follow a slider that moves by hand with those that it excludes.

        They move from where they stood when the slider began to move.
        """
        rounding = abs(change["new"] - change["old"]) < STEP / 2  # by a browser
        if self._held or rounding:
            return
        if name != self._moving:
            self._moving, self._before = name, self._values()
        values = self.attributes.set(self._before, {name: change["new"]})[0]
        self._slide_to(values, self.attributes.excluded_by(name), moving=name)
        self.show_soon()

    def _values(self) -> list[float]:
        return [slider.value for slider in self.sliders.values()]

    def _slide_to(self, values: Tensor, names: Iterable[str], moving: str | None = None) -> None:
        """Move the named sliders to ``values`` (A,), rounded to a step, without drawing."""
        self._moving, self._held = moving, True  # or a value that a browser rounds would count
        for name in names:
            steps = round(values[self.attributes.column(name)].item() / STEP)
            self.sliders[name].value = round(steps * STEP, 2)
        self._held = False


class DigitExplorer(Explorer):
    """Objects of a class at a temperature, and on the way to another class (sections 3.3, 3.5).

    Args:
        network: a base model of images with a plugin for classes.

    Raises:
        TypeError: a plugin for attributes.
    """

    def __init__(self, network: FlowPluginNetwork):
        super().__init__(network, Classes)
        names = self.condition.names
        self.first = widgets.Dropdown(options=names, value=names[0], description="class")
        self.second = widgets.Dropdown(options=names, value=names[-1], description="morphs to")
        self.amount = self.slider("morph", 0.0, 1.0, 0.0)
        self.temperature = self.slider("temperature", 0.0, 1.5, 0.8)
        self.image = self.frame()
        png(self.picture(names[0], names[0], 0.0, 1.0, 0))  # raises if it cannot be drawn
        controls = [self.first, self.second, self.amount, self.temperature]
        self.arrange(self.image, controls, "new draw")

    @torch.no_grad()
    def picture(
        self, first: str, second: str, amount: float, temperature: float, seed: int
    ) -> Tensor:
        """One image (channels, h, w) between the latents that one noise has under two classes.

        Args:
            first: a class.
            second: a class.
            amount: 0 for the first, 1 for the second.
            temperature: standard deviation of the noise.
            seed: of the noise.

        Raises:
            ValueError: an unknown class, or an amount outside [0, 1].
        """
        if not 0 <= amount <= 1:
            raise ValueError(f"morph must lie in [0, 1], got {amount}")
        plugin, generator = self.network.plugin, torch.Generator().manual_seed(seed)
        noise = temperature * torch.randn(1, plugin.latent_dim, generator=generator)
        start, end = plugin.from_noise(noise, first), plugin.from_noise(noise, second)
        return self.network.decode(torch.lerp(start, end, amount))[0]

    def drawn(self) -> bytes:
        """The picture that the controls ask for, as a PNG."""
        amounts = self.amount.value, self.temperature.value
        return png(self.picture(self.first.value, self.second.value, *amounts, self.seed.value))


class ShapeExplorer(Explorer):
    """A 3D shape of a category, to turn with the mouse (section 3.3).

    Args:
        network: a base model of point clouds with a plugin for classes.

    Raises:
        TypeError: a plugin for attributes.
    """

    def __init__(self, network: FlowPluginNetwork):
        super().__init__(network, Classes)
        self.category = widgets.Dropdown(options=self.condition.names, description="category")
        self.temperature = self.slider("temperature", 0.0, 1.5, 1.0)
        self.arrange(widgets.HTML(), [self.category, self.temperature], "another shape")

    def picture(self, category: str, seed: int, temperature: float = 1.0) -> str:
        """HTML of the shape on a turntable (see :func:`fpnlib.plots.turntable`).

        Args:
            category: a class.
            seed: of the noise.
            temperature: standard deviation of the noise.

        Raises:
            ValueError: an unknown category, or a temperature below 0.
        """
        cloud = self.network.generate(category, temperature=temperature, seed=seed)[0]
        return turntable(cloud, title=category)

    def drawn(self) -> str:
        """The shape that the controls ask for, as HTML."""
        return self.picture(self.category.value, self.seed.value, self.temperature.value)
