"""Progress bars of a notebook that runs headlessly: on the terminal that started it, not in its executed copy."""

import os
import sys
from itertools import count

import tqdm.auto
import tqdm.std


class TerminalBar(tqdm.std.tqdm):
    """tqdm's bar on the process's own stderr, which ipykernel does not redirect into the notebook."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{"file": sys.__stderr__, "leave": False} | kwargs)

    def set_postfix(self, ordered_dict=None, refresh=True, **values) -> None:
        """As tqdm's; into a log it is written when a line is due, not each time."""
        super().set_postfix(ordered_dict, refresh and sys.__stderr__.isatty(), **values)

    @classmethod
    def _get_free_pos(cls, instance=None) -> int:
        """Lines below the runner's own, where several notebooks' processes draw on one terminal."""
        taken = {
            abs(bar.pos) for bar in cls._instances if bar is not instance and hasattr(bar, "pos")
        }
        return next(
            line for line in count(int(os.environ.get("FPN_BARS_FROM", 0))) if line not in taken
        )


def to_terminal() -> None:
    """Let ``tqdm.auto`` draw on the terminal; to be called before others import it."""
    tqdm.auto.tqdm = TerminalBar
