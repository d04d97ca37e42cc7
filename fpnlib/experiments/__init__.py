"""The steps that notebooks share: a run, and per family of objects its base models, latents, plugins and scores."""

from fpnlib.experiments.digits import (
    FLOW_NAMES,
    Latents,
    base_model,
    baseline,
    encode,
    flow_plugin,
    generators,
    judge,
    latents,
    plugin_name,
    score_generator,
    score_plugin,
)
from fpnlib.experiments.run import Run, side_by_side

__all__ = [
    "FLOW_NAMES",
    "Latents",
    "Run",
    "base_model",
    "baseline",
    "encode",
    "flow_plugin",
    "generators",
    "judge",
    "latents",
    "plugin_name",
    "score_generator",
    "score_plugin",
    "side_by_side",
]
