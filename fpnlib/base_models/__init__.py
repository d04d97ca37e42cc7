"""Base models, which stay frozen: autoencoders, and readers of the originals' checkpoints."""

from fpnlib.base_models.conv import ConditionalVAE, ConvAE, ConvVAE
from fpnlib.base_models.msp import MSP
from fpnlib.base_models.pointflow import PointFlow
from fpnlib.base_models.released import load_msp, load_pointflow
from fpnlib.base_models.selfies_vae import SelfiesVAE
