"""Every figure of the project: pure functions from arrays or tensors to a matplotlib ``Figure``.

Colours are safe for the colour-blind (seaborn's "colorblind", cividis), and none carries a meaning
alone: classes are also numbered, lines also dashed, values also written. Each function draws within
``style()``, changes no global setting, and raises a ValueError of one line for arrays of the wrong
shape or with NaN.
"""

from fpnlib.plots.clouds import render, turntable
from fpnlib.plots.look import COLORS, style
from fpnlib.plots.molecules import asked_and_got, molecules
from fpnlib.plots.pictures import grid
from fpnlib.plots.planes import change_of_variables, deformations, densities, embedding, jacobians
from fpnlib.plots.schemas import SCHEMAS, schema
from fpnlib.plots.scores import confusion, confusions, latent_spread, posteriors, training_curves
from fpnlib.plots.tables import accuracies, attribute_scores, costs, spread, trade_off
