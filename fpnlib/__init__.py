"""Flow Plugin Networks: a conditional flow p(z | y) on a frozen autoencoder's latents generates, classifies and edits."""

__version__ = "0.1.0"
