"""Drawn faces: portraits whose attributes are known exactly, a stand-in for CelebA that needs no download.

Twenty-one attributes carry CelebA's names and hang together much as CelebA's do; sixteen things that no attribute tells
(pose, skin, the shape of the face, the colours around it) vary freely, and show in every face. A face is drawn from the two,
so what an edit ought to give is known: the same face drawn again with other attributes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from fpnlib import checks
from fpnlib.data.dataset import Dataset
from fpnlib.data.drawn import portrait

SIZE = 64
DRAWING = 3  # to be raised when a face is drawn differently: it is part of the checksum
# The log-odds of each attribute, and what the ones before it add to them where they hold.
LOG_ODDS = {
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
# How frequent each colour of hair is, of the young and of others; what remains is red, which no attribute names.
COLORS = {
    "Black_Hair": (0.30, 0.16),
    "Blond_Hair": (0.22, 0.14),
    "Brown_Hair": (0.30, 0.18),
    "Gray_Hair": (0.04, 0.42),
}
ATTRIBUTES = tuple(sorted({*LOG_ODDS, *COLORS}))
VARIATION = (
    *(
        "x",
        "y",
        "size",
        "tilt",
        "turn",
        "gaze",
        "width",
        "height",
        "skin",
        "eyes",
        "eye_spacing",
        "brows",
        "mouth_width",
    ),
    *("hair", "clothes_hue", "background_hue"),
)


@dataclass(frozen=True)
class DrawnFaces:
    """A split of faces: their attributes ``y`` (n, 21), 0 or 1, and their ``variation`` (n, 16) in [-1, 1]."""

    y: Tensor
    variation: Tensor

    def __len__(self) -> int:
        return len(self.y)

    @cached_property
    def x(self) -> Tensor:
        """The faces, (n, 3, 64, 64), float32 in [0, 1]; drawn when they are first asked for, 2 ms each."""
        return draw(self.y, self.variation)

    def first(self, n: int) -> DrawnFaces:
        """The first n of them, or all where there are fewer."""
        return DrawnFaces(self.y[:n], self.variation[:n]) if n < len(self) else self


def load_drawn_faces(
    seed: int = 0, train: int = 20_000, validation: int = 1_000, test: int = 1_000
) -> Dataset:
    """Drawn faces: a dataset whose splits are :class:`DrawnFaces` and whose classes are 21 attributes by CelebA's names.

    No two splits share a face, whatever their sizes.
    """
    sizes = [
        checks.positive(name, n)
        for name, n in (("train", train), ("validation", validation), ("test", test))
    ]
    described = [describe(n, np.random.default_rng([seed, split])) for split, n in enumerate(sizes)]
    digest = hashlib.sha256(f"drawing {DRAWING}".encode())
    for (
        y,
        variation,
    ) in (
        described
    ):  # numbers that are drawn alike everywhere, where pixels may differ in a last digit
        digest.update(y.numpy().tobytes() + variation.numpy().tobytes())
    return Dataset(
        "drawn_faces", *(DrawnFaces(*split) for split in described), ATTRIBUTES, digest.hexdigest()
    )


def describe(n: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Attributes (n, 21), int64, and free variation (n, 16), float32 in [-1, 1], of n faces to draw."""
    has: dict[str, np.ndarray] = {}
    for name, (log_odds, effects) in LOG_ODDS.items():
        log_odds = log_odds + sum(effect * has[other] for other, effect in effects.items())
        has[name] = rng.random(n) < 1 / (1 + np.exp(-log_odds))
    has["Bangs"] &= ~has["Bald"]
    frequencies = np.where(has["Young"], *np.transpose(list(COLORS.values()))[..., None])
    color = (rng.random(n) > frequencies.cumsum(0)).sum(0)
    has |= {name: (color == k) & ~has["Bald"] for k, name in enumerate(COLORS)}
    y = np.stack([has[name] for name in ATTRIBUTES], axis=1)
    return torch.from_numpy(y).long(), torch.from_numpy(
        rng.uniform(-1, 1, (n, len(VARIATION)))
    ).float()


def draw(y: Tensor, variation: Tensor, batch_size: int = 64) -> Tensor:
    """The faces (n, 3, 64, 64), float32 in [0, 1], that attributes (n, 21) and free variation (n, 16) describe.

    Attributes may lie between 0 and 1: half a smile, hair between two colours.

    Raises:
        ValueError: other shapes, attributes outside [0, 1], or a variation outside [-1, 1].
    """
    for name, values, low, columns in (
        ("y", y, 0, ATTRIBUTES),
        ("variation", variation, -1, VARIATION),
    ):
        if values.ndim != 2 or values.shape[1] != len(columns):
            raise ValueError(
                f"{name} must have shape (n, {len(columns)}), got {tuple(values.shape)}"
            )
        if not ((values >= low) & (values <= 1)).all():
            raise ValueError(
                f"{name} must lie in [{low}, 1], got values from {values.min():g} to {values.max():g}"
            )
    checks.same_length(y, variation, ("y", "variation"))
    batches = list(zip(y.split(batch_size), variation.split(batch_size)))
    return torch.cat(
        [
            portrait.draw(dict(zip(ATTRIBUTES, a.T)), dict(zip(VARIATION, v.T)), SIZE)
            for a, v in tqdm(
                batches, desc="drawing faces", unit="batch", leave=False, disable=len(batches) < 20
            )
        ]
    )


def difference(x: Tensor, other: Tensor, threshold: float = 0.02) -> Tensor:
    """Where two drawings (n, 3, 64, 64) of the same faces differ by more than an eye would see: bool, (n, 64, 64)."""
    return ((x - other).abs() > threshold).any(1)
