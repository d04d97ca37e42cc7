"""Executed copies: the source's text around what was executed, without times and without this machine's paths."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from fpnlib.artifacts import PROJECT, write_text


def with_text_of(source: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """The executed code cells amid the source's text, which may have been edited since."""
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
    """Write an executed copy atomically, without times (the manifest has them) and without this machine's paths."""
    notebook = nbformat.from_dict(_without(_places(), notebook))
    for part in (notebook, *notebook.cells):
        for name in ("papermill", "execution"):
            part.metadata.pop(name, None)
        if "injected-parameters" in part.metadata.get("tags", ()):
            part["id"] = "injected-parameters"  # papermill's is drawn anew each time
    text = nbformat.writes(notebook)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def _places() -> dict[str, str]:
    """This machine's folders, and what stands for them; not for a root, with which every path begins."""
    data = os.environ.get("FPN_DATA")
    places = {str(Path(data).absolute()): "$FPN_DATA"} if data else {}
    places |= {f"{PROJECT}{os.sep}": "", str(PROJECT): "."}
    places |= {f"{sys.prefix}{os.sep}": "", f"{Path.home()}{os.sep}": "~/"}
    return {place: name for place, name in places.items() if Path(place) != Path(Path(place).anchor)}


def _without(places: dict[str, str], node: object) -> object:
    """A notebook's text with folders named by what they are; pictures stay as they are."""
    if isinstance(node, dict):
        return {key: value if key.startswith("image/") else _without(places, value) for key, value in node.items()}
    if isinstance(node, list):
        return [_without(places, value) for value in node]
    if isinstance(node, str):
        for place, name in places.items():
            node = node.replace(place, name)
        return re.sub(r"[^\s\"']*/ipykernel_\d+/\d+\.py", "cell", node)
    return node
