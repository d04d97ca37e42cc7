"""Drawn vehicles and rifles: their parts, of a style and proportions that a generator picks."""

from collections.abc import Callable, Iterator

import numpy as np

from fpnlib.data.drawn.surfaces import Triangles, block, lathe, loft, mirrored, plate, tube, turned

Rng = np.random.Generator
Parts = Iterator[Triangles]
# Stations of a car from tail (0) to nose (1); the roof is up at the two in the middle.
CABINS = {
    "saloon": (0.0, 0.03, 0.17, 0.28, 0.55, 0.7, 0.97, 1.0),
    "estate": (0.0, 0.02, 0.03, 0.08, 0.57, 0.72, 0.97, 1.0),
    "sports": (0.0, 0.03, 0.1, 0.36, 0.5, 0.68, 0.95, 1.0),
    "pickup": (0.0, 0.02, 0.42, 0.45, 0.62, 0.74, 0.97, 1.0),
}
# Stations of a hull from stern to bow: how broad it is, and how high its edge and its keel are.
HULL = (
    (-1, 0.8, 0, 0.1),
    (-0.6, 1, 0, 0),
    (0, 1, 0, 0),
    (0.5, 0.85, 0.1, 0),
    (0.8, 0.5, 0.25, 0.1),
    (1.05, 0.04, 0.4, 0.8),
)


def _airplane(rng: Rng) -> Parts:
    """An airliner, a jet fighter or a propeller plane, nose towards +z."""
    style = rng.choice(["airliner", "fighter", "propeller"], p=[0.6, 0.22, 0.18])
    body, span = rng.uniform(0.06, 0.1), rng.uniform(0.8, 1.1)
    nose = {"airliner": 0.12, "fighter": 0.5, "propeller": 0.2}[style]
    tail_end = [(-1, 0.15), (-0.55, 0.8), (-0.3, 1)]
    stations = [*tail_end, (1 - nose - 0.1, 1), (1 - nose / 3, 0.65), (1, 0.06)]
    yield turned(lathe([(body * r, z) for z, r in stations]), 0, np.pi / 2)
    chord, sweep = rng.uniform(0.25, 0.38), rng.uniform(0.35, 0.6)
    root, low = rng.uniform(0.0, 0.15), -0.6 * body
    if style == "propeller":
        sweep, chord, low = 0.0, rng.uniform(0.22, 0.3), rng.choice([-0.8, 0.9]) * body
        yield block(0, -0.2, 1.0, 0.05, 0.4, 0.02)
        yield lathe([(0.03, -0.02), (0.01, 0.08)], z=1.0)
    if style == "fighter":
        sweep, chord = rng.uniform(0.4, 0.6), rng.uniform(0.7, 0.9)
        span, root = rng.uniform(0.5, 0.7), -0.2
    tip = chord * rng.uniform(0.15, 0.4)
    # A plate's depth is centred on z: a wing swept by its leading edge moves back by half of what
    # it loses in depth less.
    back = root - sweep * span + (chord - tip) / 4
    yield mirrored(plate((0, low, root, 0.035, chord), (span, low + 0.08, back, 0.015, tip)))
    tail, fin = rng.uniform(0.3, 0.4), rng.uniform(0.25, 0.38)
    back = -0.85 - 0.4 * sweep * tail - 0.03
    yield mirrored(plate((0, 0.02, -0.85, 0.02, 0.2), (tail, 0.04, back, 0.01, 0.1)))
    top = (fin + body, -0.01, -0.82 - 0.5 * fin, 0.02, 0.12)
    yield turned(plate((0, -0.01, -0.82, 0.02, 0.26), top), 2, np.pi / 2)
    if style == "airliner":
        for share in (0.33, 0.6)[: rng.integers(1, 3)]:
            out, z = share * span, root - sweep * span * share + 0.12
            start, end = [out, low - 0.05, z - 0.12], [out, low - 0.05, z + 0.12]
            yield mirrored(tube(start, end, 0.045, caps=False))


def _car(rng: Rng) -> Parts:
    """A saloon, an estate, a sports car or a pickup, nose towards +z, on four wheels."""
    style = rng.choice(["saloon", "estate", "sports", "pickup"], p=[0.4, 0.3, 0.18, 0.12])
    length, width = rng.uniform(1.9, 2.2), rng.uniform(0.78, 0.92)
    radius = rng.uniform(0.19, 0.23)
    clear, waist = radius + rng.uniform(0.0, 0.05), rng.uniform(0.48, 0.56)
    roof = waist + rng.uniform(0.26, 0.38)
    if style == "sports":
        waist, roof = waist - 0.06, roof - 0.14
    rings = []
    for k, along in enumerate(CABINS[style]):
        nose = 0.88 if along in (0.0, 1.0) else 1.0
        shoulder = waist * nose - 0.05 * along
        top, half, inner = shoulder + 0.01, nose * width / 2, 0.47 * nose * width
        if k in (3, 4):
            top, half, inner = roof, width / 2, 0.36 * width
        around = [(-half, clear), (half, clear), (half, shoulder)]
        around += [(inner, top), (-inner, top), (-half, shoulder)]
        rings.append([[x, y, (along - 0.5) * length] for x, y in around])
    yield loft(rings)
    wheel = tube([width / 2 - 0.12, radius, 0], [width / 2 + 0.05, radius, 0], radius)
    yield mirrored(wheel + [0, 0, -0.3 * length], wheel + [0, 0, 0.31 * length])


def _rifle(rng: Rng) -> Parts:
    """Barrel, receiver, stock, grip and magazine, the muzzle towards +x."""
    barrel, receiver, stock = rng.uniform(0.5, 0.95), rng.uniform(0.35, 0.5), rng.uniform(0.4, 0.6)
    tall = rng.uniform(0.09, 0.13)
    yield tube([0, 0, 0], [barrel, 0, 0], 0.018)
    yield block(-receiver / 2, -tall / 2, 0, receiver, tall, 0.06)
    guard = barrel * rng.uniform(0.35, 0.7)
    yield block(guard / 2, -0.055, 0, guard, 0.085, 0.06)
    low = -0.13 - rng.uniform(0.05, 0.12)
    yield plate((-receiver - stock, low, 0, 0.2, 0.05), (-receiver, -0.05, 0, 0.09, 0.04))
    if rng.random() < 0.75:  # a hunting rifle has no grip of its own
        x = -receiver * 0.9
        grip = block(x, -0.24, 0, 0.06, 0.22, 0.045)
        yield turned(grip, 2, -rng.uniform(0.1, 0.35), (x, 0, 0))
        long, tilt = rng.uniform(0.15, 0.3), rng.uniform(0, 0.35)
        magazine = block(-0.12, -tall / 2 - long, 0, 0.08, long, 0.04)
        yield turned(magazine, 2, tilt, (-0.12, -tall / 2, 0))
    if rng.random() < 0.5:
        sight, y = rng.uniform(0.2, 0.35), tall / 2 + 0.05
        yield tube([-0.3, y, 0], [-0.3 + sight, y, 0], 0.028)
        yield block(-0.3 + sight / 2, tall / 2, 0, 0.03, 0.04, 0.02)
    if rng.random() < 0.3:
        leg = tube([0.6 * barrel, 0, 0], [0.6 * barrel + 0.05, -0.28, 0.12], 0.012)
        yield leg
        yield leg * [1, 1, -1]


def _vessel(rng: Rng) -> Parts:
    """A sailing boat, a freighter or a motor yacht, the bow towards +z."""
    style = rng.choice(["sail", "freighter", "yacht"], p=[0.4, 0.3, 0.3])
    beam, deep = {"sail": (0.42, 0.24), "freighter": (0.36, 0.3), "yacht": (0.52, 0.34)}[style]
    beam, deep = beam * rng.uniform(0.85, 1.15), deep * rng.uniform(0.85, 1.15)
    rings = []
    for along, full, rise, keel in HULL:
        half, top, low = full * beam / 2, deep * (1 + rise), deep * keel
        side = 0.45 * deep + 0.55 * low
        around = [(-half, top), (half, top), (0.8 * half, side), (0, low), (-0.8 * half, side)]
        rings.append([[x, y, along] for x, y in around])
    yield loft(rings)
    on_deck = {"sail": _rigging, "freighter": _freight, "yacht": _cabins}[style]
    yield from on_deck(rng, beam, deep)


def _rigging(rng: Rng, beam: float, deck: float) -> Parts:
    """A mast with one or two sails, and perhaps a cabin."""
    top, boom = rng.uniform(1.3, 1.9), 0.1
    yield tube([0, deck, 0.2], [0, deck + top, 0.2], 0.016)
    # A sail is a triangle above the deck, whose first corner is swung out.
    yield np.array([[[0.08, boom, -0.85], [0, boom, 0.16], [0, top, 0.16]]]) + [0, deck, 0]
    if rng.random() < 0.8:
        yield np.array([[[0.08, 0.2, 1], [0, 0.06, 0.26], [0, 0.85 * top, 0.24]]]) + [0, deck, 0]
    if rng.random() < 0.6:
        yield block(0, deck, -0.35, 0.55 * beam, 0.09, 0.6)


def _freight(rng: Rng, beam: float, deck: float) -> Parts:
    """A bridge, a funnel and stacks of containers."""
    tall = rng.uniform(0.35, 0.5)
    yield block(0, deck, -0.72, 0.9 * beam, tall, 0.2)
    yield block(0, deck + tall, -0.7, 1.1 * beam, 0.06, 0.16)
    yield lathe([(0.07, deck), (0.06, deck + tall + 0.12)], z=-0.92)
    stacks = rng.integers(3, 5)
    for k in range(stacks):
        z = -0.45 + 1.1 * (k + 0.5) / stacks
        yield block(0, deck, z, 0.85 * beam, rng.uniform(0.1, 0.28), 0.78 / stacks)


def _cabins(rng: Rng, beam: float, deck: float) -> Parts:
    """A cabin on a cabin, and perhaps an aerial."""
    cabin, z = rng.uniform(0.14, 0.2), rng.uniform(-0.25, -0.1)
    yield block(0, deck, z, 0.75 * beam, cabin, 0.95)
    yield block(0, deck + cabin, z - 0.08, 0.6 * beam, cabin, 0.55)
    if rng.random() < 0.6:
        yield tube([0, deck + 2 * cabin, z - 0.2], [0, deck + 4 * cabin, z - 0.3], 0.014)


VEHICLES: dict[str, Callable[[Rng], Parts]] = {
    "airplane": _airplane,
    "car": _car,
    "rifle": _rifle,
    "vessel": _vessel,
}
