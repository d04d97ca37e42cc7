"""The protocol of a base model: whatever encodes to latents and decodes back (section 3.1)."""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Autoencoder(Protocol):
    """The paper's E and D. A plugin never trains them.

    A model whose encoder gives a distribution also has ``posterior(x)``: mean and standard
    deviation, each (n, latent_dim). Then ``encode`` gives the means.
    """

    latent_dim: int

    def encode(self, x: Tensor) -> Tensor:
        """Latents (n, latent_dim) of objects x (n, …)."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Objects (n, …) of latents z (n, latent_dim)."""
        ...
