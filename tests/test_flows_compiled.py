"""What numba keeps of the kernels: used again by the next process, and never once a source or the machine has changed."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

from fpnlib.flows import compiled, vectors

PIECE = """
from vectors import inlined
@inlined
def piece():
    return {value}
"""
KERNEL = """
import numpy as np
from numba import int64, void
from piece_of_kernel import piece
from vectors import LANES, jit, splat, store
@jit(void(int64))
def fill(address):
    store(address, splat(piece()))
out = np.zeros(LANES, np.float32)
fill(out.ctypes.data)
assert (out == out[0]).all()
print(out[0], sum(fill.stats.cache_hits.values()))
"""
CHECK = """
from fpnlib.flows.compiled import compiled
assert compiled("checksum_kernel") is compiled("checksum_kernel")
"""


def stderr(script: str, **environment: str) -> str:
    command = [sys.executable, "-c", script]
    return subprocess.run(
        command, env=os.environ | environment, check=True, capture_output=True, text=True
    ).stderr


def prepare(folder: Path, value: float) -> None:
    """A kernel that inlines a number from another file."""
    shutil.copy(Path(vectors.__file__), folder)
    (folder / "the_kernel.py").write_text(KERNEL)
    (folder / "piece_of_kernel.py").write_text(PIECE.format(value=value))


def run(folder: Path, processes: int = 1) -> list[list[str]]:
    """What processes say that import the kernel, all at once."""
    command, pipe = [sys.executable, "-c", "import the_kernel"], subprocess.PIPE
    started = [
        subprocess.Popen(command, cwd=folder, stdout=pipe, stderr=pipe, text=True)
        for _ in range(processes)
    ]
    said = [process.communicate(timeout=300) for process in started]
    assert not any(process.returncode for process in started), said
    return [out.split() for out, _ in said]


def test_a_kept_kernel_is_used_until_a_file_that_it_inlines_changes(tmp_path):
    prepare(tmp_path, 1.0)
    assert run(tmp_path) == [["1.0", "0"]]
    assert run(tmp_path) == [["1.0", "1"]]
    prepare(tmp_path, 2.0)
    assert run(tmp_path) == [["2.0", "0"]]


def test_two_processes_may_compile_into_an_empty_cache_at_once(tmp_path):
    prepare(tmp_path, 1.0)
    assert [value for value, _ in run(tmp_path, processes=2)] == ["1.0", "1.0"]
    assert run(tmp_path) == [["1.0", "1"]]


def test_each_kind_of_machine_has_a_cache_of_its_own(tmp_path):
    shutil.copy(Path(vectors.__file__), tmp_path)
    script = """
from llvmlite import binding
binding.get_host_cpu_name = lambda: {name!r}
import vectors
print(vectors.KEPT)
"""

    def kept(name: str) -> str:
        command = [sys.executable, "-c", script.format(name=name)]
        return subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    assert kept("old") == kept("old") != kept("new")


def test_all_that_a_kernel_may_inline_is_among_the_sources():
    inside = {path.stem for path in vectors.SOURCES}
    assert {
        "vectors",
        "autoregressive_kernels",
        "gradient_kernels",
        "coupling_kernels",
        "triangular_kernels",
    } < inside
    for path in vectors.SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fpnlib.flows."):
                assert node.module.rsplit(".", 1)[1] in inside, f"{path.name} imports {node.module}"


def test_the_first_call_says_that_it_compiles_and_the_next_process_does_not(tmp_path):
    first, second = (stderr(CHECK, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert first.count("Compiling the flow kernels (checksum_kernel) for this machine, once") == 1
    assert "Compiling" not in second


def test_the_installation_compiles_whatever_holds_a_kernel(monkeypatch):
    ready = []
    monkeypatch.setattr(compiled, "compiled", ready.append)
    compiled.compile_all()
    folder = Path(compiled.__file__).parent
    assert {
        path.stem for path in folder.glob("*.py") if "\n@jit(" in path.read_text(encoding="utf-8")
    } <= set(ready)


def test_without_numbas_compiler_torch_is_used():
    script = "from fpnlib.flows.compiled import compiled; assert compiled('vectors') is None"
    assert "NUMBA_DISABLE_JIT is set" in stderr(script, NUMBA_DISABLE_JIT="1")
