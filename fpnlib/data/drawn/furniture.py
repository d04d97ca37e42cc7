"""Drawn furniture: the parts of each piece, of a style and proportions that a generator picks."""

from collections.abc import Callable, Iterator

import numpy as np

from fpnlib.data.drawn.surfaces import Triangles, block, lathe, loft, mirrored, tube, turned

Rng = np.random.Generator
Parts = Iterator[Triangles]
CORNERS = ((-1, 0), (1, 0), (1, 1), (-1, 1))  # of a front, from x = −1 to 1 and y = 0 to 1


def _table(rng: Rng) -> Parts:
    """A top, round or not, on legs, a column or panels; some low and narrow as a bench."""
    width, depth, height = rng.uniform(0.9, 1.7), rng.uniform(0.65, 1.0), rng.uniform(0.6, 0.85)
    if rng.random() < 0.12:
        depth, height = rng.uniform(0.4, 0.6), rng.uniform(0.38, 0.5)
    thick = rng.uniform(0.03, 0.07)
    style = rng.choice(["legs", "column", "panels", "shelf"], p=[0.5, 0.18, 0.17, 0.15])
    if rng.random() < 0.25 or style == "column" and rng.random() < 0.5:
        width = depth = rng.uniform(0.8, 1.2)
        yield lathe([(width / 2, height - thick), (width / 2, height)])
    else:
        yield block(0, height - thick, 0, width, thick, depth)
    inset, stout = rng.uniform(0.6, 0.92), rng.uniform(0.04, 0.09)
    if style == "column":
        yield lathe([(stout, 0), (stout, height)])
        yield lathe([(0.3 * depth, 0), (0.25 * depth, 0.05)])
    elif style == "panels":
        yield mirrored(block(inset * width / 2, 0, 0, 0.05, height - thick, 0.85 * depth))
        yield block(0, 0.3 * height, 0, inset * width, 0.3 * height, 0.03)
    else:
        under = inset * (0.72 if width == depth else 1.0)  # legs stay under a round top
        yield _legs(under * width, under * depth, height - thick, stout, rng)
        if style == "shelf":
            yield block(0, 0.25 * height, 0, inset * width, 0.03, inset * depth)


def _chair(rng: Rng) -> Parts:
    """A seat and a back on legs, a star or runners, with or without arms; or an armchair."""
    if rng.random() < 0.07:
        yield from _sofa(rng, rng.uniform(0.75, 1.0))
        return
    width, depth, seat = rng.uniform(0.44, 0.62), rng.uniform(0.42, 0.58), rng.uniform(0.36, 0.5)
    thick, tall, lean = rng.uniform(0.03, 0.1), rng.uniform(0.35, 0.65), rng.uniform(0, 0.25)
    side, rear = width / 2, -depth / 2
    yield block(0, seat - thick, 0, width, thick, depth)
    style = rng.choice(["legs", "star", "runners"], p=[0.65, 0.2, 0.15])
    if style == "legs":
        yield _legs(0.92 * width, 0.92 * depth, seat - thick, rng.uniform(0.025, 0.05), rng)
    elif style == "star":
        spoke = tube([0, 0.04, 0], [0, 0.02, 0.55 * depth], 0.025)
        yield lathe([(0.03, 0.04), (0.03, seat - thick)])
        for k in range(5):
            yield turned(spoke, 1, 2 * np.pi * k / 5)
    else:
        runner = tube([side, 0.02, rear], [side, 0.02, -rear], 0.018)
        yield mirrored(runner, tube([side, 0.02, -rear], [side, seat, -rear], 0.018))
        yield tube([-side, 0.02, rear], [side, 0.02, rear], 0.018)
    back = _back(width, tall, seat, 0.04, rng) + [0, 0, rear + 0.02]
    yield turned(back, 0, -lean, (0, seat, rear))
    if rng.random() < 0.35:
        rest = seat + rng.uniform(0.18, 0.26)
        post = tube([side, seat, 0.35 * depth], [side, rest, 0.35 * depth], 0.02)
        yield mirrored(post, block(side, rest, -0.05, 0.05, 0.03, 0.85 * depth))


def _sofa(rng: Rng, width: float | None = None) -> Parts:
    """An upholstered seat between two arms, for one or more, or round a corner."""
    width = width or rng.uniform(0.9, 2.3)
    depth, seat = rng.uniform(0.75, 0.95), rng.uniform(0.34, 0.44)
    back, arm, thick = rng.uniform(0.7, 0.95), rng.uniform(0.5, 0.65), rng.uniform(0.12, 0.24)
    foot = rng.choice([0.0, 0.08])
    yield block(0, foot, 0, width, seat - 0.14 - foot, depth)
    between = width - 2 * thick
    cushions = max(1, round(width / 0.65))
    for k in range(cushions):
        x = (k + 0.5) / cushions * between - width / 2 + thick
        yield block(x, seat - 0.13, 0.08, 0.96 * between / cushions, 0.13, depth - 0.2)
    board = block(0, foot, -depth / 2 + 0.1, width, back - foot, 0.2)
    yield turned(board, 0, -rng.uniform(0, 0.2), (0, seat, -depth / 2))
    side = width / 2 - thick / 2
    arms = [block(side, foot, 0, thick, arm - foot, depth)]
    if rng.random() < 0.35:  # rolled arms
        arms += [tube([side, arm, -depth / 2], [side, arm, depth / 2], 0.6 * thick)]
    yield mirrored(*arms)
    if width > 1.6 and rng.random() < 0.3:
        x = rng.choice([-1, 1]) * (width / 2 - 0.38)
        yield block(x, foot, depth, 0.7, seat - foot, depth)
    if foot:
        yield _legs(0.9 * width, 0.9 * depth, foot, 0.05, rng)


def _bench(rng: Rng) -> Parts:
    """A long seat, of planks or whole, with or without a back."""
    width, depth, seat = rng.uniform(1.0, 1.9), rng.uniform(0.32, 0.5), rng.uniform(0.38, 0.48)
    planks = rng.choice([1, 1, 2, 3, 4])
    for k in range(planks):
        z = (k - (planks - 1) / 2) * depth / planks
        yield block(0, seat - 0.04, z, width, 0.04, 0.85 * depth / planks)
    stand = rng.uniform(0.75, 0.95) * width
    if rng.random() < 0.5:
        yield _legs(stand, 0.85 * depth, seat - 0.04, rng.uniform(0.04, 0.08), rng)
    else:
        thick = rng.uniform(0.05, 0.12)
        yield mirrored(block(stand / 2, 0, 0, thick, seat - 0.04, 0.85 * depth))
    if rng.random() < 0.75:
        back = _back(width, rng.uniform(0.35, 0.5), seat, 0.035, rng) + [0, 0, -depth / 2]
        yield turned(back, 0, -rng.uniform(0, 0.25), (0, seat, -depth / 2))
        if rng.random() < 0.4:
            rest = block(width / 2 - 0.03, seat + 0.2, -0.02, 0.05, 0.035, depth)
            yield mirrored(rest, block(width / 2 - 0.03, seat, depth / 2 - 0.06, 0.05, 0.2, 0.05))


def _lamp(rng: Rng) -> Parts:
    """A table, standing, hanging or jointed desk lamp."""
    style = rng.choice(["table", "standing", "hanging", "desk"], p=[0.35, 0.25, 0.22, 0.18])
    wide, narrow, tall = rng.uniform(0.16, 0.28), rng.uniform(0.08, 0.16), rng.uniform(0.16, 0.3)
    if style == "desk":
        elbow = np.array([0, 0.5, -rng.uniform(0.1, 0.25)])
        head = np.array([0, rng.uniform(0.6, 0.75), rng.uniform(0.2, 0.35)])
        yield lathe([(0.14, 0), (0.13, 0.03)])
        yield tube([0, 0.03, 0], elbow, 0.015)
        yield tube(elbow, head, 0.015)
        yield tube(head, head + [0, -0.12, 0.08], 0.04, 0.5 * wide, caps=False)
        return
    if style == "hanging":
        top = tall + rng.uniform(0.35, 0.8)
        yield lathe([(wide * 1.2, 0), (narrow * rng.uniform(0.2, 1), tall)], caps=False)
        yield tube([0, tall, 0], [0, top, 0], 0.012)
        yield lathe([(0.07, top), (0.07, top + 0.03)])
        return
    pole = rng.uniform(0.25, 0.45) if style == "table" else rng.uniform(0.9, 1.3)
    yield lathe([(wide, pole), (narrow, pole + tall)], caps=False)
    if style == "standing" and rng.random() < 0.4:
        foot = tube([0, 0.75 * pole, 0], [0, 0, 0.3], 0.014)
        for k in range(3):
            yield turned(foot, 1, 2 * np.pi * k / 3)
        yield tube([0, 0.7 * pole, 0], [0, pole + 0.1, 0], 0.014)
    elif style == "table" and rng.random() < 0.5:  # a vase
        belly = rng.uniform(0.08, 0.15)
        low = [(0.06, 0), (belly, 0.3 * pole), (0.7 * belly, 0.6 * pole)]
        yield lathe([*low, (0.025, 0.85 * pole), (0.02, pole + 0.05)])
    else:
        yield lathe([(0.6 * wide, 0), (0.6 * wide, 0.03)])
        yield lathe([(0.016, 0.03), (0.016, pole + 0.1)])


def _speaker(rng: Rng) -> Parts:
    """A cabinet, high or low, with cones set into its front; some on a plate."""
    tall = rng.random() < 0.5
    width, depth = rng.uniform(0.3, 0.42), rng.uniform(0.26, 0.38)
    cones = rng.integers(2, 4) if tall else rng.integers(1, 3)
    sizes = rng.uniform(0.75, 1.0) ** np.arange(cones)  # the largest at the bottom
    height = rng.uniform(0.85, 1.15) if tall else width * sizes.sum() * rng.uniform(1.05, 1.3)
    back = np.array([[x * width / 2, y * height, -depth / 2] for x, y in CORNERS])
    middle_of_back = np.broadcast_to(back.mean(0), back.shape)
    yield loft([middle_of_back, back, back * [1, 1, -1]], caps=False)
    y = 0.0
    for size in sizes * height / sizes.sum():
        radius, front = 0.42 * min(size, width), np.array([0, y + size / 2, depth / 2])
        deep, dome = front - [0, 0, 0.6 * radius], front - [0, 0, 0.35 * radius]
        yield _holed(width, size, radius) + front
        yield tube(front, front + [0, 0, 0.04], 1.15 * radius, radius, caps=False)
        yield tube(front, deep, radius, 0.35 * radius, caps=False)
        yield tube(deep, dome, 0.35 * radius, 0.15 * radius)
        y += size
    if rng.random() < 0.25:
        yield block(0, -0.05, 0, 1.3 * width, 0.05, 1.25 * depth)


def _legs(width: float, depth: float, height: float, thick: float, rng: Rng) -> Triangles:
    """Four legs under the corners of width × depth: square, round or splayed."""
    x, z = width / 2 - thick / 2, depth / 2 - thick / 2
    style = rng.choice(["square", "round", "splayed"])
    out = 1.12 if style == "splayed" else 1.0
    leg = tube([out * x, 0, out * z], [x, height, z], 0.35 * thick, 0.55 * thick)
    if style == "square":
        leg = block(x, 0, z, thick, height, thick)
    front = mirrored(leg)
    return np.concatenate([front, front * [1, 1, -1]])


def _back(width: float, tall: float, seat: float, thick: float, rng: Rng) -> Triangles:
    """A backrest over the seat's rear edge, at z = 0: a board, or posts with slats."""
    style = rng.choice(["board", "upright", "level"], p=[0.45, 0.25, 0.3])
    if style == "board":
        low = rng.choice([0.0, 0.12])
        board = block(0, seat + low, 0, width, tall - low, thick)
        posts = mirrored(block(0.4 * width, seat, 0, 0.04, low + 0.01, thick))
        return np.concatenate([board, posts])
    parts = [mirrored(block(width / 2 - 0.02, seat, 0, 0.04, tall, thick))]
    count = rng.integers(2, 5)
    if style == "upright":
        step = width / (count + 1)
        places = [(k + 1) * step - width / 2 for k in range(count)]
        parts += [block(x, seat, 0, 0.35 * step, tall, 0.6 * thick) for x in places]
        parts.append(block(0, seat + tall - 0.06, 0, width, 0.06, thick))
    else:
        step = tall / count
        places = [seat + (k + 0.45) * step for k in range(count)]
        parts += [block(0, y, 0, width, 0.5 * step, 0.6 * thick) for y in places]
    return np.concatenate(parts)


def _holed(width: float, height: float, radius: float) -> Triangles:
    """A front towards +z, width × height around the origin, with a round hole in it."""
    edge = np.linspace(-1, 1, 4, endpoint=False)
    side = np.stack([edge, np.full(4, -1.0), np.zeros(4)], 1)
    turned_side = side[:, [1, 0, 2]] * [-1, 1, 1]
    square = np.concatenate([side, turned_side, -side, -turned_side])
    outer = square * [width / 2, height / 2, 1]
    inner = radius * outer / np.linalg.norm(outer, axis=1, keepdims=True)
    return loft([inner, outer], caps=False)


FURNITURE: dict[str, Callable[[Rng], Parts]] = {
    "table": _table,
    "chair": _chair,
    "sofa": _sofa,
    "bench": _bench,
    "lamp": _lamp,
    "speaker": _speaker,
}
