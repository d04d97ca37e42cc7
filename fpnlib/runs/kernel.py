"""The processes that execute notebooks: this Python, in the project's folder."""

import os
import sys
from pathlib import Path
from subprocess import DEVNULL
from tempfile import TemporaryDirectory
from typing import Any

import torch
from ipykernel.kernelspec import get_kernel_dict
from joblib import cpu_count
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from fpnlib.store import PROJECT

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
LONGEST_SOCKET = 107
"""Characters of a socket's path that POSIX systems take."""


class ThisPython(AsyncKernelManager):  # type: ignore[misc]
    """Starts kernels with the Python that runs this process, whatever kernels are installed."""

    _folder: TemporaryDirectory | None = None

    @property
    def kernel_spec(self) -> KernelSpec:
        """The command: what low-level code prints stays out of the notebook."""
        options = ["--IPKernelApp.log_level=CRITICAL", "--IPKernelApp.capture_fd_output=False"]
        return KernelSpec(**get_kernel_dict(extra_arguments=options))

    async def start_kernel(self, **options: Any) -> None:
        """Start a kernel in the project's folder. What low-level code prints is dropped."""
        self._folder = TemporaryDirectory(prefix="fpn-", ignore_cleanup_errors=True)
        # Another process may take a port before the kernel does. A socket is nobody else's.
        socket = str(Path(self._folder.name, "kernel"))
        if os.name == "posix" and len(f"{socket}-10") <= LONGEST_SOCKET:
            self.transport, self.ip = "ipc", socket
        options |= {"cwd": str(PROJECT), "stdout": DEVNULL, "stderr": DEVNULL}
        await super()._async_start_kernel(env=_environment(), **options)

    async def cleanup_resources(self, restart: bool = False) -> None:
        """Remove what the kernel leaves, its folder too."""
        await super().cleanup_resources(restart=restart)
        if self._folder is not None and not restart:
            self._folder.cleanup()

    def kill(self) -> None:
        """End the kernel at once; whoever waits for it learns that it died."""
        process = getattr(self.provisioner, "process", None)
        if process is not None and process.poll() is None:
            process.kill()


def jobs() -> int:
    """Return the default number of notebooks at a time: one a core, or one on a GPU."""
    return 1 if torch.cuda.is_available() else cpu_count()


def _environment() -> dict[str, str]:
    """Return this process's environment with defaults below it and what every kernel needs."""
    ours = os.environ  # noqa: TID251 a kernel inherits it
    # On a CPU one thread: the same bits whatever the number of cores, which notebooks share out.
    threads = str(cpu_count() if torch.cuda.is_available() else 1)
    defaults = dict.fromkeys(THREADS, threads) | {
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # deterministic matrix products on a GPU
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # large pages: faster training
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # no advice of the debugger
    }
    if not sys.stderr.isatty():
        defaults["TQDM_DISABLE"] = "1"  # nobody sees the bars
    fixed = {
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(PROJECT), ours.get("PYTHONPATH")))),
    }
    if data := ours.get("FPN_DATA"):
        # An absolute path, because the kernel's folder is another.
        fixed["FPN_DATA"] = os.path.abspath(os.path.expanduser(data))
    return defaults | ours | fixed
