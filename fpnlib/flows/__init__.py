"""Conditional normalizing flows p(z | y), assembled from nflows 0.14 (section 5.1.1 of the paper)."""

from typing import Any

from fpnlib import checks
from fpnlib.flows.conditional import ConditionalFlow
from fpnlib.flows.maf import conditional_maf
from fpnlib.flows.realnvp import conditional_realnvp

FLOWS = {"maf": conditional_maf, "realnvp": conditional_realnvp}


def build_flow(name: str, features: int, context_features: int, **settings: Any) -> ConditionalFlow:
    """The flow called ``name`` ("maf" or "realnvp") on vectors (features,) given contexts (context_features,).

    ``settings`` are those of ``conditional_maf``. Raises ValueError for a name that is not known.
    """
    if name not in FLOWS:
        raise checks.unknown("flow", name, FLOWS)
    return FLOWS[name](features, context_features, **settings)


__all__ = ["FLOWS", "ConditionalFlow", "build_flow", "conditional_maf", "conditional_realnvp"]
