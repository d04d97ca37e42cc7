"""Drawn shapes: ShapeNet's ten most common categories (Figure 12) as parametric surfaces, offline.

Similar categories overlap on purpose (a low bench and a coffee table, an armchair and a small
sofa), so that a classifier makes mistakes.
"""

import hashlib

import numpy as np
import torch

from fpnlib import checks
from fpnlib.data.dataset import Dataset, Split
from fpnlib.data.drawn.furniture import FURNITURE
from fpnlib.data.drawn.surfaces import Triangles
from fpnlib.data.drawn.vehicles import VEHICLES
from fpnlib.data.files import Root

POOL = 2048  # points of each cloud
DRAWING = 2  # part of the checksum; raise it when a shape is drawn differently
# In the paper's order (Figure 12), with their counts in ShapeNetCore v2 (Chang et al. 2015), which
# set the imbalance here.
SHAPES = {
    "table": 8436,
    "chair": 6778,
    "airplane": 4045,
    "car": 3514,
    "sofa": 3173,
    "rifle": 2373,
    "lamp": 2318,
    "vessel": 1939,
    "bench": 1813,
    "speaker": 1597,
}


def load_drawn_shapes(
    root: Root = None, seed: int = 0, download: bool = False, *, n: int = 3000, points: int = POOL
) -> Dataset:
    """Load drawn shapes: x (n, points, 3), float32, with y up, imbalanced as ShapeNet is.

    70 % of each category are train, 10 % validation and 20 % test.

    Args:
        root: not used; the shapes are drawn.
        seed: of the shapes. A shape depends only on it, its category and its number.
        download: not used.
        n: about how many shapes in all.
        points: points of each cloud.

    Raises:
        ValueError: n or points below 1.

    >>> load_drawn_shapes(n=100, points=16).test.x.shape
    torch.Size([23, 16, 3])
    """
    checks.positive("n", n)
    checks.positive("points", points)
    names, total = tuple(SHAPES), sum(SHAPES.values())
    shapes, labels, parts = [], [], []
    for y, name in enumerate(names):
        count = max(10, round(n * SHAPES[name] / total))
        for k in range(count):
            rng = np.random.default_rng([seed, y, k])
            shapes.append(_draw_shape(name, rng, points))
            labels.append(y)
            parts.append(0 if k < 0.7 * count else 1 if k < 0.8 * count else 2)
    drawn = Split(torch.from_numpy(np.stack(shapes)), torch.tensor(labels))
    train, validation, test = (drawn.take(torch.tensor(parts) == part) for part in range(3))
    # The checksum covers the recipe, because the shapes' last digits may differ between machines.
    recipe = repr((DRAWING, seed, n, points, names))
    digest = hashlib.sha256(recipe.encode()).hexdigest()
    return Dataset("shapes", train, validation, test, names, digest)


def _draw_shape(category: str, rng: np.random.Generator, points: int) -> np.ndarray:
    """Draw one shape of a category: (points, 3), float32, uniform by area, with y up.

    Its bounding box is centred, and its farthest point at distance 1.
    """
    surface = np.concatenate(list((FURNITURE | VEHICLES)[category](rng)))
    cloud = _sample(surface, points, rng)
    cloud -= (cloud.max(0) + cloud.min(0)) / 2
    return (cloud / np.linalg.norm(cloud, axis=1).max()).astype(np.float32)


def _sample(surface: Triangles, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ``n`` points (n, 3), uniformly by area."""
    a, b, c = surface.transpose(1, 0, 2)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    chosen = rng.choice(len(surface), size=n, p=area / area.sum())
    u, v = np.sqrt(rng.random((n, 1))), rng.random((n, 1))  # uniform on a triangle
    return (1 - u) * a[chosen] + u * (1 - v) * b[chosen] + u * v * c[chosen]
