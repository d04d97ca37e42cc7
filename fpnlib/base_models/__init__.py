"""Base models, which stay frozen: autoencoders, and readers of the originals' checkpoints."""

from typing import Any

from fpnlib import checks
from fpnlib.base_models.autoencoder import Autoencoder
from fpnlib.base_models.conv import ConvAE, ConvVAE
from fpnlib.base_models.msp import MSP
from fpnlib.base_models.pointflow import PointFlow
from fpnlib.base_models.released import load_msp, load_pointflow

BASE_MODELS = {"ConvVAE": ConvVAE, "ConvAE": ConvAE, "MSP": MSP, "PointFlow": PointFlow}


def build_base_model(name: str, **settings: Any) -> Autoencoder:
    """The untrained base model called ``name``.

    Raises ValueError, with the nearest name, for an unknown one.
    """
    if name not in BASE_MODELS:
        raise checks.unknown("base model", name, BASE_MODELS)
    return BASE_MODELS[name](**settings)


__all__ = [
    "BASE_MODELS",
    "MSP",
    "Autoencoder",
    "ConvAE",
    "ConvVAE",
    "PointFlow",
    "build_base_model",
    "load_msp",
    "load_pointflow",
]
