"""Running notebooks headlessly with papermill, each in a process of its own, into one run's folder.

A run is taken up where it stopped: a notebook that is finished with the same code, parameters and library, and whose
files are as it left them, is not executed again.
"""

from __future__ import annotations

import ast
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import nbformat
import papermill
import yaml
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from fpnlib import checks
from fpnlib.artifacts import PROJECT, Manifest, cores, digest, environment, make_folder, sha256, write_text

SHOWN = ("notebooks", "figures", "tables", "results")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class CellError(Exception):
    """A cell failed; the message ends with that cell's own error."""


def run(
    profile: str,
    out: str | None = None,
    only: Iterable[str] = (),
    values: Mapping[str, object] | None = None,
    fresh: bool = False,
    notebooks: Path = PROJECT / "notebooks",
) -> Path:
    """Execute the notebooks with a profile's parameters; returns the run's folder.

    Args:
        profile: the name of a flat YAML mapping, parameter to value, in ``notebooks/profiles``.
        out: the run's folder, relative to the project; None: the profile's, else ``outputs/<profile>``.
        only: notebooks by name or by the start of it ("04"); none: all.
        values: parameters that take precedence over the profile's.
        fresh: forget what the folder holds and start over.
        notebooks: the folder of notebooks.

    Raises:
        ValueError, TypeError: an unknown profile, notebook or parameter, or a value of another type; one line, before
            anything runs.
        OSError: a folder that cannot be written to.
        CellError: a cell failed; the notebooks before it are kept.
    """
    values = dict(values or {}) | ({"out": out} if out is not None else {})
    declared = {path: parameters(path) for path in sorted(notebooks.glob("*.ipynb"))}
    chosen = select(declared, only)
    given = {"out": f"outputs/{profile}"} | read_profile(notebooks / "profiles", profile)
    refuse_unknown(given, declared.values())
    refuse_unknown(values, [declared[path] for path in chosen])
    given |= values
    plan = {
        path: {name: fitting(name, given.get(name, default), default) for name, default in declared[path].items()}
        for path in chosen
    }

    folder = PROJECT / fitting("out", given["out"], "outputs/demo")
    manifest = Manifest(folder)
    if fresh:
        _clear(manifest)
    make_folder(folder / "notebooks")
    library = digest(
        {path.relative_to(PROJECT).as_posix(): sha256(path) for path in (PROJECT / "fpnlib").rglob("*.py")}
    )
    for number, (path, settings) in enumerate(plan.items(), start=1):
        _one(path, settings, library, manifest, title=f"[{number}/{len(plan)}] {path.stem}")
    print(f"\n{_near(folder)} holds")
    for kind in SHOWN:
        count = sum(file.is_file() and file.name[0] != "." for file in (folder / kind).rglob("*"))
        print(f"  {count:4d} {kind:<10} {_near(folder / kind)}")
    return folder


def parameters(notebook: Path) -> dict[str, object]:
    """Names and default values in the cell tagged ``parameters``; empty where there is none.

    Raises:
        ValueError: a default that is not a plain value: derived values stand in the next cell, after papermill's.
    """
    for cell in nbformat.read(notebook, as_version=4).cells:
        if "parameters" in cell.metadata.get("tags", ()):
            return dict(_assigned(statement, notebook.name) for statement in ast.parse(cell.source).body)
    return {}


def select(notebooks: Iterable[Path], only: Iterable[str]) -> list[Path]:
    """The notebooks whose names are or start with one of ``only``, in order; all where it is empty.

    Raises:
        ValueError: nothing fits, or there are no notebooks at all.
    """
    notebooks, wanted = list(notebooks), [name.removesuffix(".ipynb") for name in only]
    if not notebooks:
        raise ValueError("no notebooks found; expected *.ipynb files")
    for name in wanted:
        if not any(path.stem.startswith(name) for path in notebooks):
            raise checks.unknown("notebook", name, [path.stem for path in notebooks])
    return [path for path in notebooks if not wanted or path.stem.startswith(tuple(wanted))]


def read_profile(folder: Path, name: str) -> dict[str, object]:
    """A profile's parameters. Raises ValueError on an unknown name or on anything but a flat mapping."""
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise checks.unknown("profile", name, sorted(file.stem for file in folder.glob("*.yaml")))
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{_near(path)} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict) or any(isinstance(value, dict) for value in given.values()):
        raise ValueError(f"{_near(path)} must be a flat mapping, one 'name: value' a line")
    return given


def refuse_unknown(given: Iterable[str], declared: Iterable[Iterable[str]]) -> None:
    """Raises ValueError, with the nearest name, for a parameter that no notebook declares."""
    names = sorted({name for one in declared for name in one})
    for name in given:
        if name not in names and name != "out":
            raise checks.unknown("parameter", name, names)


def fitting(name: str, value: object, default: object) -> object:
    """``value`` as the default's type; whole numbers serve as floats, and YAML's text ``1e-3`` is a number.

    Raises:
        TypeError: another type; a default of None takes anything.
    """
    if default is None:
        return value
    if isinstance(default, float) and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    elif type(value) is type(default):
        return value
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list"}
    raise TypeError(
        f"parameter '{name}' must be {kinds.get(type(default), type(default).__name__)} like {default!r}, got {value!r}"
    )


def _one(path: Path, settings: dict, library: str, manifest: Manifest, title: str) -> None:
    """Execute one notebook, or bring its executed copy's text up to date where it is finished."""
    source = nbformat.read(path, as_version=4)
    inputs = {name: value for name, value in settings.items() if name != "out"}  # a run that is moved stays finished
    key = digest([[cell.source for cell in source.cells if cell.cell_type == "code"], inputs, library])
    final = manifest.folder / "notebooks" / path.name
    failed, running = final.with_suffix(".failed.ipynb"), final.with_name(f".{path.stem}.running.ipynb")
    entry = manifest.read().get("notebooks", {}).get(path.stem, {})
    if final.is_file() and entry.get("key") == key and entry["files"].items() <= manifest.files().items():
        _save(_with_text_of(source, nbformat.read(final, as_version=4)), final)
        print(f"{title}: finished before ({_near(final)})")
        return

    final.unlink(missing_ok=True)
    before, started = _stamps(manifest), time.perf_counter()
    try:
        executed = papermill.execute_notebook(
            path,
            running,
            settings,
            cwd=PROJECT,
            start_timeout=300,
            kernel_manager_class=ThisPython,
            progress_bar={"desc": title, "dynamic_ncols": True},
        )
    except PapermillExecutionError as error:
        _save(nbformat.read(running, as_version=4), failed)
        raise CellError(
            f"{path.stem} failed in cell {error.exec_count}; copy: {_near(failed)}\n{_traceback(error)}"
        ) from None
    except DeadKernelError:
        raise CellError(f"{path.stem}: its process died, most often for want of memory") from None
    finally:
        running.unlink(missing_ok=True)
    failed.unlink(missing_ok=True)
    seconds = round(time.perf_counter() - started, 1)
    # What an earlier execution made and this one only loaded is this notebook's too.
    own = {name for name, stamp in _stamps(manifest).items() if before.get(name) != stamp} | {*entry.get("files", ())}
    files = {name: checksum for name, checksum in manifest.files().items() if name in own}
    here = environment()
    manifest.note("environment", here)
    manifest.note_files()
    _save(_with_text_of(source, executed), final)
    entry = {"key": key, "commit": here["commit"], "parameters": settings, "seconds": seconds, "files": files}
    manifest.note("notebooks", {path.stem: entry})


class ThisPython(AsyncKernelManager):
    """Starts kernels with the Python that runs this very process, whatever kernels are installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        options = {
            "log_level": "ERROR",
            # Bars and low-level output go to the kernel's own stderr, the terminal, and not into the notebook.
            "capture_fd_output": False,
            "exec_lines": "__import__('fpnlib.bars').bars.to_terminal()",
        }
        extra = [f"--IPKernelApp.{name}={value}" for name, value in options.items()]
        return KernelSpec(**get_kernel_dict(extra_arguments=extra))

    async def start_kernel(self, **options) -> None:
        threads = dict.fromkeys(
            ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), str(cores())
        )
        defaults = threads | {
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # deterministic matrix products on a GPU
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # keeps the debugger's advice off the screen
            "TQDM_MININTERVAL": "0.1" if sys.stderr.isatty() else "10",
        }
        path = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
        options["env"] = defaults | os.environ | {"PYTHONHASHSEED": "0", "PYTHONPATH": path}
        await super()._async_start_kernel(**options)


def _stamps(manifest: Manifest) -> dict[str, int]:
    """When each of a run's files was last written, in nanoseconds."""
    return {path.relative_to(manifest.folder).as_posix(): path.stat().st_mtime_ns for path in manifest.paths()}


def _assigned(statement: ast.stmt, where: str) -> tuple[str, object]:
    target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
    try:
        return target.id, ast.literal_eval(statement.value)
    except (AttributeError, ValueError):
        line = ast.unparse(statement)
        raise ValueError(
            f"{where}: a parameter must be 'name = plain value', got '{line}'; derive it in the next cell"
        ) from None


def _with_text_of(source: NotebookNode, executed: NotebookNode) -> NotebookNode:
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


def _save(notebook: NotebookNode, path: Path) -> None:
    """Write an executed copy atomically, without times (the manifest has them) and without this machine's paths."""
    notebook = nbformat.from_dict(_without_places(notebook))
    for part in (notebook, *notebook.cells):
        for name in ("papermill", "execution"):
            part.metadata.pop(name, None)
        if "injected-parameters" in part.metadata.get("tags", ()):
            part["id"] = "injected-parameters"  # papermill's is drawn anew each time
    text = nbformat.writes(notebook)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def _without_places(node: object) -> object:
    """A notebook's text with this machine's folders named by what they are; pictures stay as they are."""
    if isinstance(node, dict):
        return {key: value if key.startswith("image/") else _without_places(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_without_places(value) for value in node]
    if isinstance(node, str):
        data = os.environ.get("FPN_DATA")
        places = {str(Path(data).absolute()): "$FPN_DATA"} if data else {}
        places |= {f"{PROJECT}{os.sep}": "", str(PROJECT): "."}
        places |= {f"{sys.prefix}{os.sep}": "", f"{Path.home()}{os.sep}": "~/"}
        for place, name in places.items():
            node = node.replace(place, name)
        return re.sub(r"[^\s\"']*/ipykernel_\d+/\d+\.py", "cell", node)
    return node


def _traceback(error: PapermillExecutionError) -> str:
    text = "\n".join(error.traceback)
    return text if sys.stderr.isatty() else _ANSI.sub("", text)


def _clear(manifest: Manifest) -> None:
    """Remove what a run leaves, and nothing else that may stand in its folder."""
    for kind in {*SHOWN, *manifest.KEPT}:
        for path in sorted((manifest.folder / kind).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    manifest.path.unlink(missing_ok=True)


def _near(path: Path) -> Path:
    """``path`` as seen from the working directory, where that is shorter."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
