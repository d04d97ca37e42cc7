"""What every flow shares: checks of its settings and of its rows, and the embedding of the context."""

from torch import Tensor, nn

from fpnlib import checks

EPSILON = 1e-3  # nflows adds this to each scale


def check_settings(dropout: float, **counts: int) -> None:
    """Raises ValueError or TypeError unless ``counts`` are positive whole numbers and 0 <= dropout < 1."""
    for name, value in counts.items():
        checks.positive(name, value)
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout}")


def check_rows(name: str, rows: Tensor, width: int) -> None:
    """Raises ValueError unless ``rows`` has shape (n, width)."""
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(f"{name} must have shape (n, {width}), got {tuple(rows.shape)}")


def context_embedding(
    context_features: int, embedding_features: int | None
) -> tuple[nn.Module | None, int]:
    """A linear embedding of the context, or None, and the width of what the networks are given."""
    if embedding_features is None:
        return None, context_features
    return nn.Linear(
        context_features, checks.positive("embedding_features", embedding_features)
    ), embedding_features
