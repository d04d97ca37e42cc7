"""Conditional normalizing flows p(z | y): nflows' (section 5.1.1 of the paper) and zuko's."""

from collections.abc import Callable
from typing import Any

from fpnlib import checks
from fpnlib.flows.builders import conditional_maf, conditional_realnvp, conditional_spline
from fpnlib.flows.conditional import ConditionalFlow

FLOWS: dict[str, Callable[..., ConditionalFlow]] = {
    "maf": conditional_maf,
    "realnvp": conditional_realnvp,
    "spline": conditional_spline,
}


def build_flow(name: str, features: int, context_features: int, **settings: Any) -> ConditionalFlow:
    """Build the flow called ``name``.

    Args:
        name: "maf", "realnvp" or "spline".
        features: width D of the data.
        context_features: width C of the contexts.
        settings: those of ``conditional_maf``, ``conditional_realnvp`` or ``conditional_spline``.

    Raises:
        ValueError: an unknown name.

    >>> build_flow("realnvp", features=4, context_features=3, num_layers=2).features
    4
    """
    checks.known("flow", name, FLOWS)
    return FLOWS[name](features, context_features, **settings)
