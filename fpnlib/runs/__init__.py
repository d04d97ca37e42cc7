"""Runs notebooks headlessly with papermill, each in a process of its own, into one run's folder.

A run resumes: a notebook that is finished with the same code, parameters and library, and whose
files are as it left them, is not executed again.
"""

from fpnlib.runs.engine import CellError, Limits
from fpnlib.runs.execute import run
from fpnlib.runs.plan import fan_out, parameters, plan, read_profile

__all__ = ["CellError", "Limits", "fan_out", "parameters", "plan", "read_profile", "run"]
