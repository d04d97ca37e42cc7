"""Where a run is computed: commit, versions, device, processor, cores."""

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch
from joblib import cpu_count

from fpnlib.store import PROJECT

PACKAGES = (
    *("torch", "torchvision", "nflows", "numpy", "scipy", "scikit-learn", "safetensors"),
    *("torchmetrics", "umap-learn", "flaml"),
)


def environment() -> dict:
    """Return commit, versions, device and processor of this process, for a manifest."""
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--", "fpnlib", "notebooks")
    return {
        "commit": commit,
        "uncommitted changes": bool(changes) if commit else None,
        "python": platform.python_version(),
        "versions": dict(zip(PACKAGES, map(metadata.version, PACKAGES))),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": cpu_count(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def _git(*arguments: str) -> str | None:
    command = ["git", *arguments]
    try:
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
