"""What a run is to do: which notebooks, with which parameters; every mistake is found before anything runs."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode

from fpnlib import checks
from fpnlib.store import PROJECT, Manifest


def plan(
    profile: str,
    out: str | None,
    only: Iterable[str],
    values: Mapping[str, object],
    notebooks: Path,
) -> tuple[str, dict[Path, dict[str, object]]]:
    """The run's folder, and each chosen notebook's parameters; arguments and errors as for :func:`fpnlib.runs.run`."""
    values = dict(values) | ({"out": out} if out is not None else {})
    declared = {path: parameters(path) for path in sorted(notebooks.glob("*.ipynb"))}
    chosen = select(declared, only)
    given = {"out": f"outputs/{profile}"} | read_profile(notebooks / "profiles", profile)
    refuse_unknown(given, declared.values())
    refuse_unknown(values, [declared[path] for path in chosen])
    given |= values
    out = fitting("out", given["out"], "outputs/demo")
    _refuse_sources(PROJECT / out, notebooks.resolve())
    return out, {
        path: {
            name: fitting(name, given.get(name, default), default)
            for name, default in declared[path].items()
        }
        for path in chosen
    }


def source_of(notebook: Path) -> NotebookNode:
    """A notebook to be executed. Raises ValueError, in one line that names it, where the file holds none."""
    try:
        return nbformat.read(notebook, as_version=4)
    except OSError:
        raise
    except Exception as error:  # of whatever kind: nbformat trusts the file to be a notebook
        said = " ".join(str(error).split())
        raise ValueError(f"{notebook} is no notebook that can be executed ({said:.120})") from None


def parameters(notebook: Path) -> dict[str, object]:
    """Names and default values in the cell tagged ``parameters``; empty where there is none.

    Raises:
        ValueError: no notebook, or a default that is not a plain value: derived values stand in the next cell, after
            papermill's.
    """
    for cell in source_of(notebook).cells:
        if "parameters" in cell.metadata.get("tags", ()):
            return dict(
                _assigned(statement, notebook.name)
                for statement in _statements(cell.source, notebook.name)
            )
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


def fan_out(values: Mapping[str, object], only: Iterable[str], notebooks: Path) -> dict[str, list]:
    """Those of ``values`` that fan out: lists for parameters that are no lists themselves."""
    defaults: dict[str, object] = {}
    for path in select(sorted(notebooks.glob("*.ipynb")), only):
        defaults |= parameters(path)
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, list) and not isinstance(defaults.get(name), list)
    }


def read_profile(folder: Path, name: str) -> dict[str, object]:
    """A profile's parameters. Raises ValueError on an unknown name or on anything but a flat mapping."""
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise checks.unknown("profile", name, sorted(file.stem for file in folder.glob("*.yaml")))
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict) or any(isinstance(value, dict) for value in given.values()):
        raise ValueError(f"{path.name} must be a flat mapping, one 'name: value' a line")
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
    kinds = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        list: "a list",
    }
    raise TypeError(
        f"parameter '{name}' must be {kinds.get(type(default), type(default).__name__)} like {default!r}, got {value!r}"
    )


def _refuse_sources(folder: Path, notebooks: Path) -> None:
    """Raises ValueError where a run's own folders would hold the notebooks that it executes."""
    for kind in ("notebooks", *Manifest.KEPT):
        if notebooks.is_relative_to((folder / kind).resolve()):
            raise ValueError(
                f"a run into {folder} would overwrite the notebooks in {notebooks}; give another --out"
            )


def _statements(source: str, where: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except SyntaxError as error:
        raise ValueError(
            f"{where}: its parameters are no Python: {error.msg}, line {error.lineno}"
        ) from None


def _assigned(statement: ast.stmt, where: str) -> tuple[str, object]:
    target = (
        statement.targets[0]
        if isinstance(statement, ast.Assign)
        else getattr(statement, "target", None)
    )
    try:
        return target.id, ast.literal_eval(statement.value)
    except (AttributeError, ValueError):
        line = ast.unparse(statement)
        raise ValueError(
            f"{where}: a parameter must be 'name = plain value', got '{line}'; derive it in the next cell"
        ) from None
