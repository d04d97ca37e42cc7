"""What numba keeps of the kernels: used again by the next process, and never once a source has changed."""

import shutil
import subprocess
import sys
from pathlib import Path

from fpnlib.flows import vectors

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


def test_a_kept_kernel_is_used_until_a_file_that_it_inlines_changes(tmp_path):
    shutil.copy(Path(vectors.__file__), tmp_path)
    (tmp_path / "the_kernel.py").write_text(KERNEL)

    def run(value: float) -> list[str]:
        (tmp_path / "piece_of_kernel.py").write_text(PIECE.format(value=value))
        ran = subprocess.run([sys.executable, "-c", "import the_kernel"], cwd=tmp_path, capture_output=True, text=True)
        assert not ran.returncode, ran.stderr
        return ran.stdout.split()

    assert run(1.0) == ["1.0", "0"]
    assert run(1.0) == ["1.0", "1"]
    assert run(2.0) == ["2.0", "0"]
