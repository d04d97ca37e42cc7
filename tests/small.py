"""The settings of small.yaml, as parameters of a notebook."""

from pathlib import Path

from fpnlib.families.profiles import read_profile
from fpnlib.runs.plan import parameters
from fpnlib.store import PROJECT

PARAMETERS, GROUPS = read_profile(Path(__file__).with_name("small.yaml"))


def small(*names: str) -> dict:
    """Those that the notebooks of these names have."""
    declared = set()
    for name in names:
        declared |= parameters(PROJECT / "notebooks" / f"{name}.ipynb").keys()
    sizes = []
    for family, settings in GROUPS.items():
        sizes += [f"{family}.{name}={value}" for name, value in settings.items()]
    values = PARAMETERS | {"override": " ".join(sizes)}
    return {name: value for name, value in values.items() if name in declared}
