"""What nflows asks of its transforms holds for fast flows too, on every path."""

import pytest
import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.transforms import (
    BatchNorm,
    CompositeTransform,
    InverseNotAvailable,
    MaskedAffineAutoregressiveTransform,
    RandomPermutation,
    ReversePermutation,
)

from fpnlib.flows import ConditionalFlow, build_flow
from fpnlib.flows.engine import FastMAF, accelerate, transform

KINDS = {
    "plain": {},
    "one block": {"num_blocks": 1, "hidden_features": 5},
    "wide": {"hidden_features": transform.WIDE, "num_layers": 1},
    "batch norm": {"batch_norm": True},
}


@pytest.fixture(params=KINDS.values(), ids=list(KINDS))
def stack(request):
    """The autoregressive layers of a flow."""
    torch.manual_seed(0)
    settings = {"hidden_features": 20, "num_layers": 3} | request.param
    return build_flow("maf", 6, 3, **settings).eval()._transform


def batch(n=12, dtype=torch.float32):
    torch.manual_seed(1)
    return torch.randn(n, 6, dtype=dtype), torch.randn(n, 3, dtype=dtype)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_rows_that_do_not_fit_the_layers_are_refused(stack, direction):
    """The kernels do not check their indices, so other widths must not get there."""
    run, (values, context) = getattr(stack, direction), batch()
    with torch.no_grad():
        for bad, given, line in (
            (values[:, :4], context, r"inputs must have shape \(n, 6\), got \(12, 4\)"),
            (values[0], context[0], r"inputs must have shape \(n, 6\), got \(6,\)"),
            (values, context[:, :2], r"context must have shape \(n, 3\), got \(12, 2\)"),
            (values, context[:1], "inputs and context must have the same length, got 12 and 1"),
            (values, context[:0], "inputs and context must have the same length, got 12 and 0"),
        ):
            with pytest.raises(ValueError, match=line):
                run(bad, given)


@torch.no_grad()
def test_layers_of_other_widths_than_their_flow_are_refused(stack):
    flow = ConditionalFlow(stack, 5, 2).eval()
    noise, contexts = torch.zeros(200, 5), torch.eye(2)
    line = r"must have shape \(n, 6\), got \(200, 5\)"
    with pytest.raises(ValueError, match=line):
        flow.transform_from_noise(noise, contexts[torch.arange(200) % 2])
    with pytest.raises(ValueError, match=line):
        flow.class_log_prob(noise, contexts)


class TestAsAFlow:
    """The methods of ``nflows.flows.Flow``."""

    def flow(self, name="maf"):
        torch.manual_seed(0)
        return build_flow(name, 6, 3, hidden_features=20, num_layers=2).eval()

    @torch.no_grad()
    def test_contexts_may_be_an_array_as_for_nflows(self):
        flow, context = self.flow(), torch.eye(3)
        torch.manual_seed(4)
        expected = flow.sample(2, context)
        torch.manual_seed(4)
        assert torch.equal(flow.sample(2, context.numpy().astype("float64")), expected)

    @torch.no_grad()
    def test_samples_in_batches_are_joined_for_each_context(self):
        flow, context = self.flow(), torch.eye(3)[:2]
        torch.manual_seed(4)
        together = flow.sample(7, context, batch_size=3)
        torch.manual_seed(4)
        apart = [flow.sample(count, context) for count in (3, 3, 1)]
        assert together.shape == (2, 7, 6) and torch.equal(together, torch.cat(apart, 1))
        assert flow.sample(2, context, batch_size=5).shape == (2, 2, 6)

    def test_no_rows_give_no_rows(self):
        flow = self.flow()
        assert flow.transform_from_noise(torch.zeros(0, 6), torch.zeros(0, 3)).shape == (0, 6)
        assert flow.log_prob(torch.zeros(0, 6), torch.zeros(0, 3)).shape == (0,)
        assert flow.sample(2, torch.zeros(0, 3)).shape == (0, 2, 6)


def layer(hidden=9, **settings):
    return MaskedAffineAutoregressiveTransform(6, hidden, **{"context_features": 3} | settings)


UNKNOWN = {
    "another activation": lambda: [layer(activation=torch.tanh), layer()],
    "layers of two widths": lambda: [layer(9), layer(8)],
    "no residual blocks": lambda: [layer(use_residual_blocks=False)],
    "no blocks": lambda: [layer(num_blocks=0)],
    "a permutation at the end": lambda: [layer(), RandomPermutation(6)],
    "a batch norm at the beginning": lambda: [BatchNorm(6), layer()],
    "two batch norms": lambda: [layer(), BatchNorm(6), BatchNorm(6)],
    "permutations alone": lambda: [ReversePermutation(6), RandomPermutation(6)],
}


@torch.no_grad()
@pytest.mark.parametrize("layers", UNKNOWN)
def test_a_flow_of_layers_unknown_to_the_engine_runs_as_nflows_does(layers):
    torch.manual_seed(0)
    stack, (values, context) = CompositeTransform(UNKNOWN[layers]()), batch()
    for module in stack.modules():
        if isinstance(module, BatchNorm):
            module.running_var.fill_(1.0)
    flow = ConditionalFlow(stack, 6, 3).eval()
    assert flow._transform is stack
    noise = flow.transform_to_noise(values, context)
    assert torch.equal(noise, stack(values, context)[0])
    data = flow.transform_from_noise(noise, context)
    torch.testing.assert_close(data, values, atol=1e-4, rtol=1e-4)


def test_accelerate_keeps_parameters_state_and_mode():
    torch.manual_seed(0)
    flow = Flow(CompositeTransform([ReversePermutation(6), layer()]), StandardNormal([6]))
    state, parameters = flow.state_dict(), list(flow.parameters())
    flow.eval()
    assert accelerate(flow) is flow and isinstance(flow._transform, FastMAF)
    assert not flow._transform.training
    assert all(mine is before for mine, before in zip(flow.parameters(), parameters, strict=True))
    assert list(flow.state_dict()) == list(state)
    fast = flow._transform
    assert accelerate(flow)._transform is fast


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"batch_norm": True}, {"dropout": 0.5}])
def test_sampling_in_training_mode(settings):
    """Without dropout and batch norm the mode does not matter; with them nflows decides."""
    flow, (values, context) = build_flow("maf", 6, 3, hidden_features=20, **settings), batch()
    if "batch_norm" in settings:
        with pytest.raises(InverseNotAvailable):
            flow._transform.inverse(values, context)
    elif "dropout" in settings:
        one, two = (flow._transform(values, context)[0] for _ in range(2))
        assert not torch.equal(one, two)
    else:
        data = flow._transform.inverse(values, context)[0]
        assert torch.equal(flow.eval()._transform.inverse(values, context)[0], data)
