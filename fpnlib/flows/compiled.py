"""Whether the numba kernels can be had: compiled on first use with a word to the user, then kept on disk by numba."""

from __future__ import annotations

import sys
import warnings
from functools import lru_cache


@lru_cache(maxsize=1)
def compiled() -> bool:
    """Whether the kernels compile; a warning where they do not."""
    try:
        _announce()
        import fpnlib.flows.kernels  # noqa: F401

        return True
    except Exception as error:  # whatever goes wrong in a compiler, torch still gives the same numbers
        warnings.warn(
            f"the compiled flow kernels are not available ({type(error).__name__}: {str(error).strip():.200s}); "
            "flows run in plain torch, more slowly",
            RuntimeWarning,
            stacklevel=2,
        )
        return False


def _announce() -> None:
    """Has numba say so when it begins to compile, which it does not where the kernels are in its cache."""
    from numba.core import event

    class Announcer(event.Listener):
        def on_start(self, event) -> None:
            if event.data["dispatcher"].py_func.__module__.startswith("fpnlib") and not said:
                said.append(True)
                print("Compiling the flow kernels for this machine, once …", file=sys.stderr, flush=True)

        def on_end(self, event) -> None:
            pass

    said: list[bool] = []
    event.register("numba:compile", Announcer())
