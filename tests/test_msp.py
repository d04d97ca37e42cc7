"""MSP: the original's numbers, losses, edits and checkpoints; clear refusals."""

import pytest
import torch
from laws import one_line
from torch.testing import assert_close

from fpnlib.base_models import load_msp
from fpnlib.base_models.msp import MSP
from fpnlib.training import fit

CLOSE = {"atol": 2e-5, "rtol": 0}


@pytest.fixture
def original(shared):
    """The reference's outputs, and our model from its checkpoint in the published form."""
    folder = shared / "reference"
    reference = torch.load(folder / "msp_celeba_nf8.pt", weights_only=True)
    return reference, load_msp(folder / "msp_celeba_nf8.ckpt.pt")


@pytest.fixture
def small():
    torch.manual_seed(0)
    return MSP(attributes=5, size=16, features=4).eval()


@torch.no_grad()
def test_it_agrees_with_the_original(original):
    reference, model = original
    x = (reference["in.x"] + 1) / 2
    mean, std = model.posterior(x)
    assert_close(mean, reference["out.mu"], **CLOSE)
    assert_close(model.encode(x), reference["out.mu"], **CLOSE)
    assert_close(2 * std.log(), reference["out.logvar"], **CLOSE)
    assert_close(2 * model.decode(mean) - 1, reference["out.decoder_mu"], **CLOSE)
    assert_close(2 * model.decode(reference["in.z"]) - 1, reference["out.decoder_z"], **CLOSE)
    assert_close(model.read(mean), reference["out.mu_MT"], **CLOSE)
    assert_close(reference["in.labels"] @ model.M, reference["out.labels_M"], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "edits"),
    [
        ("none", {}),
        ("15_p1", {15: 1}),
        ("20_m2__31_p1.5", {20: -2, 31: 1.5}),
        ("15_p1_weight0.5", {15: 0.5}),  # the original's weight scales the value that is set
    ],
)
def test_its_own_edits_are_the_originals(original, name, edits):
    reference, model = original
    values, chosen = torch.zeros(4, 40), torch.zeros(40, dtype=torch.bool)
    for column, value in edits.items():
        values[:, column], chosen[column] = value, True
    edited = model.set(reference["out.mu"], values, chosen)
    unseen = reference["out.NtN_projector"]  # onto what M does not read: an edit leaves it alone
    assert_close(edited @ unseen, reference["out.mu"] @ unseen, **CLOSE)
    assert_close(2 * model.decode(edited) - 1, reference[f"out.predict_{name}"], **CLOSE)


@torch.no_grad()
def test_its_losses_are_the_originals(original):
    reference, model = original
    mean, log_variance = reference["out.mu"], reference["out.logvar"]
    decoded = 2 * model.decode(mean) - 1
    x, y = reference["in.x"], reference["in.labels"]
    losses = model.losses(x, decoded, y, mean, mean, log_variance)
    weight = 3 * 64 * 64 / (40 + 64)
    named = {"reconstruction": ("rec", 1), "divergence": ("vae", 1), "projection": ("msp", weight)}
    for name, (theirs, factor) in named.items():
        expected = reference[f"out.loss_{theirs}"] * factor
        assert_close(losses[name].double(), expected, rtol=1e-5, atol=0)
    assert_close(sum(losses.values()).double(), reference["out.loss_total"], rtol=1e-5, atol=0)
    right = ((model.read(mean) > 0) == (reference["in.labels"] > 0)).float().mean()
    assert_close(right.double(), reference["out.acc"])


@torch.no_grad()
@pytest.mark.parametrize(
    ("size", "features", "latent_dim"), [(16, 4, 8), (64, 2, 16), (128, 1, 16)]
)
def test_any_power_of_two(size, features, latent_dim):
    model = MSP(3, size, features).eval()
    x = torch.rand(2, 3, size, size)
    z = model.encode(x)
    assert z.shape == (2, latent_dim) and model.latent_dim == latent_dim
    decoded = model.decode(z)
    assert decoded.shape == x.shape and decoded.min() >= 0 and decoded.max() <= 1
    wider = MSP(3, size, features, decoder_features=3).eval()
    assert wider.decode(z).shape == x.shape and wider.latent_dim == latent_dim
    MSP(**wider.config).load_state_dict(wider.state_dict())


@torch.no_grad()
def test_setting_an_attribute_moves_it_and_no_other(small):
    z = torch.randn(6, 8)
    chosen = torch.tensor([False, True, False, False, True])
    values = torch.full((6, 5), 0.7)
    edited = small.set(z, values, chosen)
    assert_close(small.set(z.double(), values, chosen), edited.double())
    read = small.read(edited)  # M begins orthonormal
    assert_close(read[:, chosen], values[:, chosen], atol=1e-5, rtol=0)
    assert_close(read[:, ~chosen], small.read(z)[:, ~chosen], atol=1e-5, rtol=0)


def test_training_makes_M_read_the_attributes():
    torch.manual_seed(0)
    model = MSP(2, size=16, features=8)
    y = torch.randint(0, 2, (64, 2))
    x = torch.rand(64, 3, 1, 1).expand(-1, -1, 16, 16).clone() * 0.2
    x[:, 0, :8] += 0.7 * y[:, :1, None]
    x[:, 1, 8:] += 0.7 * y[:, 1:, None]
    settings = {"epochs": 60, "batch_size": 64, "learning_rate": 6e-3}
    history = fit(model, model.loss, (x, y), (x, y), **settings)
    assert history.best_validation < history.epochs[0]["validation"] / 2
    with torch.no_grad():
        assert ((model.read(model.encode(x)) > 0) == (y > 0)).float().mean() > 0.95


def test_sizes_that_do_not_work_are_refused():
    with pytest.raises(ValueError, match="power of two"):
        MSP(5, size=48)
    with pytest.raises(ValueError, match="do not fit a latent of 2"):
        MSP(5, size=16, features=1)


def test_checkpoints_are_read_and_others_refused_in_one_line(small, tmp_path, monkeypatch):
    path, wide = tmp_path / "MSP_CelebA.tch", MSP(5, size=16, features=4, decoder_features=6)
    for model in (small, wide):
        torch.save(model.state_dict(), path)
        read = load_msp(path)
        assert read.config == model.config
        assert_close(read.state_dict(), model.state_dict())
    wrapped = {f"module.{name}": tensor for name, tensor in small.state_dict().items()}
    torch.save({"state_dict": wrapped, "epoch": 3}, path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert_close(load_msp(f"~/{path.name}").state_dict(), small.state_dict())
    torch.save({k: v for k, v in small.state_dict().items() if k != "fc2.bias"}, path)
    with one_line(ValueError, "holds another architecture than MSP: Missing key.*fc2.bias"):
        load_msp(path)


def test_fidelity_adds_absolute_differences(small):
    x, y = torch.rand(8, 3, 16, 16), torch.randint(0, 2, (8, 5))
    losses = []
    for fidelity in (0.0, 3.0):
        torch.manual_seed(0)
        losses.append(small.loss(x, y, fidelity))
    torch.manual_seed(0)
    mean, std = small.posterior(x)
    rebuilt = small.decode(mean + std * torch.randn_like(mean))
    assert_close(losses[1] - losses[0], 3 * 2 * (rebuilt - x).abs().sum() / 8, rtol=1e-4, atol=0)
