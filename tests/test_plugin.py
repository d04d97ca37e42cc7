"""Laws of plugin and network: densities, Bayes' rule, inverses, a frozen base, clear errors."""

import copy
import warnings

import pytest
import torch
from laws import one_line, refusal, same_state
from nflows.distributions import ConditionalDiagonalNormal
from nflows.flows import Flow
from nflows.transforms import CompositeTransform
from torch import nn

from fpnlib import Attributes, Classes, FlowPlugin, FlowPluginNetwork, adapt
from fpnlib.flows import build_flow

MEANS = torch.tensor([[2.0, -1.0], [-3.0, 4.0], [0.0, 0.5]])
FACTORS = torch.tensor(
    [[[1.0, 0.0], [0.8, 0.5]], [[0.5, 0.0], [-0.3, 1.5]], [[2.0, 0.0], [0.0, 0.3]]]
)
THREE = Classes("abc")
NEAR = {"atol": 1e-4, "rtol": 1e-4}


def gaussians(n, seed=0):
    """n latents of each of three known conditional Gaussians, and their labels."""
    noise = torch.randn(3 * n, 2, generator=torch.Generator().manual_seed(seed))
    y = torch.arange(3).repeat_interleave(n)
    return MEANS[y] + (FACTORS[y] @ noise[..., None])[..., 0], y


def true_log_prob(z, y):
    return torch.distributions.MultivariateNormal(MEANS[y], scale_tril=FACTORS[y]).log_prob(z)


@pytest.fixture(scope="module", params=["maf", "realnvp", "spline"])
def fitted(request):
    torch.manual_seed(0)
    z, y = gaussians(2000)
    plugin = FlowPlugin(2, THREE, request.param, hidden_features=24, num_layers=3)
    return plugin.fit(z, y, epochs=15, batch_size=512, learning_rate=1e-2)


def test_a_known_conditional_gaussian_is_recovered(fitted):
    z = fitted.sample(range(3), n=4000, seed=1).unflatten(0, (3, 4000))
    for k in range(3):
        deviations = FACTORS[k].norm(dim=1)
        assert ((z[k].mean(0) - MEANS[k]).abs() < 0.12 * deviations).all()
        torch.testing.assert_close(z[k].T.cov(), FACTORS[k] @ FACTORS[k].T, atol=0.3, rtol=0.1)
    z, y = gaussians(1000, seed=2)
    # The gap to the truth is the KL divergence: small, and positive up to sampling noise.
    assert -0.03 < (true_log_prob(z, y) - fitted.log_prob(z, y)).mean() < 0.1


@pytest.mark.parametrize("k", range(3))
def test_the_density_integrates_to_one(fitted, k):
    axis = torch.linspace(-16, 16, 321)
    grid = torch.cartesian_prod(axis, axis) + MEANS[k]
    total = fitted.log_prob(grid, k).double().exp().sum() * (axis[1] - axis[0]) ** 2
    assert total.item() == pytest.approx(1, abs=5e-3)


def test_noise_and_latents_are_inverse(fitted):
    z, y = gaussians(200, seed=3)
    torch.testing.assert_close(fitted.from_noise(fitted.to_noise(z, y), y), z, **NEAR)
    u = torch.randn(200, 2, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(fitted.to_noise(fitted.from_noise(u, 1), 1), u, **NEAR)


def test_the_posterior_is_bayes_rule_and_sums_to_one(fitted):
    z, _ = gaussians(100, seed=5)
    joint = torch.stack([fitted.log_prob(z, k) for k in range(3)], -1)
    prior = torch.tensor([0.7, 0.2, 0.1])
    posterior = fitted.log_posterior(z, prior)
    torch.testing.assert_close(posterior, (joint + prior.log()).log_softmax(-1), **NEAR)
    torch.testing.assert_close(posterior.exp().sum(-1), torch.ones(len(z)))
    torch.testing.assert_close(fitted.log_posterior(z), joint.log_softmax(-1), **NEAR)
    assert torch.equal(fitted.predict(z, prior), (joint + prior.log()).argmax(-1))


def test_the_train_prior_is_the_frequencies():
    z, y = gaussians(40)
    z, y = z[10:], y[10:]
    plugin = FlowPlugin(2, THREE, hidden_features=4, num_layers=1)
    plugin.fit(z, y, validation=(z, y), epochs=1)
    found, expected = plugin.log_posterior(z, "train"), torch.bincount(y) / len(y)
    torch.testing.assert_close(found, plugin.log_posterior(z, expected), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, plugin.log_posterior(z), atol=1e-3)


def test_fresh_draws_spread_the_latents_by_their_std():
    z, y = MEANS[torch.arange(3).repeat(500)], torch.arange(3).repeat(500)
    plugin = FlowPlugin(2, THREE, hidden_features=16, num_layers=2)
    plugin.fit(z, y, std=torch.full_like(z, 0.7), epochs=20, batch_size=128, learning_rate=1e-2)
    spread = plugin.sample(range(3), n=2000, seed=0).unflatten(0, (3, 2000)).std(1)
    torch.testing.assert_close(spread, torch.full((3, 2), 0.7), atol=0.1, rtol=0)


def test_samples_follow_seed_temperature_and_order(fitted):
    assert torch.equal(fitted.sample(1, n=3, seed=7), fitted.sample("b", n=3, seed=7))
    assert not torch.equal(fitted.sample(1, n=3, seed=7), fitted.sample(1, n=3, seed=8))
    modes = fitted.sample([2, 0], n=2, temperature=0, seed=0)
    assert torch.equal(modes[0], modes[1]) and torch.equal(modes[2], modes[3])
    torch.testing.assert_close(modes[[0, 2]], MEANS[[2, 0]], atol=0.3, rtol=0)


def test_what_is_asked_in_train_mode_moves_no_statistics():
    torch.manual_seed(0)
    z, y = gaussians(100)
    plugin = FlowPlugin(2, THREE, hidden_features=8, num_layers=2, batch_norm=True)
    plugin.fit(z, y, epochs=1, batch_size=64)
    expected = plugin.log_posterior(z)
    plugin.train()
    plugin.flow._embedding_net.eval()
    before = copy.deepcopy(plugin.state_dict())
    modes = [module.training for module in plugin.modules()]
    assert torch.equal(plugin.log_posterior(z), expected)
    plugin.log_prob(z, 0), plugin.from_noise(plugin.to_noise(z, y), 2), plugin.sample(1)
    assert same_state(plugin.state_dict(), before)
    assert [module.training for module in plugin.modules()] == modes and plugin.training


class Elsewhere(nn.Linear):
    """A base model in float64 on the meta device that notes its inputs' device and type."""

    latent_dim = 2

    def __init__(self):
        super().__init__(2, 2, device="meta", dtype=torch.float64)
        self.came = []

    def encode(self, x):
        self.came.append((x.device.type, x.dtype))
        return torch.zeros(len(x), 2)

    def decode(self, z):
        return torch.zeros(len(self.encode(z)), 5)


def test_the_base_model_is_given_what_it_can_take(fitted):
    base = Elsewhere()
    fpn, x = FlowPluginNetwork(base, fitted), torch.randn(1500, 5)
    fpn.classify(x), fpn.generate(1, n=2), fpn.reconstruct(x[:3]), fpn.edit(x[:3], 0, 1)
    assert set(base.came) == {("meta", torch.float64)} and len(base.came) == 7
    fpn.classify(torch.arange(10).reshape(2, 5))
    assert base.came[-1] == ("meta", torch.int64)


class Overflowing(nn.Module):
    """A flow whose inverse overflows on the first ``bad`` rows, in its first ``times`` calls."""

    def __init__(self, flow, bad, times, value):
        super().__init__()
        self.flow, self.bad, self.times, self.value = flow, bad, times, value

    def transform_from_noise(self, u, context):
        z = self.flow.transform_from_noise(u, context).clone()
        if self.times > 0:
            self.times -= 1
            z[: self.bad] = self.value
        return z


def plain_flow(distribution=None):
    """A flow of three contexts on two latents as nflows' own class, and as it comes from there."""
    made = build_flow("maf", 2, 3, hidden_features=8, num_layers=2)
    transform = CompositeTransform(list(made._transform._transforms))
    return Flow(transform, distribution or made._distribution)


def test_an_nflows_flow_serves_and_shares_its_weights(plugin):
    flow = plain_flow()
    mine = FlowPlugin(2, THREE, flow)
    (z, y), context = gaussians(20), torch.eye(3)[torch.arange(3).repeat_interleave(20)]
    torch.testing.assert_close(mine.log_prob(z, y), flow.log_prob(z, context).detach())
    before = copy.deepcopy(flow.state_dict())
    mine.fit(z, y, validation=(z, y), epochs=1)
    assert not same_state(flow.state_dict(), before)


def test_from_nflows_state_dict_and_back(plugin):
    theirs = plain_flow().state_dict()
    plugin.flow.load_state_dict(theirs)
    kept = {key: theirs[key] for key in theirs if not key.endswith(("mask", "degrees"))}
    assert len(kept) < len(theirs) and same_state(plugin.flow.state_dict(), kept)
    left = plain_flow().load_state_dict(plugin.flow.state_dict(), strict=False)
    assert not left.unexpected_keys and set(left.missing_keys) == theirs.keys() - kept.keys()
    masks = {key: 1 - theirs[key] for key in theirs if key.endswith("initial_layer.mask")}
    said = "initial_layer.mask is of other widths, or drawn at random"
    with pytest.raises(RuntimeError, match=said):
        plugin.flow.load_state_dict(theirs | masks)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    z, y = gaussians(300)
    return FlowPlugin(2, THREE, hidden_features=8, num_layers=2).fit(z, y, epochs=3, batch_size=64)


@pytest.fixture
def plugin(small):
    """A fitted plugin for a test to do with as it likes."""
    torch.manual_seed(0)
    return copy.deepcopy(small)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_overflowing_samples_are_drawn_again_and_counted(plugin, value):
    plugin.flow = Overflowing(plugin.flow, bad=3, times=1, value=value)
    said = "3 of 100 latents overflowed in the flow and were drawn again"
    with pytest.warns(RuntimeWarning, match=said):
        z = plugin.sample(0, n=100, seed=0)
    assert z.isfinite().all() and plugin.overflows_ == 3
    assert len(z.unique(dim=0)) == 100


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1e30])
def test_what_still_overflows_is_clamped_to_the_training_range(plugin, value):
    plugin.flow = Overflowing(plugin.flow, bad=2, times=10**6, value=value)
    with pytest.warns(RuntimeWarning, match="2 of 50 latents .* clamped"):
        z = plugin.from_noise(torch.randn(50, 2), 1)
    with pytest.warns(RuntimeWarning, match="clamped"):
        z = torch.cat([z, plugin.sample(1, n=50, seed=0)])
    assert z.isfinite().all() and (z >= plugin.low_).all() and (z <= plugin.high_).all()


def test_the_warning_points_at_the_line_that_asked(plugin):
    plugin.flow = Overflowing(plugin.flow, bad=2, times=10**6, value=float("nan"))
    base = adapt(None, encode=lambda x: x, decode=lambda z: z)
    fpn, u = FlowPluginNetwork(base, plugin), torch.zeros(5, 2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        plugin.sample(1, n=50), plugin.from_noise(u, 1), fpn.generate(1, n=50)
        plugin.flow.times = 1
        plugin.sample(1, n=50)
    assert len(said) == 4 and {warning.filename for warning in said} == {__file__}


def test_a_plugin_that_is_not_fitted_never_hands_nan_on():
    plugin = FlowPlugin(2, THREE, hidden_features=8, num_layers=2)
    with pytest.warns(UserWarning, match="the plugin is not fitted"):
        plugin.sample(0)
    plugin.flow = Overflowing(plugin.flow, bad=1, times=10**6, value=float("nan"))
    with pytest.raises(FloatingPointError, match="fit the plugin"):
        plugin.sample(0, n=5)


UNUSUAL, LOOKS = plain_flow(ConditionalDiagonalNormal([2])), FlowPlugin(2, Attributes([*"ab"]))
NO_C, RED = [0, 1, 1, 0], [[0, 1], [1, 1], [0, 1], [1, 1]]


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_class_is_learned_and_not_held_out(seed):
    y = torch.zeros(40, dtype=torch.long)
    y[1::2], y[7] = 1, 2  # one of the third
    plugin = FlowPlugin(2, THREE, hidden_features=8, num_layers=1, num_blocks=1)
    plugin.fit(torch.randn(40, 2), y, epochs=1, seed=seed)
    assert plugin.log_prior_.exp()[2] > 0


@pytest.mark.parametrize(
    "row",
    [
        (lambda p, z: p.log_prob(z[:, :1], 0), r"z must have shape \(n, 2\), got \(4, 1\)"),
        (lambda p, z: p.fit(z, NO_C, validation=(z, NO_C)), "class 'c' has no samples"),
        (lambda p, z: p.fit(z, [0, 1, 2, 0], std=z[:2]), "z and std must have the same length"),
        (lambda p, z: p.sample(0, n=1.5), "n must be a positive whole number, got 1.5", TypeError),
        (lambda p, z: p.sample(0, n=1, temperature=-1), "temperature must be"),
        (lambda p, z: p.log_posterior(z, "uniform"), "unknown prior 'uniform'"),
        (lambda p, z: p.log_posterior(z, torch.ones(3)), "must be 3 probabilities that sum to 1"),
        (lambda p, z: FlowPlugin(2, THREE, spread=-1), "spread must be above 0 and finite, got -1"),
        (lambda p, z: LOOKS.predict(z), "Bayes' rule chooses among Classes", TypeError),
        (lambda p, z: LOOKS.to_noise(z, RED[:2]), "z and y must have the same length, got 4 and 2"),
        (lambda p, z: LOOKS.fit(z, RED), "attribute 'b' is 1 in all"),
        (lambda p, z: FlowPlugin(2, THREE, UNUSUAL), "StandardNormal distribution", TypeError),
        (lambda p, z: FlowPlugin(2, THREE, build_flow("maf", 2, 7)), "context"),
        (lambda p, z: FlowPlugin(5, THREE, build_flow("maf", 2, 3)), "5 latents"),
        (lambda p, z: FlowPluginNetwork(Elsewhere(), FlowPlugin(3, THREE)), "dim, got 2 and 3"),
    ],
)
def test_bad_input_gets_one_clear_line(plugin, row):
    call, line, kind = refusal(row)
    z, _ = gaussians(2)
    with one_line(kind, line):
        call(plugin, z[:4])


def test_a_trained_flow_of_the_users_own_stays_as_it_is():
    flow = build_flow("maf", 2, 3, hidden_features=8, num_layers=2, batch_norm=True)
    for name, buffer in flow.named_buffers():
        if name.endswith("running_var"):
            buffer.fill_(0.3)
    before = copy.deepcopy(flow.state_dict())
    FlowPlugin(2, THREE, flow)
    assert same_state(flow.state_dict(), before)


def portraits(n, seed=0):
    """n noisy latents with two attributes, each a shift along its own axis."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 2, (n, 2), generator=generator).float()
    shifts = torch.cat([3 * y, torch.zeros(n, 1)], 1)
    return shifts + 0.5 * torch.randn(n, 3, generator=generator), y


@pytest.fixture(scope="module")
def editor():
    torch.manual_seed(0)
    settings = dict(num_layers=3, batch_norm=True, embedding_features=8)
    plugin = FlowPlugin(3, Attributes(["round", "red"]), **settings)
    return plugin.fit(*portraits(2000), epochs=15, batch_size=200, learning_rate=1e-2)


class Identity(nn.Module):
    latent_dim = 3

    def encode(self, x):
        return x

    decode = encode


def test_attributes_are_edited_with_the_noise_kept(editor):
    fpn, (z, y) = FlowPluginNetwork(Identity(), editor), portraits(200, seed=1)
    moved = fpn.edit(z, y, "+round -red") - z
    expected = 3 * torch.stack([1 - y[:, 0], -y[:, 1], torch.zeros(200)], 1)
    torch.testing.assert_close(moved, expected, atol=0.6, rtol=0)
    assert (moved - expected).abs().mean() < 0.12
    halfway = (fpn.edit(z[:1], y[:1], {"red": 0.5}) - fpn.edit(z[:1], y[:1], "-red"))[0, 1]
    assert 0.3 < halfway < 2.7


def test_edits_there_and_back_and_to_what_it_is(editor):
    fpn, (z, y) = FlowPluginNetwork(Identity(), editor), portraits(200, seed=2)
    torch.testing.assert_close(fpn.edit(z, y, y), fpn.reconstruct(z), atol=1e-3, rtol=0)
    there = fpn.edit(z, y, 1 - y)
    assert (there - z).abs().mean() > 1
    torch.testing.assert_close(fpn.edit(there, 1 - y, y), z, atol=1e-3, rtol=0)


def test_the_strength_of_an_edit_is_how_far_the_labels_go(editor):
    z, y = portraits(50, seed=2)
    half = editor.from_noise(editor.to_noise(z, y), torch.full_like(y, 0.5))
    torch.testing.assert_close(editor.edit(z, 1 - y, y, strength=0.5), half)
    assert torch.equal(editor.edit(z, 1 - y, y, strength=1), editor.edit(z, 1 - y, y))
    torch.testing.assert_close(editor.edit(z, 1 - y, y, strength=0), z, atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="strength must be finite, got nan"):
        editor.edit(z, 1 - y, y, strength=float("nan"))


def test_samples_have_the_attributes_asked_for(editor):
    z = editor.sample("+red", n=500, seed=0)
    torch.testing.assert_close(z.mean(0), torch.tensor([0.0, 3, 0]), atol=0.2, rtol=0)


@pytest.mark.parametrize("latent_dim", [2, 100])
def test_by_default_each_latent_affects_others(latent_dim):
    torch.manual_seed(0)
    flow = FlowPlugin(latent_dim, Classes("ab")).flow
    z, context = torch.randn(1, latent_dim), torch.tensor([[1.0, 0.0]])
    effects = torch.autograd.functional.jacobian(
        lambda z: flow.transform_to_noise(z, context)[0], z
    )
    assert ((effects[:, 0] != 0).sum(0) > 1).all()
