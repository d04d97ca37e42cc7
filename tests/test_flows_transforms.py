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
from fpnlib.flows.engine import FastMAF, accelerate

KINDS = {
    "autoregressive": ("maf", {}),
    "autoregressive, one block": ("maf", {"num_blocks": 1, "hidden_features": 5}),
    "autoregressive, wide": ("maf", {"hidden_features": 700, "num_layers": 1}),
    "autoregressive, batch norm": ("maf", {"batch_norm": True}),
    "coupling": ("realnvp", {}),
    "coupling, batch norm": ("realnvp", {"batch_norm": True}),
}
AUTOREGRESSIVE = [kind for kind, (name, _) in KINDS.items() if name == "maf"]
DTYPES = {torch.float32: 2e-4, torch.float64: 1e-10}


def stack_of(name, settings, dtype=torch.float32):
    torch.manual_seed(0)
    flow = build_flow(name, 6, 3, **{"hidden_features": 20, "num_layers": 3} | settings).to(dtype)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
        for key, buffer in flow.named_buffers():
            if key.endswith(("running_mean", "running_var")):
                buffer.copy_(torch.rand_like(buffer) + 0.5 * key.endswith("var"))
    return flow.eval()._transform


def batch(n=12, dtype=torch.float32):
    torch.manual_seed(1)
    return torch.randn(n, 6, dtype=dtype), torch.randn(n, 3, dtype=dtype)


@pytest.fixture(params=KINDS, ids=list(KINDS))
def kind(request):
    return KINDS[request.param]


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_each_direction_is_the_inverse_of_the_other_and_their_log_determinants_cancel(
    kind, dtype, gradients
):
    stack, (values, context) = stack_of(*kind, dtype), batch(dtype=dtype)
    near = {"atol": DTYPES[dtype], "rtol": DTYPES[dtype]}
    with torch.set_grad_enabled(gradients):
        for there, back in ((stack.forward, stack.inverse), (stack.inverse, stack.forward)):
            middle, logabsdet = there(values, context)
            again, opposite = back(middle, context)
            assert logabsdet.shape == opposite.shape == (12,) and middle.dtype == dtype
            assert logabsdet.abs().min() > 0
            torch.testing.assert_close(again, values, **near)
            torch.testing.assert_close(logabsdet + opposite, torch.zeros_like(logabsdet), **near)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_the_log_determinant_is_that_of_autograds_jacobian(kind, direction):
    stack, (values, context) = stack_of(*kind, torch.float64), batch(3, torch.float64)
    transform = getattr(stack, direction)
    with torch.no_grad():
        _, claimed = transform(values, context)
    # Rows do not touch each other, so the derivatives of the sum over rows are all their Jacobians.
    jacobians = torch.autograd.functional.jacobian(
        lambda rows: transform(rows, context)[0].sum(0), values
    )
    right = torch.linalg.slogdet(jacobians.transpose(0, 1)).logabsdet
    torch.testing.assert_close(claimed, right, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
@pytest.mark.parametrize("kind", AUTOREGRESSIVE)
def test_rows_that_do_not_fit_the_layers_are_refused(kind, direction):
    """The kernels do not check their indices, so other widths must not get there."""
    run, (values, context) = getattr(stack_of(*KINDS[kind]), direction), batch()
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
@pytest.mark.parametrize("kind", AUTOREGRESSIVE)
def test_layers_of_other_widths_than_their_flow_are_refused(kind):
    flow = ConditionalFlow(stack_of(*KINDS[kind]), 5, 2).eval()
    noise, contexts = torch.zeros(200, 5), torch.eye(2)
    line = r"must have shape \(n, 6\), got \(200, 5\)"
    with pytest.raises(ValueError, match=line):
        flow.transform_from_noise(noise, contexts[torch.arange(200) % 2])
    with pytest.raises(ValueError, match=line):
        flow.class_log_prob(noise, contexts)


class TestBatchNorm:
    """In training it normalises its batch and learns statistics; in eval mode it is affine."""

    def flow(self):
        torch.manual_seed(0)
        return build_flow("maf", 6, 3, hidden_features=20, num_layers=1, batch_norm=True)

    def test_training_normalises_the_batch_and_moves_the_running_statistics(self):
        flow, (values, context) = self.flow().train(), batch(200)
        norm = flow._transform._transforms[-1]
        assert isinstance(norm, BatchNorm)
        with torch.no_grad():
            noise = flow.transform_to_noise(5 * values + 3, context)
        torch.testing.assert_close(noise.mean(0), norm.bias.detach(), atol=1e-4, rtol=0)
        torch.testing.assert_close(noise.std(0), norm.weight.detach(), atol=1e-2, rtol=0)
        assert norm.running_mean.abs().min() > 0 and norm.running_var.min() > 0

    def test_eval_mode_treats_each_row_alone_and_learns_nothing(self):
        flow, (values, context) = self.flow().train(), batch(50)
        with torch.no_grad():
            for _ in range(20):
                flow.transform_to_noise(values, context)
            flow.eval()
            before = {key: value.clone() for key, value in flow.state_dict().items()}
            noise = flow.transform_to_noise(values, context)
            alone = flow.transform_to_noise(values[7:8], context[7:8])
        torch.testing.assert_close(alone, noise[7:8], atol=1e-5, rtol=1e-5)
        assert all(torch.equal(value, before[key]) for key, value in flow.state_dict().items())


class TestAsAFlow:
    """The methods of ``nflows.flows.Flow``."""

    def flow(self, name="maf"):
        torch.manual_seed(0)
        return build_flow(name, 6, 3, hidden_features=20, num_layers=2).eval()

    @pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-3), (torch.float64, 1e-9)])
    @pytest.mark.parametrize("name", ["maf", "realnvp"])
    def test_samples_come_per_context_with_their_densities(self, name, dtype, near):
        flow, context = self.flow(name).to(dtype), batch(4, dtype)[1]
        assert isinstance(flow, Flow)
        assert flow.sample(5, context).shape == (4, 5, 6)
        samples, densities = flow.sample_and_log_prob(5, context)
        assert samples.shape == (4, 5, 6) and densities.shape == (4, 5)
        assert samples.dtype == densities.dtype == dtype
        again = flow.log_prob(samples.flatten(0, 1), context.repeat_interleave(5, 0))
        torch.testing.assert_close(densities.flatten(), again, atol=near, rtol=near)

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

    def test_samples_can_be_differentiated(self):
        flow, context = self.flow(), batch(2)[1]
        flow.sample(3, context).square().sum().backward()
        assert all(parameter.grad is not None for parameter in flow.parameters())

    def test_sampling_without_gradients_does_not_spoil_training(self):
        flow = build_flow("maf", 6, 3, hidden_features=701, num_layers=1)
        values, context = batch()
        with torch.inference_mode():
            flow.sample(2, context)
        flow.log_prob(values, context).mean().backward()
        assert all(parameter.grad is not None for parameter in flow.parameters())

    def test_no_rows_give_no_rows(self):
        flow = self.flow()
        assert flow.transform_from_noise(torch.zeros(0, 6), torch.zeros(0, 3)).shape == (0, 6)
        assert flow.log_prob(torch.zeros(0, 6), torch.zeros(0, 3)).shape == (0,)


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


def test_an_unknown_transform_is_no_fast_maf():
    with pytest.raises(ValueError, match="FastMAF needs masked affine autoregressive transforms"):
        FastMAF([ReversePermutation(6)])


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


def test_flows_built_in_inference_mode_work():
    with torch.inference_mode():
        flow = build_flow("maf", 6, 3, hidden_features=20).eval()
        values, context = batch()
        noise = flow.transform_to_noise(values, context)
        data = flow.transform_from_noise(noise, context)
    torch.testing.assert_close(data, values, atol=1e-4, rtol=1e-4)
