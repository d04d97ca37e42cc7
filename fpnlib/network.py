"""``FlowPluginNetwork``: a frozen base model joined to a plugin (sections 3.3 to 3.5)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fpnlib.base_models import Autoencoder
from fpnlib.plugin import FlowPlugin

BATCH = 1024  # objects that go through the base model together: bounds the memory


class FlowPluginNetwork(nn.Module):
    """A frozen base model joined to a plugin: a conditional generator, a classifier and an editor.

    The network moves inputs to the device and the floating type of the base model's weights.

    Args:
        base: an object with ``encode``, ``decode`` and ``latent_dim``. The network turns its
            gradients off and keeps it in eval mode, so that not one bit of it changes.
        plugin: a ``FlowPlugin`` of the same latent_dim.

    Raises:
        TypeError: a base model without one of the three.
        ValueError: another latent_dim.

    Examples:
        >>> from fpnlib.base_models import ConvAE
        >>> from fpnlib.conditions import Classes
        >>> _ = torch.manual_seed(0)
        >>> x, y = torch.rand(40, 1, 28, 28), torch.arange(40) % 2
        >>> plugin = FlowPlugin(4, Classes(["cat", "dog"]), hidden_features=8, num_layers=2)
        >>> network = FlowPluginNetwork(ConvAE(latent_dim=4), plugin)
        >>> _ = network.plugin.fit(network.base.encode(x), y, epochs=2)
        >>> network.generate("cat", n=3).shape
        torch.Size([3, 1, 28, 28])
        >>> network.classify(x).shape
        torch.Size([40])
        >>> network.edit(x, y, "dog").shape
        torch.Size([40, 1, 28, 28])
    """

    def __init__(self, base: Autoencoder, plugin: FlowPlugin):
        super().__init__()
        for name in ("encode", "decode", "latent_dim"):
            if not hasattr(base, name):
                raise TypeError(
                    "a base model needs encode, decode and latent_dim;"
                    f" {type(base).__name__} has no {name}"
                )
        if base.latent_dim != plugin.latent_dim:
            raise ValueError(
                "base and plugin must share latent_dim,"
                f" got {base.latent_dim} and {plugin.latent_dim}"
            )
        self.base, self.plugin = base, plugin
        if isinstance(base, nn.Module):
            base.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> FlowPluginNetwork:
        """Set the plugin's mode; the base model stays in eval mode."""
        super().train(mode)
        if isinstance(self.base, nn.Module):
            self.base.eval()
        return self

    def generate(
        self, y: object, n: int = 1, *, temperature: float = 1.0, seed: int | None = None
    ) -> Tensor:
        """``n`` new objects for each label (section 3.3); arguments as in ``FlowPlugin.sample``."""
        z = self.plugin.sample(y, n, temperature=temperature, seed=seed)
        return self._batched(self.base.decode, z)

    def classify(self, x: Tensor, prior: str | Tensor = "flat") -> Tensor:
        """The most probable class (n,) of each object x (n, …), an int64 index (eq. 17)."""
        return self.plugin.predict(self._batched(self.base.encode, x), prior)

    def reconstruct(self, x: Tensor) -> Tensor:
        """decode(encode(x)), without the plugin."""
        return self._batched(self.base.decode, self._batched(self.base.encode, x))

    def edit(self, x: Tensor, y: object, to: object) -> Tensor:
        """Change the labels of objects and keep their noise (section 3.5).

        Args:
            x: objects (n, …).
            y: their labels.
            to: for classes, a class or one for each object; for attributes, edits by name
                (``"+Smiling -Eyeglasses"``), by value (``"Smiling=0.5"``, ``{"Smiling": 0.5}``), or
                values (n, A) or (A,).

        Returns:
            The edited objects (n, …).
        """
        noise = self.plugin.to_noise(self._batched(self.base.encode, x), y)
        z = self.plugin.from_noise(noise, self.plugin.condition.edited(y, to))
        return self._batched(self.base.decode, z)

    @torch.no_grad()
    def _batched(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            return function(x)
        parts = [function(self._placed(part)) for part in x.split(BATCH)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _placed(self, x: Tensor) -> Tensor:
        """``x`` on the device and in the floating type of the base model's weights."""
        weights = self.base.parameters() if isinstance(self.base, nn.Module) else ()
        for weight in weights:
            if weight.is_floating_point():
                dtype = weight.dtype if x.is_floating_point() else x.dtype
                return x.to(weight.device, dtype)
        return x
