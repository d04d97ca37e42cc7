"""Drawn faces: portraits whose attributes are known exactly, a stand-in for CelebA offline.

The 21 attributes carry CelebA's names and correlate much as CelebA's do. The 16 variations (pose,
skin, the shape of the face, the colours around it) are independent of the attributes and show in
every face. A face is drawn from its attributes and its variations. So the right result of an edit
is known: the same variations drawn with other attributes.
"""

import hashlib

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from fpnlib import checks
from fpnlib.data.dataset import Dataset, Split
from fpnlib.data.drawn import portrait
from fpnlib.data.files import Root

SIZE = 64
DRAWING = 3  # part of the checksum; raise it when a face is drawn differently
# The log-odds of each attribute, and what each earlier attribute adds to them.
LOG_ODDS: dict[str, tuple[float, dict[str, float]]] = {
    "Male": (-0.2, {}),
    "Young": (0.9, {"Male": -0.4}),
    "Bald": (-3.6, {"Male": 2.4, "Young": -1.0}),
    "Wearing_Hat": (-2.4, {"Male": 0.6}),
    "Bangs": (-0.8, {"Male": -1.2}),
    "Smiling": (0.2, {"Male": -0.4}),
    "Mouth_Slightly_Open": (-0.8, {"Smiling": 1.6}),
    "Eyeglasses": (-1.9, {"Male": 0.7, "Young": -0.6}),
    "Wearing_Lipstick": (0.5, {"Male": -3.4, "Young": 0.4}),
    "Wearing_Earrings": (-0.4, {"Male": -2.2}),
    "Rosy_Cheeks": (-1.6, {"Male": -1.6, "Wearing_Lipstick": 1.0}),
    "Big_Nose": (-1.2, {"Male": 1.1, "Young": -0.6}),
    "Bushy_Eyebrows": (-1.8, {"Male": 1.6}),
    "Narrow_Eyes": (-1.5, {"Smiling": 0.6}),
    "Mustache": (-4.8, {"Male": 3.9, "Young": -0.4}),
    "Goatee": (-4.9, {"Male": 3.9, "Mustache": 1.0}),
    "Pale_Skin": (-1.6, {"Male": -0.6}),
}
# Frequencies of the colours of hair, of the young and of others. The rest has red hair, which no
# attribute names.
COLORS = {
    "Black_Hair": (0.30, 0.16),
    "Blond_Hair": (0.22, 0.14),
    "Brown_Hair": (0.30, 0.18),
    "Gray_Hair": (0.04, 0.42),
}
ATTRIBUTES: tuple[str, ...] = tuple(sorted({*LOG_ODDS, *COLORS}))
# fmt: off
VARIATION = (
    "x", "y", "size", "tilt", "turn", "gaze", "width", "height", "skin", "eyes", "eye_spacing",
    "brows", "mouth_width", "hair", "clothes_hue", "background_hue",
)
# fmt: on


def load_drawn_faces(
    root: Root = None,
    seed: int = 0,
    download: bool = False,
    *,
    train: int = 20_000,
    validation: int = 1_000,
    test: int = 1_000,
) -> Dataset:
    """Load drawn faces: x (n, 3, 64, 64) and attributes y (n, 21), 0 or 1.

    ``extra["variation"]`` (n, 16), in [-1, 1], is what else a face is drawn from.
    The faces of a split are drawn when they are first needed, 2 ms each. No two splits share a
    face.

    Args:
        root: not used; the faces are drawn.
        seed: of the faces; those of a split do not depend on the sizes of the others.
        download: not used.
        train: size of this split.
        validation: size of this split.
        test: size of this split.

    >>> dataset = load_drawn_faces()
    >>> dataset.test.first(2).x.shape
    torch.Size([2, 3, 64, 64])
    """
    sizes = {"train": train, "validation": validation, "test": test}
    splits, digest = {}, hashlib.sha256(f"drawing {DRAWING}".encode())
    for k, (name, n) in enumerate(sizes.items()):
        y, variation = _describe(checks.positive(name, n), np.random.default_rng([seed, k]))
        splits[name] = Split(draw, y, {"variation": variation})
        # These numbers are the same on every machine; the last digits of pixels may differ.
        digest.update(y.numpy().tobytes() + variation.numpy().tobytes())
    return Dataset("drawn_faces", **splits, classes=ATTRIBUTES, checksum=digest.hexdigest())


def draw(y: Tensor, variation: Tensor, batch_size: int = 64) -> Tensor:
    """Draw the faces of attributes (n, 21) and variations (n, 16).

    Attributes may lie between 0 and 1: half a smile, hair between two colours.

    Returns:
        Images (n, 3, 64, 64), float32 in [0, 1].

    Raises:
        ValueError: other shapes, attributes outside [0, 1], or variations outside [-1, 1].
    """
    _check_range("y", y, 0, len(ATTRIBUTES))
    _check_range("variation", variation, -1, len(VARIATION))
    checks.same_length(y, variation, ("y", "variation"))
    batches = list(zip(y.split(batch_size), variation.split(batch_size)))
    hidden = True if len(batches) < 20 else None  # None: not into a file
    bar = tqdm(batches, desc="drawing faces", unit="batch", leave=False, disable=hidden)
    parts = []
    for attributes, variations in bar:
        named = dict(zip(ATTRIBUTES, attributes.T)), dict(zip(VARIATION, variations.T))
        parts.append(portrait.draw(*named, SIZE))
    return torch.cat(parts)


def _describe(n: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Attributes (n, 21), int64, and variations (n, 16), float32 in [-1, 1], of n random faces."""
    has: dict[str, np.ndarray] = {}
    for name, (base, effects) in LOG_ODDS.items():
        log_odds = np.full(n, base)
        for other, effect in effects.items():
            log_odds += effect * has[other]
        has[name] = rng.random(n) < 1 / (1 + np.exp(-log_odds))
    has["Bangs"] &= ~has["Bald"]
    young, others = np.transpose(list(COLORS.values()))[..., None]
    frequencies = np.where(has["Young"], young, others)
    color = (rng.random(n) > frequencies.cumsum(0)).sum(0)
    for k, name in enumerate(COLORS):
        has[name] = (color == k) & ~has["Bald"]
    y = np.stack([has[name] for name in ATTRIBUTES], axis=1)
    variation = rng.uniform(-1, 1, (n, len(VARIATION)))
    return torch.from_numpy(y).long(), torch.from_numpy(variation).float()


def _check_range(name: str, values: Tensor, low: int, columns: int) -> None:
    checks.array(values, ("n", columns), name)
    if not ((values >= low) & (values <= 1)).all():
        raise ValueError(f"{name} must lie in [{low}, 1], got {values.min():g} to {values.max():g}")
