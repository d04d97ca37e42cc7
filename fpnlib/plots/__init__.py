"""Every figure of the project: pure functions from arrays or tensors to a matplotlib ``Figure``.

Colours are safe for the colour-blind (seaborn's "colorblind", cividis), and none carries a meaning alone: classes are
also numbered, lines also dashed, values also written. Each function draws within ``style()``, changes no global
setting, and raises a ValueError of one line for arrays of the wrong shape or with NaN.
"""

from fpnlib.plots.faces import attribute_scores, face_grid
from fpnlib.plots.images import compare_grids, image_grid, posteriors
from fpnlib.plots.look import COLORS, style
from fpnlib.plots.planes import change_of_variables, densities, embedding, grids, jacobians
from fpnlib.plots.point_clouds import cloud_grid, render
from fpnlib.plots.schemas import SCHEMAS, schema
from fpnlib.plots.scores import (
    accuracies,
    confusion,
    confusions,
    costs,
    latent_spread,
    trade_off,
    training_curves,
)
from fpnlib.plots.spread import spread
from fpnlib.plots.turntable import turntable

__all__ = [
    "COLORS",
    "SCHEMAS",
    "accuracies",
    "attribute_scores",
    "change_of_variables",
    "cloud_grid",
    "compare_grids",
    "confusion",
    "confusions",
    "costs",
    "densities",
    "embedding",
    "face_grid",
    "grids",
    "image_grid",
    "jacobians",
    "latent_spread",
    "posteriors",
    "render",
    "schema",
    "spread",
    "style",
    "trade_off",
    "training_curves",
    "turntable",
]
