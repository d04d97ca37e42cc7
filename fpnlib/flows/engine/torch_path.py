"""The incremental inverse in plain torch, for every device and floating type.

The features go in blocks. First one product per weight matrix adds to the block's units and outputs
what all features and units before the block give. Inside the block the products are small, feature
after feature.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from fpnlib.flows.engine.weights import EPSILON, Weights

BLOCK = 64  # hidden units in a block of features
NUMBERS = {"cpu": 1 << 24, "cuda": 1 << 28}  # in the buffers of one batch: bounds the memory


class _Buffers(NamedTuple):
    """What is known so far in one layer, for n samples."""

    x: Tensor  # (D, n): the noise until a feature is found
    first: Tensor  # (H, n): what the initial layer gets from outside the block
    added: Tensor  # (B, H, n): the same for the inner layer of each residual block
    after: Tensor  # (B, H, n): the same for the outer layer
    stream: Tensor  # (H, n)
    before: Tensor  # (B, H, n)
    inside: Tensor  # (B, H, n)


class TorchPath:
    """A flow of packed weights."""

    def __init__(self, weights: Weights):
        self.weights = weights
        self.known = weights.known.tolist()
        layers, self.features = weights.order.shape
        self.units = weights.initial.shape[1]
        self.blocks = len(weights.inner) // layers
        self.block = max(1, BLOCK * self.features // self.units)
        self.log_gain = weights.gain.log().sum()

    def inverse(self, noise: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return (data (n, D), log|det| (n,)) of noise (n, D) under contexts (n, C)."""
        row = (2 + 4 * self.blocks) * self.units + 4 * self.features
        size = max(1, NUMBERS.get(noise.device.type, NUMBERS["cpu"]) // row)
        data, log_det = torch.empty_like(noise), noise.new_empty(len(noise))
        for start in range(0, len(noise), size):
            part = slice(start, start + size)
            values, log_scales = noise[part].T, torch.zeros_like(log_det[part])
            for t in reversed(range(len(self.weights.order))):
                values = self._invert_layer(t, values, context[part].T, log_scales)
            data[part] = values.T
            log_det[part] = -log_scales - self.log_gain
        return data, log_det

    def _invert_layer(self, t: int, noise: Tensor, context: Tensor, log_scales: Tensor) -> Tensor:
        """Return data (D, n) of noise (D, n) under contexts (C, n); add to the logs of scales."""
        w = self.weights
        first = torch.addmm(w.first_context_bias[t, :, None], w.first_context[t], context).relu_()
        added = self._of_layer(t, w.context) @ context
        added += self._of_layer(t, w.inner_bias)[..., None]
        after = torch.zeros_like(added)
        empty = (torch.empty_like(tensor) for tensor in (first, added, added))
        buffers = _Buffers(noise.clone(), first, added, after, *empty)
        for begin in range(0, self.features, self.block):
            end = min(begin + self.block, self.features)
            outputs = self._begin_block(t, begin, end, buffers)
            for i in range(begin, end):
                log_scales += self._find_feature(t, begin, i, outputs, buffers).log_()
        data = torch.empty_like(noise)
        data[w.order[t]] = buffers.x
        return data

    def _begin_block(self, t: int, begin: int, end: int, buffers: _Buffers) -> Tensor:
        """Add what lies before the block to its units; return that of its outputs (2·block, n)."""
        w, x, first, added, after, stream, before, inside = self.weights, *buffers
        old, new = slice(0, self.known[begin]), slice(self.known[begin], self.known[end])
        first[new].addmm_(w.initial[t, new, :begin], x[:begin])
        for b in range(self.blocks):
            k = t * self.blocks + b
            added[b, new].addmm_(w.inner[k, new, old], before[b, old])
            after[b, new].addmm_(w.outer[k, new, old], inside[b, old])
        rows = slice(2 * begin, 2 * end)
        return torch.addmm(w.final_bias[t, rows, None], w.final[t, rows, old], stream[old])

    def _find_feature(
        self, t: int, begin: int, i: int, outputs: Tensor, buffers: _Buffers
    ) -> Tensor:
        """Compute the units of degree i and then feature i, in place; return its scale (n,)."""
        w, x, first, added, after, stream, before, inside = self.weights, *buffers
        units = slice(self.known[i], self.known[i + 1])
        near = slice(self.known[begin], self.known[i + 1])
        if units.start < units.stop:
            value = torch.addmm(first[units], w.initial[t, units, begin:i], x[begin:i])
            for b in range(self.blocks):
                k = t * self.blocks + b
                normed = value * w.block_gain[k, units, None] + w.block_offset[k, units, None]
                before[b, units] = normed.relu_()
                product = torch.addmm(added[b, units], w.inner[k, units, near], before[b, near])
                inside[b, units] = product.relu_()
                value += after[b, units]
                value.addmm_(w.outer[k, units, near], inside[b, near])
            stream[units] = value
        rows = slice(2 * (i - begin), 2 * (i - begin) + 2)
        weight = w.final[t, 2 * i : 2 * i + 2, near]
        unconstrained, shift = torch.addmm(outputs[rows], weight, stream[near])
        scale = softplus(unconstrained).add_(EPSILON)
        x[i] = ((x[i] - w.offset[t, i]) / w.gain[t, i] - shift) / scale
        return scale

    def _of_layer(self, t: int, tensor: Tensor) -> Tensor:
        """The rows of a field (T·B, …) that belong to layer t."""
        return tensor[t * self.blocks : (t + 1) * self.blocks]
