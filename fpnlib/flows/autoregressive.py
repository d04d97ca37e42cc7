"""A stack of masked autoregressive layers that does one pass's work in either direction, exactly.

A layer turns x into u, u_i = s_i x_i + m_i, where a network gives s_i and m_i from x_1 … x_{i-1}; nflows inverts it by
running the whole network D times, each time to learn one more x_i. But the network is masked: each hidden unit has a
degree d and sees, directly or through other units, only x_1 … x_d, and all its hidden layers share one set of degrees.

1. A unit of degree d is final as soon as x_1 … x_d are known; it never changes afterwards.
2. s_i and m_i need just the units of degree below i.
3. So once x_i is found, only the units of degree i are computed, in every layer, from units that are known already;
   then s_{i+1} and m_{i+1} from them; then x_{i+1} = (u_{i+1} - m_{i+1}) / s_{i+1}.

Each unit is computed once: the work of one forward pass, of which the masks cut off half, and nothing is approximated;
only the order of sums differs. With units sorted by degree "those known already" are a range, so the same sorting lets
the forward pass and the gradients skip the masked half. In eval mode batch norms are affine maps and fold into their
neighbours, permutations into the order of the rows, and the context's part is added up before the loop.
"""

from __future__ import annotations

from typing import Any

import torch
from nflows.transforms import BatchNorm, CompositeTransform, MaskedAffineAutoregressiveTransform
from nflows.transforms.permutations import Permutation
from torch import Tensor
from torch.autograd.function import once_differentiable

from fpnlib.flows import incremental
from fpnlib.flows.compiled import compiled
from fpnlib.flows.packed import pack, packable


class AutoregressiveStack(CompositeTransform):
    """nflows' composite of permutations, masked affine autoregressive transforms and batch norms, with its numbers.

    What it has no shorter way for goes nflows' own: gradients of the inverse or of a batch norm, dropout at work, other
    networks. Gradients can be taken once, not gradients of gradients. Packed weights are kept until a parameter changes
    (as autograd counts changes: writing through ``.data`` goes unnoticed).
    """

    def __init__(self, transforms: list):
        super().__init__(transforms)
        self._packed: tuple[Any, Any] = (None, None)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_packed": (None, None)}

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(noise (n, D), log|det| (n,)) of data (n, D) under embedded contexts (n, C)."""
        layers = self._layers()
        if self._compiles(layers, inputs, context):
            if self._differentiates(inputs, context):
                if self._has_plain_networks(layers):
                    from fpnlib.flows.gradients import noise_and_log_det

                    return noise_and_log_det(inputs, context, [(order, layer) for order, layer, _ in layers])
            elif self._is_fixed(layers):
                engine, constant = self._engine(layers)
                noise, logs = engine.forward(inputs, context)
                return noise, logs + constant
        return super().forward(inputs, context)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(data (n, D), log|det| (n,)) of noise (n, D) under embedded contexts (n, C)."""
        layers = self._layers()
        if layers is None or context is None or len(inputs) == 0 or not self._is_fixed(layers):
            return super().inverse(inputs, context)
        if self._differentiates(inputs, context):
            return _Inverse.apply(self, inputs, context, *self.parameters())
        engine, constant = self._engine(layers, self._compiles(layers, inputs, context))
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

    def _layers(self) -> list[tuple[Tensor, MaskedAffineAutoregressiveTransform, BatchNorm | None]] | None:
        """Each layer with the order of its inputs and the batch norm after it, or None where something else is there."""
        layers, order = [], None
        for transform in self._transforms:
            if isinstance(transform, Permutation) and transform._dim == 1:
                order = transform._permutation if order is None else order[transform._permutation]
            elif isinstance(transform, MaskedAffineAutoregressiveTransform) and packable(transform):
                weight = transform.autoregressive_net.initial_layer.weight
                layers.append((torch.arange(weight.shape[1]) if order is None else order, transform, None))
                order = None
            elif isinstance(transform, BatchNorm) and layers and order is None and layers[-1][2] is None:
                layers[-1] = (*layers[-1][:2], transform)
            else:
                return None
        widths = {(*layer.autoregressive_net.initial_layer.weight.shape, len(layer.autoregressive_net.blocks))
                  for _, layer, _ in layers}  # fmt: skip
        return layers if order is None and len(widths) == 1 else None

    def _compiles(self, layers: list | None, *tensors: Tensor | None) -> bool:
        """Whether the kernels are for this: known layers, float32 on the CPU."""
        if layers is None or any(tensor is None or len(tensor) == 0 for tensor in tensors):
            return False
        tensors = (*tensors, next(self.parameters()))
        return all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors) and compiled() is not None

    def _differentiates(self, *tensors: Tensor) -> bool:
        return torch.is_grad_enabled() and any(t.requires_grad for t in (*tensors, *self.parameters()))

    def _has_plain_networks(self, layers: list) -> bool:
        """No batch norm anywhere, and no dropout at work."""
        return all(
            norm is None and all(not b.use_batch_norm and not (self.training and b.dropout.p) for b in made.blocks)
            for made, norm in ((layer.autoregressive_net, norm) for _, layer, norm in layers)
        )

    def _is_fixed(self, layers: list) -> bool:
        """Whether the map is the same for every batch, as in eval mode."""
        return not self.training or self._has_plain_networks(layers)

    def _engine(self, layers: list, compiles: bool = True) -> tuple[Any, Tensor]:
        """What runs the layers, and the part of log|det| that no input changes; made anew when a parameter changed."""
        tensors = [*self.parameters(), *self.buffers()]
        inference = any(tensor.is_inference() for tensor in tensors)
        key = None if inference else (compiles, *((t.data_ptr(), t._version) for t in tensors))
        if key is None or key != self._packed[0]:
            with torch.no_grad():
                packed = [pack(layer, order.to(next(layer.parameters()).device), norm) for order, layer, norm in layers]
                constant = sum(net.gain.log().sum() for net, _ in packed)
                runs = compiled().Engine(packed) if compiles else incremental.Incremental(packed)
            self._packed = key, (runs, constant)
        return self._packed[1]


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
