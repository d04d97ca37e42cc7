"""The neural spline flow, by zuko."""

from collections.abc import Callable

from torch import nn

from fpnlib import checks
from fpnlib.flows.adapters import adapt_flow
from fpnlib.flows.conditional import ConditionalFlow


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

    counts = {"hidden_features": hidden_features, "num_blocks": num_blocks, "bins": bins}
    for name, value in counts.items():
        checks.positive(name, value)
    flow = NSF(
        checks.positive("features", features),
        checks.positive("context_features", context_features),
        bins=bins,
        transforms=checks.positive("num_layers", num_layers),
        hidden_features=(hidden_features,) * num_blocks,
        activation=activation,
    )
    return adapt_flow(flow, features, context_features)
