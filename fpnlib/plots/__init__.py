"""Every figure of the project: pure functions from arrays or tensors to a matplotlib ``Figure``.

Colours are safe for the colour-blind (seaborn's "colorblind", cividis), and none carries a meaning
alone: classes are also numbered, lines also dashed, values also written. Each function draws within
``style()``, changes no global setting, and raises a ValueError of one line for arrays of the wrong
shape or with NaN.
"""

from fpnlib.plots.clouds import render as render
from fpnlib.plots.clouds import turntable as turntable
from fpnlib.plots.look import COLORS as COLORS
from fpnlib.plots.look import style as style
from fpnlib.plots.molecules import asked_and_got as asked_and_got
from fpnlib.plots.molecules import molecules as molecules
from fpnlib.plots.pictures import grid as grid
from fpnlib.plots.planes import change_of_variables as change_of_variables
from fpnlib.plots.planes import deformations as deformations
from fpnlib.plots.planes import densities as densities
from fpnlib.plots.planes import embedding as embedding
from fpnlib.plots.planes import jacobians as jacobians
from fpnlib.plots.schemas import SCHEMAS as SCHEMAS
from fpnlib.plots.schemas import schema as schema
from fpnlib.plots.scores import confusion as confusion
from fpnlib.plots.scores import confusions as confusions
from fpnlib.plots.scores import latent_spread as latent_spread
from fpnlib.plots.scores import posteriors as posteriors
from fpnlib.plots.scores import training_curves as training_curves
from fpnlib.plots.tables import accuracies as accuracies
from fpnlib.plots.tables import attribute_scores as attribute_scores
from fpnlib.plots.tables import costs as costs
from fpnlib.plots.tables import spread as spread
from fpnlib.plots.tables import trade_off as trade_off
