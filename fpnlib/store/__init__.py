"""What a run leaves behind: atomic files, safetensors, locks, results, the manifest.

A run that is killed at any moment leaves whole files only. Nothing here is pickled.

``store.cache`` and ``store.tensors`` are not imported here, because torch takes seconds.
"""

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
