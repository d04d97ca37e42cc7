"""The short ways through a flow give nflows' numbers: in both directions, under every class, and in the gradients."""

import copy
import json
import pickle
import sys
import warnings
from pathlib import Path

import pytest
import torch
from nflows.flows import Flow
from nflows.transforms import (
    BatchNorm,
    CompositeTransform,
    MaskedAffineAutoregressiveTransform,
    RandomPermutation,
    ReversePermutation,
)
from safetensors.torch import load_file

import fpnlib.flows
from fpnlib.flows import ConditionalFlow, build_flow
from fpnlib.flows.autoregressive import AutoregressiveStack
from fpnlib.flows.compiled import compiled

OUTPUTS = Path(__file__).resolve().parents[1] / "outputs"
PRETRAINED = [
    path
    for name in ("maf", "realnvp")
    for path in sorted(OUTPUTS.glob(f"pretrained/*_{name}.safetensors"))
]

VARIANTS = {
    "plain": ("maf", {}),
    "narrower than D": ("maf", {"hidden_features": 4}),
    "one feature": ("maf", {"features": 1}),
    "batch norm": ("maf", {"batch_norm": True, "num_blocks": 3}),
    "wide": ("maf", {"hidden_features": 700, "num_layers": 2, "num_blocks": 3}),
    "wide, batch norm": (
        "maf",
        {"hidden_features": 700, "num_layers": 2, "num_blocks": 1, "batch_norm": True},
    ),
    "dropout and embedding": ("maf", {"dropout": 0.3, "embedding_features": 5}),
    "coupling": ("realnvp", {}),
    "coupling, batch norm, odd D": (
        "realnvp",
        {"features": 7, "batch_norm": True, "embedding_features": 2},
    ),
}


def build(name, features=9, seed=0, **settings):
    torch.manual_seed(seed)
    flow = build_flow(name, features, 4, **{"hidden_features": 22, "num_layers": 3} | settings)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(
                torch.randn_like(parameter), alpha=min(0.05, 0.25 * parameter.shape[-1] ** -0.5)
            )
        for key, buffer in flow.named_buffers():
            if key.endswith(("running_mean", "running_var")):
                buffer.copy_(torch.rand_like(buffer) + 0.5 * key.endswith("var"))
    return flow.eval()


def as_nflows(flow):
    """nflows' own flow with the same weights, by its state dict."""
    transform = CompositeTransform(list(copy.deepcopy(flow)._transform._transforms))
    twin = Flow(transform, copy.deepcopy(flow._distribution), copy.deepcopy(flow._embedding_net))
    twin.load_state_dict(flow.state_dict(), strict=True)
    return twin.train(flow.training)


def batch(flow, n=70, seed=1):
    generator = torch.Generator().manual_seed(seed)
    context = torch.eye(flow.context_features)[
        torch.randint(flow.context_features, (n,), generator=generator)
    ]
    return torch.randn(n, flow.features, generator=generator), context


def error(value, exact):
    """Largest difference relative to the value where that is above 1."""
    return ((value.double() - exact) / exact.abs().clamp_min(1)).abs().max().item()


def rounding(exact):
    """The flow in float64 with weights moved as float32 rounds them: what a map with steep places makes of that."""
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
def assert_as_exact_as_nflows(flow, z, context):
    """Both directions and every class' density in float32, beside nflows in float32 and in float64."""
    theirs, exact = as_nflows(flow), as_nflows(flow).double()
    every = torch.eye(flow.context_features)

    def results(module, dtype):
        rows, given = z.to(dtype), module._embedding_net(context.to(dtype))
        yield from module._transform.forward(rows, given)
        yield from module._transform.inverse(rows, given)
        if isinstance(module, ConditionalFlow):
            yield module.class_log_prob(rows, every.to(dtype))
        else:
            yield torch.stack(
                [module.log_prob(rows, row.to(dtype).expand(len(rows), -1)) for row in every], 1
            )

    rounded = [results(rounding(exact), torch.float64) for _ in range(4)]
    assert_no_worse(
        results(flow, z.dtype), results(exact, torch.float64), results(theirs, z.dtype), *rounded
    )


def test_all_is_as_near_to_float64_as_nflows_is(flow):
    assert_as_exact_as_nflows(flow, *batch(flow))


def trained(path):
    """The flow of a kept plugin, with its weights."""
    config = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["meta"]["made_from"][
        "flow"
    ]
    state = {
        key.removeprefix("flow."): value
        for key, value in load_file(path).items()
        if key.startswith("flow.")
    }
    names = {
        "hidden_features",
        "num_layers",
        "num_blocks",
        "batch_norm",
        "dropout",
        "embedding_features",
    }
    given = min(
        key for key in state if key.endswith(("_embedding_net.weight", "context_layer.weight"))
    )
    settings = {name: config[name] for name in names & config.keys()}
    flow = build_flow(config["flow"], config["latent_dim"], state[given].shape[1], **settings)
    missing, unexpected = flow.load_state_dict(state, strict=False)
    assert not unexpected and all(key.endswith(("mask", "degrees")) for key in missing)
    return flow.eval()


@torch.no_grad()
@pytest.mark.parametrize("path", PRETRAINED, ids=lambda path: path.stem)
def test_trained_weights_give_the_numbers_of_nflows(path):
    if not path.with_suffix(".json").is_file():
        pytest.skip(f"needs {path.stem}.json beside the weights")
    flow = trained(path)
    theirs, double, exact = as_nflows(flow), copy.deepcopy(flow).double(), as_nflows(flow).double()
    noise, context = batch(flow, n=12)
    noise *= 0.7
    context[::2, ::3] = 1  # several attributes at once, or what is no class
    given, given64 = flow._embedding_net(context), double._embedding_net(context.double())

    # In float64 nflows' forward pass proves the inverse, whose D passes would take long.
    inverse = data, logabsdet = double._transform.inverse(noise.double(), given64)
    for mine, right in zip(
        exact._transform(data, given64), (noise.double(), -logabsdet), strict=True
    ):
        torch.testing.assert_close(mine, right, atol=1e-9, rtol=1e-9)
    near = [rounding(double)._transform.inverse(noise.double(), given64) for _ in range(4)]
    assert_no_worse(flow._transform.inverse(noise, given), inverse, *near)

    rows, rows64 = data.float(), data.float().double()
    forward = exact._transform(rows64, given64)
    for mine, right in zip(double._transform(rows64, given64), forward, strict=True):
        torch.testing.assert_close(mine, right, atol=1e-9, rtol=1e-9)
    assert_no_worse(flow._transform(rows, given), forward, theirs._transform(rows, given))


@torch.no_grad()
def test_the_public_methods_agree_with_nflows(flow):
    theirs, (z, context) = as_nflows(flow), batch(flow)
    torch.testing.assert_close(
        flow.log_prob(z, context), theirs.log_prob(z, context), atol=1e-4, rtol=1e-5
    )
    noise = theirs.transform_to_noise(z, context)
    torch.testing.assert_close(flow.transform_to_noise(z, context), noise, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(flow.transform_from_noise(noise, context), z, atol=1e-4, rtol=1e-4)
    torch.manual_seed(5)
    mine = flow.sample(3, context[:2])
    torch.manual_seed(5)
    torch.testing.assert_close(mine, theirs.sample(3, context[:2]), atol=1e-4, rtol=1e-4)
    every = torch.eye(flow.context_features)[:4]
    loop = torch.stack([theirs.log_prob(z, row.expand(len(z), -1)) for row in every], 1)
    torch.testing.assert_close(flow.class_log_prob(z, every), loop, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", [*VARIANTS, "random permutations"])
def test_gradients_are_those_of_nflows(variant, training):
    if variant == "random permutations":
        flow = permuted(between=None)
    else:
        name, settings = VARIANTS[variant]
        flow = build(name, **settings | ({"dropout": 0} if "dropout" in settings else {}))
    flow.train(training)
    theirs, exact = as_nflows(flow), as_nflows(flow).double()

    def gradients(module, dtype):
        rows = batch(
            flow, n=600 if variant == "plain" else 70
        )  # of many samples the gradients are found by pieces
        z, context = (tensor.to(dtype).requires_grad_() for tensor in rows)
        weights = torch.linspace(-1, 2, len(z), dtype=dtype)
        loss = (module.log_prob(z, context) * weights).sum() + module.transform_to_noise(
            z, context
        ).sin().sum()
        named = dict(module.named_parameters())
        return dict(
            zip(
                ["z", "context", *named],
                torch.autograd.grad(loss, [z, context, *named.values()]),
                strict=True,
            )
        )

    ours, nflows = gradients(flow, torch.float32), gradients(theirs, torch.float32)
    for key, right in gradients(exact, torch.float64).items():
        size = right.abs().max().clamp_min(1e-3)
        off, allowed = ((g.double() - right).abs().max() / size for g in (ours[key], nflows[key]))
        assert off <= 4 * allowed + 1e-5, key
        assert ours[key].shape == right.shape
        masked = right == 0
        assert (ours[key][masked].abs() <= 1e-5).all(), key


@pytest.mark.parametrize("features", [1, 700])
def test_wide_layers_with_one_feature_and_with_more_than_units_agree_in_float64(features):
    flow = build("maf", features=features, hidden_features=650, num_layers=1, num_blocks=1).double()
    theirs, (z, context) = as_nflows(flow), (tensor.double() for tensor in batch(flow, n=3))
    ours, right = (module.log_prob(z, context) for module in (flow, theirs))
    torch.testing.assert_close(ours, right, atol=1e-9, rtol=1e-12)
    found = (
        torch.autograd.grad(value.sum(), module.parameters())
        for value, module in ((ours, flow), (right, theirs))
    )
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-10, rtol=1e-9)
    with torch.no_grad():
        for precise in (flow, flow.float()):
            values, given = (
                z.to(next(precise.parameters()).dtype),
                context.to(next(precise.parameters()).dtype),
            )
            noise = precise.transform_to_noise(values, given)
            torch.testing.assert_close(
                precise.transform_from_noise(noise, given), values, atol=1e-4, rtol=1e-4
            )


@pytest.mark.parametrize(
    "variant", ["plain", "batch norm", "coupling", "coupling, batch norm, odd D"]
)
def test_gradients_of_samples_are_those_of_nflows(variant):
    name, settings = VARIANTS[variant]
    flow = build(name, **{"features": 4} | settings, num_layers=2)
    theirs, (noise, context) = as_nflows(flow), batch(flow, n=20)

    def gradients(module):
        rows, given = (tensor.clone().requires_grad_() for tensor in (noise, context))
        data, logabsdet = module._transform.inverse(rows, module._embedding_net(given))
        return torch.autograd.grad(
            data.sin().sum() + logabsdet.sum(), [rows, given, *module.parameters()]
        )

    for mine, other in zip(gradients(flow), gradients(theirs), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["maf", "realnvp"])
def test_gradients_of_samples_are_not_taken_with_other_weights_or_in_another_mode(name):
    flow = build(name, features=4, num_layers=1, batch_norm=True)
    noise, context = batch(flow, n=5)
    data = flow._transform.inverse(noise, context)[0].sum()
    with pytest.raises(RuntimeError, match="take them before flow.train"):
        flow.train()
        data.backward()
    flow.eval()
    for change in (
        next(flow.parameters()),
        next(b for key, b in flow.named_buffers() if key.endswith("running_var")),
    ):
        data = flow._transform.inverse(noise, context)[0].sum()
        with torch.no_grad():
            change.mul_(1.1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            data.backward()


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


def permuted(between=BatchNorm):
    """A flow of one's own, with random permutations and perhaps batch norms between its layers."""
    torch.manual_seed(0)
    layers = [RandomPermutation(6), ReversePermutation(6)]
    for _ in range(2):
        norm = [between(6)] if between else []
        layers += [
            MaskedAffineAutoregressiveTransform(6, 12, context_features=4),
            *norm,
            RandomPermutation(6),
        ]
    flow = ConditionalFlow(AutoregressiveStack(layers[:-1]), 6, 4).eval()
    for key, buffer in flow.named_buffers():
        if key.endswith("running_var"):
            buffer.fill_(1.5)
    return flow


@pytest.mark.parametrize("between", [BatchNorm, None])
def test_random_permutations_in_a_flow_of_ones_own(between):
    flow = permuted(between)
    assert_as_exact_as_nflows(flow, *batch(flow))


@torch.no_grad()
@pytest.mark.parametrize("variant", ["plain", "batch norm", "narrower than D", "wide", "coupling"])
def test_float64_and_a_machine_without_numba_get_the_same_numbers(variant, monkeypatch):
    name, settings = VARIANTS[variant]
    flow = build(name, features=20, **settings) if variant == "plain" else build(name, **settings)
    z, context = batch(flow)
    z *= 0.3
    expected = flow.transform_from_noise(z, context), flow.class_log_prob(z, torch.eye(4))
    monkeypatch.setattr("fpnlib.flows.stack.compiled", lambda name: None)
    without = flow.transform_from_noise(z, context), flow.class_log_prob(z, torch.eye(4))
    double = copy.deepcopy(flow).double()
    exact = (
        double.transform_from_noise(z.double(), context.double()),
        double.class_log_prob(z.double(), torch.eye(4).double()),
    )
    theirs = as_nflows(double)
    single = as_nflows(flow)._transform.inverse(z, context)[0]
    allowed = 4 * error(single, exact[0]) + 2e-5
    for mine, other, right in zip(expected, without, exact, strict=True):
        assert right.dtype == torch.float64
        assert max(error(mine, right), error(other, right)) <= allowed
    torch.testing.assert_close(
        exact[0], theirs._transform.inverse(z.double(), context.double())[0], atol=1e-10, rtol=1e-10
    )


@torch.no_grad()
def test_a_compiler_that_fails_is_reported_once_and_replaced(monkeypatch):
    def broken(name):
        raise ImportError("no llvm here")

    monkeypatch.setattr("fpnlib.flows.compiled._announced", broken)
    compiled.cache_clear()
    try:
        flow = build("maf")
        z, context = batch(flow)
        with pytest.warns(
            RuntimeWarning, match="kernels are not available .*no llvm here.* plain torch"
        ):
            data = flow.transform_from_noise(z, context)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            flow.transform_from_noise(z, context)
        torch.testing.assert_close(flow.transform_to_noise(data, context), z, atol=1e-4, rtol=1e-4)
    finally:
        compiled.cache_clear()


@pytest.mark.parametrize(
    "kernels, users, variant",
    [
        ("autoregressive_kernels", ["autoregressive_engine", "gradients"], "plain"),
        ("autoregressive_kernels", ["autoregressive_engine", "wide_engine"], "wide"),
        ("gradient_kernels", ["gradients"], "plain"),
        ("triangular_kernels", ["triangular"], "wide"),
        ("coupling_kernels", ["coupling_engine"], "coupling"),
        ("checksum_kernel", [], "plain"),
        (
            "vectors",
            ["autoregressive_engine", "autoregressive_kernels", "gradients", "gradient_kernels"],
            "plain",
        ),
    ],
)
def test_whatever_kernels_fail_torch_gives_the_same_numbers(kernels, users, variant, monkeypatch):
    name, settings = VARIANTS[variant]
    flow = build(name, **settings)
    for module in (kernels, *users):  # as in a process that has imported none of them yet
        monkeypatch.delattr(fpnlib.flows, module, raising=False)
        monkeypatch.delitem(sys.modules, f"fpnlib.flows.{module}", raising=False)
    monkeypatch.setitem(sys.modules, f"fpnlib.flows.{kernels}", None)
    compiled.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="kernels are not available .* plain torch"):
            assert_as_exact_as_nflows(flow, *batch(flow))
            test_gradients_are_those_of_nflows(variant, training=True)
    finally:
        compiled.cache_clear()


@pytest.mark.parametrize("n", [64, 70])  # whole groups of samples, and not
def test_training_changes_nothing_of_the_callers_and_gives_the_same_twice(n):
    flow = build("maf", features=1).train()
    z, context = batch(flow, n)
    z_before, upstream = z.clone(), (torch.ones(n, 1), torch.linspace(-1, 1, n))
    upstream_before = [tensor.clone() for tensor in upstream]
    outputs = flow._transform(z, context)
    one, two = (
        torch.autograd.grad(outputs, list(flow.parameters()), upstream, retain_graph=True)
        for _ in range(2)
    )
    assert torch.equal(z, z_before) and all(map(torch.equal, upstream, upstream_before))
    assert all(map(torch.equal, one, two))


def test_threads_change_nothing_in_training():
    before = torch.get_num_threads()
    try:
        large, wide = (
            {"hidden_features": 120},
            {"hidden_features": 650, "num_layers": 1, "num_blocks": 1},
        )
        for settings, n, exactly in (({}, 100, True), (large, 2500, True), (wide, 100, False)):
            flow = build("maf", **settings).train()
            z, context = batch(flow, n)
            found = []
            for threads in (1, 3):
                torch.set_num_threads(threads)
                found.append(
                    torch.autograd.grad(flow.log_prob(z, context).sum(), list(flow.parameters()))
                )
                assert torch.get_num_threads() == threads
            for one, several in zip(*found, strict=True):
                assert (
                    torch.equal(one, several)
                    if exactly
                    else torch.allclose(one, several, atol=1e-3, rtol=1e-4)
                )
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def test_threads_change_nothing_in_wide_layers():
    flow = build("maf", features=5, hidden_features=700, num_layers=2)
    z, context = batch(flow, n=700)
    data, density = flow.transform_from_noise(z, context), flow.log_prob(z, context)
    every = flow.class_log_prob(z, torch.eye(4))
    torch.testing.assert_close((every * context).sum(1), density, atol=1e-4, rtol=1e-5)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        torch.testing.assert_close(
            flow.transform_from_noise(z, context), data, atol=1e-5, rtol=1e-5
        )
        assert torch.equal(flow.log_prob(z, context), density)
        assert torch.equal(flow.class_log_prob(z, torch.eye(4)), every)
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
@pytest.mark.parametrize("name", ["maf", "realnvp"])
def test_batches_of_one_and_many_and_threads_change_nothing(name):
    flow = build(name, features=4, hidden_features=6, num_layers=2)
    z, context = batch(flow, n=20_011)
    data, noise = flow.transform_from_noise(z, context), flow.transform_to_noise(z, context)
    every = flow.class_log_prob(z[:3000], torch.eye(4))
    for rows in (slice(0, 1), slice(7, 8), slice(20_000, 20_011), slice(100, 400)):
        torch.testing.assert_close(
            flow.transform_from_noise(z[rows], context[rows]), data[rows], atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(
            flow.transform_to_noise(z[rows], context[rows]), noise[rows], atol=1e-5, rtol=1e-5
        )
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(flow.transform_from_noise(z, context), data)
        assert torch.equal(flow.class_log_prob(z[:3000], torch.eye(4)), every)
    finally:
        torch.set_num_threads(before)
    soft = context * 0.9  # contexts that are no classes
    there = flow.transform_from_noise(z[:500], soft[:500])
    torch.testing.assert_close(
        flow.transform_to_noise(there, soft[:500]), z[:500], atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("numba", [True, False])
def test_changed_weights_change_the_samples(numba, monkeypatch):
    if not numba:
        monkeypatch.setattr("fpnlib.flows.stack.compiled", lambda name: None)
    flow = build("maf")
    z, context = batch(flow)
    z *= 0.3
    first = flow.transform_from_noise(z, context)
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.01, fused=True)
    (-flow.log_prob(z, context).mean()).backward()
    optimizer.step()
    named = {
        key: parameter.data for key, parameter in flow.named_parameters()
    }  # whose changes autograd does not count
    bias = named["_transform._transforms.1.autoregressive_net.blocks.0.linear_layers.0.bias"]
    final = named["_transform._transforms.1.autoregressive_net.final_layer.bias"]
    middle = named["_transform._transforms.1.autoregressive_net.blocks.0.linear_layers.0.weight"]
    order = torch.arange(middle.shape[1])
    order[-2:] = order[-2:].flip(0)  # two neighbours
    for change in (
        lambda: None,
        lambda: bias.add_(0.1),
        lambda: bias.neg_(),
        lambda: final.copy_(final.flip(0)),
        lambda: final[3].mul_(1.001),
        lambda: middle.copy_(middle[:, order]),
        lambda: flow.load_state_dict(build("maf", seed=4).state_dict()),
    ):
        change()
        second = flow.transform_from_noise(z, context)
        assert not torch.equal(first, second)
        torch.testing.assert_close(
            flow.transform_to_noise(second, context), z, atol=1e-3, rtol=1e-3
        )
        first = second
    twin = pickle.loads(pickle.dumps(flow))
    assert torch.equal(twin.transform_from_noise(z, context), first)


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
        last = (
            transform.autoregressive_net if name == "maf" else transform.transform_net
        ).final_layer
        last.bias[-2 if name == "maf" else -1] = value
        (z, context), theirs = batch(flow), as_nflows(flow)
        ours, right = flow._transform(z, context)[1], theirs._transform(z, context)[1]
        torch.testing.assert_close(ours, right, atol=1e-4, rtol=1e-4, equal_nan=True)
        assert not right.isfinite().any() or name == "realnvp"  # whose scales are sigmoids


def test_learning_recovers_conditional_means():
    torch.manual_seed(0)
    means, kind = torch.tensor([[-2.0, 1.0], [2.0, 3.0]]), torch.arange(600) % 2
    z, context = means[kind] + 0.5 * torch.randn(600, 2), torch.eye(2)[kind]
    flow = build_flow("maf", 2, 2, hidden_features=8, num_layers=2)
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.02, fused=True)
    for _ in range(150):
        optimizer.zero_grad()
        (-flow.log_prob(z, context).mean()).backward()
        optimizer.step()
    with torch.no_grad():
        found = flow.sample(2000, torch.eye(2)).mean(1)
    torch.testing.assert_close(found, means, atol=0.15, rtol=0)


@torch.no_grad()
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
def test_on_a_gpu_the_numbers_are_those_of_the_cpu(flow):
    z, context = batch(flow)
    z *= 0.3
    every = torch.eye(flow.context_features)[:4]
    here = (
        flow.transform_from_noise(z, context),
        flow.log_prob(z, context),
        flow.class_log_prob(z, every),
    )
    flow, z, context, every = (thing.cuda() for thing in (flow, z, context, every))
    there = (
        flow.transform_from_noise(z, context),
        flow.log_prob(z, context),
        flow.class_log_prob(z, every),
    )
    for mine, other in zip(here, there, strict=True):
        torch.testing.assert_close(other.cpu(), mine, atol=1e-3, rtol=1e-3)
    assert flow.sample(2, every).device.type == "cuda"
