"""An nflows composite of layers that runs in the compiled kernels wherever they give the same, and as nflows elsewhere."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

import torch
from nflows.transforms import BatchNorm, CompositeTransform, Transform
from nflows.transforms.made import MaskedLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fpnlib import checks
from fpnlib.flows.compiled import compiled
from fpnlib.flows.settings import check_rows
from fpnlib.flows.threads import in_pieces

ROWS = 1024  # rows that go nflows' way together on the CPU


class Widths(NamedTuple):
    """Of the data, the context and the hidden layers, and the number of blocks."""

    features: int
    context: int
    units: int
    blocks: int


class Layer:
    """A transform, its network, the order of its inputs (None: as they are) and the batch norm after it, if any."""

    def __init__(self, transform: Transform, network: nn.Module, order: Tensor | None = None):
        self.transform, self.network, self.order, self.norm = transform, network, order, None

    @property
    def widths(self) -> Widths:
        given = self.network.blocks[0].context_layer
        return Widths(
            self.transform.features, given.in_features, given.out_features, len(self.network.blocks)
        )


class Stack(CompositeTransform):
    """nflows' composite, with its numbers and its state dict; the subclasses know which layers the kernels know.

    What there is no shorter way for goes nflows' own: gradients of the inverse or of a batch norm, dropout at work,
    unknown networks. Gradients can be taken once, not gradients of gradients. Packed weights are kept until a parameter
    changes.

    Raises:
        ValueError: inputs or contexts of another width than the layers', or not one context for each input.
    """

    def __init__(self, transforms: list[Transform]):
        super().__init__(transforms)
        self._packed: tuple[Any, Any] = (None, None)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_packed": (None, None)}

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(noise (n, D), log|det| (n,)) of data (n, D) under embedded contexts (n, C)."""
        layers = self._known(inputs, context)
        if layers is None:
            return super().forward(inputs, context)
        if self._differentiates(inputs, context):
            train = (
                self._trainer(layers, inputs, context) if self._has_plain_networks(layers) else None
            )
            return (train or super().forward)(inputs, context)
        if not self._is_fixed(layers):
            return super().forward(inputs, context)
        if (make := self._compiled(layers, inputs, context)) is None:
            return in_pieces(super().forward, _rows(inputs), inputs, context)
        return self._engine(make, layers).forward(inputs, context)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(data (n, D), log|det| (n,)) of noise (n, D) under embedded contexts (n, C)."""
        layers = self._known(inputs, context)
        if layers is None or not self._is_fixed(layers):
            return super().inverse(inputs, context)
        make = self._compiled(layers, inputs, context) or self._incremental(inputs)
        if self._differentiates(inputs, context):
            if make is None:
                return super().inverse(inputs, context)
            return _Inverse.apply(self, inputs, context, *_variable(self))
        if make is None:
            return in_pieces(super().inverse, _rows(inputs), inputs, context)
        return self._engine(make, layers).inverse(inputs, context)

    def every_kind(self, inputs: Tensor, contexts: Tensor) -> tuple[Tensor, Tensor] | None:
        """(|noise|² (n, K), log|det| (n, K)) of every input under every embedded context; None: no shorter way."""
        layers = self._known(inputs, contexts, paired=False)
        make = self._compiled(layers, inputs, contexts)
        return None if make is None else self._engine(make, layers).every_kind(inputs, contexts)

    def _layers(self) -> list[Layer] | None:
        """The layers in turn, or None where something is among them that is not known here."""
        raise NotImplementedError

    def _pack(self, layer: Layer) -> tuple[Any, Any]:
        """The layer's weights and what it makes of the context, as an engine takes them."""
        raise NotImplementedError

    def _kernels(self, layers: list[Layer]) -> tuple[str, str]:
        """The module and the class of the engine with kernels for these layers."""
        raise NotImplementedError

    def _incremental(self, inputs: Tensor) -> Callable | None:
        """What makes the engine for inverses that the kernels are not for; None: nflows."""
        return None

    def _trainer(self, layers: list[Layer], inputs: Tensor, context: Tensor) -> Callable | None:
        """What runs the forward pass with gradients; None: nflows."""
        return None

    def _known(
        self, inputs: Tensor, context: Tensor | None, paired: bool = True
    ) -> list[Layer] | None:
        """``_layers``, for these rows: the kernels address memory by the widths of the layers, so the rows must have them."""
        layers = self._layers() if context is not None and len(inputs) else None
        if layers is not None:
            check_rows("inputs", inputs, layers[0].widths.features)
            check_rows("context", context, layers[0].widths.context)
            if paired:
                checks.same_length(inputs, context, ("inputs", "context"))
        return layers

    def _fits(
        self, *tensors: Tensor, precisions: tuple[torch.dtype, ...] = (torch.float32,)
    ) -> bool:
        """Whether all is on the CPU and in one of these precisions."""
        kinds = {
            (tensor.dtype, tensor.device.type) for tensor in (*tensors, next(self.parameters()))
        }
        return any(kinds == {(precision, "cpu")} for precision in precisions)

    def _compiled(self, layers: list[Layer] | None, *tensors: Tensor) -> Callable | None:
        """What makes the engine with kernels; None where they don't know the layers, or are not for such tensors."""
        if layers is None or not self._is_fixed(layers) or not self._fits(*tensors):
            return None
        module, name = self._kernels(layers)
        return getattr(compiled(module), name, None)

    def _differentiates(self, *tensors: Tensor) -> bool:
        return torch.is_grad_enabled() and any(
            t.requires_grad for t in chain(tensors, self.parameters())
        )

    def _has_plain_networks(self, layers: list[Layer]) -> bool:
        """No batch norm anywhere, and no dropout at work."""
        return all(
            layer.norm is None
            and all(
                not block.use_batch_norm and not (self.training and block.dropout.p)
                for block in layer.network.blocks
            )
            for layer in layers
        )

    def _is_fixed(self, layers: list[Layer]) -> bool:
        """Whether the map is the same for every batch, as in eval mode."""
        return not self.training or self._has_plain_networks(layers)

    def _engine(self, make: Callable, layers: list[Layer]) -> Any:
        """The engine of these layers, made again when a parameter changed."""
        key = make, *_fingerprint(_variable(self))
        if key != self._packed[0]:
            with torch.no_grad():
                self._packed = key, make([self._pack(layer) for layer in layers])
        return self._packed[1]


def _rows(inputs: Tensor) -> int:
    """How many of the inputs go nflows' way together: elsewhere than on the CPU all, for there calls cost most."""
    return ROWS if inputs.device.type == "cpu" else len(inputs)


def _variable(stack: nn.Module) -> list[Tensor]:
    """Its parameters and buffers, but for the masks, in one walk: ``parameters`` and ``buffers`` would take much longer."""
    modules, found = [stack], []
    for module in modules:
        modules += filter(None, module._modules.values())
        found += module._parameters.values()
        if not isinstance(module, MaskedLinear):
            found += module._buffers.values()
    return list({id(tensor): tensor for tensor in found if tensor is not None}.values())


@torch.no_grad()
def _fingerprint(tensors: list[Tensor]) -> tuple[int | float, ...]:
    """What changes with the numbers in these tensors; autograd's counts of changes miss ``.data`` and fused optimizers."""
    kernel = (
        compiled("checksum_kernel")
        if all(tensor.device.type == "cpu" for tensor in tensors)
        else None
    )
    if kernel is None:
        longest = max(tensor.numel() for tensor in tensors)
        ramp = torch.linspace(1, 2, longest, dtype=torch.float64, device=tensors[0].device)
        return tuple(
            torch.stack([t.flatten().double() @ ramp[: t.numel()] for t in tensors]).tolist()
        )
    dense = [tensor.contiguous() for tensor in tensors]
    places = array(
        "q", [number for tensor in dense for number in (tensor.data_ptr(), tensor.nbytes // 4)]
    )
    return (kernel.checksum(places.buffer_info()[0], len(dense)),)


def add_norm(layers: list[Layer], norm: BatchNorm) -> bool:
    """Puts the batch norm behind the last layer; False where there is none, or one that has its own already."""
    if not layers or layers[-1].norm is not None:
        return False
    layers[-1].norm = norm
    return True


class _Inverse(torch.autograd.Function):
    """The inverse found the short way; its gradients, which few ask for, by nflows' D passes."""

    @staticmethod
    def forward(ctx, stack, inputs, context, *variable):
        ctx.stack = stack
        ctx.save_for_backward(
            inputs, context, *variable
        )  # torch refuses those that have changed since
        return stack.inverse(inputs, context)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        stack, (inputs, context, *variable) = ctx.stack, ctx.saved_tensors
        if not stack._is_fixed(stack._layers()):
            raise RuntimeError(
                "gradients of what the flow gave in eval mode: take them before flow.train()"
            )
        inputs, context = (tensor.detach().requires_grad_() for tensor in (inputs, context))
        with torch.enable_grad():
            outputs = CompositeTransform.inverse(stack, inputs, context)
            of = [
                t
                for t, needed in zip(
                    (inputs, context, *variable), ctx.needs_input_grad[1:], strict=True
                )
                if needed
            ]
            found = iter(torch.autograd.grad(outputs, of, gradients, allow_unused=True))
        return None, *(next(found) if needed else None for needed in ctx.needs_input_grad[1:])
