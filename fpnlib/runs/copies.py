"""Executed copies: the source's text around what was executed, without this machine's paths."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbformat import NotebookNode

from fpnlib.runs import places
from fpnlib.store import write


def with_text_of(source: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """Put the executed code cells amid the source's text, which may have been edited since."""
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    cells = []
    for cell in source.cells:
        if cell.cell_type != "code":
            cells.append(cell)
            continue
        cells.append(code.pop(0))
        if code and "injected-parameters" in code[0].metadata.get("tags", ()):
            cells.append(code.pop(0))
    return executed | {"cells": cells}


def save(notebook: NotebookNode, path: Path) -> None:
    """Write an executed copy atomically, without this machine's paths.

    The manifest has the times, so that two runs write the same bytes.
    """
    notebook = nbformat.from_dict(places.named(notebook))
    for part in (notebook, *notebook.cells):
        for name in ("papermill", "execution"):
            part.metadata.pop(name, None)
        if "outputs" in part:
            part["outputs"] = _joined(part.outputs)
        if "injected-parameters" in part.metadata.get("tags", ()):
            part["id"] = "injected-parameters"  # papermill draws it anew each time
    text = nbformat.writes(notebook)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write(path, text)


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join texts of one stream that the kernel happened to send in pieces."""
    joined: list[NotebookNode] = []
    for output in outputs:
        last = joined[-1] if joined else {}
        if output.output_type == "stream" and last.get("name") == output.name:
            last["text"] += output.text
        else:
            joined.append(output)
    return joined
