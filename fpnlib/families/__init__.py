"""Families of objects and the study that puts them to work: what the notebooks talk to.

A name is imported when it is first asked for, because a process that needs one needs few others.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fpnlib.families.digits import DIGITS
    from fpnlib.families.faces import FACES
    from fpnlib.families.family import FLOW_NAMES, Base, Family, Plug, Trained
    from fpnlib.families.molecules import MOLECULES
    from fpnlib.families.settings import FAMILIES
    from fpnlib.families.shapes import SHAPES
    from fpnlib.families.study import Study
    from fpnlib.store.run import Run

_MODULES = dict.fromkeys(("FLOW_NAMES", "Base", "Family", "Plug", "Trained"), "families.family")
_MODULES |= {"DIGITS": "families.digits", "FACES": "families.faces", "SHAPES": "families.shapes"}
_MODULES["MOLECULES"] = "families.molecules"
_MODULES |= {"FAMILIES": "families.settings", "Study": "families.study", "Run": "store.run"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"fpnlib.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_MODULES)
