"""zuko's flows as flows of this library, and the neural spline flow among them."""

from collections.abc import Callable

from nflows.transforms import Transform
from torch import Tensor, nn

from fpnlib import checks
from fpnlib.flows.conditional import ConditionalFlow


class ZukoTransform(Transform):  # type: ignore[misc]
    """A zuko flow's transformation with the interface of an nflows transform."""

    def __init__(self, flow: nn.Module):
        super().__init__()
        self.flow = flow

    def forward(self, inputs: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Noise (n, D) of data (n, D), and log|det| (n,)."""
        return self.flow(context).transform.call_and_ladj(inputs)

    def inverse(self, inputs: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Data (n, D) of noise (n, D), and log|det| (n,)."""
        return self.flow(context).transform.inv.call_and_ladj(inputs)


def adapt_zuko(flow: nn.Module, features: int, context_features: int) -> ConditionalFlow:
    """A zuko flow as a ``ConditionalFlow`` that shares its weights.

    Args:
        flow: a ``zuko.flows.Flow`` with a standard normal base.
        features: width of its vectors.
        context_features: width of its contexts.

    Raises:
        TypeError: no zuko flow, or one with another base.
    """
    from zuko.distributions import DiagNormal
    from zuko.lazy import Flow

    if not isinstance(flow, Flow):
        raise TypeError(
            f"flow must be a name, an nflows Flow or a zuko Flow, got {type(flow).__name__}"
        )
    base = flow.base(None)
    normal = isinstance(base, DiagNormal)
    if not normal or (base.base_dist.loc != 0).any() or (base.base_dist.scale != 1).any():
        raise TypeError(f"flow must have a standard normal base, got {flow.base}")
    adapted = ConditionalFlow(ZukoTransform(flow), features, context_features)
    return adapted.train(flow.training)


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
    return adapt_zuko(flow, features, context_features)
