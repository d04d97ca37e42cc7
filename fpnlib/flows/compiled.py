"""The modules with kernels; numba's are compiled at installation, else on first use with a word to the user, and kept."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType


@lru_cache
def compiled(name: str) -> ModuleType | None:
    """The module of the flows by that name, its kernels ready; None, with a warning, where they do not compile."""
    try:
        with _announced(name):
            return import_module(f"fpnlib.flows.{name}")
    except (
        Exception
    ) as error:  # whatever goes wrong in a compiler, torch still gives the same numbers
        warnings.warn(
            f"the compiled flow kernels are not available ({type(error).__name__}: {str(error).strip():.200s}); "
            "flows run in plain torch, more slowly",
            RuntimeWarning,
            stacklevel=1,  # one place and, for one reason, one text: Python shows it once
        )
        return None


def compile_all() -> None:
    """Compile whatever is not in numba's cache yet, as the installation does: half a minute, and no notebook pays for it."""
    for path in sorted(Path(__file__).parent.glob("*_kernel*.py")):
        compiled(path.stem)


@contextmanager
def _announced(name: str) -> Iterator[None]:
    """Has numba say so when it begins to compile, which it does not where the kernels are in its cache."""
    from numba.core import event

    class Announcer(event.Listener):
        said = False

        def on_start(self, event) -> None:
            if not self.said and event.data["dispatcher"].py_func.__module__.startswith("fpnlib"):
                self.said = True
                print(
                    f"Compiling the flow kernels ({name}) for this machine, once …",
                    file=sys.stderr,
                    flush=True,
                )

        def on_end(self, event) -> None:
            pass

    with event.install_listener("numba:compile", Announcer()):
        yield
