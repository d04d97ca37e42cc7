"""One notebook's execution, as papermill's engine: cells in order, watched, within their time.

papermill passes over what fails inside a widget's callback (ipywidgets shows the traceback, and the
cell counts as done), waits for a cell for ever, and does not say which cell runs. Here these end in
a :class:`CellError` or on the screen.
"""

import math
import re
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import papermill
import zmq
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbclient.output_widget import OutputWidget
from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, NotebookExecutionManager, papermill_engines
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from fpnlib.runs.copies import code_cells
from fpnlib.runs.kernel import ThisPython

LATEST = 300
"""Seconds for which the outputs of a finished cell may be late, as on a busy machine."""
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_VIEW = "application/vnd.jupyter.widget-view+json"
_BAR = ["HTMLModel", "FloatProgressModel", "HTMLModel"]
"""The widgets in the box that tqdm draws in a kernel: a text, a bar and another text."""


class CellError(Exception):
    """A cell failed, took too long or lost its process; the message ends with the cell's error."""


class TimeUp(CellError):
    """The whole run's time is up, or it was interrupted: nothing else shall begin."""


class Limits:
    """Seconds that each cell and the whole run may take; the run's clock starts here."""

    def __init__(self, cell: float | None = None, run: float | None = None):
        self.cell, self.run = cell, run
        self.interrupted = False
        self.kernels: list[ThisPython] = []
        self._end = math.inf if run is None else time.monotonic() + run

    def over(self) -> bool:
        """Whether the run's time is up."""
        return self.interrupted or time.monotonic() >= self._end

    def stop(self) -> None:
        """End the run now, because it was interrupted: its kernels are killed."""
        self.interrupted = True
        for kernel in self.kernels:
            kernel.kill()

    def for_a_cell(self) -> float | None:
        """Seconds that a cell which begins now may take."""
        left = 0.001 if self.over() else self._end - time.monotonic()
        return None if self.cell is None and left == math.inf else min(left, self.cell or math.inf)

    def __str__(self) -> str:
        """The limit that ended a cell."""
        if self.interrupted:
            return "an interrupt"
        if self.over():
            return f"the run's limit of {self.run:g} s"
        if self.cell is None:
            return f"the limit of {LATEST} s for the outputs of a finished cell"
        return f"the limit of {self.cell:g} s for a cell"


def execute(
    source: Path, target: Path, parameters: dict, *, title: str, limits: Limits
) -> NotebookNode:
    """Execute a notebook.

    Args:
        source: the notebook.
        parameters: values of its parameters.
        target: where the executed copy grows meanwhile.
        title: of its line on the screen.
        limits: of its cells' time.

    Returns:
        The executed copy.

    Raises:
        CellError: a cell failed, a widget's callback inside it too, took too long or lost its
            process.
        TimeUp: the whole run's time is up.
        OSError: ``target`` cannot be written.
    """
    line = _Line(title)
    options = {"engine_name": "fpnlib", "progress_bar": False, "autosave_cell_every": 0}
    options |= {"start_timeout": 300, "line": line, "limits": limits}
    try:
        return papermill.execute_notebook(source, target, parameters, **options)
    except PapermillExecutionError as error:
        raise CellError(f"{source.stem}, {line.cell} failed:\n{_traceback(error)}") from None
    except CellTimeoutError:
        kind = TimeUp if limits.over() else CellError
        raise kind(f"{source.stem}, {line.cell}: stopped at {limits}") from None
    except RuntimeError as error:  # nbclient's, for a process that died or did not come up
        if limits.interrupted:
            raise TimeUp(f"{source.stem}, {line.cell}: stopped at {limits}") from None
        if isinstance(error, DeadKernelError):
            died = "its process died, most often for want of memory"
            raise CellError(f"{source.stem}, {line.cell}: {died}") from None
        if line.number:
            raise
        reason = f"({' '.join(str(error).split())})"
        raise CellError(f"{source.stem}, {line.cell}: its process did not start {reason}") from None
    except OSError as error:  # papermill's error of a full disk names no file
        if error.errno is None or error.filename not in (None, str(target)):
            raise
        reason = f"({error.strerror}); expected a folder that can be written to"
        raise OSError(error.errno, f"cannot write {target} {reason}") from None
    finally:
        line.close()


class _Line:
    """A notebook's line on the terminal: which cell of how many, and how that cell begins."""

    def __init__(self, title: str):
        self.number = 0
        shape = "{desc}: cell {n_fmt}/{total_fmt} |{bar:10}| {elapsed}{postfix}"
        look = {"leave": False, "disable": None, "dynamic_ncols": True}
        self._bar = tqdm(desc=title, bar_format=shape, **look)

    @property
    def cell(self) -> str:
        """The cell that runs now, in words."""
        return f"cell {self.number}" if self.number else "before its first cell"

    def expect(self, cells: list[NotebookNode]) -> None:
        """Count the cells that have code."""
        self._bar.total = sum(bool(cell.source.strip()) for cell in code_cells(cells))

    def begin(self, cell: NotebookNode, cell_index: int) -> None:
        """Show that ``cell`` is executed now."""
        self.number += 1
        self._bar.set_postfix_str(cell.source.strip().splitlines()[0][:40], refresh=False)
        self._bar.update()

    def show(self, widget: Mapping[str, Any]) -> None:
        """Show how far a progress bar of the kernel is, if the widget is one."""
        if widget.get("_model_name") == _BAR[1]:
            self._bar.set_postfix_str(f"{widget['value']:g}/{widget['max']:g}")

    def close(self) -> None:
        """Remove the line."""
        self._bar.close()


class _Watched(Engine):  # type: ignore[misc]
    """papermill's engine with the kernels, limits and progress of :func:`execute`."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: NotebookExecutionManager, kernel_name: str, **options: Any
    ) -> None:
        """Execute the cells with the ``line`` and the ``limits`` of the options."""
        line, limits, kernel = options["line"], options["limits"], ThisPython()
        line.expect(nb_man.nb.cells)
        limits.kernels.append(kernel)
        client = _Client(
            nb_man,
            km=kernel,
            startup_timeout=options["start_timeout"],
            iopub_timeout=LATEST,
            coalesce_streams=True,  # the kernel happens to send text in pieces
            timeout_func=lambda cell: limits.for_a_cell(),
            on_cell_execute=line.begin,
            line=line,
        )
        client.log.setLevel("CRITICAL")  # CellError says it
        try:
            client.execute(cleanup_kc=True)
        finally:
            limits.kernels.remove(kernel)


papermill_engines.register("fpnlib", _Watched)


class _Output(OutputWidget):
    """Tells an Output widget's state to the kernel without losing the kernel's messages."""

    def send(self, *args: Any, **options: Any) -> None:
        """As nbclient's. Sending consumes the signal of a reply that has come, so ask again."""
        super().send(*args, **options)
        self.kernel_client.shell_channel.socket.get(zmq.EVENTS)


class _Client(PapermillNotebookClient):  # type: ignore[misc]
    """Executes cells. An error inside a widget fails its cell; progress goes to the terminal."""

    def __init__(self, *args: Any, line: _Line, **options: Any):
        super().__init__(*args, **options)
        self.line = line
        self.widget_registry = {"@jupyter-widgets/output": {"OutputModel": _Output}}

    def process_message(
        self, msg: dict, cell: NotebookNode, cell_index: int
    ) -> NotebookNode | None:
        """As nbclient's, but a progress bar is shown on the notebook's line instead."""
        kind, content = msg["msg_type"], msg["content"]
        if kind == "display_data":
            view = content["data"].get(_VIEW, {})
            if _models_of_bar(self.widget_state, view.get("model_id", "")):
                return None
        output = super().process_message(msg, cell, cell_index)
        if kind == "comm_msg":
            self.line.show(self.widget_state.get(content["comm_id"], {}))
        return output

    def set_widgets_metadata(self) -> None:
        """As nbclient's, without the progress bars."""
        for box in list(self.widget_state):
            for model in _models_of_bar(self.widget_state, box):
                self.widget_state.pop(model, None)
        super().set_widgets_metadata()

    def execute_cell(self, cell: NotebookNode, cell_index: int, **options: Any) -> NotebookNode:
        """As nbclient's, and raises CellExecutionError for an error inside a widget."""
        cell = super().execute_cell(cell, cell_index, **options)
        if "raises-exception" in cell.metadata.get("tags", ()):
            return cell
        shown, hidden = _errors(cell.get("outputs", ())), []
        for widget in self.comm_objects.values():
            if isinstance(widget, OutputWidget):
                hidden += _errors(widget.outputs)
        if hidden and not shown:
            cell.outputs.append(NotebookNode(hidden[0]))
        for error in shown + hidden:
            raise CellExecutionError("\n".join(error["traceback"]), error["ename"], error["evalue"])
        return cell


def _models_of_bar(states: Mapping[str, Mapping], box: str) -> list[str]:
    """The ids of the models of a progress bar, whose box is given; empty for other widgets."""
    parts = list(map(_id, states.get(box, {}).get("children", ())))
    kinds = [states.get(part, {}).get("_model_name") for part in parts]
    if kinds != _BAR:
        return []
    models = [box, *parts]
    for model in (box, *parts):
        looks = states[model].get("layout"), states[model].get("style")
        models += map(_id, filter(None, looks))
    return models


def _id(reference: str) -> str:
    return reference.removeprefix("IPY_MODEL_")


def _errors(outputs: Iterable[NotebookNode]) -> list[NotebookNode]:
    return [output for output in outputs if output["output_type"] == "error"]


def _traceback(error: PapermillExecutionError) -> str:
    text = "\n".join(error.traceback) or f"{error.ename}: {error.evalue}"
    return text if sys.stderr.isatty() else _ANSI.sub("", text)
