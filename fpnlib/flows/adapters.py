"""A user's own flows, and nflows' state dicts."""

from typing import Any

import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.transforms import BatchNorm, Transform
from torch import Tensor, nn

from fpnlib.flows.conditional import ConditionalFlow

MASKS = {"mask", "degrees"}


def adapt_flow(flow: nn.Module, features: int, context_features: int) -> ConditionalFlow:
    """An nflows or zuko ``Flow`` as a ``ConditionalFlow`` that shares its weights.

    Args:
        flow: with a standard normal base.
        features: width of its vectors.
        context_features: width of its contexts.

    Raises:
        TypeError: another object, or a flow with another base.
    """
    if isinstance(flow, ConditionalFlow):
        return flow
    if not isinstance(flow, Flow):
        return _adapt_zuko(flow, features, context_features)
    base = flow._distribution
    if not isinstance(base, StandardNormal):
        raise TypeError(f"flow must have a StandardNormal distribution, got {type(base).__name__}")
    adapted = ConditionalFlow(flow._transform, features, context_features, flow._embedding_net)
    return adapted.train(flow.training)


def prepare_flow(flow: Flow) -> None:
    """Keep nflows' masks out of a new flow's state dict, and start its batch norms at variance 1.

    The masks are as large as the weights and follow from the widths. With nflows' initial variance,
    0, a flow overflows in eval mode after few steps.
    """
    for module in flow.modules():
        masks = MASKS & module._buffers.keys()
        if masks:
            module._non_persistent_buffers_set |= masks
            module.register_load_state_dict_pre_hook(_check_masks)
        if isinstance(module, BatchNorm):
            module.running_var.fill_(1)


def _check_masks(module: nn.Module, tensors: dict[str, Tensor], prefix: str, *rest: Any) -> None:
    """Take the masks out of an nflows state dict; report those that are not the module's."""
    errors = rest[-1]
    for name in MASKS & module._buffers.keys():
        mask, expected = tensors.pop(prefix + name, None), module.get_buffer(name)
        if mask is not None and not torch.equal(mask.to(expected), expected):
            errors.append(f"{prefix}{name} is of other widths, or drawn at random")


class _ZukoTransform(Transform):  # type: ignore[misc]
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


def _adapt_zuko(flow: nn.Module, features: int, context_features: int) -> ConditionalFlow:
    """A zuko flow as a ``ConditionalFlow`` that shares its weights."""
    from zuko.distributions import DiagNormal
    from zuko.lazy import Flow

    if not isinstance(flow, Flow):
        raise TypeError(f"flow must be a name, nflows' or zuko's Flow, got {type(flow).__name__}")
    base = flow.base(None)
    normal = isinstance(base, DiagNormal)
    if not normal or (base.base_dist.loc != 0).any() or (base.base_dist.scale != 1).any():
        raise TypeError(f"flow must have a standard normal base, got {flow.base}")
    adapted = ConditionalFlow(_ZukoTransform(flow), features, context_features)
    return adapted.train(flow.training)
