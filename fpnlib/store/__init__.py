"""What a run leaves behind: atomic writes, safetensors with a JSON beside them, hashes, results, the manifest, locks.

A run killed at any moment leaves whole files only. Nothing here is pickled.
"""

from fpnlib.store.environment import cores, environment
from fpnlib.store.files import (
    PROJECT,
    digest,
    expect,
    inside,
    library_digest,
    make_folder,
    read_json,
    read_kept,
    rebuilt,
    sha256,
    sweep_up,
    write_bytes,
    write_json,
    write_kept,
    write_text,
)
from fpnlib.store.locks import FolderInUse, alone, claim
from fpnlib.store.manifest import Manifest
from fpnlib.store.results import Results, read_results
from fpnlib.store.tensors import (
    Checkpoint,
    halved,
    load_module,
    load_tensors,
    read_meta,
    save_module,
    save_tensors,
)
from fpnlib.store.uses import Uses

__all__ = [
    "PROJECT",
    "Checkpoint",
    "FolderInUse",
    "Manifest",
    "Results",
    "Uses",
    "alone",
    "claim",
    "cores",
    "digest",
    "environment",
    "expect",
    "halved",
    "inside",
    "library_digest",
    "load_module",
    "load_tensors",
    "make_folder",
    "read_json",
    "read_kept",
    "read_meta",
    "read_results",
    "rebuilt",
    "save_module",
    "save_tensors",
    "sha256",
    "sweep_up",
    "write_bytes",
    "write_json",
    "write_kept",
    "write_text",
]
