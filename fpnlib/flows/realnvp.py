"""Conditional RealNVP (Dinh et al. 2017), as configured in section 5.1.1 of the paper."""

import torch
from nflows.nn.nets import ResidualNet
from nflows.transforms import AffineCouplingTransform, BatchNorm, CompositeTransform

from fpnlib.flows.conditional import ConditionalFlow
from fpnlib.flows.settings import check_settings, context_embedding


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
    """Build affine couplings with residual networks.

    The first coupling moves the odd features, the second the even ones, and so on. Arguments and
    errors are those of ``conditional_maf``; ``features`` must be 2 or more, because one half moves
    the other.

    >>> import torch
    >>> flow = conditional_realnvp(features=4, context_features=3, hidden_features=16).eval()
    >>> flow.log_prob(torch.zeros(3, 4), torch.eye(3)).shape
    torch.Size([3])
    """
    check_settings(
        dropout,
        features=features,
        context_features=context_features,
        hidden_features=hidden_features,
        num_layers=num_layers,
        num_blocks=num_blocks,
    )
    if features < 2:
        raise ValueError(f"features must be 2 or more for realnvp, got {features}")
    embedding, context_width = context_embedding(context_features, embedding_features)

    def network(in_features: int, out_features: int) -> ResidualNet:
        return ResidualNet(
            in_features,
            out_features,
            hidden_features,
            context_features=context_width,
            num_blocks=num_blocks,
            dropout_probability=dropout,
            use_batch_norm=batch_norm,
        )

    mask = torch.ones(features)
    mask[::2] = -1
    layers = []
    for layer in range(num_layers):
        layers.append(AffineCouplingTransform(mask * (-1) ** layer, network))
        if batch_norm:
            layers.append(BatchNorm(features))
    return ConditionalFlow(CompositeTransform(layers), features, context_features, embedding)
