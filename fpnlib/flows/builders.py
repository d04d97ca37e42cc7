"""Conditional MAF and RealNVP, as configured in section 5.1.1 of the paper, and spline flows."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from nflows.nn.nets import ResidualNet
from nflows.transforms import (
    AffineCouplingTransform,
    BatchNorm,
    CompositeTransform,
    MaskedAffineAutoregressiveTransform,
    ReversePermutation,
    Transform,
)
from torch import nn

from fpnlib import checks
from fpnlib.flows.adapters import adapt_flow
from fpnlib.flows.conditional import ConditionalFlow


def conditional_maf(
    features: int,
    context_features: int,
    hidden_features: int = 40,
    num_layers: int = 5,
    num_blocks: int = 2,
    batch_norm: bool = False,
    dropout: float = 0.0,
    embedding_features: int | None = None,
) -> ConditionalFlow:
    """Build a masked autoregressive flow with residual networks (Papamakarios et al. 2017).

    Each layer is a reverse permutation and a masked affine autoregressive transform.

    Args:
        features: width D of the data.
        context_features: width C of the contexts.
        hidden_features: units of each hidden layer.
        num_layers: transforms in the flow.
        num_blocks: residual blocks, of two masked layers each, in each transform.
        batch_norm: normalise within the networks and between the transforms.
        dropout: probability in [0, 1), within the networks.
        embedding_features: width of a linear embedding of the context; None: no embedding.

    Raises:
        ValueError, TypeError: a width or a count that is not a positive whole number, or dropout
            outside [0, 1).

    >>> import torch
    >>> flow = conditional_maf(features=4, context_features=3, hidden_features=16).eval()
    >>> flow.sample(5, torch.eye(3)).shape
    torch.Size([3, 5, 4])
    """
    _check_sizes(features, context_features, hidden_features, num_layers, num_blocks)
    embedding, width = _embedding(context_features, embedding_features)
    network = _network(hidden_features, width, num_blocks, dropout, batch_norm)
    layers: list[Transform] = []
    for _ in range(num_layers):
        layers.append(ReversePermutation(features))
        layers.append(MaskedAffineAutoregressiveTransform(features, **network))
        layers += [BatchNorm(features)] if batch_norm else []
    return ConditionalFlow(CompositeTransform(layers), features, context_features, embedding)


def conditional_realnvp(
    features: int,
    context_features: int,
    hidden_features: int = 40,
    num_layers: int = 5,
    num_blocks: int = 2,
    batch_norm: bool = False,
    dropout: float = 0.0,
    embedding_features: int | None = None,
) -> ConditionalFlow:
    """Build affine couplings with residual networks (Dinh et al. 2017).

    The first coupling moves the odd features, the second the even ones, and so on. Arguments and
    errors are those of ``conditional_maf``; ``features`` must be 2 or more, because one half moves
    the other.

    >>> import torch
    >>> flow = conditional_realnvp(features=4, context_features=3, hidden_features=16).eval()
    >>> flow.log_prob(torch.zeros(3, 4), torch.eye(3)).shape
    torch.Size([3])
    """
    _check_sizes(features, context_features, hidden_features, num_layers, num_blocks)
    if features < 2:
        raise ValueError(f"features must be 2 or more for realnvp, got {features}")
    embedding, width = _embedding(context_features, embedding_features)
    network = _network(hidden_features, width, num_blocks, dropout, batch_norm)
    mask = torch.ones(features)
    mask[::2] = -1
    make_network = partial(ResidualNet, **network)
    layers: list[Transform] = []
    for layer in range(num_layers):
        layers.append(AffineCouplingTransform(mask * (-1) ** layer, make_network))
        layers += [BatchNorm(features)] if batch_norm else []
    return ConditionalFlow(CompositeTransform(layers), features, context_features, embedding)


def conditional_spline(
    features: int,
    context_features: int,
    *,
    hidden_features: int = 128,
    num_layers: int = 5,
    num_blocks: int = 2,
    bins: int = 8,
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> ConditionalFlow:
    """Autoregressive neural spline flow (Durkan et al. 2019, arXiv:1906.04032), by zuko.

    Its density is one pass; sampling takes one pass for each of D dimensions and layers.

    Args:
        features: width D of the data.
        context_features: width C of the contexts.
        hidden_features: units of each hidden layer.
        num_layers: transformations.
        num_blocks: hidden layers of each transformation's network.
        bins: pieces of each spline, which acts on [-5, 5].
        activation: of the networks.

    >>> import torch
    >>> flow = conditional_spline(3, 2, hidden_features=8, num_layers=2).eval()
    >>> flow.transform_from_noise(torch.zeros(4, 3), torch.zeros(4, 2)).shape
    torch.Size([4, 3])
    """
    from zuko.flows import NSF

    _check_sizes(features, context_features, hidden_features, num_layers, num_blocks)
    flow = NSF(
        features,
        context_features,
        bins=checks.positive("bins", bins),
        transforms=num_layers,
        hidden_features=(hidden_features,) * num_blocks,
        activation=activation,
    )
    return adapt_flow(flow, features, context_features)


def _check_sizes(*sizes: int) -> None:
    """Raise an error unless the first five arguments of a flow are positive whole numbers."""
    names = ("features", "context_features", "hidden_features", "num_layers", "num_blocks")
    for name, size in zip(names, sizes):
        checks.positive(name, size)


def _embedding(
    context_features: int, embedding_features: int | None
) -> tuple[nn.Module | None, int]:
    """A linear embedding of the context, or None, and the width that the networks take."""
    if embedding_features is None:
        return None, context_features
    width = checks.positive("embedding_features", embedding_features)
    return nn.Linear(context_features, width), width


def _network(
    hidden_features: int, context_features: int, num_blocks: int, dropout: float, batch_norm: bool
) -> dict[str, Any]:
    """The arguments that nflows' residual networks share."""
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
    return {
        "hidden_features": hidden_features,
        "context_features": context_features,
        "num_blocks": num_blocks,
        "dropout_probability": dropout,
        "use_batch_norm": batch_norm,
    }
