"""Executed copies: the source's text around what was executed, without this machine's paths."""

from collections.abc import Iterable
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from fpnlib.runs import places
from fpnlib.store import write


def code_cells(cells: Iterable[NotebookNode]) -> list[NotebookNode]:
    """Return the cells that hold code."""
    return [cell for cell in cells if cell.cell_type == "code"]


def save(executed: NotebookNode, path: Path, text_of: NotebookNode | None = None) -> None:
    """Write an executed copy atomically, without this machine's paths.

    The manifest has the times, so that two runs write the same bytes.

    Args:
        executed: what was executed.
        path: of the copy.
        text_of: the source, if the copy is to have its text, which may have been edited since.
    """
    whole = executed if text_of is None else _with_text_of(text_of, executed)
    notebook = nbformat.from_dict(places.named(whole))
    for part in (notebook, *notebook.cells):
        for name in ("papermill", "execution"):
            part.metadata.pop(name, None)
        if "injected-parameters" in part.metadata.get("tags", ()):
            part["id"] = "injected-parameters"  # papermill draws it anew each time
    text = nbformat.writes(notebook)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write(path, text)


def _with_text_of(source: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """Put the executed code cells amid the source's text."""
    code = code_cells(executed.cells)
    cells = []
    for cell in source.cells:
        if cell.cell_type != "code":
            cells.append(cell)
            continue
        cells.append(code.pop(0))
        if code and "injected-parameters" in code[0].metadata.get("tags", ()):
            cells.append(code.pop(0))
    return NotebookNode(executed | {"cells": cells})
