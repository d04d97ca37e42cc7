"""Families of objects and the study that puts them to work: what the notebooks talk to."""

from fpnlib.families.digits import DIGITS as DIGITS
from fpnlib.families.faces import FACES as FACES
from fpnlib.families.family import FLOW_NAMES as FLOW_NAMES
from fpnlib.families.family import Base as Base
from fpnlib.families.family import Family as Family
from fpnlib.families.family import Plug as Plug
from fpnlib.families.family import Trained as Trained
from fpnlib.families.run import Run as Run
from fpnlib.families.settings import FAMILIES as FAMILIES
from fpnlib.families.shapes import SHAPES as SHAPES
from fpnlib.families.study import Study as Study
