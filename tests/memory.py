"""The most memory that a process has held, in bytes."""

import resource
import sys
from pathlib import Path


def peak() -> int:
    """Of this process alone: where it was started by a large one, ``ru_maxrss`` begins at that one's."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )
    return 1024 * next(
        int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")
    )
