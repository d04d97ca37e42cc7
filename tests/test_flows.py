"""Laws of the conditional flows: two directions of one map, its Jacobian, its density."""

from functools import partial

import pytest
import torch
import zuko
from laws import one_line, refusal, shake
from nflows.flows import Flow

from fpnlib.flows import FLOWS, build_flow
from fpnlib.flows.adapters import adapt_flow


def own_nflows(features, context_features, **settings):
    """A user's nflows flow, which this library has not made."""
    made = build_flow("realnvp", features, context_features, **settings)
    return adapt_flow(Flow(made._transform, made._distribution), features, context_features)


def own_zuko(features, context_features, hidden_features, num_layers):
    """A user's zuko flow."""
    shape = {"transforms": num_layers, "hidden_features": (hidden_features,)}
    flow = zuko.flows.MAF(features, context_features, **shape)
    return adapt_flow(flow, features, context_features)


OWN = {"nflows": own_nflows, "zuko": own_zuko}


def shaken(name, features=5, context_features=3, seed=0, size=0.1, **settings):
    """A flow whose weights and statistics have left their starting values."""
    torch.manual_seed(seed)
    settings = {"hidden_features": 16, "num_layers": 2} | settings
    flow = OWN.get(name, partial(build_flow, name))(features, context_features, **settings)
    return shake(flow, size)


def pair(features=5, context_features=3, n=20, seed=1):
    generator = torch.Generator().manual_seed(seed)
    context = torch.eye(context_features)[torch.arange(n) % context_features]
    return torch.randn(n, features, generator=generator), context


VARIANTS = [{}, {"batch_norm": True}, {"embedding_features": 4, "dropout": 0.2}]
VARIANTS += [{"hidden_features": 3, "num_blocks": 1}]
CASES = [(name, settings) for name in ("maf", "realnvp") for settings in VARIANTS]
CASES += [("spline", {}), ("spline", VARIANTS[-1]), ("nflows", {}), ("zuko", {})]


@pytest.mark.parametrize(("name", "settings"), CASES)
class TestLaws:
    def test_the_conditional_density_integrates_to_one(self, name, settings):
        flow = shaken(name, features=2, num_layers=1, size=0.03, **settings)
        axis = torch.linspace(-25, 25, 251)
        grid = torch.cartesian_prod(axis, axis)
        for context in torch.eye(3)[:2]:
            density = flow.class_log_prob(grid, context[None]).double().exp()
            assert density.sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=0.02)

    def test_directions_are_inverse_and_samples_have_the_density_claimed(self, name, settings):
        flow, (data, context) = shaken(name, **settings), pair(n=4)
        noise = flow.transform_to_noise(data, context)
        back = flow.transform_from_noise(noise, context)
        torch.testing.assert_close(back, data, atol=1e-3, rtol=1e-3)
        z, claimed = flow.sample_and_log_prob(5, context)
        again = flow.log_prob(z.flatten(0, 1), context.repeat_interleave(5, 0))
        torch.testing.assert_close(claimed.flatten(), again, atol=1e-3, rtol=1e-4)

    def test_the_density_is_that_of_the_noise_and_the_jacobian(self, name, settings):
        flow, (z, context) = shaken(name, **settings), pair(n=3)
        for row, own in zip(z, context):
            jacobian = torch.autograd.functional.jacobian(
                lambda x, own=own: flow.transform_to_noise(x[None], own[None])[0], row
            )
            noise = flow.transform_to_noise(row[None], own[None])
            normal = torch.distributions.Normal(0, 1).log_prob(noise).sum()
            expected = normal + jacobian.slogdet().logabsdet
            found = flow.log_prob(row[None], own[None])[0]
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_a_coupling_leaves_one_half_alone_and_the_next_the_other():
    flow, (z, context) = shaken("realnvp", features=6), pair(features=6)
    first, second = flow._transform._transforms[:2]
    moved = [(layer(z, context)[0] != z).any(0).tolist() for layer in (first, second)]
    assert moved == [[False, True] * 3, [True, False] * 3]


@pytest.mark.parametrize(
    ("name", "file", "settings"),
    [
        ("maf", "flow_mnist_convvae_maf.pt", {"hidden_features": 40}),
        ("realnvp", "flow_shapenet_rnvp_small.pt", {"hidden_features": 64, "num_blocks": 4}),
    ],
)
def test_the_original_weights_give_the_original_numbers(shared, name, file, settings):
    saved = torch.load(shared / "reference" / file, weights_only=True)
    state = {key[3:]: value for key, value in saved.items() if key.startswith("sd.")}
    x, context, noise = saved["in.x"], saved["in.context"], saved["in.noise"]
    flow = build_flow(name, x.shape[1], context.shape[1], **settings).eval()
    flow.load_state_dict(state, strict=True)
    for key, value in flow.state_dict().items():
        assert torch.equal(value, state[key]), key
    torch.testing.assert_close(flow.log_prob(x, context), saved["out.log_prob"], atol=2e-4, rtol=0)
    near = {"atol": 5e-5, "rtol": 0}
    found, data = flow.transform_to_noise(x, context), flow.transform_from_noise(noise, context)
    torch.testing.assert_close(found, saved["out.noise_of_x"], **near)
    torch.testing.assert_close(data, saved["out.inverse_noise"], **near)
    every = flow.class_log_prob(x, torch.eye(context.shape[1]))
    torch.testing.assert_close(every, saved["out.class_log_prob"], atol=2e-4, rtol=0)
    assert torch.equal(every.argmax(1), saved["out.predict"])
    weighted = (every + saved["in.log_weights"]).argmax(1)
    assert torch.equal(weighted, saved["out.predict_log_weights"])


ONE, TWO, WIDE = torch.zeros(1, 3), torch.zeros(2, 3), torch.zeros(4, 2)
Z = torch.zeros(2, 5)
SHAPE = r"context must have shape \(n, 3\), got "
BAD = [
    (lambda f: build_flow("mfa", 5, 3), "unknown flow 'mfa'; did you mean 'maf'?"),
    (lambda f: build_flow("maf", 0, 3), "features must be a positive whole number, got 0"),
    (
        lambda f: build_flow("maf", 5, 3, hidden_features=2.5),
        "hidden_features must be .* 2.5",
        TypeError,
    ),
    (lambda f: build_flow("maf", 5, 3, dropout=1.0), r"dropout must lie in \[0, 1\), got 1.0"),
    (lambda f: build_flow("realnvp", 1, 3), "features must be 2 or more for realnvp, got 1"),
    (lambda f: f.log_prob(Z, torch.zeros(2, 7)), SHAPE + r"\(2, 7\)"),
    (lambda f: f.log_prob(Z[:, :4], TWO), r"inputs must have shape \(n, 5\), got \(2, 4\)"),
    (lambda f: f.transform_to_noise(Z, None), SHAPE + "None"),
    (lambda f: f.transform_from_noise(Z, ONE), "same length, got 2 and 1"),
    (lambda f: f.transform_from_noise(torch.zeros(5), ONE), r"noise must have .*, got \(5,\)"),
    (lambda f: f.class_log_prob(Z, WIDE), SHAPE + r"\(4, 2\)"),
    (lambda f: f.class_log_prob(Z, ONE[:0]), "class_log_prob needs one context or more, got none"),
    (lambda f: f.sample(2, WIDE), SHAPE + r"\(4, 2\)"),
    (lambda f: f.sample(2, ONE, batch_size=0), "batch_size must be a positive whole number, got 0"),
]


@pytest.mark.parametrize("row", BAD)
@pytest.mark.parametrize("name", FLOWS)
def test_bad_input_gets_one_clear_line(name, row):
    call, line, kind = refusal(row)
    with one_line(kind, line):
        call(build_flow(name, 5, 3, hidden_features=8))
