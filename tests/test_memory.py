"""The memory that flows and distances take beyond inputs and outputs does not grow with them."""

import json
import subprocess
import sys
from pathlib import Path

CASES = [
    ("maf", "from noise", 64, 50_000, "float32"),
    ("maf", "from noise, any context", 64, 50_000, "float32"),
    ("maf", "density", 64, 50_000, "float32"),
    ("realnvp", "density", 64, 50_000, "float32"),
    ("maf", "from noise, any context", 700, 16_000, "float32"),
    ("maf", "from noise", 64, 50_000, "float64"),
    ("maf", "density", 64, 50_000, "float64"),
    ("maf", "to noise", 64, 50_000, "float64"),
    ("maf", "every class", 64, 50_000, "float64"),
    ("realnvp", "from noise", 64, 50_000, "float64"),
    ("realnvp", "density", 64, 50_000, "float64"),
]
# Each case has a process of its own, because the peak of a process never falls. Processes are
# forked, because importing takes longest.
SCRIPT = """
import json, os, sys, torch
from fpnlib.flows import build_flow
from fpnlib.metrics.point_clouds import _pairwise
from memory import peak

torch.set_num_threads(1)

def measure(name, call, hidden, many, dtype):
    torch.set_default_dtype(getattr(torch, dtype))
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
    return peak() - before

def distances():
    others = torch.randn(40, 2048, 3)  # all distances at once would be 0.7 GB
    before = peak()
    assert _pairwise(others[:1], others, "chamfer").shape == (1, 40)
    return peak() - before

measure("maf", "from noise", 64, 9, "float32")  # what a child need not load again
for case in [*json.loads(sys.argv[1]), None]:
    if not (child := os.fork()):
        print(measure(*case) if case else distances(), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_memory_is_bounded():
    run = [sys.executable, "-c", SCRIPT, json.dumps(CASES)]
    folder = Path(__file__).parent
    done = subprocess.run(run, check=True, capture_output=True, text=True, cwd=folder)
    # Bytes, by each case's largest batch, and by the distances to 40 clouds of 2,048 points.
    *grown, of_distances = map(int, done.stdout.splitlines())
    assert len(grown) == len(CASES), done.stderr
    for case, size in zip(CASES, grown, strict=True):
        assert size < allowed(*case), case
    assert of_distances < 2**28


def allowed(name, call, hidden, many, dtype):
    """Bytes: a few times the inputs and outputs, and a tenth of the hidden units of one layer."""
    size = int(dtype.removeprefix("float")) // 8
    one_row = size * (4 + 3 + 4 + 3)  # noise, context, data and densities
    return 6 * one_row * many + size * 3 * hidden * many / 10
