"""PluGeN: an invertible map that keeps the volume, and attributes that are coordinates."""

import pytest
import torch
from laws import refusals
from torch.testing import assert_close

from fpnlib.plugen import PluGeN

BINARY = torch.tensor([[0.0], [1.0]])


def latents(n=2_000, seed=0):
    """Two attributes that shift and bend four latents, the second of them rare."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, 4, generator=generator)
    y = (torch.rand(n, 2, generator=generator) < torch.tensor([0.5, 0.1])).float()
    z = noise.clone()
    z[:, 0] += 3 * y[:, 0]
    z[:, 1] += 4 * y[:, 1] + 0.3 * z[:, 0] ** 2
    return z, y


@pytest.fixture(scope="module")
def fitted():
    z, y = latents()
    settings = {"hidden_features": 32, "epochs": 20, "learning_rate": 3e-3, "progress": False}
    return PluGeN(4, 2, hidden_features=settings.pop("hidden_features")).fit(z, y, **settings)


def untrained(real, dim=2):
    torch.manual_seed(0)
    return PluGeN(dim, 1, real, hidden_features=16)


@pytest.mark.parametrize("real", [False, True])
def test_the_map_is_invertible_and_keeps_the_volume(real):
    model, z = untrained(real, 5).double(), torch.randn(6, 5, dtype=torch.float64)
    assert_close(model.from_coordinates(model.to_coordinates(z)), z)
    for row in z:
        jacobian = torch.autograd.functional.jacobian(lambda x: model.flow(x[None])[0][0], row)
        assert_close(torch.linalg.slogdet(jacobian).logabsdet, torch.zeros_like(row[0]))
    assert not model.flow(z)[1].any()


@pytest.mark.parametrize("real", [False, True])
def test_the_density_integrates_to_one_for_every_value(real):
    model = untrained(real)
    model.scale_.copy_(torch.tensor([0.5, 2.0]))
    steps = torch.linspace(-20, 20, 801)
    cells = torch.cartesian_prod(steps / 4, steps)
    area = (steps[1] - steps[0]) ** 2 / 4
    for value in BINARY:
        density = model.log_prob(cells, value.expand(len(cells), 1)).exp()
        assert_close(density.sum() * area, torch.tensor(1.0), atol=5e-3, rtol=0)


def test_attributes_become_coordinates(fitted):
    z, y = latents(seed=1)
    coordinates = fitted.to_coordinates(z)[:, :2]
    assert ((coordinates > 0) == (y > 0.5)).float().mean(0).min() > 0.9


def test_samples_have_what_is_asked_and_open_attributes_vary(fitted):
    asked = torch.tensor([[1.0, torch.nan]]).expand(400, 2)
    z = fitted.sample(asked, seed=3)
    assert torch.equal(z, fitted.sample(asked, seed=3))
    assert not torch.equal(z, fitted.sample(asked, seed=4))
    read = fitted.to_coordinates(z)[:, :2] > 0
    assert read[:, 0].float().mean() > 0.9 and 0.3 < read[:, 1].float().mean() < 0.7


def test_an_edit_moves_its_own_coordinate_only(fitted):
    z, y = latents(50, seed=2)
    assert_close(fitted.edit(z, y, y), z, atol=1e-4, rtol=0)
    to = y.clone()
    to[:, 0] = 1 - to[:, 0]
    half, whole = (fitted.edit(z, y, torch.lerp(y, to, share)) for share in (0.5, 1.0))
    before, after = fitted.to_coordinates(z), fitted.to_coordinates(whole)
    assert_close(after[:, 0], 2 * to[:, 0] - 1, atol=1e-3, rtol=0)
    assert_close(after[:, 1:], before[:, 1:], atol=1e-3, rtol=0)
    assert_close(fitted.to_coordinates(half), (before + after) / 2, atol=1e-3, rtol=0)


def test_a_quantity_is_drawn_and_edited_in_its_own_units():
    generator = torch.Generator().manual_seed(0)
    y = 50 + 10 * torch.randn(2_000, 1, generator=generator)
    z = torch.randn(2_000, 3, generator=generator)
    z[:, :1] += 0.2 * (y - 50)
    model = PluGeN(3, 1, real=True, hidden_features=32)
    model.fit(z, y, epochs=20, learning_rate=3e-3, progress=False)
    drawn = model.sample(torch.tensor([[40.0], [70.0]]).repeat(300, 1))
    assert drawn[1::2, 0].mean() - drawn[::2, 0].mean() > 4
    moved = model.edit(z, y, y + 10) - z
    assert 1 < moved[:, 0].mean() < 3


test_bad_input_gets_one_line = refusals(
    [
        (lambda: PluGeN(2, 3), "attributes must be 1 to 2, got 3"),
        (lambda: untrained(False).sample(torch.zeros(3, 2)), r"y must have shape \(n, 1\)"),
        (lambda: untrained(False).sample(torch.zeros(3, 1), temperature=-1), "temperature must"),
        (lambda: untrained(False).fit(torch.zeros(3, 2), torch.zeros(4, 1)), "same length"),
        (lambda: untrained(False).log_prob(torch.zeros(3, 4), torch.zeros(3, 1)), r"\(n, 2\)"),
    ],
)
