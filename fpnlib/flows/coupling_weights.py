"""The weights of a coupling layer as the kernels take them, with what is constant in eval mode folded in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from nflows.nn.nets import ResidualNet
from nflows.nn.nets.resnet import ResidualBlock
from nflows.transforms import AffineCouplingTransform, BatchNorm
from torch import Tensor
from torch.nn.functional import relu

from fpnlib.flows.autoregressive_weights import batch_norm_affine, between_affine


class Coupling(NamedTuple):
    """A layer of B blocks of H units that reads d features and moves the other m."""

    given: Tensor  # (d,) and moved (m,): which features of the data
    moved: Tensor
    initial: Tensor  # (H, d)
    initial_bias: Tensor  # (H,)
    inner: Tensor  # (B, H, H)
    inner_bias: Tensor  # (B, H)
    outer: Tensor  # (B, H, H)
    outer_bias: Tensor  # (B, H)
    final: Tensor  # (2 m, H): shifts, then scales
    final_bias: Tensor  # (2 m,)
    scale: Tensor  # (B, H) with shift: what a batch norm at the head of each block does
    shift: Tensor
    gain: Tensor  # (D,) with offset: what a batch norm after the layer does
    offset: Tensor

    def flat(self) -> tuple[Tensor, Tensor, Tensor]:
        """The kernels' memory: weights, plan and biases, each in one piece."""
        parts = (
            self.initial,
            self.inner,
            self.inner_bias,
            self.outer,
            self.outer_bias,
            self.final,
            self.final_bias,
        )
        return (
            torch.cat(
                [
                    part.flatten()
                    for part in (*parts, self.scale, self.shift, self.gain, self.offset)
                ]
            ),
            torch.cat([self.given, self.moved]),
            torch.cat([self.initial_bias[None], torch.zeros_like(self.inner_bias)]),
        )


class Gates(NamedTuple):
    """What a layer makes of the context: (1 + B, H, C) weights and (B, H) biases of the gates."""

    weight: Tensor
    bias: Tensor

    def of(self, context: Tensor) -> Tensor:
        """(1 + B, H, n): what is added to the initial layer, and each block's gates in (0, 1)."""
        added = self.weight @ context.T
        added[1:] = (added[1:] + self.bias[:, :, None]).sigmoid()
        return added

    def flat(self) -> Tensor:
        """((1 + B)·H, C + 1), the kernels' memory: weights and biases; all but the first H are for a sigmoid."""
        bias = torch.cat([torch.zeros_like(self.bias[:1]), self.bias])
        return torch.cat([self.weight, bias[..., None]], 2).flatten(0, 1)


def packable(transform: AffineCouplingTransform) -> bool:
    """Whether this is the layer that is known here: affine, a residual network with relu and a context."""
    net = transform.transform_net
    return (
        type(transform) is AffineCouplingTransform
        and transform.unconditional_transform is None
        and type(net) is ResidualNet
        and net.context_features is not None
        and len(net.blocks) > 0
        and all(type(block) is ResidualBlock and block.activation is relu for block in net.blocks)
    )


def pack(
    transform: AffineCouplingTransform, after: BatchNorm | None = None
) -> tuple[Coupling, Gates]:
    """The layer in eval mode, before the batch norm ``after``."""
    net, given = transform.transform_net, transform.identity_features
    first, weights = net.initial_layer, net.initial_layer.weight
    scale, shift, inner, inner_bias = [], [], [], []
    for block in net.blocks:
        one, bias = block.linear_layers[0].weight, block.linear_layers[0].bias
        head, tail = torch.ones_like(bias), torch.zeros_like(bias)
        if block.use_batch_norm:
            (head, tail), (gain, offset) = (
                batch_norm_affine(norm) for norm in block.batch_norm_layers
            )
            one, bias = one * gain[:, None], bias * gain + offset
        for parts, part in zip(
            (scale, shift, inner, inner_bias), (head, tail, one, bias), strict=True
        ):
            parts.append(part)
    coupling = Coupling(
        given,
        transform.transform_features,
        weights[:, : len(given)],
        first.bias,
        torch.stack(inner),
        torch.stack(inner_bias),
        torch.stack([block.linear_layers[1].weight for block in net.blocks]),
        torch.stack([block.linear_layers[1].bias for block in net.blocks]),
        net.final_layer.weight,
        net.final_layer.bias,
        torch.stack(scale),
        torch.stack(shift),
        *between_affine(after, transform.features, weights),
    )
    contexts = torch.stack(
        [weights[:, len(given) :], *(block.context_layer.weight for block in net.blocks)]
    )
    return coupling, Gates(
        contexts, torch.stack([block.context_layer.bias for block in net.blocks])
    )
