"""The transform that ``accelerate`` puts in the place of nflows' own."""

from collections.abc import Iterable
from operator import attrgetter
from typing import Any, Self

import numba
import torch
from nflows.transforms import BatchNorm, CompositeTransform
from torch import Tensor, nn

from fpnlib.flows.engine.numba_path import NumbaPath
from fpnlib.flows.engine.torch_path import TorchPath
from fpnlib.flows.engine.training import forward_with_gradients
from fpnlib.flows.engine.weights import Layer, find_layers, pack

WIDE = 512  # hidden units from which torch's large products outrun the kernel's forward direction
FEW = 64  # samples for which they do not


class FastMAF(CompositeTransform):  # type: ignore[misc]
    """nflows' composite of masked autoregressive layers: the same parameters and numbers, faster.

    Args:
        transforms: permutations, masked affine autoregressive transforms and batch norms.

    Raises:
        ValueError: transforms that the engine does not know.
    """

    def __init__(self, transforms: Iterable[nn.Module]):
        super().__init__(transforms)
        made = self._layers()[0].transform.autoregressive_net
        self._features = made.initial_layer.in_features
        self._context_features = made.context_layer.in_features
        self._units = made.initial_layer.out_features
        self._has_norms = any(isinstance(m, (BatchNorm, nn.BatchNorm1d)) for m in self.modules())
        self._drop()

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return (noise (n, D), log|det| (n,)) of data (n, D) under contexts (n, C)."""
        if context is None or not len(inputs):
            return super().forward(inputs, context)
        self._check(inputs, context)
        if self._needs_gradients(inputs, context):
            self._drop()  # an optimizer may follow; a fused one does not count as a change in place
            if not self._has_norms:
                return forward_with_gradients(self._layers(), inputs, context)
        elif self._is_fixed() and self._forward_pays(inputs, context):
            return self._packed(NumbaPath).forward(inputs, context)
        return super().forward(inputs, context)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return (data (n, D), log|det| (n,)) of noise (n, D) under contexts (n, C)."""
        if context is None or not len(inputs):
            return super().inverse(inputs, context)
        self._check(inputs, context)
        if self._needs_gradients(inputs, context):
            self._drop()
            return super().inverse(inputs, context)
        if not self._is_fixed():
            return super().inverse(inputs, context)
        path = NumbaPath if self._suits_numba(inputs, context) else TorchPath
        return self._packed(path).inverse(inputs, context)

    @torch.no_grad()
    def forward_each(self, inputs: Tensor, contexts: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return squared lengths of the noise and log|det|, (n, K) both, for data under K contexts.

        None means that there is no fast path for these tensors, or that dropout or batch norm is
        at work.
        """
        self._check(inputs, contexts, paired=False)
        if not len(inputs) or not self._is_fixed() or not self._forward_pays(inputs, contexts):
            return None
        return self._packed(NumbaPath).forward_each(inputs, contexts)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; training mode drops the packed weights."""
        if mode:
            self._drop()
        return super().train(mode)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self._drop()
        super()._load_from_state_dict(*arguments)

    def _apply(self, *arguments: Any, **settings: Any) -> Self:
        self._drop()  # another device or floating type
        return super()._apply(*arguments, **settings)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_path": None, "_watched": []}

    def _layers(self) -> list[Layer]:
        layers = find_layers(self._transforms)
        if layers is None:
            raise ValueError("FastMAF needs masked affine autoregressive transforms of one shape")
        return layers

    def _drop(self) -> None:
        self._path: Any = None
        self._watched: list[Tensor] = []
        self._version = 0

    @torch.no_grad()
    def _packed(self, kind: Any) -> Any:
        """Return the weights packed for a path, packed again after a change in place."""
        if type(self._path) is kind and self._version == _version(self._watched):
            return self._path
        path = kind(pack(self._layers()))
        if not self.training:
            statistics = [t for name, t in self.named_buffers() if "running" in name]
            self._path = path
            self._watched = [t for t in (*self.parameters(), *statistics) if not t.is_inference()]
            self._version = _version(self._watched)
        return path

    def _check(self, inputs: Tensor, context: Tensor, paired: bool = True) -> None:
        """Raise ValueError for other shapes than the layers': the kernel does not check indices."""
        widths = {
            "inputs": (inputs, self._features),
            "context": (context, self._context_features),
        }
        for name, (tensor, width) in widths.items():
            if tensor.ndim != 2 or tensor.shape[1] != width:
                raise ValueError(f"{name} must have shape (n, {width}), got {tuple(tensor.shape)}")
        if paired and len(inputs) != len(context):
            lengths = f"{len(inputs)} and {len(context)}"
            raise ValueError(f"inputs and context must have the same length, got {lengths}")

    def _needs_gradients(self, inputs: Tensor, context: Tensor) -> bool:
        if not torch.is_grad_enabled():
            return False
        return any(t.requires_grad for t in (inputs, context, *self.parameters()))

    def _is_fixed(self) -> bool:
        """Whether every sample is transformed alone and without noise, as always in eval mode."""
        if not self.training:
            return True
        dropout = any(isinstance(module, nn.Dropout) and module.p for module in self.modules())
        return not self._has_norms and not dropout

    def _forward_pays(self, inputs: Tensor, context: Tensor) -> bool:
        """Whether the kernel's forward direction is faster than nflows' layers."""
        small = self._units < WIDE or len(inputs) <= FEW
        return small and self._suits_numba(inputs, context)

    def _suits_numba(self, *tensors: Tensor) -> bool:
        """Whether numba compiles, and all tensors are float32 on the CPU."""
        weight = next(self.parameters())
        kinds = {(tensor.dtype, tensor.device.type) for tensor in (weight, *tensors)}
        return kinds == {(torch.float32, "cpu")} and not numba.config.DISABLE_JIT


def _version(tensors: list[Tensor]) -> int:
    """The number of changes in place so far, as torch counts them."""
    return sum(map(attrgetter("_version"), tensors))
