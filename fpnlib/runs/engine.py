"""One notebook's execution, as papermill's engine: cells in order, watched, within their time.

papermill lets pass what fails inside a widget's callback (ipywidgets shows the traceback, and the cell counts as done),
waits for a cell for ever, and says nothing of which cell runs; here these end in a :class:`CellError` or on the screen.
"""

from __future__ import annotations

import math
import re
import sys
import time
from pathlib import Path

import papermill
import zmq
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbclient.output_widget import OutputWidget
from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, NotebookExecutionManager, papermill_engines
from papermill.exceptions import PapermillExecutionError
from tqdm.auto import tqdm

from fpnlib.runs.kernel import ThisPython

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class CellError(Exception):
    """A cell failed, took too long or lost its process; the message ends with that cell's own error."""


class TimeUp(CellError):
    """The whole run's time is up, or it was interrupted: nothing else shall begin."""


class Limits:
    """How long each cell and the whole run may take, in seconds (None: any time); the run's clock starts here."""

    def __init__(self, cell: float | None = None, run: float | None = None):
        self.cell, self.run = cell, run
        self._end = math.inf if run is None else time.monotonic() + run

    def over(self) -> bool:
        """Whether the run's time is up."""
        return time.monotonic() >= self._end

    def stop(self) -> None:
        """Let the run's time be up now, for it was interrupted."""
        self.run, self._end = None, time.monotonic()

    def for_a_cell(self) -> float | None:
        """Seconds that a cell which begins now may take."""
        left = max(self._end - time.monotonic(), 0.001)
        return None if self.cell is None and left == math.inf else min(left, self.cell or math.inf)

    def __str__(self) -> str:
        """The limit that ended a cell."""
        if not self.over():
            return f"the limit of {self.cell:g} s for a cell"
        return "an interrupt" if self.run is None else f"the run's limit of {self.run:g} s"


class Progress:
    """A notebook's line on the screen: which cell of how many, and how that cell begins."""

    def __init__(self, title: str, cells: list[NotebookNode]):
        count = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in cells)
        shape = "{desc}: cell {n_fmt}/{total_fmt} |{bar:10}| {elapsed}{postfix}"
        pace = {"mininterval": 0.1 if sys.stderr.isatty() else 5, "dynamic_ncols": True}
        self.bar = tqdm(total=count, desc=title, bar_format=shape, leave=False, **pace)
        self.cell = 0

    def begin(self, cell: NotebookNode, cell_index: int) -> None:
        """Show that ``cell`` is executed now."""
        self.cell += 1
        self.bar.set_postfix_str(cell.source.strip().splitlines()[0][:40], refresh=False)
        self.bar.update()


def execute(
    source: Path,
    target: Path,
    parameters: dict,
    *,
    title: str,
    limits: Limits,
    env: dict[str, str],
    bars_from: int,
) -> NotebookNode:
    """Execute the notebook ``source`` with ``parameters``; returns the executed copy, which also grows at ``target``.

    Args:
        title: of its line on the screen.
        limits: of its cells' time.
        env: added to the environment of its process.
        bars_from: how many lines of the screen are taken by notebooks; the bars of their processes come below.

    Raises:
        CellError: a cell failed, a widget's callback inside it too, took too long or lost its process.
        TimeUp: the whole run's time is up.
        OSError: ``target`` cannot be written.
    """
    watched: list[Progress] = []  # filled by the engine, which papermill starts

    def where() -> str:
        cell = watched[0].cell if watched else 0
        return f"{source.stem}, cell {cell}" if cell else f"{source.stem}, before its first cell"

    options = dict(
        engine_name="fpnlib", progress_bar=False, start_timeout=300, autosave_cell_every=0
    )
    watch = dict(title=title, limits=limits, env=env, bars_from=bars_from, watched=watched)
    try:
        return papermill.execute_notebook(source, target, parameters, **options, **watch)
    except PapermillExecutionError as error:
        raise CellError(f"{where()} failed:\n{_traceback(error)}") from None
    except CellTimeoutError:
        raise (TimeUp if limits.over() else CellError)(f"{where()}: stopped at {limits}") from None
    except DeadKernelError:
        raise CellError(f"{where()}: its process died, most often for want of memory") from None
    except (
        RuntimeError
    ) as error:  # before a cell: nbclient's word for a process that does not come up
        if watched and watched[0].cell:
            raise
        raise CellError(
            f"{where()}: its process did not start ({' '.join(str(error).split())})"
        ) from None
    except OSError as error:  # papermill's of a full disk names no file
        if error.errno is None or error.filename not in (None, str(target)):
            raise
        reason = f"({error.strerror}); expected a folder that can be written to"
        raise OSError(error.errno, f"cannot write {target} {reason}") from None
    finally:
        if watched:
            watched[0].bar.close()


class _Watched(Engine):
    """papermill's engine with our kernels, limits and progress; the arguments are those of :func:`execute`."""

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: NotebookExecutionManager,
        kernel_name: str,
        *,
        title,
        limits,
        env,
        bars_from,
        watched,
        **options,
    ) -> None:
        progress = Progress(title, nb_man.nb.cells)
        watched.append(progress)
        client = _Client(
            nb_man,
            kernel_name=kernel_name,
            kernel_manager_class=ThisPython,
            startup_timeout=options["start_timeout"],
            timeout_func=lambda cell: limits.for_a_cell(),
            on_cell_execute=progress.begin,
        )
        client.log.setLevel("CRITICAL")  # what it has to say, CellError says
        client.execute(env=env | {"FPN_BARS_FROM": str(bars_from + abs(progress.bar.pos))})


papermill_engines.register("fpnlib", _Watched)


class _Output(OutputWidget):
    """An Output widget's state, told to the kernel without losing what the kernel says meanwhile."""

    def send(self, *args, **options) -> None:
        """As nbclient's; but to send takes up the signal that the cell's reply has come, so the socket is asked for it."""
        super().send(*args, **options)
        self.kernel_client.shell_channel.socket.get(zmq.EVENTS)


class _Client(PapermillNotebookClient):
    """Executes cells; an error that ipywidgets caught and only showed fails its cell like any other."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.widget_registry = {"@jupyter-widgets/output": {"OutputModel": _Output}}

    def execute_cell(self, cell: NotebookNode, cell_index: int, **options) -> NotebookNode:
        cell = super().execute_cell(cell, cell_index, **options)
        if "raises-exception" in cell.metadata.get("tags", ()):
            return cell
        widgets = [
            widget for widget in self.comm_objects.values() if isinstance(widget, OutputWidget)
        ]
        hidden = [
            output
            for widget in widgets
            for output in widget.outputs
            if output["output_type"] == "error"
        ]
        for error in [
            output for output in cell.get("outputs", ()) if output.output_type == "error"
        ] + hidden:
            if error in hidden:
                cell.outputs.append(NotebookNode(error))
            raise CellExecutionError("\n".join(error["traceback"]), error["ename"], error["evalue"])
        return cell


def _traceback(error: PapermillExecutionError) -> str:
    text = "\n".join(error.traceback) or f"{error.ename}: {error.evalue}"
    return text if sys.stderr.isatty() else _ANSI.sub("", text)
