"""Base models of digits: the authors' numbers, clear refusals, and no code from checkpoints."""

import pickle
from functools import partial

import pytest
import torch
from laws import one_line, refusals
from torch.testing import assert_close
from traps import Code

from fpnlib.base_models import (
    ConditionalVAE,
    ConvAE,
    ConvVAE,
    SelfiesVAE,
    load_msp,
    load_pointflow,
)
from fpnlib.base_models.msp import MSP
from fpnlib.metrics.judge import Judge, cloud_judge


@pytest.fixture(params=[ConvVAE, ConvAE])
def base(request):
    torch.manual_seed(0)
    return request.param(latent_dim=8).eval()


@pytest.fixture
def original(shared):
    """The reference's outputs, and our model with its weights."""
    reference = torch.load(shared / "reference" / "convvae_mnist.pt", weights_only=True)
    base = ConvVAE()
    base.load_state_dict({key[3:]: reference[key] for key in reference if key.startswith("sd.")})
    return reference, base.eval()


@torch.no_grad()
def test_convvae_agrees_with_the_original(original):
    reference, base = original
    tolerance = {"atol": 2e-5, "rtol": 0}
    mean, std = base.posterior(reference["in.x"])
    assert_close(mean, reference["out.mu"], **tolerance)
    assert_close(2 * std.log(), reference["out.logvar"], **tolerance)
    assert_close(mean + std * reference["in.eps"], reference["out.reparam_z"], **tolerance)
    assert_close(base.encode(reference["in.x"]), reference["out.mu"], **tolerance)
    assert_close(base.decode(reference["in.z"]), reference["out.decode_z"], **tolerance)
    base.train()
    assert_close(base.posterior(reference["in.x"])[0], reference["train.mu"], **tolerance)
    assert_close(base.decode(reference["in.z"]), reference["train.decode_z"], **tolerance)


@torch.no_grad()
def test_convvae_loss_is_the_originals(original, monkeypatch):
    reference, base = original
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)  # the reference decodes the mean
    expected = reference["out.loss"] / len(reference["in.x"])
    assert_close(base.loss(reference["in.x"]), expected, rtol=2e-5, atol=0)


def test_encode_and_decode_have_the_shapes_they_state(base):
    x = torch.rand(3, 1, 28, 28)
    z = base.encode(x)
    decoded = base.decode(z)
    assert z.shape == (3, base.latent_dim) and decoded.shape == x.shape
    assert decoded.min() >= 0 and decoded.max() <= 1


def test_loss_has_finite_gradients_where_pixels_saturate(base):
    with torch.no_grad():
        base.dec.gen[-1][0].bias.fill_(200.0)  # the sigmoid is exactly 1 everywhere
    loss = base.loss(torch.zeros(4, 1, 28, 28))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in base.parameters() if p.grad is not None)


def test_config_rebuilds_the_architecture(base):
    twin = type(base)(**base.config)
    twin.load_state_dict(base.state_dict())
    z = torch.randn(2, base.latent_dim)
    assert torch.equal(twin.eval().decode(z), base.decode(z))


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda x: x[..., :-1], ValueError, r"must have shape \(n, ., (28, 28|16, 16)\), got "),
        (lambda x: torch.cat([x, x, x], 1), ValueError, r"must have shape \(n, "),
        (lambda x: 255 * x + 1, ValueError, r"in \[0, 1\]"),
        (lambda x: x - 1, ValueError, r"in \[0, 1\]"),
        (lambda x: x.byte(), TypeError, "255"),
        (lambda x: x * torch.nan, ValueError, "NaN"),
    ],
)
@pytest.mark.parametrize("make", [ConvVAE, ConvAE, lambda: MSP(attributes=5, size=16, features=4)])
def test_what_is_no_image_is_refused_in_one_line(make, change, error, said):
    base = make()
    x = torch.rand(2, 3, 16, 16) if isinstance(base, MSP) else torch.rand(2, 1, 28, 28)
    with one_line(error, said):
        base.encode(change(x))


def test_an_alpha_channel_is_named():
    with one_line(ValueError, "alpha channel"):
        MSP(attributes=5, size=16, features=4).encode(torch.zeros(2, 4, 16, 16))


@pytest.mark.parametrize(
    ("z", "said"),
    [(torch.zeros(2, 9), r"\(n, 8\)"), (torch.full((2, 8), float("inf")), "infinite")],
)
def test_what_is_no_latent_is_refused_in_one_line(base, z, said):
    with pytest.raises(ValueError, match=said):
        base.decode(z)


@torch.no_grad()
@pytest.mark.parametrize("given", [torch.float64, torch.float16])
def test_any_floating_type_serves(base, given):
    x, z = torch.rand(3, 1, 28, 28).to(given), torch.randn(3, base.latent_dim).to(given)
    assert_close(base.encode(x), base.encode(x.float()))
    assert_close(base.decode(z), base.decode(z.float()))
    assert base.double().encode(x).dtype == base.decode(z).dtype == torch.float64


test_sizes_must_be_positive = refusals(
    [
        (lambda: ConvAE(latent_dim=0), "latent_dim must be a positive whole number"),
        (lambda: ConditionalVAE(0), "latent_dim must be a positive whole number"),
        (lambda: ConditionalVAE(classes=0), "classes must be a positive whole number"),
        (lambda: SelfiesVAE(hidden=0), "hidden must be a positive whole number"),
        (lambda: Judge(torch.nn.Flatten(), 4, outputs=0), "outputs must be a positive"),
        (lambda: cloud_judge(3, widths=(4, 0)), "a width of widths must be a positive"),
        (lambda: cloud_judge(3, head_widths=()), "head_widths must have at least one width"),
        (lambda: MSP(3, decoder_features=0), "decoder_features must be a positive whole number"),
    ]
)


@pytest.mark.parametrize("names", [("weight", "bias"), ("0.weight", "0.bias")])
def test_the_authors_weights_of_the_autoencoder_are_read(names):
    torch.manual_seed(0)
    original, base = ConvAE(latent_dim=8).eval(), ConvAE(latent_dim=8).eval()
    state = original.state_dict()
    for name in names:
        state[f"bottleneck.{name}"] = state.pop(f"fc.{name.rpartition('.')[2]}")
    base.load_state_dict(state)
    x = torch.rand(3, 1, 28, 28)
    assert torch.equal(base.encode(x), original.encode(x))
    assert f"bottleneck.{names[0]}" in state  # the caller's state dict stays as it is
    base.load_state_dict(original.state_dict())


each_reader = pytest.mark.parametrize(
    "read", [load_msp, partial(load_pointflow, mean=torch.zeros(3), std=1.0)]
)


@each_reader
def test_what_is_no_released_checkpoint_is_refused_in_one_line(read, tmp_path):
    path = tmp_path / "checkpoint.pt"
    with one_line(FileNotFoundError, "no checkpoint at"):
        read(path)
    for state, said in (({"weight": torch.zeros(3)}, "holds"), ([1, 2], "holds no state dict")):
        torch.save(state, path)
        with one_line(ValueError, said):
            read(path)
    path.write_bytes(path.read_bytes()[:-9])
    with one_line(ValueError, "is damaged or no checkpoint"):
        read(path)


@each_reader
def test_a_released_checkpoint_with_code_in_it_is_refused_and_the_code_does_not_run(read, tmp_path):
    path, evidence = tmp_path / "checkpoint.pt", tmp_path / "evidence"
    for write in (torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))):
        write({"weight": torch.zeros(2), "code": Code(evidence)}, path)
        with one_line(ValueError, "damaged"):
            read(path)
    assert not evidence.exists()


def test_a_conditional_vae_is_given_the_class_on_both_sides():
    torch.manual_seed(0)
    model, x = ConditionalVAE(latent_dim=8, classes=3).eval(), torch.rand(4, 1, 28, 28)
    zeros, ones = torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.long)
    images = model.sample(zeros, seed=1)
    assert images.shape == (4, 1, 28, 28) and images.min() >= 0 and images.max() <= 1
    assert torch.equal(images, model.sample(zeros, seed=1))
    assert not torch.equal(images, model.sample(zeros, seed=2))
    assert not torch.equal(images, model.sample(ones, seed=1)), "the decoder"

    def moments(y):
        seen = []
        hook = model.moments.register_forward_hook(lambda *call: seen.append(call[2]))
        model.loss(x, y)
        hook.remove()
        return seen[0]

    assert not torch.equal(moments(zeros), moments(ones)), "the encoder"


def test_a_conditional_vae_learns_the_look_of_each_class():
    torch.manual_seed(0)
    model, y = ConditionalVAE(latent_dim=2, classes=2), torch.arange(2).repeat(4)
    x = y[:, None, None, None].float().expand(-1, 1, 28, 28)  # black or white
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        model.loss(x, y).backward()
        optimizer.step()
    black, white = model.eval().sample(torch.arange(2))
    assert black.mean() < 0.2 and white.mean() > 0.8
