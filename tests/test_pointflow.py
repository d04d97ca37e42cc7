"""PointFlow: laws of its flow, the original's numbers and checkpoints, training that survives."""

import itertools
import math
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from laws import one_line

from fpnlib.base_models import PointFlow, load_pointflow
from fpnlib.base_models.pointflow import _paired
from fpnlib.base_models.pointflow_cnf import Solver, _MovingBatchNorm
from fpnlib.training import fit

SMALL = dict(latent_dim=5, hidden=(16, 16), encoder_widths=(8, 8, 16, 24), points=30)


def log_normal(u):
    return torch.distributions.Normal(0, 1).log_prob(u).sum(-1)


def small(seed=0, **settings):
    """A small model with random weights, strong enough to bend space."""
    torch.manual_seed(seed)
    model = PointFlow(**SMALL | settings).eval()
    with torch.no_grad():
        for name, parameter in model.decoder.named_parameters():
            if "gate" in name or "layers.2" in name:
                parameter.mul_(2)
    return model


@torch.no_grad()
def identity(model):
    """The model with a field that moves nothing."""
    for layer in model.decoder.fields[0].layers:
        layer.linear.weight.zero_(), layer.linear.bias.zero_(), layer.bias.weight.zero_()
    return model


def clouds(n=4, points=30, seed=0):
    return torch.randn(n, points, 3, generator=torch.Generator().manual_seed(seed)) * 0.5 + 0.2


def test_the_published_size():
    assert sum(parameter.numel() for parameter in PointFlow().parameters()) == 1_292_697


def test_truncated_noise_has_no_far_points():
    whole, cut = identity(small(points=3000)), identity(small(points=3000, truncated=2.0))
    z = torch.zeros(1, 5)
    farthest = [model.decode(z).abs().max() for model in (whole, cut)]
    assert farthest[0] > 2.5 and 1.9 < farthest[1] <= 2
    inner = whole.decode(z)[whole.decode(z).abs() < 2]
    assert cut.decode(z).std().item() == pytest.approx(inner.std().item(), abs=0.03)
    with one_line(ValueError, "truncated must be above 0, or None, got -1"):
        PointFlow(truncated=-1)


@pytest.mark.parametrize("num_blocks", [1, 2])
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_points_come_back_from_noise(num_blocks, method):
    model, x = small(num_blocks=num_blocks, method=method, steps=24).standardise(clouds()), clouds()
    with torch.no_grad():
        z = model.encode(x)
        u, _ = model.decoder((x - model.mean_) / model.std_, z, model.solver)
        back = model.decoder.inverse(u, z, model.solver) * model.std_ + model.mean_
    assert (back - x).abs().max() < 1e-3 < (u - x).abs().max()


def test_the_density_is_that_of_the_change_of_variables():
    model, x = small(num_blocks=2, tolerance=1e-8).double(), clouds(1, 4).double()
    z = model.encode(x)
    for norm in model.decoder.norms:
        norm.running_var.uniform_(0.5, 2), norm.weight.data.normal_()

    def noise(points):
        return model.decoder(points, z, model.solver)[0]

    jacobian = torch.autograd.functional.jacobian(noise, x)[0, :, :, 0]
    log_det = torch.stack([jacobian[k, :, k].slogdet().logabsdet for k in range(4)])
    expected = log_normal(noise(x))[0] + log_det
    assert model.log_prob(x, z)[0].tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_the_likelihood_has_its_constant():
    """The identity flow has the normal's density; PointFlow's constant is 5.51 nats off."""
    model, x = identity(PointFlow(**SMALL).eval()), torch.randn(2, 50, 3)
    for norm in model.decoder.norms:
        norm.running_var.fill_(1 - norm.eps)
    assert model.loss(x).item() == pytest.approx(-log_normal(x).mean().item(), abs=1e-5)
    model.mean_.fill_(1), model.std_.fill_(2)
    expected = log_normal(x) - 3 * math.log(2)
    assert torch.allclose(model.log_prob(x * 2 + 1), expected, atol=1e-5)


def test_hutchinson_is_the_trace_on_average():
    model, x = small(method="rk4", steps=6), clouds(1, 5)
    many_x = x.repeat(4000, 1, 1)
    torch.manual_seed(0)
    probe = torch.randint(0, 2, many_x.shape) * 2.0 - 1
    with torch.no_grad():
        z = model.encode(x)
        _, exact = model.decoder(x, z, model.solver)
        _, many = model.decoder(many_x, z.repeat(4000, 1), model.solver, probe)
    error = many.std(0) / math.sqrt(4000)
    assert many.std(0).min() > 0.01
    assert ((many.mean(0) - exact[0]).abs() < 4 * error).all()


def test_the_encoder_sees_a_set():
    model, x = small(), clouds()
    shuffled = x[:, torch.randperm(x.shape[1])]
    assert torch.allclose(model.encode(x), model.encode(shuffled), atol=1e-6)
    assert torch.allclose(model.encode(x), model.encode(torch.cat([x, x[:, :7]], 1)), atol=1e-6)
    assert torch.allclose(model.encode(x[2:3]), model.encode(x)[2:3], atol=1e-6)
    assert not model.posterior(x)[1].any()
    mean, std = small(stochastic=True).posterior(x)
    assert mean.shape == std.shape == (4, 5) and (std > 0).all()


def test_a_larger_cloud_than_the_encoder_has_seen_is_encoded_in_parts():
    """A part is every k-th point, because points may come in some order."""
    model, whole, x = small(seen=10), small(), clouds(points=25)
    parts = [whole.encode(x[:, k::3]) for k in range(3)]
    assert torch.allclose(model.encode(x), torch.stack(parts).mean(0), atol=1e-6)
    assert (model.encode(x) - whole.encode(x)).abs().max() > 1e-3
    assert torch.equal(model.encode(x[:, :10]), whole.encode(x[:, :10]))
    mean, std = small(seen=10, stochastic=True).posterior(x)
    assert mean.shape == std.shape == (4, 5)


def test_points_of_a_seed_are_not_kin_to_latents_of_that_seed():
    """Under the identity flow a cloud is its noise, which is not a plugin's of the same seed."""
    model = identity(small())
    for seed in (0, 1, 2**31 - 1):
        drawn = torch.randn(1, 30, 3, generator=torch.Generator().manual_seed(seed))
        cloud = model.decode(torch.zeros(1, 5), seed=seed)
        assert abs(torch.corrcoef(torch.stack([drawn.flatten(), cloud.flatten()]))[0, 1]) < 0.5


def test_decoding_is_a_function_of_latent_and_seed(monkeypatch):
    model, z = small(), torch.randn(5, 5)
    x = model.decode(z)
    assert x.shape == (5, 30, 3) and model.decode(z, points=11).shape == (5, 11, 3)
    assert torch.equal(x, model.decode(z)) and not torch.equal(x, model.decode(z, seed=1))
    monkeypatch.setattr("fpnlib.base_models.pointflow.AT_ONCE", 60)
    assert torch.allclose(model.decode(z), x, atol=1e-3)
    alone = torch.cat([model.encode(part) for part in x.split(1)])
    assert torch.allclose(model.encode(x), alone, atol=1e-6)


def test_no_more_points_than_a_chunk_go_through_at_once(monkeypatch):
    """What bounds the memory, whatever the number of clouds; a single larger cloud goes alone."""
    monkeypatch.setattr("fpnlib.base_models.pointflow.AT_ONCE", 70)
    model, seen = small(), []
    for part in (model.encoder.points, model.decoder.fields[0].layers[0].linear):
        part.register_forward_hook(lambda _, inputs, output: seen.append(output[..., 0].numel()))
    model.encode(clouds(9))
    model.decode(torch.randn(9, 5))
    model.log_prob(clouds(9))
    assert set(seen) == {30, 60}
    model.decode(torch.randn(2, 5), points=100)
    assert max(seen) == 100


def test_a_density_does_not_depend_on_the_chunks(monkeypatch):
    model, x = small(method="rk4", steps=4), clouds(7)
    whole = model.log_prob(x)
    monkeypatch.setattr("fpnlib.base_models.pointflow.AT_ONCE", 60)
    assert torch.allclose(model.log_prob(x), whole, atol=1e-5)
    assert model.log_prob(x[:0], torch.zeros(0, 5)).shape == (0, 30)


def test_noise_is_paired_for_the_shortest_ways(monkeypatch):
    monkeypatch.setattr("fpnlib.base_models.pointflow.PAIRED", 5)
    x, u = clouds(2, 13), clouds(2, 13, seed=1)
    matched = _paired(u, x)
    for cloud, noise, found in zip(x, u, matched):
        for rows in (slice(0, 5), slice(5, 10), slice(10, 13)):
            a, b, c = cloud[rows], noise[rows], found[rows]
            orders = itertools.permutations(range(len(a)))
            ways = [(b[list(order)] - a).square().sum() for order in orders]
            assert (c - a).square().sum() == pytest.approx(min(ways).item(), rel=1e-5)
            assert sorted(map(tuple, c.tolist())) == sorted(map(tuple, b.tolist()))


def test_whitened_latents_are_uncorrelated_and_decoded_as_before():
    model, x = small(num_blocks=2).eval(), clouds(40)
    with torch.no_grad():
        weight = model.encoder.mean[-1].weight
        weight[1:] += 3 * weight[0]  # nearly one direction
    before = model.decode(model.encode(x), 20, seed=1)
    assert model.whiten(x) is model
    z = model.encode(x)
    torch.testing.assert_close(model.decode(z, 20, seed=1), before, atol=1e-3, rtol=1e-3)
    covariance = torch.cov(z.detach().double().T)
    torch.testing.assert_close(covariance, covariance.diagonal().diag(), atol=1e-2, rtol=0)
    assert covariance.diagonal().max() == pytest.approx(1, abs=0.01)
    assert covariance.diagonal().min() > 0.1
    with pytest.raises(ValueError, match="stochastic encoder are not whitened"):
        small(stochastic=True).whiten(x)


def test_data_units_are_taken_off_and_put_back():
    model, x = small(), clouds(6)
    z, shape = model.encode(x), model.decode(torch.zeros(1, 5))
    moved = 3 * x + torch.tensor([1.0, 2.0, 3.0])
    model.standardise(moved)
    plain = small().standardise(x)
    assert torch.allclose(model.std_, 3 * plain.std_)
    assert torch.allclose(model.encode(moved), plain.encode(x), atol=1e-5)
    assert (plain.encode(x) - z).abs().max() > 1e-3
    back = model.decode(torch.zeros(1, 5))
    assert torch.allclose(back, shape * model.std_ + model.mean_, atol=1e-3)


def test_a_large_batch_takes_the_steps_of_its_hardest_cloud():
    model = small(tolerance=1e-6)
    field, z = model.decoder.fields[0], 4 * torch.randn(50, 5)
    field.velocity = Mock(wraps=field.velocity)

    def steps(latents):
        field.velocity.reset_mock()
        model.decode(latents)
        return field.velocity.call_count

    alone = [steps(one[None]) for one in z]
    assert steps(z) <= max(alone) + 6  # one step of dopri5
    assert len(set(alone)) > 1


def test_training_by_likelihood_and_by_matching_learns_a_shape():
    """Clouds on a line: both losses move the density to it."""
    x = torch.randn(64, 24, 1) * torch.tensor([1.0, 0.5, 0.0]) + 0.05 * torch.randn(64, 24, 3)
    for name in ("loss", "matching_loss"):
        torch.manual_seed(0)
        model = PointFlow(**SMALL | dict(method="rk4", steps=4)).standardise(x)
        before = model.eval().log_prob(x).mean()
        settings = dict(epochs=10, batch_size=14, learning_rate=2e-2, clip_norm=5.0)
        history = fit(model, getattr(model, name), (x[:56],), (x[56:],), **settings)
        assert model.log_prob(x).mean() > before + 1, name
        assert history.best_validation < history.epochs[0]["validation"]


def test_the_adjoint_gives_the_gradients_of_the_solver():
    x = clouds(2, 8)
    gradients = []
    for settings in (dict(method="dopri5", tolerance=1e-7), dict(method="rk4", steps=40)):
        model = small(**settings).double()
        model.loss(x.double()).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-5, rtol=1e-3), name
        assert gradient.any() or "points" in name and name.endswith("bias"), name


def test_moving_batch_norm_undoes_itself_and_moves_each_coordinate():
    norm, x = _MovingBatchNorm(), torch.randn(6, 50, 3) * torch.tensor([1.0, 2.0, 3.0]) + 1
    norm.weight.data.normal_(), norm.bias.data.normal_()
    for _ in range(100):
        norm(x)
    assert torch.allclose(norm.running_mean, x.mean((0, 1)), atol=1e-2)
    assert torch.allclose(norm.running_var, x.flatten(0, 1).var(0), rtol=1e-2)
    norm.eval()
    assert torch.allclose(norm.inverse(norm(x)), x, atol=1e-5)


def test_a_field_too_stiff_ends_after_so_many_steps(monkeypatch):
    monkeypatch.setattr("fpnlib.base_models.pointflow_cnf.MOST_STEPS", 1)
    model, x, z = small(), clouds(), torch.zeros(1, 5)
    line = r"dopri5 can't hold .*max_num_steps exceeded \(1>=1\).*larger tolerance"
    for call, given in ((model.decode, z), (model.log_prob, x), (model.loss, x)):
        with one_line(FloatingPointError, line):
            call(given)
    with torch.no_grad():
        model.decoder.fields[0].layers[0].linear.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="dopri5 can't hold .*smaller learning_rate"):
        model.loss(x)


SHAPE = r"x must have shape \(n, points, 3\), got "
BAD = [
    (lambda m: m.encode(torch.zeros(2, 3)), ValueError, SHAPE + r"\(2, 3\)"),
    (lambda m: m.encode(torch.zeros(2, 9, 2)), ValueError, SHAPE + r"\(2, 9, 2\)"),
    (lambda m: m.encode(torch.full((2, 9, 3), torch.nan)), ValueError, "x has 54 NaN or infinite"),
    (lambda m: m.encode(torch.ones(1, 9, 3)), ValueError, r"x\[0\] is degenerate: all its points"),
    (lambda m: m.encode("chair"), TypeError, "x must be a tensor"),
    (lambda m: m.decode(torch.zeros(2, 6)), ValueError, r"z must have shape \(n, 5\), got \(2, 6"),
    (lambda m: m.decode(torch.full((1, 5), torch.inf)), ValueError, "5 NaN or infinite"),
    (lambda m: m.decode(torch.zeros(1, 5), points=0), ValueError, "points must be a positive"),
    (lambda m: m.log_prob(clouds(), torch.zeros(3, 5)), ValueError, "x and z .* got 4 and 3"),
    (lambda m: PointFlow(method="dopri"), ValueError, "solver 'dopri'; did you mean 'dopri5'"),
    (lambda m: PointFlow(tolerance=0), ValueError, "tolerance must lie between 0 and 1, got 0"),
    (lambda m: PointFlow(seen=0), ValueError, "seen must be a positive"),
    (lambda m: PointFlow(hidden=(8, 0)), ValueError, "a width of hidden must be a positive"),
    (lambda m: PointFlow(encoder_widths=()), ValueError, "encoder_widths must have at least one"),
    (lambda m: PointFlow(latent_dim=0), ValueError, "latent_dim must be a positive"),
    (lambda m: small(num_blocks=2).matching_loss(clouds()), ValueError, "has 2; use loss"),
]


@pytest.mark.parametrize(("call", "error", "line"), BAD)
def test_bad_input_gets_one_clear_line(call, error, line):
    with one_line(error, line):
        call(small())


# The originals' numbers and files.


@pytest.fixture(scope="module")
def reference(shared):
    return torch.load(shared / "reference" / "pointflow_ae.pt", weights_only=True)


@pytest.fixture
def original(shared):
    path = shared / "reference" / "pointflow_ae.ckpt.pt"
    return load_pointflow(path, mean=torch.zeros(3), std=1.0)


def difference(ours, theirs):
    return (ours - theirs).abs().max().item()


def test_parity_of_encoder_and_field(original, reference):
    assert difference(original.encode(reference["in.x"]), reference["out.z"]) < 2e-5
    field = original.decoder.fields[0]
    end = field.end_time
    assert difference(end, reference["cfg.T"]) < 1e-6
    for t in (0.0, 0.3):
        dx, divergence = field.with_divergence(
            t / end, reference["in.y"], reference["in.vf_e"], field.context(reference["in.z"])
        )
        assert difference(dx / end, reference[f"vf.vf_t{t}_dy"]) < 1e-5
        assert difference(-divergence / end, reference[f"vf.vf_t{t}_neg_div"]) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize(
    ("part", "dtype", "solver", "near", "near_density"),
    [
        ("out", torch.float32, Solver("dopri5", 1e-5), 5e-4, 2e-3),
        ("rk4", torch.float32, Solver("rk4", steps=1), 1e-5, 1e-5),
        ("tight64", torch.float64, Solver("dopri5", 1e-9), 1e-6, 1e-6),
    ],
)
def test_parity_of_the_solvers(original, reference, part, dtype, solver, near, near_density):
    y, z, points, probe = (reference[f"in.{key}"].to(dtype) for key in ("y", "z", "pts", "fwd_e"))
    decoder = original.to(dtype).decoder
    x, (u, log_det) = decoder.inverse(y, z, solver), decoder(points, z, solver, probe[0])
    assert difference(x, reference[f"{part}.decode_x"]) < near
    assert difference(u, reference[f"{part}.fwd_y"]) < near
    assert difference(-log_det[..., None], reference[f"{part}.fwd_delta_logp"]) < near_density
    found, theirs = log_normal(u) + log_det, reference[f"{part}.log_px_per_point_true"]
    assert difference(found[..., None], theirs) < near_density


def test_parity_of_latents_and_exact_densities_in_float64(original, reference):
    original.double().solver = Solver("dopri5", 1e-9)
    x, points, z = (reference[f"in.{key}"].double() for key in ("x", "pts", "z"))
    assert difference(original.encode(x), reference["tight64.z"]) < 1e-6
    log_prob = original.log_prob(points, z)[..., None]
    assert difference(log_prob, reference["exact64.log_px_per_point_true"]) < 1e-6


def test_parity_of_moving_batch_norm_in_training(original, reference):
    """Only the statistics differ: the original mixes the coordinates."""
    norm = original.decoder.norms[0].train()
    log_scale = norm.log_scale.sum()
    assert difference(norm(reference["train.mbn_x"]), reference["train.mbn_y"]) < 1e-5
    assert difference(-log_scale, reference["train.mbn_logp"]) < 1e-5
    theirs = reference["train.mbn_running_mean_after"]
    assert difference(norm.running_mean.mean(), theirs.mean()) < 1e-5
    assert norm.step == reference["train.mbn_step_after"]


def released(folder, state, mean=(0.1, 0.2, 0.3), std=0.5):
    """A checkpoint and its statistics, as they are released."""
    torch.save(state, folder / "checkpoint.pt")
    np.save(folder / "train_set_mean.npy", mean)
    np.save(folder / "train_set_std.npy", std)
    return folder / "checkpoint.pt"


def in_their_names(model):
    """The original's state dict of one of our models."""
    heads = {"mean": "_m", "log_variance": "_v"} if model.config["stochastic"] else {"mean": ""}
    parts = {"linear": "_layer", "gate": "_hyper_gate", "bias": "_hyper_bias"}
    names = {}
    for k in range(4):
        names[f"encoder.points.{3 * k}."] = f"encoder.conv{k + 1}."
        names[f"encoder.points.{3 * k + 1}."] = f"encoder.bn{k + 1}."
    for (head, suffix), k in itertools.product(heads.items(), range(3)):
        names[f"encoder.{head}.{3 * k}."] = f"encoder.fc{k + 1}{suffix}."
        names[f"encoder.{head}.{3 * k + 1}."] = f"encoder.fc_bn{k + 1}{suffix}."
    for k in range(model.config["num_blocks"] + 1):
        chain = f"point_cnf.chain.{2 * k + 1}."
        names[f"decoder.norms.{k}."] = f"point_cnf.chain.{2 * k}."
        names[f"decoder.fields.{k}.sqrt"] = chain + "sqrt"
        for (ours, theirs), depth in itertools.product(parts.items(), range(9)):
            there = f"odefunc.diffeq.layers.{depth}.{theirs}."
            names[f"decoder.fields.{k}.layers.{depth}.{ours}."] = chain + there
    state = {"point_cnf.chain.1.odefunc._num_evals": torch.zeros(())}
    for name, tensor in model.state_dict().items():
        for ours, theirs in names.items():
            if name.startswith(ours):
                pointwise = ".points." in name and tensor.ndim == 2
                state[name.replace(ours, theirs)] = tensor[..., None] if pointwise else tensor
    return state


@pytest.mark.parametrize("settings", [{}, dict(stochastic=True), dict(num_blocks=2)])
@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_released_checkpoints_are_read_as_they_are(tmp_path, settings, parallel, wrapped):
    model = small(**settings)
    state = in_their_names(model)
    if parallel:
        state = {name.replace(".", ".module.", 1): tensor for name, tensor in state.items()}
    saved = {"epoch": 7, "model": state, "optimizer": {"lr": 1.0}} if wrapped else state
    path = released(tmp_path, saved)
    model.mean_.copy_(torch.tensor([0.1, 0.2, 0.3])), model.std_.fill_(0.5)
    read, z = load_pointflow(path, points=30), torch.randn(2, 5)
    assert torch.equal(read.decode(z), model.decode(z))
    assert torch.equal(read.encode(clouds()), model.encode(clouds()))
    assert read.config["stochastic"] == model.config["stochastic"] and not read.training


def test_a_latent_flow_is_left_out_with_a_line(tmp_path):
    model, z = small(stochastic=True), torch.randn(2, 5)
    state = in_their_names(model) | {"latent_cnf.module.chain.0.weight": torch.zeros(5)}
    path = released(tmp_path, state, mean=np.zeros(3), std=1.0)
    with pytest.warns(UserWarning, match="checkpoint.pt: its latent flow was left out") as warned:
        read = load_pointflow(path, points=30)
    assert len(warned) == 1 and torch.equal(read.decode(z), model.decode(z))


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_checkpoint_without_batch_norms_is_read(tmp_path, blocks):
    model, z = small(num_blocks=blocks), torch.randn(2, 5)
    for norm in model.decoder.norms:  # the identity
        norm.weight.data.zero_(), norm.bias.data.zero_()
        norm.running_mean.zero_(), norm.running_var.fill_(1 - norm.eps)
    state = {}
    for name, tensor in in_their_names(model).items():
        if name.startswith("point_cnf"):
            _, _, place, rest = name.split(".", 3)
            if int(place) % 2:
                state[f"point_cnf.chain.{int(place) // 2}.{rest}"] = tensor
        else:
            state[name] = tensor
    assert not any("running_mean" in name for name in state if "chain" in name)
    read = load_pointflow(released(tmp_path, state, mean=np.zeros(3), std=1.0), points=30)
    assert torch.allclose(read.decode(z), model.decode(z), atol=2e-6)
    assert read.config["num_blocks"] == blocks
    x = clouds()
    assert torch.allclose(read.log_prob(x), model.log_prob(x), atol=1e-5)


def test_other_checkpoints_are_refused_in_one_line(tmp_path):
    good = in_their_names(small())

    def refused(line, state=None, error=ValueError, **statistics):
        path = released(tmp_path, good if state is None else state, **statistics)
        with one_line(error, line):
            load_pointflow(path)

    refused("holds 'enc.disc.0.weight'", {"enc.disc.0.weight": torch.zeros(2)})
    incomplete = {name: good[name] for name in good if name != "encoder.conv2.weight"}
    refused("Missing key.*encoder.points.3.weight", incomplete)
    narrow = {"point_cnf.chain.1.odefunc.diffeq.layers.1._layer.weight": torch.zeros(16, 15)}
    line = r"size mismatch for decoder.fields.0.layers.1.linear.weight: .*\[16, 15\].*\[16, 16\]"
    refused(line, good | narrow)
    decoder = {name: good[name] for name in good if "encoder" not in name}
    refused("encoder.mean.6.bias is missing", decoder)
    refused(r"train_set_mean.npy must hold 3 finite number.s., got \[nan", mean=np.full(3, np.nan))
    refused("train_set_std.npy must be above 0, got", std=np.zeros(1))
    for damaged in (b"", b"not an array"):
        (tmp_path / "train_set_std.npy").write_bytes(damaged)
        with pytest.raises(ValueError, match="train_set_std.npy is damaged or no array"):
            load_pointflow(tmp_path / "checkpoint.pt")
    (tmp_path / "train_set_std.npy").unlink()
    with pytest.raises(FileNotFoundError, match="train_set_std.npy is not beside .*checkpoint.pt"):
        load_pointflow(tmp_path / "checkpoint.pt")
