"""What nflows asks of the transforms that it offers holds for the stacks of them, on the short ways and on nflows' own."""

import pytest
import torch
from nflows.flows import Flow
from nflows.transforms import BatchNorm, InverseNotAvailable, RandomPermutation, ReversePermutation

from fpnlib.flows import ConditionalFlow, build_flow
from fpnlib.flows.autoregressive import AutoregressiveStack

KINDS = {
    "autoregressive": ("maf", {}),
    "autoregressive, one block": ("maf", {"num_blocks": 1, "hidden_features": 5}),
    "autoregressive, wide": ("maf", {"hidden_features": 700, "num_layers": 1}),
    "autoregressive, batch norm": ("maf", {"batch_norm": True}),
    "coupling": ("realnvp", {}),
    "coupling, batch norm": ("realnvp", {"batch_norm": True}),
}
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


@torch.no_grad()
@pytest.mark.parametrize(
    "before, after", [(RandomPermutation, None), (ReversePermutation, RandomPermutation)]
)
def test_permutations_alone_move_the_features_and_keep_the_volume(before, after):
    torch.manual_seed(3)
    permutations = [kind(6) for kind in (before, after) if kind]
    stack, (values, context) = AutoregressiveStack(permutations), batch()
    expected = values
    for permutation in permutations:
        expected = expected[:, permutation._permutation]
    moved, logabsdet = stack(values, context)
    assert torch.equal(moved, expected) and not logabsdet.any()
    assert torch.equal(stack.inverse(moved, context)[0], values)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_rows_that_do_not_fit_the_layers_are_refused(kind, direction):
    """The kernels address memory by the layers' widths: what has others must not get there."""
    run, (values, context) = getattr(stack_of(*kind), direction), batch()
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
def test_layers_of_other_widths_than_their_flow_are_refused(kind):
    flow, noise, contexts = (
        ConditionalFlow(stack_of(*kind), 5, 2).eval(),
        torch.zeros(200, 5),
        torch.eye(2),
    )
    for call in (
        lambda: flow.transform_from_noise(noise, contexts[torch.arange(200) % 2]),
        lambda: flow.class_log_prob(noise, contexts),
    ):
        with pytest.raises(ValueError, match=r"must have shape \(n, 6\), got \(200, 5\)"):
            call()


class TestBatchNorm:
    """In training it normalises what it sees and learns its statistics; in eval mode these are a fixed affine map."""

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

    def test_what_depends_on_the_batch_has_no_inverse(self):
        flow, (values, context) = self.flow().train(), batch()
        with pytest.raises(InverseNotAvailable):
            flow._transform.inverse(values, context)


class TestAsAFlow:
    """The methods of ``nflows.flows.Flow``."""

    def flow(self, name="maf"):
        torch.manual_seed(0)
        return build_flow(name, 6, 3, hidden_features=20, num_layers=2).eval()

    @pytest.mark.parametrize("name", ["maf", "realnvp"])
    def test_samples_come_per_context_with_their_densities(self, name):
        flow, context = self.flow(name), batch(4)[1]
        assert isinstance(flow, Flow)
        assert flow.sample(5, context).shape == (4, 5, 6)
        samples, densities = flow.sample_and_log_prob(5, context)
        assert samples.shape == (4, 5, 6) and densities.shape == (4, 5)
        for row, given, claimed in zip(samples, context, densities, strict=True):
            torch.testing.assert_close(
                flow.log_prob(row, given.expand(5, -1)), claimed, atol=1e-3, rtol=1e-4
            )

    def test_in_float64_too(self):
        flow, context = self.flow().double(), batch(4, torch.float64)[1]
        samples, densities = flow.sample_and_log_prob(5, context)
        assert samples.dtype == densities.dtype == torch.float64
        again = flow.log_prob(samples.flatten(0, 1), context.repeat_interleave(5, 0))
        torch.testing.assert_close(densities.flatten(), again, atol=1e-9, rtol=1e-9)

    @torch.no_grad()
    def test_contexts_may_be_an_array_as_for_nflows(self):
        flow, context = self.flow(), torch.eye(3)
        torch.manual_seed(4)
        expected = flow.sample(2, context)
        torch.manual_seed(4)
        assert torch.equal(flow.sample(2, context.numpy().astype("float64")), expected)

    def test_every_class_of_none_is_refused(self):
        with pytest.raises(ValueError, match="class_log_prob needs one context or more, got none"):
            self.flow().class_log_prob(torch.zeros(4, 6), torch.zeros(0, 3))

    @torch.no_grad()
    def test_samples_in_batches_are_joined_for_each_context(self):
        flow, context = self.flow(), torch.eye(3)[:2]
        torch.manual_seed(4)
        together = flow.sample(7, context, batch_size=3)
        torch.manual_seed(4)
        apart = [flow.sample(count, context) for count in (3, 3, 1)]
        assert together.shape == (2, 7, 6) and torch.equal(together, torch.cat(apart, 1))
        assert flow.sample(2, context, batch_size=5).shape == (2, 2, 6)
        with pytest.raises(ValueError, match="batch_size must be a positive whole number, got 0"):
            flow.sample(2, context, batch_size=0)

    def test_samples_can_be_differentiated(self):
        flow, context = self.flow(), batch(2)[1]
        flow.sample(3, context).square().sum().backward()
        assert all(parameter.grad is not None for parameter in flow.parameters())

    def test_sampling_without_gradients_does_not_spoil_training(self):
        flow, (values, context) = (
            build_flow("maf", 6, 3, hidden_features=701, num_layers=1),
            batch(),
        )
        with torch.inference_mode():
            flow.sample(2, context)
        flow.log_prob(values, context).mean().backward()
        assert all(parameter.grad is not None for parameter in flow.parameters())

    def test_no_rows_give_no_rows(self):
        flow = self.flow()
        assert flow.transform_from_noise(torch.zeros(0, 6), torch.zeros(0, 3)).shape == (0, 6)
        assert flow.log_prob(torch.zeros(0, 6), torch.zeros(0, 3)).shape == (0,)


def test_a_flow_of_layers_unknown_to_the_kernels_runs_as_nflows_does():
    from nflows.transforms import MaskedAffineAutoregressiveTransform as Layer

    torch.manual_seed(0)
    layers = [
        Layer(6, 9, context_features=3, activation=torch.tanh),
        Layer(6, 8, context_features=3),
    ]
    flow, (values, context) = ConditionalFlow(AutoregressiveStack(layers), 6, 3).eval(), batch()
    with torch.no_grad():
        noise = flow.transform_to_noise(values, context)
        torch.testing.assert_close(
            flow.transform_from_noise(noise, context), values, atol=1e-4, rtol=1e-4
        )
