"""A stack of coupling layers in the compiled kernels; gates and all else that only the context decides come once."""

from __future__ import annotations

from typing import Any

from nflows.transforms import AffineCouplingTransform, BatchNorm

from fpnlib.flows.coupling_weights import pack, packable
from fpnlib.flows.stack import Layer, Stack, add_norm


class CouplingStack(Stack):
    """Affine coupling transforms and batch norms; trained as nflows does."""

    def _layers(self) -> list[Layer] | None:
        layers = []
        for transform in self._transforms:
            if isinstance(transform, AffineCouplingTransform) and packable(transform):
                layers.append(Layer(transform, transform.transform_net))
            elif not isinstance(transform, BatchNorm) or not add_norm(layers, transform):
                return None
        return layers if len({layer.widths for layer in layers}) == 1 else None

    def _pack(self, layer: Layer) -> tuple[Any, Any]:
        return pack(layer.transform, layer.norm)

    def _kernels(self, layers: list[Layer]) -> tuple[str, str]:
        return "coupling_engine", "CouplingEngine"
