"""Nearest-neighbour scores against cases whose answer is known."""

import numpy as np
import pytest
import torch

from fpnlib.metrics.latents import class_separation, embed, two_sample_accuracy


def normal(n, shift=0.0, seed=0):
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed)) + shift


def test_two_samples():
    assert two_sample_accuracy(normal(500), normal(500, seed=1)) == pytest.approx(0.5, abs=0.07)
    assert two_sample_accuracy(normal(500), normal(500, shift=20, seed=1)) == 1
    assert two_sample_accuracy(normal(500), normal(500) + 1e-6) == 0  # copies


def test_class_separation():
    z, y = torch.cat([normal(200), normal(200, shift=20)]), torch.arange(2).repeat_interleave(200)
    assert class_separation(z, y) == 1
    assert class_separation(normal(1000), torch.arange(1000) % 2) == pytest.approx(0.5, abs=0.05)


def test_one_embedding_holds_both_and_follows_its_seed():
    real, sampled = normal(60), normal(40, shift=30)
    left, right = embed(real.clone().requires_grad_(), sampled)
    assert left.shape == (60, 2) and right.shape == (40, 2)
    which = torch.arange(2).repeat_interleave(torch.tensor([60, 40]))
    assert class_separation(torch.tensor(np.concatenate([left, right])), which) == 1
    assert (embed(real, sampled)[0] == left).all()


def test_few_latents_and_other_widths():
    assert class_separation(normal(4), torch.zeros(4, dtype=torch.int64)) == 1
    with pytest.raises(ValueError, match=r"sampled must have shape \(n, .*got \(10, 1\)"):
        two_sample_accuracy(normal(10), normal(10)[:, :1])


@pytest.mark.parametrize(
    "call", [lambda z: two_sample_accuracy(z, z[:3]), lambda z: class_separation(z, torch.zeros(3))]
)
def test_lengths_that_differ(call):
    with pytest.raises(ValueError, match="same length"):
        call(normal(10))
