"""Drawn shapes: ShapeNet's ten most common categories (Figure 12) as parametric surfaces, for everyone and offline.

Each category is a function of a random generator that picks a style and its proportions. Kin overlap on purpose (a low
bench and a coffee table, an armchair and a small sofa), so that a classifier has something to err on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from fpnlib import checks
from fpnlib.data.dataset import Dataset, Split
from fpnlib.data.drawn.surfaces import (
    Triangles,
    block,
    holed,
    lathe,
    loft,
    mirrored,
    plate,
    sample,
    tube,
    turned,
    unit_sphere,
)
from fpnlib.data.point_clouds import chosen

POOL = 2048  # points of each cloud
DRAWING = (
    2  # to be raised with any change of the shapes: what was trained on others is then made anew
)
Rng = np.random.Generator
CORNERS = ((-1, 0), (1, 0), (1, 1), (-1, 1))  # of a front, from x = −1 to 1 and y = 0 to 1


def table(rng: Rng) -> Triangles:
    """A top on four legs, a column or two panels, with or without a shelf; round or not; some low and narrow as a bench."""
    width, depth, height = rng.uniform(0.9, 1.7), rng.uniform(0.65, 1.0), rng.uniform(0.6, 0.85)
    if rng.random() < 0.12:
        depth, height = rng.uniform(0.4, 0.6), rng.uniform(0.38, 0.5)
    thick, style = (
        rng.uniform(0.03, 0.07),
        rng.choice(["legs", "column", "panels", "shelf"], p=[0.5, 0.18, 0.17, 0.15]),
    )
    if rng.random() < 0.25 or style == "column" and rng.random() < 0.5:
        width = depth = rng.uniform(0.8, 1.2)
        parts = [lathe([(width / 2, height - thick), (width / 2, height)])]
    else:
        parts = [block(0, height - thick, 0, width, thick, depth)]
    inset, stout = rng.uniform(0.6, 0.92), rng.uniform(0.04, 0.09)
    if style == "column":
        parts += [
            lathe([(stout, 0), (stout, height)]),
            lathe([(0.3 * depth, 0), (0.25 * depth, 0.05)]),
        ]
    elif style == "panels":
        parts += [mirrored(block(inset * width / 2, 0, 0, 0.05, height - thick, 0.85 * depth))]
        parts += [block(0, 0.3 * height, 0, inset * width, 0.3 * height, 0.03)]
    else:
        round_top = 0.72 if width == depth else 1.0  # legs stay under it
        parts += [
            _legs(inset * round_top * width, inset * round_top * depth, height - thick, stout, rng)
        ]
        if style == "shelf":
            parts += [block(0, 0.25 * height, 0, inset * width, 0.03, inset * depth)]
    return np.concatenate(parts)


def chair(rng: Rng) -> Triangles:
    """A seat and a back, slatted, framed or solid, with or without arms, on legs, a star or runners; or an armchair."""
    if rng.random() < 0.07:
        return sofa(rng, rng.uniform(0.75, 1.0))
    width, depth, seat = rng.uniform(0.44, 0.62), rng.uniform(0.42, 0.58), rng.uniform(0.36, 0.5)
    thick, tall, lean = rng.uniform(0.03, 0.1), rng.uniform(0.35, 0.65), rng.uniform(0, 0.25)
    parts = [block(0, seat - thick, 0, width, thick, depth)]
    style = rng.choice(["legs", "star", "runners"], p=[0.65, 0.2, 0.15])
    if style == "legs":
        parts += [_legs(0.92 * width, 0.92 * depth, seat - thick, rng.uniform(0.025, 0.05), rng)]
    elif style == "star":
        spokes = tube([0, 0.04, 0], [0, 0.02, 0.55 * depth], 0.025)
        parts += [lathe([(0.03, 0.04), (0.03, seat - thick)])]
        parts += [turned(spokes, 1, 2 * np.pi * k / 5) for k in range(5)]
    else:
        runner = tube([width / 2, 0.02, -depth / 2], [width / 2, 0.02, depth / 2], 0.018)
        parts += [
            mirrored(
                runner, tube([width / 2, 0.02, depth / 2], [width / 2, seat, depth / 2], 0.018)
            )
        ]
        parts += [tube([-width / 2, 0.02, -depth / 2], [width / 2, 0.02, -depth / 2], 0.018)]
    parts += [
        turned(
            _back(width, tall, seat, 0.04, rng) + [0, 0, -depth / 2 + 0.02],
            0,
            -lean,
            (0, seat, -depth / 2),
        )
    ]
    if rng.random() < 0.35:
        rest = seat + rng.uniform(0.18, 0.26)
        post = tube([width / 2, seat, 0.35 * depth], [width / 2, rest, 0.35 * depth], 0.02)
        parts += [mirrored(post, block(width / 2, rest, -0.05, 0.05, 0.03, 0.85 * depth))]
    return np.concatenate(parts)


def airplane(rng: Rng) -> Triangles:
    """An airliner, a jet fighter or a propeller plane, nose towards +z."""
    style = rng.choice(["airliner", "fighter", "propeller"], p=[0.6, 0.22, 0.18])
    body, span = rng.uniform(0.06, 0.1), rng.uniform(0.8, 1.1)
    nose = {"airliner": 0.12, "fighter": 0.5, "propeller": 0.2}[style]
    stations = [
        (-1, 0.15),
        (-0.55, 0.8),
        (-0.3, 1),
        (1 - nose - 0.1, 1),
        (1 - nose / 3, 0.65),
        (1, 0.06),
    ]
    parts = [turned(lathe([(body * r, z) for z, r in stations]), 0, np.pi / 2)]
    chord, sweep = rng.uniform(0.25, 0.38), rng.uniform(0.35, 0.6)
    root, low = rng.uniform(0.0, 0.15), -0.6 * body
    if style == "propeller":
        sweep, chord, low = 0.0, rng.uniform(0.22, 0.3), rng.choice([-0.8, 0.9]) * body
        parts += [block(0, -0.2, 1.0, 0.05, 0.4, 0.02), lathe([(0.03, -0.02), (0.01, 0.08)], z=1.0)]
    if style == "fighter":
        sweep, chord, span, root = (
            rng.uniform(0.4, 0.6),
            rng.uniform(0.7, 0.9),
            rng.uniform(0.5, 0.7),
            -0.2,
        )
    tip = chord * rng.uniform(0.15, 0.4)
    # Depth of a plate is centred on z: a wing swept by its leading edge moves by half of what it narrows less.
    parts += [
        mirrored(
            plate(
                (0, low, root, 0.035, chord),
                (span, low + 0.08, root - sweep * span + (chord - tip) / 4, 0.015, tip),
            )
        )
    ]
    tail, fin = rng.uniform(0.3, 0.4), rng.uniform(0.25, 0.38)
    parts += [
        mirrored(
            plate(
                (0, 0.02, -0.85, 0.02, 0.2),
                (tail, 0.04, -0.85 - 0.4 * sweep * tail - 0.03, 0.01, 0.1),
            )
        )
    ]
    upright = plate(
        (0, -0.01, -0.82, 0.02, 0.26), (fin + body, -0.01, -0.82 - 0.5 * fin, 0.02, 0.12)
    )
    parts += [turned(upright, 2, np.pi / 2)]
    if style == "airliner":
        for out in (0.33, 0.6)[: rng.integers(1, 3)]:
            z = root - sweep * span * out + 0.12
            parts += [
                mirrored(
                    tube(
                        [out * span, low - 0.05, z - 0.12],
                        [out * span, low - 0.05, z + 0.12],
                        0.045,
                        caps=False,
                    )
                )
            ]
    return np.concatenate(parts)


def car(rng: Rng) -> Triangles:
    """A saloon, an estate, a sports car or a pickup, its nose towards +z: one skin over cross-sections, on four wheels."""
    style = rng.choice(["saloon", "estate", "sports", "pickup"], p=[0.4, 0.3, 0.18, 0.12])
    length, width = rng.uniform(1.9, 2.2), rng.uniform(0.78, 0.92)
    radius = rng.uniform(0.19, 0.23)
    clear, waist = radius + rng.uniform(0.0, 0.05), rng.uniform(0.48, 0.56)
    roof = waist + rng.uniform(0.26, 0.38)
    # Stations from the tail (0) to the nose (1), and whether the roof is up there.
    cabin = {
        "saloon": ([0.0, 0.03, 0.17, 0.28, 0.55, 0.7, 0.97, 1.0], [0, 0, 0, 1, 1, 0, 0, 0]),
        "estate": ([0.0, 0.02, 0.03, 0.08, 0.57, 0.72, 0.97, 1.0], [0, 0, 0, 1, 1, 0, 0, 0]),
        "sports": ([0.0, 0.03, 0.1, 0.36, 0.5, 0.68, 0.95, 1.0], [0, 0, 0, 1, 1, 0, 0, 0]),
        "pickup": ([0.0, 0.02, 0.42, 0.45, 0.62, 0.74, 0.97, 1.0], [0, 0, 0, 1, 1, 0, 0, 0]),
    }[style]
    if style == "sports":
        waist, roof = waist - 0.06, roof - 0.14
    rings = []
    for along, up in zip(*cabin):
        nose = 0.88 if along in (0.0, 1.0) else 1.0
        shoulder = waist * nose - 0.05 * along
        top, half, inner = (
            (roof, width / 2, 0.36 * width)
            if up
            else (shoulder + 0.01, nose * width / 2, 0.47 * nose * width)
        )
        around = [
            (-half, clear),
            (half, clear),
            (half, shoulder),
            (inner, top),
            (-inner, top),
            (-half, shoulder),
        ]
        rings.append([[x, y, (along - 0.5) * length] for x, y in around])
    axles = (-0.3 * length, 0.31 * length)
    wheels = [
        tube([width / 2 - 0.12, radius, z], [width / 2 + 0.05, radius, z], radius) for z in axles
    ]
    return np.concatenate([loft(rings), mirrored(*wheels)])


def sofa(rng: Rng, width: float | None = None) -> Triangles:
    """An upholstered seat between two arms, for one or more, or round a corner."""
    width = width or rng.uniform(0.9, 2.3)
    depth, seat = rng.uniform(0.75, 0.95), rng.uniform(0.34, 0.44)
    back, arm, thick = rng.uniform(0.7, 0.95), rng.uniform(0.5, 0.65), rng.uniform(0.12, 0.24)
    foot = rng.choice([0.0, 0.08])
    parts = [block(0, foot, 0, width, seat - 0.14 - foot, depth)]
    cushions = max(1, round(width / 0.65))
    for k in range(cushions):
        x = (k + 0.5) / cushions * (width - 2 * thick) - width / 2 + thick
        parts += [
            block(x, seat - 0.13, 0.08, 0.96 * (width - 2 * thick) / cushions, 0.13, depth - 0.2)
        ]
    parts += [
        turned(
            block(0, foot, -depth / 2 + 0.1, width, back - foot, 0.2),
            0,
            -rng.uniform(0, 0.2),
            (0, seat, -depth / 2),
        )
    ]
    if rng.random() < 0.35:  # rolled arms
        side = width / 2 - thick / 2
        roll = tube([side, arm, -depth / 2], [side, arm, depth / 2], 0.6 * thick)
        parts += [mirrored(block(side, foot, 0, thick, arm - foot, depth), roll)]
    else:
        parts += [mirrored(block(width / 2 - thick / 2, foot, 0, thick, arm - foot, depth))]
    if width > 1.6 and rng.random() < 0.3:
        parts += [
            block(rng.choice([-1, 1]) * (width / 2 - 0.38), foot, depth, 0.7, seat - foot, depth)
        ]
    if foot:
        parts += [_legs(0.9 * width, 0.9 * depth, foot, 0.05, rng)]
    return np.concatenate(parts)


def rifle(rng: Rng) -> Triangles:
    """Barrel, receiver, stock, grip and magazine, the muzzle towards +x."""
    barrel, receiver, stock = rng.uniform(0.5, 0.95), rng.uniform(0.35, 0.5), rng.uniform(0.4, 0.6)
    tall = rng.uniform(0.09, 0.13)
    parts = [
        tube([0, 0, 0], [barrel, 0, 0], 0.018),
        block(-receiver / 2, -tall / 2, 0, receiver, tall, 0.06),
    ]
    guard = barrel * rng.uniform(0.35, 0.7)
    parts += [block(guard / 2, -0.055, 0, guard, 0.085, 0.06)]
    drop = rng.uniform(0.05, 0.12)
    parts += [
        plate((-receiver - stock, -0.13 - drop, 0, 0.2, 0.05), (-receiver, -0.05, 0, 0.09, 0.04))
    ]
    if rng.random() < 0.75:  # a rifle without a grip of its own is a hunter's
        parts += [
            turned(
                block(-receiver * 0.9, -0.24, 0, 0.06, 0.22, 0.045),
                2,
                -rng.uniform(0.1, 0.35),
                (-receiver * 0.9, 0, 0),
            )
        ]
        long, tilt = rng.uniform(0.15, 0.3), rng.uniform(0, 0.35)
        parts += [
            turned(
                block(-0.12, -tall / 2 - long, 0, 0.08, long, 0.04), 2, tilt, (-0.12, -tall / 2, 0)
            )
        ]
    if rng.random() < 0.5:
        sight = rng.uniform(0.2, 0.35)
        parts += [tube([-0.3, tall / 2 + 0.05, 0], [-0.3 + sight, tall / 2 + 0.05, 0], 0.028)]
        parts += [block(-0.3 + sight / 2, tall / 2, 0, 0.03, 0.04, 0.02)]
    if rng.random() < 0.3:
        leg = tube([0.6 * barrel, 0, 0], [0.6 * barrel + 0.05, -0.28, 0.12], 0.012)
        parts += [leg, leg * [1, 1, -1]]
    return np.concatenate(parts)


def lamp(rng: Rng) -> Triangles:
    """A table, standing, hanging or jointed desk lamp."""
    style = rng.choice(["table", "standing", "hanging", "desk"], p=[0.35, 0.25, 0.22, 0.18])
    wide, narrow, tall = rng.uniform(0.16, 0.28), rng.uniform(0.08, 0.16), rng.uniform(0.16, 0.3)
    if style == "desk":
        elbow, head = (
            np.array([0, 0.5, -rng.uniform(0.1, 0.25)]),
            np.array([0, rng.uniform(0.6, 0.75), rng.uniform(0.2, 0.35)]),
        )
        shade = tube(head, head + [0, -0.12, 0.08], 0.04, 0.5 * wide, caps=False)
        base = lathe([(0.14, 0), (0.13, 0.03)])
        return np.concatenate(
            [base, tube([0, 0.03, 0], elbow, 0.015), tube(elbow, head, 0.015), shade]
        )
    if style == "hanging":
        drop = rng.uniform(0.35, 0.8)
        shade = lathe([(wide * 1.2, 0), (narrow * rng.uniform(0.2, 1), tall)], caps=False)
        return np.concatenate(
            [
                shade,
                tube([0, tall, 0], [0, tall + drop, 0], 0.012),
                lathe([(0.07, tall + drop), (0.07, tall + drop + 0.03)]),
            ]
        )
    pole = rng.uniform(0.25, 0.45) if style == "table" else rng.uniform(0.9, 1.3)
    parts = [lathe([(wide, pole), (narrow, pole + tall)], caps=False)]
    if style == "standing" and rng.random() < 0.4:
        foot = tube([0, 0.75 * pole, 0], [0, 0, 0.3], 0.014)
        parts += [turned(foot, 1, 2 * np.pi * k / 3) for k in range(3)] + [
            tube([0, 0.7 * pole, 0], [0, pole + 0.1, 0], 0.014)
        ]
    elif style == "table" and rng.random() < 0.5:  # a vase
        belly = rng.uniform(0.08, 0.15)
        parts += [
            lathe(
                [
                    (0.06, 0),
                    (belly, 0.3 * pole),
                    (0.7 * belly, 0.6 * pole),
                    (0.025, 0.85 * pole),
                    (0.02, pole + 0.05),
                ]
            )
        ]
    else:
        parts += [
            lathe([(0.6 * wide, 0), (0.6 * wide, 0.03)]),
            lathe([(0.016, 0.03), (0.016, pole + 0.1)]),
        ]
    return np.concatenate(parts)


def vessel(rng: Rng) -> Triangles:
    """A sailing boat, a freighter or a motor yacht, the bow towards +z."""
    style = rng.choice(["sail", "freighter", "yacht"], p=[0.4, 0.3, 0.3])
    beam, deep = {"sail": (0.42, 0.24), "freighter": (0.36, 0.3), "yacht": (0.52, 0.34)}[style]
    beam, deep = beam * rng.uniform(0.85, 1.15), deep * rng.uniform(0.85, 1.15)
    rings = []
    # Stations from stern to bow, how broad and how high the hull is there, and how far its keel has come up.
    for along, full, rise, keel in (
        (-1, 0.8, 0, 0.1), (-0.6, 1, 0, 0), (0, 1, 0, 0), (0.5, 0.85, 0.1, 0), (0.8, 0.5, 0.25, 0.1), (1.05, 0.04, 0.4, 0.8)
    ):  # fmt: skip
        half, top, low = full * beam / 2, deep * (1 + rise), deep * keel
        side = 0.45 * deep + 0.55 * low
        around = [(-half, top), (half, top), (0.8 * half, side), (0, low), (-0.8 * half, side)]
        rings.append([[x, y, along] for x, y in around])
    parts = [loft(rings)]
    if style == "sail":
        top, boom = rng.uniform(1.3, 1.9), 0.1
        parts += [tube([0, deep, 0.2], [0, deep + top, 0.2], 0.016)]
        parts += [_sail((boom, -0.85), (boom, 0.16), (top, 0.16), deck=deep)]
        if rng.random() < 0.8:
            parts += [_sail((0.2, 1.0), (0.06, 0.26), (0.85 * top, 0.24), deck=deep)]
        if rng.random() < 0.6:
            parts += [block(0, deep, -0.35, 0.55 * beam, 0.09, 0.6)]
    elif style == "freighter":
        tall = rng.uniform(0.35, 0.5)
        parts += [
            block(0, deep, -0.72, 0.9 * beam, tall, 0.2),
            block(0, deep + tall, -0.7, 1.1 * beam, 0.06, 0.16),
        ]
        parts += [lathe([(0.07, deep), (0.06, deep + tall + 0.12)], z=-0.92)]
        stacks = rng.integers(3, 5)
        for k in range(stacks):
            z = -0.45 + 1.1 * (k + 0.5) / stacks
            parts += [block(0, deep, z, 0.85 * beam, rng.uniform(0.1, 0.28), 0.78 / stacks)]
    else:
        cabin, z = rng.uniform(0.14, 0.2), rng.uniform(-0.25, -0.1)
        parts += [
            block(0, deep, z, 0.75 * beam, cabin, 0.95),
            block(0, deep + cabin, z - 0.08, 0.6 * beam, cabin, 0.55),
        ]
        if rng.random() < 0.6:
            parts += [tube([0, deep + 2 * cabin, z - 0.2], [0, deep + 4 * cabin, z - 0.3], 0.014)]
    return np.concatenate(parts)


def bench(rng: Rng) -> Triangles:
    """A long seat, of planks or whole, with or without a back."""
    width, depth, seat = rng.uniform(1.0, 1.9), rng.uniform(0.32, 0.5), rng.uniform(0.38, 0.48)
    planks = rng.choice([1, 1, 2, 3, 4])
    parts = [
        block(
            0,
            seat - 0.04,
            (k - (planks - 1) / 2) * depth / planks,
            width,
            0.04,
            0.85 * depth / planks,
        )
        for k in range(planks)
    ]
    stand = rng.uniform(0.75, 0.95) * width
    if rng.random() < 0.5:
        parts += [_legs(stand, 0.85 * depth, seat - 0.04, rng.uniform(0.04, 0.08), rng)]
    else:
        parts += [
            mirrored(block(stand / 2, 0, 0, rng.uniform(0.05, 0.12), seat - 0.04, 0.85 * depth))
        ]
    if rng.random() < 0.75:
        back = _back(width, rng.uniform(0.35, 0.5), seat, 0.035, rng) + [0, 0, -depth / 2]
        parts += [turned(back, 0, -rng.uniform(0, 0.25), (0, seat, -depth / 2))]
        if rng.random() < 0.4:
            rest = block(width / 2 - 0.03, seat + 0.2, -0.02, 0.05, 0.035, depth)
            parts += [
                mirrored(rest, block(width / 2 - 0.03, seat, depth / 2 - 0.06, 0.05, 0.2, 0.05))
            ]
    return np.concatenate(parts)


def speaker(rng: Rng) -> Triangles:
    """A cabinet, high or low, with cones set into its front, one above the other; some on a plate."""
    tall = rng.random() < 0.5
    width, depth = rng.uniform(0.3, 0.42), rng.uniform(0.26, 0.38)
    cones = rng.integers(2, 4) if tall else rng.integers(1, 3)
    sizes = rng.uniform(0.75, 1.0) ** np.arange(cones)  # the largest at the bottom
    height = rng.uniform(0.85, 1.15) if tall else width * sizes.sum() * rng.uniform(1.05, 1.3)
    back, front = (
        [[x * width / 2, y * height, z] for x, y in CORNERS] for z in (-depth / 2, depth / 2)
    )
    parts = [loft([np.broadcast_to(np.mean(back, 0), (4, 3)), back, front], caps=False)]
    y = 0.0
    for size in sizes * height / sizes.sum():
        radius, middle = 0.42 * min(size, width), np.array([0, y + size / 2, depth / 2])
        parts += [holed(*middle, width, size, radius)]
        parts += [tube(middle, middle + [0, 0, 0.04], 1.15 * radius, radius, caps=False)]
        parts += [tube(middle, middle - [0, 0, 0.6 * radius], radius, 0.35 * radius, caps=False)]
        parts += [
            tube(
                middle - [0, 0, 0.6 * radius],
                middle - [0, 0, 0.35 * radius],
                0.35 * radius,
                0.15 * radius,
            )
        ]
        y += size
    if rng.random() < 0.25:
        parts += [block(0, -0.05, 0, 1.3 * width, 0.05, 1.25 * depth)]
    return np.concatenate(parts)


# In the paper's order (Figure 12), with their counts in ShapeNetCore v2 (Chang et al. 2015), which set the imbalance here.
SHAPES: dict[str, tuple[Callable[[Rng], Triangles], int]] = {
    "table": (table, 8436),
    "chair": (chair, 6778),
    "airplane": (airplane, 4045),
    "car": (car, 3514),
    "sofa": (sofa, 3173),
    "rifle": (rifle, 2373),
    "lamp": (lamp, 2318),
    "vessel": (vessel, 1939),
    "bench": (bench, 1813),
    "speaker": (speaker, 1597),
}


def draw_shape(category: str, rng: Rng, points: int = POOL) -> np.ndarray:
    """One shape of a category: (points, 3) float32, uniform by area, y up, its bounding box centred, in the unit sphere.

    Raises:
        ValueError: an unknown category, with the nearest one.
    """
    if category not in SHAPES:
        raise checks.unknown("category", category, SHAPES)
    return unit_sphere(sample(SHAPES[category][0](rng), points, rng)).astype(np.float32)


def load_drawn_shapes(
    root: str | Path | None = None,
    seed: int = 0,
    download: bool = False,
    *,
    n: int = 3000,
    points: int = POOL,
    categories: Iterable[str] | None = None,
) -> Dataset:
    """Load drawn shapes: x (n, points, 3), float32, with y up, imbalanced as ShapeNet is.

    70 % of each category are train, 10 % validation and 20 % test.

    Args:
        root: not used; the shapes are drawn.
        seed: of the shapes. A shape depends only on it, its category and its number.
        download: not used.
        n: about how many shapes in all.
        points: points of each cloud.
        categories: some of ``SHAPES``; None: all ten.

    Raises:
        TypeError: ``categories`` is a name, not a list of names.
        ValueError: an unknown category, or one named twice; n or points below 1.

    >>> load_drawn_shapes(n=100, points=16, categories=["chair", "lamp"]).test.x.shape
    torch.Size([5, 16, 3])
    """
    checks.positive("n", n)
    checks.positive("points", points)
    names = chosen(categories, SHAPES)
    total = sum(count for _, count in SHAPES.values())
    numbers = {name: k for k, name in enumerate(SHAPES)}
    shapes: tuple[list, list, list] = ([], [], [])
    labels: tuple[list, list, list] = ([], [], [])
    for y, name in enumerate(names):
        count = max(10, round(n * SHAPES[name][1] / total))
        for k in range(count):
            split = 0 if k < 0.7 * count else 1 if k < 0.8 * count else 2
            rng = np.random.default_rng([seed, numbers[name], k])
            shapes[split].append(draw_shape(name, rng, points))
            labels[split].append(y)
    splits = []
    for x, y in zip(shapes, labels):
        splits.append(Split(torch.from_numpy(np.stack(x)), torch.tensor(y)))
    # The checksum covers the recipe, because the shapes' last digits may differ between machines.
    recipe = repr((DRAWING, seed, n, points, names))
    return Dataset("shapes", *splits, names, hashlib.sha256(recipe.encode()).hexdigest())


def _legs(width: float, depth: float, height: float, thick: float, rng: Rng) -> Triangles:
    """Four legs under the corners of width × depth: square, round or splayed."""
    x, z, style = (
        width / 2 - thick / 2,
        depth / 2 - thick / 2,
        rng.choice(["square", "round", "splayed"]),
    )
    if style == "square":
        front = mirrored(block(x, 0, z, thick, height, thick))
    else:
        out = 1.12 if style == "splayed" else 1.0
        front = mirrored(tube([out * x, 0, out * z], [x, height, z], 0.35 * thick, 0.55 * thick))
    return np.concatenate([front, front * [1, 1, -1]])


def _back(width: float, tall: float, seat: float, thick: float, rng: Rng) -> Triangles:
    """A backrest over the seat's rear edge, at z = 0: a board, upright or level slats, or a frame with a panel."""
    style = rng.choice(["board", "upright", "level"], p=[0.45, 0.25, 0.3])
    if style == "board":
        low = rng.choice([0.0, 0.12])
        return np.concatenate(
            [
                block(0, seat + low, 0, width, tall - low, thick),
                mirrored(block(0.4 * width, seat, 0, 0.04, low + 0.01, thick)),
            ]
        )
    posts = mirrored(block(width / 2 - 0.02, seat, 0, 0.04, tall, thick))
    count = rng.integers(2, 5)
    if style == "upright":
        step = width / (count + 1)
        slats = [
            block((k + 1) * step - width / 2, seat, 0, 0.35 * step, tall, 0.6 * thick)
            for k in range(count)
        ]
        slats += [block(0, seat + tall - 0.06, 0, width, 0.06, thick)]
    else:
        step = tall / count
        slats = [
            block(0, seat + (k + 0.45) * step, 0, width, 0.5 * step, 0.6 * thick)
            for k in range(count)
        ]
    return np.concatenate([posts, *slats])


def _sail(*corners: tuple[float, float], deck: float) -> Triangles:
    """A triangular sail between three corners (height above the deck, z), its free one, the first, swung out."""
    (free, *mast) = corners
    return np.array([[[0.08, deck + free[0], free[1]], *([0, deck + up, z] for up, z in mast)]])
