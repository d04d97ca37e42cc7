"""Surfaces as triangles: a few solids to build shapes from.

A surface is an array of t triangles (t, 3, 3), each of three corners with coordinates x (width),
y (up) and z (depth).
"""

import numpy as np
from numpy.typing import ArrayLike

Triangles = np.ndarray
SIDES = 14  # of round things


def loft(rings: ArrayLike, caps: bool = True) -> Triangles:
    """The skin over k convex cross-sections of m points each, ``rings`` (k, m, 3).

    ``caps`` close its two ends.
    """
    rings = np.asarray(rings, dtype=float)
    a, b = rings[:-1], rings[1:]
    c, d = np.roll(a, -1, axis=1), np.roll(b, -1, axis=1)
    sides = [np.stack([a, b, c], 2), np.stack([c, b, d], 2)]
    if caps:
        ends = rings[[0, -1]]
        middle = np.broadcast_to(ends.mean(1, keepdims=True), ends.shape)
        sides.append(np.stack([ends, np.roll(ends, -1, axis=1), middle], 2))
    return np.concatenate([side.reshape(-1, 3, 3) for side in sides])


def block(x: float, y: float, z: float, width: float, height: float, depth: float) -> Triangles:
    """A box over the floor point (x, z), from y up."""
    return plate((x - width / 2, y, z, height, depth), (x + width / 2, y, z, height, depth))


def plate(start: tuple, end: tuple) -> Triangles:
    """A wing or a board along x between two upright rectangles.

    Each rectangle is (x, y of its lower edge, z of its middle, height, depth).
    """
    rings = []
    for x, y, z, height, depth in (start, end):
        front, back = z + depth * 0.5, z + depth * -0.5
        rings.append([[x, y, back], [x, y, front], [x, y + height, front], [x, y + height, back]])
    return loft(rings)


def tube(
    start: ArrayLike, end: ArrayLike, radius: float, end_radius: float = 0.0, caps: bool = True
) -> Triangles:
    """A cylinder, or with an ``end_radius`` a cone's frustum, between two points."""
    start, end = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
    axis = (end - start) / np.linalg.norm(end - start)
    across = np.cross(axis, np.eye(3)[np.abs(axis).argmin()])
    across /= np.linalg.norm(across)
    angle = np.linspace(0, 2 * np.pi, SIDES, endpoint=False)[:, None]
    circle = np.cos(angle) * across + np.sin(angle) * np.cross(axis, across)
    return loft([start + radius * circle, end + (end_radius or radius) * circle], caps)


def lathe(profile: ArrayLike, z: float = 0.0, caps: bool = True) -> Triangles:
    """A body of revolution about the upright axis through (0, z).

    ``profile`` (k, 2) holds radii and heights.
    """
    radius, y = np.asarray(profile, dtype=float).T[..., None]
    angle = np.linspace(0, 2 * np.pi, SIDES, endpoint=False)
    rings = np.broadcast_arrays(radius * np.cos(angle), y, z + radius * np.sin(angle))
    return loft(np.stack(rings, -1), caps)


def turned(surface: Triangles, axis: int, angle: float, about: ArrayLike = (0, 0, 0)) -> Triangles:
    """The surface turned by radians about an axis (0: x, 1: y, 2: z) through a point."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    rotation = np.eye(3)
    rotation[i, i] = rotation[j, j] = np.cos(angle)
    rotation[i, j], rotation[j, i] = -np.sin(angle), np.sin(angle)
    about = np.asarray(about, dtype=float)
    return (surface - about) @ rotation.T + about


def mirrored(*surfaces: Triangles) -> Triangles:
    """The surfaces, and their images on the other side of the plane x = 0."""
    one_side = np.concatenate(surfaces)
    return np.concatenate([one_side, one_side * [-1, 1, 1]])
