"""Checks and parts that the conditional flows share."""

from torch import nn

from fpnlib import checks


def check_settings(dropout: float, **counts: int) -> None:
    """Raise an error unless ``counts`` are positive whole numbers and 0 <= dropout < 1."""
    for name, value in counts.items():
        checks.positive(name, value)
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout}")


def context_embedding(
    context_features: int, embedding_features: int | None
) -> tuple[nn.Module | None, int]:
    """Return a linear embedding of the context, or None, and the width that the networks take."""
    if embedding_features is None:
        return None, context_features
    width = checks.positive("embedding_features", embedding_features)
    return nn.Linear(context_features, width), width
