"""The frozen halves: autoencoders that a flow plugs into."""

from fpnlib import checks
from fpnlib.base_models.autoencoder import Autoencoder
from fpnlib.base_models.conv import ConvAE, ConvVAE
from fpnlib.base_models.msp import MSP
from fpnlib.base_models.pointflow import PointFlow
from fpnlib.base_models.pointflow_released import load_released

BASE_MODELS = {"ConvVAE": ConvVAE, "ConvAE": ConvAE, "MSP": MSP, "PointFlow": PointFlow}


def build_base_model(name: str, **settings) -> Autoencoder:
    """The base model called ``name``, untrained. Raises ValueError, with the nearest name, if there is none."""
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
    "load_released",
]
