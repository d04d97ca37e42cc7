"""One self-contained HTML page for a run: every number, table and figure, and where they come from.

It needs no network and no files beside it; what it shows of the run's files is text, escaped, and
pictures.
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from fpnlib.runs.report.content import Number, amount, page
from fpnlib.store import write as write_file

__all__ = ["Number", "page", "write"]


def write(folder: Path) -> Path:
    """Write ``report.html`` into a run's or a sweep's folder; returns its path.

    Raises:
        FileNotFoundError: no run in the folder.
        ValueError: a damaged manifest, result or table, in one line that names it; a file that
            leads out of the folder.
        OSError: the folder cannot be written to.
    """
    templates = Environment(
        loader=PackageLoader("fpnlib.runs.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["amount"] = amount
    return write_file(
        folder / "report.html", templates.get_template("page.html").render(page(folder))
    )
