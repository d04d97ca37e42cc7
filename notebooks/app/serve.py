"""Serve the page of sliders with Voila, whose options this script takes.

On Linux, each tab's kernel is a fork of one process that has imported everything. So
tabs share that memory, and none waits for the imports.
"""

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

from jupyter_client.ioloop import AsyncIOLoopKernelManager

PAGE = Path(__file__).with_name("sliders.ipynb")
IMPORTED = [
    "ipykernel.kernelapp",
    "fpnlib.families.pretrained",
    "fpnlib.widgets.molecules",
]
LAUNCHER = "ipykernel_launcher"
MANAGER = "MappingKernelManager"
OPTIONS = {
    "kernel_manager_class": "serve.Forking",
    "cull_idle_timeout": 15,
    "cull_interval": 10,
}


class Forking(AsyncIOLoopKernelManager):
    """Starts each kernel as a fork on Linux, and as a process of its own elsewhere."""

    async def _async_launch_kernel(self, kernel_cmd: list[str], **options: Any) -> None:
        if sys.platform != "linux":  # macOS ends forks that use its own libraries
            await super()._async_launch_kernel(kernel_cmd, **options)
            return
        arguments = kernel_cmd[kernel_cmd.index(LAUNCHER) + 1 :]
        forks = multiprocessing.get_context("forkserver")
        forks.set_forkserver_preload(IMPORTED)
        job = arguments, dict(options.get("env", {})), options.get("cwd") or os.getcwd()
        process = _Fork(forks.Process(target=_run, args=job, daemon=True))
        self.provisioner.process, self.provisioner.pid = process, process.pid


class _Fork:
    """A process with the methods of ``Popen`` that a manager of kernels calls."""

    stdin = stdout = stderr = None

    def __init__(self, process: Any):
        process.start()
        self.process, self.pid = process, process.pid
        self.terminate, self.kill = process.terminate, process.kill

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        if self.process.is_alive():
            os.kill(self.pid, number)


def _run(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """Be a kernel until it is shut down, or until the process that forks has ended."""
    from ipykernel.kernelapp import launch_new_instance

    os.setsid()  # Ctrl-C ends the server, which ends its kernels
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environment)  # noqa: TID251 a kernel takes its server's
    os.chdir(folder)
    launch_new_instance([*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"])


if __name__ == "__main__":
    from voila.app import main

    options = [f"--{MANAGER}.{name}={value}" for name, value in OPTIONS.items()]
    main([str(PAGE), *options, *sys.argv[1:]])
