"""Starting over: removes what runs and sweeps have left, and nothing else."""

from __future__ import annotations

from fpnlib.store import Manifest

SHOWN = ("notebooks", "figures", "tables", "results")
"""The folders in which a reader looks for what a run has left."""


def refuse_strangers(manifest: Manifest) -> None:
    """Raise ValueError if starting over would empty folders that no run has made."""
    marks = manifest.path, manifest.folder / ".run.lock"
    if not any(mark.is_file() for mark in marks) and manifest.unlisted():
        said = "is no run's folder, and starting over would empty it; give another --out"
        raise ValueError(f"{manifest.folder} {said}")


def clear(manifest: Manifest) -> None:
    """Remove what a run leaves, and nothing else that may stand in its folder."""
    for kind in {*SHOWN, *manifest.KEPT, ".uses"}:
        for path in sorted((manifest.folder / kind).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    for path in (manifest.folder / manifest.GRID, manifest.path):
        path.unlink(missing_ok=True)
