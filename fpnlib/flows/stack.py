"""An nflows composite of layers that runs in the compiled kernels wherever they give the same, and as nflows elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from nflows.transforms import BatchNorm, CompositeTransform, Transform
from nflows.transforms.made import MaskedLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fpnlib.flows.compiled import compiled


class Layer:
    """A transform, the order of its inputs (None: as they are) and the batch norm after it, if any."""

    def __init__(self, transform: Transform, order: Tensor | None = None):
        self.transform, self.order, self.norm = transform, order, None

    @property
    def blocks(self) -> Any:
        net = getattr(self.transform, "autoregressive_net", None) or self.transform.transform_net
        return net.blocks


class Stack(CompositeTransform):
    """nflows' composite, with its numbers and its state dict; the subclasses know which layers the kernels know.

    What there is no shorter way for goes nflows' own: gradients of the inverse or of a batch norm, dropout at work,
    unknown networks. Gradients can be taken once, not gradients of gradients. Packed weights are kept until a parameter
    changes.
    """

    inverts_in_torch = False  # where the kernels can't

    def __init__(self, transforms: list[Transform]):
        super().__init__(transforms)
        self._packed: tuple[Any, Any] = (None, None)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_packed": (None, None)}

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(noise (n, D), log|det| (n,)) of data (n, D) under embedded contexts (n, C)."""
        layers = self._layers()
        if layers is None or context is None or len(inputs) == 0:
            return super().forward(inputs, context)
        if self._differentiates(inputs, context):
            train = self._trainer(layers, inputs, context) if self._has_plain_networks(layers) else super().forward
            return train(inputs, context)
        if not self._compiles(layers, inputs, context) or not self._is_fixed(layers):
            return super().forward(inputs, context)
        engine, constant = self._engine(layers)
        noise, logs = engine.forward(inputs, context)
        return noise, logs + constant

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(data (n, D), log|det| (n,)) of noise (n, D) under embedded contexts (n, C)."""
        layers = self._layers()
        if layers is None or context is None or len(inputs) == 0 or not self._is_fixed(layers):
            return super().inverse(inputs, context)
        compiles = self._compiles(layers, inputs, context)
        if not compiles and not self.inverts_in_torch:
            return super().inverse(inputs, context)
        if self._differentiates(inputs, context):
            return _Inverse.apply(self, inputs, context, *self.parameters())
        engine, constant = self._engine(layers, compiles)
        data, logs = engine.inverse(inputs, context)
        return data, -logs - constant

    def inverse_by_kind(self, noise: Tensor, contexts: Tensor, kind: Tensor) -> Tensor | None:
        """Data of noise (n, D) where row i has the embedded context contexts[kind[i]]; None: no shorter way."""
        layers = self._layers()
        if not self._compiles(layers, noise, contexts) or not self._is_fixed(layers):
            return None
        return self._engine(layers)[0].inverse_by_kind(noise, contexts, kind)

    def every_kind(self, inputs: Tensor, contexts: Tensor) -> tuple[Tensor, Tensor] | None:
        """(|noise|² (n, K), log|det| (n, K)) of every input under every embedded context; None: no shorter way."""
        layers = self._layers()
        if not self._compiles(layers, inputs, contexts) or not self._is_fixed(layers):
            return None
        engine, constant = self._engine(layers)
        squares, logs = engine.every_kind(inputs, contexts)
        return squares, logs + constant

    def _layers(self) -> list[Layer] | None:
        """The layers in turn, or None where something is among them that is not known here."""
        raise NotImplementedError

    def _make(self, layers: list[Layer], compiles: bool) -> tuple[Any, Tensor]:
        """What runs these layers, and the part of log|det| that no input changes."""
        raise NotImplementedError

    def _trainer(self, layers: list[Layer], inputs: Tensor, context: Tensor) -> Callable:
        """What runs the forward pass with gradients."""
        return super().forward

    def _compiles(
        self,
        layers: list[Layer] | None,
        *tensors: Tensor | None,
        precisions: tuple[torch.dtype, ...] = (torch.float32,),
    ) -> bool:
        """Whether the kernels are for this: known layers, all on the CPU and in one of these precisions."""
        if layers is None or any(tensor is None or len(tensor) == 0 for tensor in tensors):
            return False
        kinds = {(tensor.dtype, tensor.device.type) for tensor in (*tensors, next(self.parameters()))}
        return any(kinds == {(precision, "cpu")} for precision in precisions) and compiled()

    def _differentiates(self, *tensors: Tensor) -> bool:
        return torch.is_grad_enabled() and any(t.requires_grad for t in (*tensors, *self.parameters()))

    def _has_plain_networks(self, layers: list[Layer]) -> bool:
        """No batch norm anywhere, and no dropout at work."""
        return all(
            layer.norm is None
            and all(not block.use_batch_norm and not (self.training and block.dropout.p) for block in layer.blocks)
            for layer in layers
        )

    def _is_fixed(self, layers: list[Layer]) -> bool:
        """Whether the map is the same for every batch, as in eval mode."""
        return not self.training or self._has_plain_networks(layers)

    def _engine(self, layers: list[Layer], compiles: bool = True) -> tuple[Any, Tensor]:
        """``_make``, again when a parameter changed."""
        key = (compiles, *_fingerprint(_variable(self)))
        if self._packed[0] is None or key != self._packed[0]:
            with torch.no_grad():
                self._packed = key, self._make(layers, compiles)
        return self._packed[1]


def _variable(stack: nn.Module) -> list[Tensor]:
    """Its parameters and buffers, but for the masks, in one walk: ``parameters`` and ``buffers`` would take longer."""
    found = (
        part
        for module in stack.modules()
        for part in (module._parameters, {} if isinstance(module, MaskedLinear) else module._buffers)
    )
    return [tensor for part in found for tensor in part.values() if tensor is not None]


def _fingerprint(tensors: list[Tensor]) -> tuple:
    """Where the tensors are, autograd's count of their changes, and norms: fused optimizers change without counting."""
    norms = torch._foreach_norm([tensor.detach() for tensor in tensors if tensor.is_floating_point()])
    places = ((tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version) for tensor in tensors)
    return *places, *torch.stack(norms).tolist()


def add_norm(layers: list[Layer], norm: BatchNorm) -> bool:
    """Puts the batch norm behind the last layer; False where there is none, or one that has its own already."""
    if not layers or layers[-1].norm is not None:
        return False
    layers[-1].norm = norm
    return True


class _Inverse(torch.autograd.Function):
    """The inverse found the short way; its gradients, which few ask for, by nflows' D passes."""

    @staticmethod
    def forward(ctx, stack, inputs, context, *parameters):
        ctx.stack = stack
        ctx.save_for_backward(inputs, context)
        return stack.inverse(inputs, context)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        inputs, context = (tensor.detach().requires_grad_() for tensor in ctx.saved_tensors)
        parameters = list(ctx.stack.parameters())
        wanted = ctx.needs_input_grad[1:]
        with torch.enable_grad():
            outputs = CompositeTransform.inverse(ctx.stack, inputs, context)
            of = [t for t, needed in zip((inputs, context, *parameters), wanted, strict=True) if needed]
            found = iter(torch.autograd.grad(outputs, of, gradients, allow_unused=True))
        return None, *(next(found) if needed else None for needed in wanted)
