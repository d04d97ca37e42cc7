"""What a run will do: which notebooks, with which parameters. Mistakes are found here."""

import ast
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from fpnlib import checks
from fpnlib.families.profiles import read_profile
from fpnlib.store import PROJECT, Manifest

Groups = dict[str, dict[str, object]]


@dataclass(frozen=True)
class Plan:
    """What :func:`plan` returns.

    Args:
        out: the run's folder, relative to the project, or absolute.
        tasks: each chosen notebook's parameters.
        groups: the families' settings that the profile and the overrides give, by family.
    """

    out: str
    tasks: dict[Path, dict[str, object]]
    groups: Groups

    def groups_for(self, notebook: Path, code: str) -> Groups:
        """Return the groups that a notebook depends on, if it takes a profile.

        These are the families that its code names, like ``DIGITS``; all if it names none.
        """
        if "profile" not in self.tasks[notebook]:
            return {}
        named = filter(code.lower().__contains__, self.groups)
        return {family: self.groups[family] for family in named} or self.groups


def plan(
    profile: str,
    out: str | None,
    only: Iterable[str],
    values: Mapping[str, object],
    notebooks: Path,
) -> Plan:
    """Plan a run; arguments and errors as for :func:`fpnlib.runs.execute.run`."""
    declared = _declared(notebooks)
    chosen = _select(declared, only)
    flat, groups = read_profile(notebooks / "profiles" / f"{profile}.yaml")
    _refuse_unknown([*flat, *(["profile"] if groups else [])], declared.values())
    if "profile" in values:
        raise ValueError("the profile is set with --profile, not with --set")
    given = _with_override(values, list(chosen.values()))
    given = {"out": f"outputs/{profile}"} | flat | given | {"profile": profile}
    given |= {"out": out} if out is not None else {}
    folder = str(checks.fitting("out", given["out"], "outputs/demo"))
    if set("{}") & set(folder):
        raise ValueError(f"out may have no braces, which papermill replaces; got '{folder}'")
    _refuse_sources(PROJECT / folder, notebooks.resolve())
    tasks = {path: _settings(path, names, given) for path, names in chosen.items()}
    return Plan(folder, tasks, _resolved(groups, given.get("override", "")))


def source_of(notebook: Path) -> NotebookNode:
    """Read a notebook to be executed. Raises ValueError, in one line, if the file holds none."""
    try:
        return nbformat.read(notebook, as_version=4)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 nbformat trusts the file to be a notebook
        said = " ".join(str(error).split())
        raise ValueError(f"{notebook} is no notebook that can be executed ({said:.120})") from None


def parameters(notebook: Path) -> dict[str, object]:
    """Return names and defaults in the cell tagged ``parameters``; empty if there is none.

    Raises:
        ValueError: no notebook, or a default that is not a plain value. Derived values stand in the
            next cell, after papermill's.
    """
    for cell in source_of(notebook).cells:
        if "parameters" in cell.metadata.get("tags", ()):
            return _assignments(cell.source, notebook.name)
    return {}


def fan_out(values: Mapping[str, Any], only: Iterable[str], notebooks: Path) -> dict[str, list]:
    """Return the values that fan out in a sweep: lists for parameters that are no lists."""
    defaults: dict[str, object] = {}
    for declared in _select(_declared(notebooks), only).values():
        defaults |= declared

    def fans_out(name: str) -> bool:
        return isinstance(values[name], list) and not isinstance(defaults.get(name), list)

    return {name: value for name, value in values.items() if fans_out(name)}


def _declared(notebooks: Path) -> dict[Path, dict[str, object]]:
    """Return the parameters of each notebook in a folder."""
    paths = sorted(notebooks.glob("*.ipynb"))
    if not paths and not (PROJECT / "notebooks").is_dir():
        clone = "git clone the repository, then pip install -e . in it"
        raise ValueError(f"no notebooks found: fpnlib runs them from a checkout ({clone})")
    if not paths:
        raise ValueError(f"no notebooks found in {notebooks}; expected *.ipynb files")
    return dict(zip(paths, map(parameters, paths)))


def _select(declared: dict[Path, dict], only: Iterable[str]) -> dict[Path, dict]:
    """Return the notebooks whose names start with one of ``only``, in order; all if it is empty."""
    chosen: set[Path] = set()
    for name in only:
        start = name.removesuffix(".ipynb")
        found = {path for path in declared if path.stem.startswith(start)}
        if not found:
            raise checks.unknown("notebook", start, [path.stem for path in declared])
        chosen |= found
    return {path: declared[path] for path in sorted(chosen)} if chosen else declared


def _refuse_unknown(given: Iterable[str], declared: Iterable[Iterable[str]]) -> None:
    """Raise ValueError, with the nearest name, for a parameter that no notebook declares."""
    names = sorted(set().union(*declared))
    for name in given:
        if name not in names and name != "out":
            raise checks.unknown("parameter", name, names)


def _with_override(values: Mapping[str, object], declared: list[dict]) -> dict[str, object]:
    """Return values with the device and dotted names joined to one text, ``override``."""
    flat, pairs = dict(values), str(values.get("override", "")).split()
    names = set().union(*declared)
    for name in values:
        if "." in name or (name == "device" and name not in names):
            pairs.append(f"{name}={_text(name, flat.pop(name))}")
    takes_override = "override" in names
    _refuse_unknown(flat if takes_override else values, declared)
    return flat | ({"override": " ".join(pairs)} if pairs else {})


def _text(name: str, value: object) -> str:
    """Return a value as YAML has it, without spaces."""
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    if text.split() != [text]:
        raise ValueError(f"'{name}' must be a value without spaces, got {value!r}")
    return text


def _resolved(groups: Groups, override: object) -> Groups:
    """Return the families' settings as the profile and the overrides give them, checked."""
    if not groups and not override:
        return {}
    from fpnlib.families.settings import merge  # heavy, and rarely needed

    return merge(groups, str(override))


def _settings(notebook: Path, declared: dict, given: Mapping[str, object]) -> dict[str, object]:
    """Return a notebook's parameters: the given values, else its defaults."""
    settings = {}
    for name, default in declared.items():
        settings[name] = checks.fitting(name, given.get(name, default), default)
        if settings[name] != default:
            _refuse_unknown_dataset(notebook, settings[name], default)
    seed = settings.get("seed", 0)
    if isinstance(seed, int) and seed < 0:
        raise ValueError(f"parameter 'seed' must be 0 or more, got {seed}")
    return settings


def _refuse_unknown_dataset(notebook: Path, value: object, default: object) -> None:
    """Raise ValueError for a dataset that neither the library nor the notebook itself names."""
    if not isinstance(value, str) or ":" in value:
        return
    from fpnlib.data import DATASETS  # heavy, and needed only for other datasets than the default

    source = "".join(cell.source for cell in source_of(notebook).cells)
    if default in DATASETS and value not in DATASETS and value not in source:
        raise checks.unknown("dataset", value, DATASETS)


def _refuse_sources(folder: Path, notebooks: Path) -> None:
    """Raise ValueError if a run's own folders would hold the notebooks that it executes."""
    for kind in ("notebooks", *Manifest.KEPT):
        if notebooks.is_relative_to((folder / kind).resolve()):
            said = f"would overwrite the notebooks in {notebooks}; give another --out"
            raise ValueError(f"a run into {folder} {said}")


def _assignments(source: str, where: str) -> dict[str, object]:
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        said = f"its parameters are no Python: {error.msg}, line {error.lineno}"
        raise ValueError(f"{where}: {said}") from None
    return dict(_assigned(statement, where) for statement in statements)


def _assigned(statement: ast.stmt, where: str) -> tuple[str, object]:
    """Return the name and the value that a statement in the parameters' cell assigns."""
    match statement:
        case (
            ast.Assign(targets=[ast.Name(id=name)], value=value)
            | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
        ):
            with suppress(ValueError):
                return name, ast.literal_eval(value)
    said = f"a parameter must be 'name = plain value', got '{ast.unparse(statement)}'"
    raise ValueError(f"{where}: {said}; derive it in the next cell")
