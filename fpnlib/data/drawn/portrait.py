"""How a face is drawn: flat shapes with soft edges, painted one over another, many faces at a time.

A shape is a signed distance (n, size, size) to its outline, negative inside. A pixel is covered by
the share of it that lies inside. Coordinates are the head's own, x to the right and y down; a unit
is about half the picture. Parameters differ from face to face, so a batch of faces is drawn at
once. Attributes are numbers, so half a smile can be drawn too.

Every variation shows in every face, because an edit could not know it otherwise: a cap has the
colour of the clothes, and hair that a cap or a bald head hides falls as the face's other measures
say. Brows and beards have a colour of their own, which stays when the hair goes.
"""

import math
from copy import copy
from types import SimpleNamespace
from typing import Self

import torch
from torch import Tensor

SKIN = ((0.98, 0.84, 0.73), (0.92, 0.72, 0.56), (0.78, 0.56, 0.41), (0.56, 0.38, 0.27))
PALE = torch.tensor([1.00, 0.95, 0.94])
HAIR = {
    "Black_Hair": (0.10, 0.09, 0.12),
    "Blond_Hair": (0.96, 0.80, 0.40),
    "Brown_Hair": (0.44, 0.26, 0.15),
    "Gray_Hair": (0.75, 0.76, 0.80),
}
RED_HAIR = torch.tensor([0.80, 0.31, 0.12])  # where no attribute names a colour
WHISKERS, GRAY = ((0.12, 0.09, 0.10), (0.36, 0.22, 0.14)), torch.tensor([0.66, 0.66, 0.69])
EYES = ((0.30, 0.18, 0.10), (0.33, 0.50, 0.28), (0.22, 0.46, 0.74))
INK, WHITE, GOLD = (0.13, 0.10, 0.13), (0.99, 0.99, 0.98), (1.00, 0.80, 0.14)
Values = SimpleNamespace  # tensors (n, 1, 1), or colours (n, 3), by name
Number = Tensor | float
Curve = tuple[Number, Number]
LIPSTICK, MOUTH, BLUSH = (0.84, 0.05, 0.22), (0.34, 0.05, 0.08), (0.97, 0.28, 0.34)


def draw(attributes: dict[str, Tensor], variation: dict[str, Tensor], size: int) -> Tensor:
    """Portraits (n, 3, size, size), float32 in [0, 1].

    Args:
        attributes: by CelebA's names, each (n,) in [0, 1].
        variation: what no attribute tells, each (n,) in [-1, 1].
        size: pixels a side.
    """
    has, free = _columns(attributes), _columns(variation)
    canvas, look = _Canvas(free, size), _look(has, free)
    for part, top, bottom in PARTS:
        part(canvas.rows(top, bottom), has, free, look)
    return canvas.image.clamp(0, 1)


def _columns(values: dict[str, Tensor]) -> Values:
    return Values(**{name: value.float()[:, None, None] for name, value in values.items()})


class _Canvas:
    """The pictures so far, and where each of their pixels lies in the coordinates of its face."""

    def __init__(self, free: Values, size: int):
        axis = (torch.arange(size) + 0.5) / size * 2 - 1
        across, down = axis[None, :] - 0.05 * free.x, axis[:, None] - 0.01 - 0.04 * free.y
        tilt, scale = 0.10 * free.tilt, 0.89 + 0.035 * free.size
        self.x = (across * tilt.cos() + down * tilt.sin()) / scale
        self.y = (down * tilt.cos() - across * tilt.sin()) / scale
        self.pixel = 2 / size / scale
        self.image = torch.zeros(len(free.tilt), 3, size, size)

    def rows(self, top: float, bottom: float) -> Self:
        """The same canvas between two heights (0: top, 1: bottom), which a small part touches."""
        part, size = copy(self), self.x.shape[1]
        rows = slice(int(top * size), math.ceil(bottom * size))
        part.x, part.y, part.image = self.x[:, rows], self.y[:, rows], self.image[:, :, rows]
        return part

    def paint(self, color: Tensor | tuple, distance: Tensor, opacity: Tensor | float = 1.0) -> None:
        """Lay a colour, (n, 3) or one for all, over what is inside."""
        self.wash(color, (0.5 - distance / self.pixel).clamp(0, 1) * opacity)

    def wash(self, color: Tensor | tuple, cover: Tensor) -> None:
        """Lay a colour over everything, as much of it as ``cover`` (n, size, size) says."""
        color = torch.as_tensor(color).reshape(-1, 3, 1, 1)
        self.image.lerp_(color, cover[:, None])

    def ellipse(self, x: Number, y: Number, rx: Number, ry: Number) -> Tensor:
        u, v = self.x - x, self.y - y
        near = ((u / rx).square() + (v / ry).square()).sqrt()
        slope = ((u / rx**2).square() + (v / ry**2).square()).sqrt()
        return near * (near - 1) / slope.clamp(min=1e-6)

    def rounded(self, x: Number, y: Number, rx: Number, ry: Number, power: Number) -> Tensor:
        """An ellipse (power 2) that tends to a box as the power grows."""
        u, v = self.x - x, self.y - y
        near = ((u / rx).abs() ** power + (v / ry).abs() ** power) ** (1 / power)
        return (u.square() + v.square()).sqrt() * (1 - 1 / near.clamp(min=1e-6))

    def stroke(
        self, x: Number, y: Number, width: Number, bend: Number, thick: Number, slope: Number = 0.0
    ) -> Tensor:
        """A tapering stroke around (x, y) of half a ``width``; its middle hangs ``bend`` down."""
        t = (self.x - x) / width
        line = y + bend * (0.5 - t.square()) + slope * t
        steep = (1 + ((slope - 2 * bend * t) / width).square()).sqrt()
        off = (self.y - line).abs() / steep - thick * (1.2 - t.square()).clamp(min=0)
        return torch.maximum(off, (t.abs() - 1) * width)

    def between(self, x: Number, width: Number, top: Curve, bottom: Curve) -> Tensor:
        """The region between two parabolas, each (height of its ends, how far its middle hangs)."""
        t = (self.x - x) / width
        upper, lower = (height + hang * (1 - t.square()) for height, hang in (top, bottom))
        return torch.maximum(torch.maximum(upper - self.y, self.y - lower), (t.abs() - 1) * width)


def _look(has: Values, free: Values) -> Values:
    """The colours and measures that several parts need: colours (n, 3), measures (n, 1, 1)."""
    tinted = has.Pale_Skin[:, 0] * 0.85
    skin = _between(SKIN, free.skin) * (1 - tinted) + PALE * tinted
    hair = RED_HAIR
    for name, color in HAIR.items():
        hair = hair + getattr(has, name)[:, 0] * (torch.tensor(color) - RED_HAIR)
    whiskers = _between(WHISKERS, free.hair)
    return Values(
        skin=skin,
        shade=skin * torch.tensor([0.82, 0.72, 0.70]),
        line=skin * torch.tensor([0.58, 0.43, 0.40]),
        hair=hair * (1 + 0.12 * free.hair[:, 0]),
        cloth=_hue(free.clothes_hue),
        whiskers=whiskers + 0.6 * (1 - has.Young[:, 0]) * (GRAY - whiskers),
        rx=0.57 + 0.04 * free.width + 0.02 * has.Male,
        ry=0.75 + 0.035 * free.height,
        turn=0.07 * free.turn,  # a head that turns: its features move aside
        eyes=0.25 + 0.015 * free.eye_spacing,
    )


def _behind(canvas: _Canvas, has: Values, free: Values, look: Values) -> None:
    """Background, long hair, clothes with a collar, neck and ears."""
    pastel = 0.48 + 0.55 * _hue(free.background_hue)
    canvas.wash(pastel, torch.ones_like(canvas.x))
    glow = (1 - (canvas.x.square() + canvas.y.square()).sqrt()).clamp(min=0)
    canvas.wash((1.0, 1.0, 1.0), 0.28 * glow)
    haired, long = 1 - has.Bald, 1 - has.Male
    fall = canvas.rounded(0, 0.22, look.rx + 0.17, 0.80 + 0.10 * free.height, 2.6)
    canvas.paint(look.hair * 0.80, fall, haired * long)
    canvas.paint(look.cloth, canvas.rounded(0, 1.42, 0.76 + 0.2 * has.Male, 0.56, 2.4))
    canvas.paint(look.cloth * 0.72, canvas.ellipse(0, 0.90, 0.31 + 0.09 * has.Male, 0.15))
    canvas.paint(look.shade, canvas.rounded(0, 0.66, 0.20 + 0.09 * has.Male, 0.34, 3.0))
    for side in (-1, 1):
        ear = side * (look.rx + 0.015) + 0.3 * look.turn
        canvas.paint(look.skin, canvas.ellipse(ear, 0.06, 0.105, 0.165))
        canvas.paint(look.shade, canvas.ellipse(ear, 0.06, 0.055, 0.100))


def _head(canvas: _Canvas, has: Values, free: Values, look: Values) -> None:
    """Head and jaw, a man's squarer; lit from the left."""
    above = canvas.rounded(0, 0.02, look.rx, look.ry, 2.15)
    below = canvas.rounded(0, 0.02, look.rx, look.ry, 2.0 + 0.75 * has.Male)
    outline = torch.where(canvas.y > 0.02, below, above)
    canvas.paint(look.skin, outline)
    side = ((canvas.x - 0.12 - look.turn) / look.rx).clamp(0, 1).square() * 0.55
    canvas.paint(look.shade, outline, side)


def _skin(canvas: _Canvas, has: Values, free: Values, look: Values) -> None:
    """Wrinkles of those who are not young, and rosy cheeks, softer on dark skin."""
    old, turn, blush = 1 - has.Young, look.turn, 0.60 - 0.15 * free.skin
    for y, width in ((-0.42, 0.26), (-0.335, 0.30)):
        canvas.paint(look.line, canvas.stroke(turn, y, width, -0.03, 0.012), 0.5 * old)
    for side in (-1, 1):
        bag = canvas.stroke(turn + side * look.eyes, 0.115, 0.15, 0.06, 0.032)
        canvas.paint(look.shade, bag, 0.8 * old)
        fold = canvas.stroke(turn + side * 0.285, 0.325, 0.085, 0.04, 0.014, 0.105 * side)
        canvas.paint(look.line, fold, 0.75 * old)
        across, down = (canvas.x - turn - side * 0.33) / 0.17, (canvas.y - 0.235) / 0.13
        cheek = torch.exp(-(across.square() + down.square()).square())
        canvas.wash(BLUSH, blush * cheek * has.Rosy_Cheeks)


def _eyes(canvas: _Canvas, has: Values, free: Values, look: Values) -> None:
    iris = _between(EYES, free.eyes)
    open_ = 0.120 - 0.080 * has.Narrow_Eyes
    for side in (-1, 1):
        x, y = look.turn + side * look.eyes, -0.01
        white = canvas.ellipse(x, y, 0.135, open_)
        canvas.paint(WHITE, white)
        gaze = x + 0.035 * free.gaze + 0.3 * look.turn
        for color, radius in ((iris, 0.082), (INK, 0.042)):
            canvas.paint(color, torch.maximum(canvas.ellipse(gaze, y, radius, radius), white))
        gleam = canvas.ellipse(gaze - 0.028, y - 0.035, 0.024, 0.024)
        canvas.paint(WHITE, torch.maximum(gleam, white))
        thick = 0.020 + 0.012 * (1 - has.Male)
        canvas.paint(INK, canvas.stroke(x, y - open_ * 0.72, 0.15, -open_ * 0.75, thick))
        above = y - open_ * 0.8 - 0.005
        lash = canvas.stroke(x + side * 0.155, above, 0.05, 0.0, 0.022, -0.045 * side)
        canvas.paint(INK, lash, 1 - has.Male)


def _brows(canvas: _Canvas, has: Values, free: Values, look: Values) -> None:
    for side in (-1, 1):
        x = look.turn + side * (look.eyes + 0.005)
        y = -0.222 - 0.015 * free.brows - 0.012 * has.Bushy_Eyebrows
        thickness = 0.020 + 0.048 * has.Bushy_Eyebrows
        canvas.paint(look.whiskers, canvas.stroke(x, y, 0.165, -0.055, thickness, 0.012 * side))


def _nose(canvas: _Canvas, has: Values, free: Values, look: Values) -> None:
    """A shaded side, a tip and nostrils; a big one is more than twice as wide."""
    x, big = look.turn * 1.35, has.Big_Nose
    y, width = 0.195 + 0.025 * big, 0.068 + 0.105 * big
    bridge = canvas.ellipse(x + 0.02, y - 0.07, 0.045 + 0.045 * big, 0.13 + 0.03 * big)
    canvas.paint(look.shade, bridge, 0.75)
    wings = canvas.ellipse(x, y + 0.008, width * 1.08, 0.060 + 0.045 * big)
    canvas.paint(look.shade * (1 - 0.10 * big[:, 0]), wings)
    tip = canvas.ellipse(x - 0.012, y - 0.028, width * 0.80, 0.052 + 0.032 * big)
    canvas.paint(look.skin, tip)
    low, size = y + 0.036 + 0.030 * big, (0.022 + 0.026 * big, 0.018 + 0.008 * big)
    for side in (-1, 1):
        canvas.paint(look.line, canvas.ellipse(x + side * width * 0.50, low, *size))


def _mouth(canvas: _Canvas, has: Values, free: Values, look: Values) -> None:
    """Lips around a line, or around teeth and a dark mouth; smiling, the corners go up."""
    smile, gap, painted = has.Smiling, has.Mouth_Slightly_Open, has.Wearing_Lipstick
    x, width = look.turn, 0.185 + 0.015 * free.mouth_width + 0.075 * smile
    corner = 0.445 - 0.055 * smile
    hang = -0.020 + 0.115 * smile  # how far the middle hangs below the corners
    upper, lower = hang - 0.030 * gap, hang + 0.024 + gap * (0.085 + 0.030 * smile)
    natural = look.skin * torch.tensor([0.84, 0.60, 0.58])
    lips = natural + painted[:, 0] * (torch.tensor(LIPSTICK) - natural)
    full = 0.034 + 0.022 * painted
    bottom = (corner, lower + 1.25 * full)
    canvas.paint(lips, canvas.between(x, width + 0.03, (corner, upper - full), bottom))
    inside = canvas.between(x, width, (corner, upper), (corner, lower))
    canvas.paint(MOUTH, inside)
    canvas.paint(WHITE, torch.maximum(inside, canvas.y - corner - upper - 0.048), gap)
    for side in (-1, 1):
        dimple = canvas.ellipse(x + side * (width + 0.035), corner - 0.004, 0.020, 0.030)
        canvas.paint(look.line, dimple, smile)


def _beard(canvas: _Canvas, has: Values, free: Values, look: Values) -> None:
    x = look.turn
    for side in (-1, 1):
        half = canvas.stroke(x + side * 0.115, 0.372, 0.16, -0.055, 0.054, 0.022 * side)
        canvas.paint(look.whiskers, half, has.Mustache)
    tuft = canvas.rounded(x * 0.8, 0.735, 0.175, 0.115, 2.3)
    canvas.paint(look.whiskers, tuft, has.Goatee)
    canvas.paint(look.whiskers, canvas.ellipse(x, 0.615, 0.05, 0.06), has.Goatee)


def _hair(canvas: _Canvas, has: Values, free: Values, look: Values) -> None:
    """The cap of hair down to the hairline, locks at the sides, and bangs; a bald head shines."""
    haired, long, x = 1 - has.Bald, 1 - has.Male, canvas.x
    shine = canvas.ellipse(-0.18 + look.turn, -0.50, 0.14, 0.075)
    canvas.paint(WHITE, shine, 0.55 * has.Bald)
    thick = 0.10 + 0.03 * free.height
    crown = canvas.rounded(0, -0.02, look.rx + 0.055 + 0.035 * long, look.ry + thick, 2.2)
    middle = x - 0.4 * look.turn - 0.10 * free.turn
    hairline = -0.50 + 0.95 * middle.square() + 0.55 * (x.abs() - 0.40).clamp(min=0)
    fringe = -0.315 + 0.030 * (13 * (x - look.turn)).sin().abs() + 0.10 * x.square()
    reach = 0.06 + 0.55 * long
    locks = look.rx - 0.03 - 0.05 * long - x.abs()
    hair = torch.maximum(crown, torch.minimum(canvas.y - hairline, locks))
    canvas.paint(look.hair, torch.maximum(hair, canvas.y - reach), haired)
    canvas.paint(look.hair * 0.93, torch.maximum(crown, canvas.y - fringe), has.Bangs)
    gleam = canvas.stroke(-0.12, -0.645, 0.26, -0.10, 0.028)
    canvas.paint(look.hair * 0.55 + 0.45, gleam, 0.55 * haired)


def _earrings(canvas: _Canvas, has: Values, free: Values, look: Values) -> None:
    for side in (-1, 1):
        x = side * (look.rx + 0.035) + 0.3 * look.turn
        canvas.paint(GOLD, canvas.ellipse(x, 0.31, 0.085, 0.095), has.Wearing_Earrings)
        canvas.paint(WHITE, canvas.ellipse(x - 0.028, 0.28, 0.028, 0.032), has.Wearing_Earrings)


def _hat(canvas: _Canvas, has: Values, free: Values, look: Values) -> None:
    """A knitted cap with a turned-up band, of the clothes' colour."""
    wool, band = look.cloth, -0.445 + 0.10 * canvas.x.square()
    dome = canvas.rounded(0, -0.22, look.rx + 0.125, look.ry * 0.97, 2.4)
    canvas.paint(wool, torch.maximum(dome, canvas.y - band), has.Wearing_Hat)
    wide = canvas.rounded(0, -0.22, look.rx + 0.15, look.ry * 0.9, 2.6)
    rim = torch.maximum(wide, (canvas.y - band + 0.085).abs() - 0.085)
    canvas.paint(wool * 0.72, rim, has.Wearing_Hat)
    canvas.paint(wool * 0.5 + 0.5, canvas.ellipse(0, -0.95, 0.12, 0.10), has.Wearing_Hat)


def _glasses(canvas: _Canvas, has: Values, free: Values, look: Values) -> None:
    on = has.Eyeglasses
    for side in (-1, 1):
        lens = canvas.rounded(look.turn + side * look.eyes, 0.005, 0.195, 0.170, 2.6)
        canvas.paint((0.80, 0.92, 1.00), lens, 0.22 * on)
        canvas.paint(INK, lens.abs() - 0.026, on)
        arm = canvas.stroke(look.turn + side * (look.eyes + 0.30), -0.03, 0.12, 0.0, 0.020)
        canvas.paint(INK, torch.maximum(arm, canvas.x.abs() - look.rx - 0.02), on)
    canvas.paint(INK, canvas.stroke(look.turn, -0.03, 0.07, -0.03, 0.024), on)


# From back to front, each with the rows that it may touch.
PARTS = (
    (_behind, 0.0, 1.0),
    (_head, 0.09, 0.94),
    (_skin, 0.23, 0.82),
    (_eyes, 0.34, 0.64),
    (_nose, 0.43, 0.72),
    (_mouth, 0.57, 0.90),
    (_beard, 0.56, 0.96),
    (_hair, 0.00, 0.88),
    (_earrings, 0.51, 0.79),
    (_brows, 0.26, 0.52),
    (_hat, 0.00, 0.45),
    (_glasses, 0.34, 0.68),
)


def _between(colors: tuple, where: Tensor) -> Tensor:
    """Colours (n, 3) along a palette, ``where`` (n, 1, 1) in [-1, 1]."""
    palette = torch.tensor(colors)
    at = (where[:, 0, 0] + 1) / 2 * (len(colors) - 1)
    low = at.long().clamp(0, len(colors) - 2)
    return palette[low] + (at - low)[:, None] * (palette[low + 1] - palette[low])


def _hue(where: Tensor) -> Tensor:
    """Colours (n, 3) once around the circle of hues."""
    phase = torch.tensor([0.0, -1 / 3, 1 / 3])
    return 0.50 + 0.28 * (torch.pi * (where[:, 0] + 2 * phase)).cos()
