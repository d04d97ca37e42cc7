"""The processes that execute notebooks: this very Python, in the project's folder, one thread each on a CPU."""

from __future__ import annotations

import os
import sys
import weakref
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from ipykernel.kernelspec import get_kernel_dict
from joblib import cpu_count
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from fpnlib.store import PROJECT

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


class ThisPython(AsyncKernelManager):
    """Starts kernels with the Python that runs this very process, whatever kernels are installed."""

    alive: weakref.WeakSet[ThisPython] = weakref.WeakSet()
    _sockets: TemporaryDirectory | None = None

    @property
    def kernel_spec(self) -> KernelSpec:
        options = {
            "log_level": "CRITICAL",  # it calls its own end an error
            # Bars and low-level output go to the kernel's own stderr, the terminal, and not into the notebook.
            "capture_fd_output": False,
            "exec_lines": "__import__('fpnlib.runs.bars').bars.to_terminal()",
        }
        extra = [f"--IPKernelApp.{name}={value}" for name, value in options.items()]
        return KernelSpec(**get_kernel_dict(extra_arguments=extra))

    async def start_kernel(self, *, env: dict[str, str], **options) -> None:
        """Start one in the project's folder; ``env`` is added to this process's environment."""
        defaults = (
            dict.fromkeys(THREADS, str(threads()))
            | {
                "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # deterministic matrix products on a GPU
                "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # large pages: a ConvVAE's training step takes a fifth less
                "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # keeps the debugger's advice off the screen
                "TQDM_MININTERVAL": "0.1" if sys.stderr.isatty() else "10",
            }
        )
        path = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
        fixed = {"PYTHONHASHSEED": "0", "PYTHONPATH": path}
        if os.name == "posix":
            # Ports are picked before the kernel takes them, and another process may be faster; sockets in a folder of
            # their own are nobody else's. The folder is in /tmp or the like: such a path has a hundred characters at most.
            self._sockets = TemporaryDirectory(prefix="fpn-", ignore_cleanup_errors=True)
            self.transport = "ipc"
            self.ip = str(Path(self._sockets.name, "kernel"))
        self.alive.add(self)
        await super()._async_start_kernel(
            env=defaults | os.environ | fixed | env, cwd=str(PROJECT), **options
        )

    async def cleanup_resources(self, restart: bool = False) -> None:
        """Remove what the kernel leaves, its sockets' folder too."""
        await super().cleanup_resources(restart=restart)
        if self._sockets and not restart:
            self._sockets.cleanup()

    @classmethod
    def kill_all(cls) -> None:
        """End every kernel at once; whoever waits for one learns that it died."""
        for manager in list(cls.alive):
            process = getattr(manager.provisioner, "process", None)
            if process is not None and process.poll() is None:
                process.kill()


def threads() -> int:
    """Threads in each kernel. On a CPU one: the same bits whatever the number of cores, which notebooks share out."""
    return cpu_count() if torch.cuda.is_available() else 1


def jobs() -> int:
    """Notebooks at a time, where nothing else is asked for: one a core, or one on a GPU."""
    return 1 if torch.cuda.is_available() else cpu_count()
