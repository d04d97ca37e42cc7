"""A large batch goes through in pieces: what it takes beyond its inputs and outputs does not grow with it."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys, torch
from fpnlib.flows import build_flow
from memory import peak

torch.set_num_threads(1)
torch.set_default_dtype(getattr(torch, sys.argv[5]))
name, call, hidden, many = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
flow = build_flow(name, 4, 3, hidden_features=hidden, num_layers=2, num_blocks=1).eval()
every = torch.eye(3)
calls = {
    "from noise": lambda z, context: flow.transform_from_noise(z, context),
    "from noise, any context": lambda z, context: flow.transform_from_noise(z, 0.5 * context),
    "density": lambda z, context: flow.log_prob(z, context),
    "to noise": lambda z, context: flow.transform_to_noise(z, context),
    "every class": lambda z, context: flow.class_log_prob(z, every),
}
with torch.no_grad():
    for n in (8192, many):
        z, context = torch.randn(n, 4), every[torch.arange(n) % 3]
        before = peak()
        assert calls[call](z, context).isfinite().all()
print(peak() - before)
"""


@pytest.mark.parametrize(
    "name, call, hidden, many, dtype",
    [
        ("maf", "from noise", 64, 100_000, "float32"),
        ("maf", "from noise, any context", 64, 100_000, "float32"),
        ("maf", "density", 64, 100_000, "float32"),
        ("realnvp", "density", 64, 100_000, "float32"),
        ("maf", "from noise, any context", 700, 24_000, "float32"),
        ("maf", "from noise", 64, 100_000, "float64"),
        ("maf", "density", 64, 100_000, "float64"),
        ("maf", "to noise", 64, 100_000, "float64"),
        ("maf", "every class", 64, 100_000, "float64"),
        ("realnvp", "from noise", 64, 100_000, "float64"),
        ("realnvp", "density", 64, 100_000, "float64"),
    ],
)
def test_memory_is_bounded(name, call, hidden, many, dtype):
    run = [sys.executable, "-c", SCRIPT, name, call, str(hidden), str(many), dtype]
    grown = int(subprocess.run(run, check=True, capture_output=True, text=True, cwd=Path(__file__).parent).stdout)
    size = int(dtype.removeprefix("float")) // 8
    one_row = size * (4 + 3 + 4 + 3)  # bytes of noise, context, data and densities
    activations = size * 3 * hidden * many  # what the hidden units of one layer alone would take
    assert grown < 6 * one_row * many + activations / 10
