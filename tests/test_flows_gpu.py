"""The kernel for GPUs, on a machine without one: Triton's interpreter gives its numbers, Triton's compiler takes it.

Where there is a GPU, ``test_flows_exact`` compares it with the CPU.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton", reason="comes with torch's builds for GPUs")
TESTS = Path(__file__).parent
# With batch norm, several blocks of features, fewer samples than a second program takes, and more than one unit a degree.
SCRIPT = """
import json, torch
from test_flows_exact import batch, build
from fpnlib.flows.incremental import Incremental
from fpnlib.flows.incremental_gpu import MOST, IncrementalGPU, try_out

torch.set_num_threads(1)
try_out("cpu")
far = []
for precision in (torch.float32, torch.float64):
    flow = build("maf", features=3, hidden_features=100, num_layers=1, num_blocks=2, batch_norm=True).to(precision)
    noise, context = (rows.to(precision) for rows in batch(flow, n=17))
    stack = flow._transform
    with torch.no_grad():
        layers = [stack._pack(layer) for layer in stack._layers()]
        engine = IncrementalGPU(layers)
        assert engine.most <= MOST and engine.block < 3
        pairs = zip(engine.inverse(noise, context), Incremental(layers).inverse(noise, context))
        far.append([((a - b).abs() / b.abs().clamp_min(1)).max().item() for a, b in pairs])
print(json.dumps(far))
"""


def test_the_kernel_gives_the_numbers_of_torch_alone():
    env = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    for most, found in zip((1e-5, 1e-13), json.loads(done.stdout), strict=True):
        assert max(found) < most


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_the_kernel_compiles_for_gpus_and_spills_nothing(precision, tmp_path, monkeypatch):
    from triton.backends.compiler import GPUTarget

    from fpnlib.flows.incremental_gpu import EPSILON, MOST, SAMPLES, step

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {"BLOCKS": 2, "UNITS": MOST, "SAMPLES": SAMPLES, "EPSILON": EPSILON}
    kinds = {"order": "*i64", "known": "*i64"} | dict.fromkeys(constants, "constexpr")
    kinds |= dict.fromkeys(("n", "row", "begin", "end", "low", "features", "units"), "i32")
    signature = {name: kinds.get(name, f"*{precision}") for name in step.arg_names}
    source = triton.compiler.ASTSource(fn=step, signature=signature, constexprs=constants)
    options = {"num_warps": 4, "enable_fp_fusion": True}
    made = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options)
    code = tmp_path / "step.cubin"
    code.write_bytes(made.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    used = subprocess.run(
        [tool, "--dump-resource-usage", code], check=True, capture_output=True, text=True
    ).stdout
    (registers,) = re.findall(r"Function step:\s+REG:(\d+)", used)
    assert int(registers) < 255  # what a thread can have; from there on they are spilled


def test_the_benchmark_on_a_gpu_compares_the_same_numbers(monkeypatch):
    monkeypatch.syspath_prepend(str(TESTS.parent / "benchmarks"))
    import flows_gpu

    row = flows_gpu.sampling(20, 1, "cpu", (6, 3, 24, 2, 1))
    assert row["samples"] == 20 and row["largest difference"] < 1e-4
    assert torch.tensor([row["nflows / ours"], row["ours, ms"], row["nflows, ms"]]).min() > 0
