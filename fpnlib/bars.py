"""Progress bars of a notebook that runs headlessly: on the terminal that started it, not in its executed copy."""

import sys

import tqdm.auto
import tqdm.std


class TerminalBar(tqdm.std.tqdm):
    """tqdm's bar on the process's own stderr, which ipykernel does not redirect into the notebook."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{"file": sys.__stderr__, "leave": False} | kwargs)


def to_terminal() -> None:
    """Let ``tqdm.auto`` draw on the terminal; to be called before others import it."""
    tqdm.auto.tqdm = TerminalBar
