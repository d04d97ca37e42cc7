"""What a run leaves behind: atomic files, safetensors, locks, results, the manifest.

A run that is killed at any moment leaves whole files only. Nothing here is pickled.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fpnlib.store.files import PROJECT as PROJECT
from fpnlib.store.files import damaged as damaged
from fpnlib.store.files import digest as digest
from fpnlib.store.files import library_digest as library_digest
from fpnlib.store.files import read_json as read_json
from fpnlib.store.files import sha256 as sha256
from fpnlib.store.files import write as write
from fpnlib.store.files import write_json as write_json
from fpnlib.store.locks import alone as alone
from fpnlib.store.locks import claim as claim
from fpnlib.store.manifest import Manifest as Manifest
from fpnlib.store.results import Results as Results
from fpnlib.store.uses import Uses as Uses

if TYPE_CHECKING:
    from fpnlib.store.cache import Cache as Cache
    from fpnlib.store.cache import Key as Key
    from fpnlib.store.tensors import Checkpoint as Checkpoint
    from fpnlib.store.tensors import load_module as load_module
    from fpnlib.store.tensors import load_tensors as load_tensors
    from fpnlib.store.tensors import read_meta as read_meta
    from fpnlib.store.tensors import save_module as save_module
    from fpnlib.store.tensors import save_tensors as save_tensors

_CACHE = ("Cache", "Key")
_TENSORS = ("Checkpoint", "load_module", "load_tensors", "read_meta", "save_module", "save_tensors")


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used, because torch takes seconds."""
    if name not in (*_CACHE, *_TENSORS):
        raise AttributeError(f"module 'fpnlib.store' has no attribute '{name}'")
    return getattr(import_module(f"fpnlib.store.{'cache' if name in _CACHE else 'tensors'}"), name)
