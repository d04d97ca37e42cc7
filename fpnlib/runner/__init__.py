"""Running notebooks headlessly with papermill, each in a process of its own, into one run's folder.

A run is taken up where it stopped: a notebook that is finished with the same code, parameters and library, and whose
files are as it left them, is not executed again.
"""

from fpnlib.runner.engine import CellError, Limits
from fpnlib.runner.execute import run
from fpnlib.runner.plan import fan_out, fitting, parameters, plan, read_profile, refuse_unknown, select

__all__ = [
    "CellError",
    "Limits",
    "fan_out",
    "fitting",
    "parameters",
    "plan",
    "read_profile",
    "refuse_unknown",
    "run",
    "select",
]
