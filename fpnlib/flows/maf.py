"""Conditional masked autoregressive flow (Papamakarios et al. 2017; section 5.1.1 of the paper)."""

from nflows.transforms import (
    BatchNorm,
    CompositeTransform,
    MaskedAffineAutoregressiveTransform,
    ReversePermutation,
)

from fpnlib.flows.conditional import ConditionalFlow
from fpnlib.flows.settings import check_settings, context_embedding


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
    """Build a masked autoregressive flow with residual networks.

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
    check_settings(
        dropout,
        features=features,
        context_features=context_features,
        hidden_features=hidden_features,
        num_layers=num_layers,
        num_blocks=num_blocks,
    )
    embedding, context_width = context_embedding(context_features, embedding_features)
    layers = []
    for _ in range(num_layers):
        layers += [
            ReversePermutation(features),
            MaskedAffineAutoregressiveTransform(
                features,
                hidden_features,
                context_features=context_width,
                num_blocks=num_blocks,
                dropout_probability=dropout,
                use_batch_norm=batch_norm,
            ),
        ]
        if batch_norm:
            layers.append(BatchNorm(features))
    return ConditionalFlow(CompositeTransform(layers), features, context_features, embedding)
