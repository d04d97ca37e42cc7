"""Families of objects and the study that puts them to work: what the notebooks talk to."""

from fpnlib.families.digits import DIGITS
from fpnlib.families.faces import FACES
from fpnlib.families.family import FLOW_NAMES, Base, Family, Plug, Trained
from fpnlib.families.run import Run
from fpnlib.families.settings import FAMILIES
from fpnlib.families.shapes import SHAPES
from fpnlib.families.study import Study

__all__ = [
    "DIGITS",
    "FACES",
    "FAMILIES",
    "FLOW_NAMES",
    "SHAPES",
    "Base",
    "Family",
    "Plug",
    "Run",
    "Study",
    "Trained",
]
