"""Flow Plugin Networks: a conditional flow on a frozen autoencoder's latents.

It turns the autoencoder into a conditional generator, a classifier and an editor.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "FlowPlugin": "fpnlib.plugin",
    "FlowPluginNetwork": "fpnlib.network",
    "adapt": "fpnlib.base_models.frozen",
    "Attributes": "fpnlib.conditions",
    "Classes": "fpnlib.conditions",
    "Reals": "fpnlib.conditions",
    "Several": "fpnlib.conditions",
    "Vector": "fpnlib.conditions",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, because torch takes seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fpnlib' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
