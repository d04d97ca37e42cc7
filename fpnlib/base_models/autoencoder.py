"""What a base model is: anything that encodes to latents and decodes back (paper, section 3.1)."""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Autoencoder(Protocol):
    """The E and D of the paper. A plugin never trains them and needs to know nothing else about them."""

    latent_dim: int

    def encode(self, x: Tensor) -> Tensor:
        """Latents (n, latent_dim) of objects (n, ...)."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Objects (n, ...) of latents (n, latent_dim)."""
        ...
