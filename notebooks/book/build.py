"""Build the book: ``python notebooks/book/build.py`` writes ``notebooks/book/_build/html``.

It gathers the pages in one folder: those of this folder, the READMEs that they include, and each
notebook as it was executed. Sphinx turns them into a site that opens from disk.
"""

import re
import shutil
import sys
from os.path import relpath
from pathlib import Path

import nbformat
from sphinx.cmd.build import build_main

from panels import still_panels

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
BUILT = HERE / "_build"
SOURCE, SITE = BUILT / "source", BUILT / "html"
RUNS = ("paper", "drawn_faces", "drawn_shapes")
"""Runs with executed notebooks. The first that has a notebook gives its main page."""
INCLUDE = re.compile(r"^```\{include\} (\S+)\n```$", re.MULTILINE)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def main() -> int:
    """Gather the pages and build the site; returns the exit code of Sphinx."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    pages = find_pages()
    for source in pages:
        if source.suffix == ".md" and source.is_relative_to(HERE):
            write_page(source, pages)
    for notebook in notebooks():
        write_notebook(notebook, pages)
    strict = ["-W", "--keep-going", "-q", "-d", str(BUILT / "doctrees"), "-c", str(HERE)]
    code = build_main([*strict, *sys.argv[1:], str(SOURCE), str(SITE)])
    if code == 0:
        print(f"the book: {SITE / 'index.html'}")
    return code


def notebooks() -> list[Path]:
    """The numbered notebooks."""
    return sorted((PROJECT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def find_pages() -> dict[Path, str]:
    """Which page of the book shows a file of the project."""
    pages = {}
    for path in sorted(HERE.rglob("*.md")):
        if BUILT not in path.parents:
            pages[path] = path.relative_to(HERE).as_posix()
            for included in INCLUDE.findall(path.read_text("utf-8")):
                pages[(path.parent / included).resolve()] = pages[path]
    for path in notebooks():
        pages[path] = f"notebooks/{path.name}"
    return pages


def write_page(source: Path, pages: dict[Path, str]) -> None:
    """Write a page of this folder, with the files that it includes."""
    page = pages[source]
    text = link_pages(source.read_text("utf-8"), source, page, pages)

    def included(found: re.Match) -> str:
        path = (source.parent / found[1]).resolve()
        return link_pages(path.read_text("utf-8"), path, page, pages)

    write(page, INCLUDE.sub(included, text))


def write_notebook(path: Path, pages: dict[Path, str]) -> None:
    """Write a page for each run that executed a notebook, or the notebook as it is."""
    executed = [PROJECT / "outputs" / run / "notebooks" / path.name for run in RUNS]
    executed = [copy for copy in executed if copy.is_file()]
    if not executed:
        command = f"python -m fpnlib run --profile demo --only {path.stem[:2]}"
        note = f"*This notebook has no results yet. `{command}` executes it.*"
        write_executed(path, pages[path], note, pages)
    for copy in executed:
        run = copy.parts[-3]
        main = copy == executed[0]
        page = pages[path] if main else f"notebooks/{path.stem}_{run}.ipynb"
        note = f"*As executed for the results in `outputs/{run}`.*"
        write_executed(copy, page, note, pages, "" if main else run.replace("_", " "))


def write_executed(
    path: Path, page: str, note: str, pages: dict[Path, str], variant: str = ""
) -> None:
    """Write a notebook with a note below its title and with still panels."""
    notebook = nbformat.read(path, as_version=4)
    still_panels(notebook)
    home = PROJECT / "notebooks" / path.name
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = link_pages(cell.source, home, page, pages)
    title, _, text = notebook.cells[0].source.partition("\n")
    title = f"{title} · {variant}" if variant else title
    notebook.cells[0].source = f"{title}\n\n{note}\n{text}"
    write(page, nbformat.writes(notebook))


def link_pages(text: str, source: Path, page: str, pages: dict[Path, str]) -> str:
    """Turn links to files of the project into links between pages.

    A picture is copied beside the pages. Of a link to another file, its text stays.

    Args:
        text: of a page.
        source: the file that it comes from, which its links start from.
        page: where it goes.
        pages: which page shows a file.
    """
    folder = Path(page).parent

    def linked(found: re.Match) -> str:
        picture, label, place, anchor = found.groups(default="")
        target = (source.parent / place).resolve()
        if picture and target.is_file():
            copy = Path("pictures") / target.relative_to(PROJECT).as_posix().replace("/", "_")
            (SOURCE / copy).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(target, SOURCE / copy)
            return f"![{label}]({relpath(copy, folder)})"
        if target in pages:
            return f"[{label}]({relpath(pages[target], folder)}{anchor})"
        return label if target.exists() else found[0]

    return LINK.sub(linked, text)


def write(page: str, text: str) -> None:
    """Write a page among Sphinx's sources."""
    path = SOURCE / page
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


if __name__ == "__main__":
    sys.exit(main())
