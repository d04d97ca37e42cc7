"""What a run leaves behind: atomic files, safetensors, locks, results, the manifest.

A run that is killed at any moment leaves whole files only. Nothing here is pickled.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fpnlib.store.files import (
    PROJECT,
    damaged,
    digest,
    library_digest,
    read_json,
    sha256,
    write,
    write_json,
)
from fpnlib.store.locks import alone, claim
from fpnlib.store.manifest import Manifest
from fpnlib.store.results import Results
from fpnlib.store.uses import Uses

if TYPE_CHECKING:
    from fpnlib.store.cache import Cache, Key
    from fpnlib.store.tensors import (
        Checkpoint,
        load_module,
        load_tensors,
        read_meta,
        save_module,
        save_tensors,
    )

_CACHE = ("Cache", "Key")
_TENSORS = ("Checkpoint", "load_module", "load_tensors", "read_meta", "save_module", "save_tensors")


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used, because torch takes seconds."""
    if name not in (*_CACHE, *_TENSORS):
        raise AttributeError(f"module 'fpnlib.store' has no attribute '{name}'")
    return getattr(import_module(f"fpnlib.store.{'cache' if name in _CACHE else 'tensors'}"), name)
