"""What a run leaves behind: atomic files, safetensors, locks, results, the manifest.

A run that is killed at any moment leaves whole files only. Nothing here is pickled.
"""

from fpnlib.store.cache import Cache, Key
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
from fpnlib.store.tensors import (
    Checkpoint,
    load_module,
    load_tensors,
    read_meta,
    save_module,
    save_tensors,
)
from fpnlib.store.uses import Uses
