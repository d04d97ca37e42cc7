"""The most memory that a process has held, in bytes."""

import resource
import sys
from pathlib import Path


def peak() -> int:
    """Peak memory of this process alone: on Linux ``ru_maxrss`` begins at the parent's peak."""
    status = Path("/proc/self/status")
    if not status.is_file():
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for line in status.read_text().splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    raise OSError("no VmHWM in /proc/self/status")
