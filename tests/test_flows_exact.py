"""Fast flows give nflows' numbers: in both directions, under every class, and in gradients."""

import copy
import json
import pickle
from pathlib import Path

import numba
import pytest
import torch
from laws import shake
from nflows.flows import Flow
from nflows.transforms import (
    BatchNorm,
    CompositeTransform,
    MaskedAffineAutoregressiveTransform,
    RandomPermutation,
    ReversePermutation,
)
from safetensors.torch import load_file

from fpnlib.flows import ConditionalFlow, build_flow
from fpnlib.flows.engine import transform
from fpnlib.store.cache import threads

OUTPUTS = Path(__file__).resolve().parents[1] / "outputs"
PRETRAINED = sorted(OUTPUTS.glob("pretrained/*_maf.safetensors"))
PRETRAINED += sorted(OUTPUTS.glob("pretrained/*_realnvp.safetensors"))
SETTINGS = {"hidden_features", "num_layers", "num_blocks", "embedding_features"}
SETTINGS |= {"batch_norm", "dropout"}
WIDE = {"hidden_features": transform.WIDE, "num_layers": 2}
NEAR = {"atol": 1e-4, "rtol": 1e-4}

VARIANTS = {
    "plain": ("maf", {}),
    "narrower than D": ("maf", {"hidden_features": 4}),
    "one feature": ("maf", {"features": 1}),
    "batch norm": ("maf", {"batch_norm": True, "num_blocks": 3}),
    "wide": ("maf", WIDE | {"num_blocks": 3}),
    "wide, batch norm": ("maf", WIDE | {"num_blocks": 1, "batch_norm": True}),
    "dropout and embedding": ("maf", {"dropout": 0.3, "embedding_features": 5}),
    "coupling": ("realnvp", {}),
    "coupling, odd D": ("realnvp", {"features": 7, "batch_norm": True, "embedding_features": 2}),
    "random permutations": ("permuted", {}),
    "random permutations, batch norm": ("permuted", {"batch_norm": True}),
}


def build(name, features=9, seed=0, **settings):
    torch.manual_seed(seed)
    if name == "permuted":
        return permuted(**settings)
    flow = build_flow(name, features, 4, **{"hidden_features": 22, "num_layers": 3} | settings)
    return shake(flow, 0.05)


def permuted(batch_norm=False):
    """A flow of one's own, with random permutations and perhaps batch norms between its layers."""
    layers = [RandomPermutation(6), ReversePermutation(6)]
    for _ in range(2):
        layers.append(MaskedAffineAutoregressiveTransform(6, 12, context_features=4))
        layers += [BatchNorm(6)] if batch_norm else []
        layers.append(RandomPermutation(6))
    return shake(ConditionalFlow(CompositeTransform(layers[:-1]), 6, 4), 0.05)


def as_nflows(flow):
    """nflows' own flow with the same weights, by its state dict."""
    transform = CompositeTransform(list(copy.deepcopy(flow)._transform._transforms))
    twin = Flow(transform, copy.deepcopy(flow._distribution), copy.deepcopy(flow._embedding_net))
    twin.load_state_dict(flow.state_dict(), strict=True)
    return twin.train(flow.training)


def batch(flow, n=70, seed=1):
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randint(flow.context_features, (n,), generator=generator)
    context = torch.eye(flow.context_features)[kinds]
    return torch.randn(n, flow.features, generator=generator), context


def class_by_class(flow, z, every):
    """log p (n, K) of z under each context, one after the other."""
    return torch.stack([flow.log_prob(z, row.expand(len(z), -1)) for row in every], 1)


def error(value, exact):
    """Largest difference relative to the value where that is above 1."""
    return ((value.double() - exact) / exact.abs().clamp_min(1)).abs().max().item()


def rounding(exact):
    """The flow in float64 with weights moved by float32's rounding, which steep maps enlarge."""
    near = copy.deepcopy(exact)
    for parameter in near.parameters():
        parameter.mul_(1 + 2.0**-24 * torch.randn_like(parameter))
    return near


@pytest.fixture(params=VARIANTS, ids=list(VARIANTS))
def flow(request):
    name, settings = VARIANTS[request.param]
    return build(name, **settings)


def assert_no_worse(ours, exact, *others):
    """Each of our results is about as near to the exact one as some of the others' is."""
    for mine, right, *rest in zip(ours, exact, *others, strict=True):
        assert error(mine, right) <= 4 * max(error(other, right) for other in rest) + 4e-6


@torch.no_grad()
def test_all_is_as_near_to_float64_as_nflows_is(flow):
    """Both directions and every class' density in float32, beside nflows in float32 and 64."""
    theirs, exact, (z, context) = as_nflows(flow), as_nflows(flow).double(), batch(flow)
    every = torch.eye(flow.context_features)

    def results(module, dtype):
        rows, given = z.to(dtype), module._embedding_net(context.to(dtype))
        yield from module._transform.forward(rows, given)
        yield from module._transform.inverse(rows, given)
        if isinstance(module, ConditionalFlow):
            yield module.class_log_prob(rows, every.to(dtype))
        else:
            yield class_by_class(module, rows, every.to(dtype))

    rounded = [results(rounding(exact), torch.float64) for _ in range(4)]
    right = results(exact, torch.float64)
    assert_no_worse(results(flow, z.dtype), right, results(theirs, z.dtype), *rounded)


def trained(path):
    """The flow of a kept plugin, with its weights."""
    noted = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    config, kept = noted["meta"]["config"], load_file(path)
    state = {key[5:]: value for key, value in kept.items() if key.startswith("flow.")}
    reading = ("_embedding_net.weight", "context_layer.weight")
    given = min(key for key in state if key.endswith(reading))
    settings = {name: config[name] for name in SETTINGS & config.keys()}
    flow = build_flow(config["flow"], config["latent_dim"], state[given].shape[1], **settings)
    missing, unexpected = flow.load_state_dict(state, strict=False)
    assert not unexpected and all(key.endswith(("mask", "degrees")) for key in missing)
    return flow.eval()


@torch.no_grad()
@pytest.mark.parametrize("path", PRETRAINED, ids=lambda path: path.stem)
def test_trained_weights_give_the_numbers_of_nflows(path):
    if not path.with_suffix(".json").is_file():
        pytest.skip(f"needs {path.stem}.json beside the weights")
    torch.manual_seed(0)
    flow = trained(path)
    theirs, double, exact = as_nflows(flow), copy.deepcopy(flow).double(), as_nflows(flow).double()
    noise, context = batch(flow, n=12)
    noise *= 0.7
    context[::2, ::3] = 1  # several attributes at once, or what is no class
    given, given64 = flow._embedding_net(context), double._embedding_net(context.double())

    # In float64 nflows' forward pass proves the inverse, whose D passes would take long.
    inverse = data, logabsdet = double._transform.inverse(noise.double(), given64)
    expected = noise.double(), -logabsdet
    for mine, right in zip(exact._transform(data, given64), expected, strict=True):
        torch.testing.assert_close(mine, right, atol=1e-9, rtol=1e-9)
    near = [rounding(double)._transform.inverse(noise.double(), given64) for _ in range(2)]
    assert_no_worse(flow._transform.inverse(noise, given), inverse, *near)

    rows, rows64 = data.float(), data.float().double()
    forward = exact._transform(rows64, given64)
    for mine, right in zip(double._transform(rows64, given64), forward, strict=True):
        torch.testing.assert_close(mine, right, atol=1e-9, rtol=1e-9)
    assert_no_worse(flow._transform(rows, given), forward, theirs._transform(rows, given))


@torch.no_grad()
def test_densities_and_samples_of_a_seed_are_those_of_nflows(flow):
    theirs, (z, context) = as_nflows(flow), batch(flow)
    density = theirs.log_prob(z, context)
    torch.testing.assert_close(flow.log_prob(z, context), density, atol=1e-4, rtol=1e-5)
    torch.manual_seed(5)
    mine = flow.sample(3, context[:2])
    torch.manual_seed(5)
    torch.testing.assert_close(mine, theirs.sample(3, context[:2]), **NEAR)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_those_of_nflows(variant, training):
    name, settings = VARIANTS[variant]
    flow = build(name, **settings | ({"dropout": 0} if "dropout" in settings else {}))
    flow.train(training)
    theirs, exact = as_nflows(flow), as_nflows(flow).double()

    def gradients(module, dtype):
        rows = batch(flow, n=600 if variant == "plain" else 70)  # many samples go in pieces
        z, context = (tensor.to(dtype).requires_grad_() for tensor in rows)
        weights = torch.linspace(-1, 2, len(z), dtype=dtype)
        loss = (module.log_prob(z, context) * weights).sum()
        loss = loss + module.transform_to_noise(z, context).sin().sum()
        named = {"z": z, "context": context, **dict(module.named_parameters())}
        found = torch.autograd.grad(loss, list(named.values()))
        return dict(zip(named, found, strict=True))

    ours, nflows = gradients(flow, torch.float32), gradients(theirs, torch.float32)
    for key, right in gradients(exact, torch.float64).items():
        size = right.abs().max().clamp_min(1e-3)
        off, allowed = ((g.double() - right).abs().max() / size for g in (ours[key], nflows[key]))
        assert off <= 4 * allowed + 1e-5, key
        assert ours[key].shape == right.shape
        masked = right == 0
        assert (ours[key][masked].abs() <= 1e-5).all(), key


@pytest.mark.parametrize("variant", ["plain", "batch norm", "coupling", "coupling, odd D"])
def test_gradients_of_samples_are_those_of_nflows(variant):
    name, settings = VARIANTS[variant]
    flow = build(name, **{"features": 4} | settings, num_layers=2)
    theirs, (noise, context) = as_nflows(flow), batch(flow, n=20)

    def gradients(module):
        rows, given = (tensor.clone().requires_grad_() for tensor in (noise, context))
        data, logabsdet = module._transform.inverse(rows, module._embedding_net(given))
        loss = data.sin().sum() + logabsdet.sum()
        return torch.autograd.grad(loss, [rows, given, *module.parameters()])

    for mine, other in zip(gradients(flow), gradients(theirs), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-3, rtol=1e-3)


def test_training_with_dropout_and_batch_norm_is_that_of_nflows():
    flow = build("maf", batch_norm=True, dropout=0.3).train()
    theirs, (z, context) = as_nflows(flow), batch(flow)
    for module in (flow, theirs):
        torch.manual_seed(3)
        module.log_prob(z, context).mean().backward()
    for (key, mine), other in zip(flow.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine.grad, other.grad), key
    for (key, mine), other in zip(flow.named_buffers(), theirs.buffers(), strict=True):
        assert torch.equal(mine, other), key


@torch.no_grad()
@pytest.mark.parametrize("variant", ["plain", "batch norm", "narrower than D", "wide", "coupling"])
def test_float64_and_a_machine_without_numba_get_the_same_numbers(variant, monkeypatch):
    name, settings = VARIANTS[variant]
    flow = build(name, features=20, **settings) if variant == "plain" else build(name, **settings)
    z, context = batch(flow)
    z *= 0.3

    def results(flow, *given):
        every = torch.eye(4).to(given[0])
        return flow.transform_from_noise(*given), flow.class_log_prob(given[0], every)

    expected = results(flow, z, context)
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    without = results(flow, z, context)
    double, given64 = copy.deepcopy(flow).double(), (z.double(), context.double())
    exact = results(double, *given64)
    single = as_nflows(flow)._transform.inverse(z, context)[0]
    allowed = 4 * error(single, exact[0]) + 2e-5
    for mine, other, right in zip(expected, without, exact, strict=True):
        assert right.dtype == torch.float64
        assert max(error(mine, right), error(other, right)) <= allowed
    slow = as_nflows(double)._transform.inverse(*given64)[0]
    torch.testing.assert_close(exact[0], slow, atol=1e-10, rtol=1e-10)


def test_threads_change_gradients_by_rounding_only():
    flow = build("maf").train()
    (z, context), found = batch(flow, 100), []
    for count in (1, 3):
        with threads(count):
            density = flow.log_prob(z, context).sum()
            found.append(torch.autograd.grad(density, list(flow.parameters())))
            assert torch.get_num_threads() == count
    for one, several in zip(*found, strict=True):
        torch.testing.assert_close(one, several, atol=1e-3, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"batch_norm": True, "embedding_features": 5}])
def test_a_sample_does_not_depend_on_its_batch_to_the_bit(settings):
    flow = build("maf", **settings)
    noise, context = batch(flow, n=300)
    data, density = flow.transform_from_noise(noise, context), flow.log_prob(noise, context)
    every = flow.class_log_prob(noise, torch.eye(4))
    for rows in (slice(0, 1), slice(63, 65), slice(100, 300)):
        part, given = noise[rows], context[rows]
        assert torch.equal(flow.class_log_prob(part, torch.eye(4)), every[rows])
        if "embedding_features" not in settings:  # whose product is torch's
            assert torch.equal(flow.transform_from_noise(part, given), data[rows])
            assert torch.equal(flow.log_prob(part, given), density[rows])


@torch.no_grad()
@pytest.mark.parametrize("name", ["maf", "realnvp"])
def test_batches_of_one_and_many_and_threads_change_nothing(name):
    flow = build(name, features=4, hidden_features=6, num_layers=2)
    z, context = batch(flow, n=20_011)
    data, noise = flow.transform_from_noise(z, context), flow.transform_to_noise(z, context)
    every = flow.class_log_prob(z[:3000], torch.eye(4))
    for rows in (slice(0, 1), slice(7, 8), slice(20_000, 20_011), slice(100, 400)):
        part, given = z[rows], context[rows]
        near = {"atol": 1e-5, "rtol": 1e-5}
        torch.testing.assert_close(flow.transform_from_noise(part, given), data[rows], **near)
        torch.testing.assert_close(flow.transform_to_noise(part, given), noise[rows], **near)
    with threads(3):
        assert torch.equal(flow.transform_from_noise(z, context), data)
        assert torch.equal(flow.class_log_prob(z[:3000], torch.eye(4)), every)
    soft = context * 0.9  # contexts that are no classes
    there = flow.transform_from_noise(z[:500], soft[:500])
    torch.testing.assert_close(flow.transform_to_noise(there, soft[:500]), z[:500], **NEAR)


def normed(seed=0):
    return build("maf", seed=seed, batch_norm=True)


def _fused_step_in_eval_mode(flow):
    z, context = batch(flow)
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.01, fused=True)
    (-flow.log_prob(z, context).mean()).backward()
    optimizer.step()


def _fused_step_in_training(flow):
    _fused_step_in_eval_mode(flow.train())
    flow.eval()


def _assign_state(flow):
    flow.load_state_dict(normed(seed=5).state_dict(), assign=True)


def _data_between_train_and_eval(flow):
    _made(flow.train()).final_layer.bias.data.add_(0.1)
    flow.eval()


CHANGES = {
    "a step of a fused optimizer": _fused_step_in_training,
    "a fused step in eval mode": _fused_step_in_eval_mode,
    "a bias": lambda flow: _made(flow).blocks[0].linear_layers[0].bias.add_(0.1),
    "load_state_dict": lambda flow: flow.load_state_dict(normed(seed=4).state_dict()),
    "load_state_dict that assigns": _assign_state,
    ".data between train and eval": _data_between_train_and_eval,
    "a statistic": lambda flow: flow._transform._transforms[2].running_var.mul_(1.5),
}


def _made(flow):
    return flow._transform._transforms[1].autoregressive_net


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("disable_jit", [0, 1])
def test_changed_weights_change_the_samples(disable_jit, change, monkeypatch):
    monkeypatch.setattr(numba.config, "DISABLE_JIT", disable_jit)
    flow = normed()
    z, context = batch(flow)
    z *= 0.3
    first = flow.transform_from_noise(z, context)

    with torch.set_grad_enabled("fused" in change):
        CHANGES[change](flow)

    second = flow.transform_from_noise(z, context)
    assert not torch.equal(first, second)
    exact = as_nflows(flow)._transform.inverse(z, context)[0]
    torch.testing.assert_close(second, exact, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda flow: pickle.loads(pickle.dumps(flow))])
def test_a_copy_has_weights_of_its_own(copied):
    flow = build("maf")
    z, context = batch(flow)
    first = flow.transform_from_noise(z, context)
    twin = copied(flow)
    assert torch.equal(twin.transform_from_noise(z, context), first)
    with torch.no_grad():
        _made(twin).final_layer.bias.add_(0.1)
    assert not torch.equal(twin.transform_from_noise(z, context), first)
    assert torch.equal(flow.transform_from_noise(z, context), first)


@torch.no_grad()
def test_overflow_is_passed_on_and_stays_in_its_row():
    flow = build("maf")
    z, context = batch(flow, n=64)
    data = flow.transform_from_noise(z, context)
    z[5] = float("inf")
    z[9, 2] = float("nan")
    bad = flow.transform_from_noise(z, context)
    rows = torch.tensor([5, 9])
    assert not bad[rows].isfinite().all(1).any()
    keep = torch.ones(64, dtype=torch.bool).index_fill(0, rows, False)
    assert torch.equal(bad[keep], data[keep])


@torch.no_grad()
@pytest.mark.parametrize("name", ["maf", "realnvp"])
def test_a_scale_that_is_infinite_or_nan_has_such_a_logarithm(name):
    for value in (float("inf"), float("nan")):
        flow = build(name)
        transform = flow._transform._transforms[-1]
        net = transform.autoregressive_net if name == "maf" else transform.transform_net
        net.final_layer.bias[-2 if name == "maf" else -1] = value
        (z, context), theirs = batch(flow), as_nflows(flow)
        ours, right = flow._transform(z, context)[1], theirs._transform(z, context)[1]
        torch.testing.assert_close(ours, right, atol=1e-4, rtol=1e-4, equal_nan=True)
        assert not right.isfinite().any() or name == "realnvp"  # whose scales are sigmoids


@torch.no_grad()
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
def test_on_a_gpu_the_numbers_are_those_of_the_cpu(flow):
    z, context = batch(flow)
    z *= 0.3
    every = torch.eye(flow.context_features)[:4]

    def results(flow, z, context, every):
        yield flow.transform_from_noise(z, context)
        yield flow.log_prob(z, context)
        yield flow.class_log_prob(z, every)

    here = list(results(flow, z, context, every))
    flow, every = flow.cuda(), every.cuda()
    there = results(flow, z.cuda(), context.cuda(), every)
    for mine, other in zip(here, there, strict=True):
        torch.testing.assert_close(other.cpu(), mine, atol=1e-3, rtol=1e-3)
    assert flow.sample(2, every).device.type == "cuda"
