"""A stack of coupling layers in the compiled kernels; gates and all else that only the context decides come once."""

from __future__ import annotations

from typing import Any

from nflows.transforms import AffineCouplingTransform, BatchNorm
from torch import Tensor

from fpnlib.flows.coupling import pack, packable
from fpnlib.flows.stack import Layer, Stack, add_norm


class CouplingStack(Stack):
    """Affine coupling transforms and batch norms; trained as nflows does."""

    def _layers(self) -> list[Layer] | None:
        layers, widths = [], set()
        for transform in self._transforms:
            if isinstance(transform, AffineCouplingTransform) and packable(transform):
                net = transform.transform_net
                widths.add((transform.features, net.hidden_features, len(net.blocks)))
                layers.append(Layer(transform))
            elif not isinstance(transform, BatchNorm) or not add_norm(layers, transform):
                return None
        return layers if len(widths) == 1 else None

    def _make(self, layers: list[Layer], compiles: bool) -> tuple[Any, Tensor]:
        from fpnlib.flows.coupling_engine import CouplingEngine

        packed = [pack(layer.transform, layer.norm) for layer in layers]
        return CouplingEngine(packed), sum(net.gain.log().sum() for net, _ in packed)
