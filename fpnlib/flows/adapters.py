"""A user's own flows, and nflows' state dicts."""

from typing import Any

import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.transforms import BatchNorm
from torch import Tensor, nn

from fpnlib.flows.conditional import ConditionalFlow
from fpnlib.flows.spline import adapt_zuko

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
        return adapt_zuko(flow, features, context_features)
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
    for name in MASKS:
        mask, expected = tensors.pop(prefix + name, None), module._buffers.get(name)
        if mask is None or expected is None:
            continue
        if not torch.equal(mask.to(expected), expected):
            errors.append(
                f"{prefix}{name} is of other widths, or drawn at random;"
                " expected the sequential one"
            )
