"""What a run will do: which notebooks, with which parameters. Mistakes are found here."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbformat import NotebookNode

from fpnlib import checks
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
        """The groups that a notebook depends on, if it takes a profile.

        These are the families that its code names, like ``DIGITS``; all if it names none.
        """
        if "profile" not in self.tasks[notebook]:
            return {}
        words = code.lower()
        return _split(self.groups, lambda family, _: family in words)[0] or self.groups


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
    flat, groups = _read_profile(notebooks / "profiles", profile)
    _refuse_unknown([*flat, *(["profile"] if groups else [])], declared.values())
    if "profile" in values:
        raise ValueError("the profile is given with --profile, not with --set")
    given = _with_override(values, list(chosen.values()))
    given = {"out": f"outputs/{profile}"} | flat | given | {"profile": profile}
    given |= {"out": out} if out is not None else {}
    folder = checks.fitting("out", given["out"], "outputs/demo")
    _refuse_sources(PROJECT / folder, notebooks.resolve())
    tasks = {path: _settings(path, names, given) for path, names in chosen.items()}
    return Plan(folder, tasks, _resolved(groups, given.get("override", "")))


def source_of(notebook: Path) -> NotebookNode:
    """Read a notebook to be executed. Raises ValueError, in one line, if the file holds none."""
    try:
        return nbformat.read(notebook, as_version=4)
    except OSError:
        raise
    except Exception as error:  # of whatever kind: nbformat trusts the file to be a notebook
        said = " ".join(str(error).split())
        raise ValueError(f"{notebook} is no notebook that can be executed ({said:.120})") from None


def parameters(notebook: Path) -> dict[str, object]:
    """Names and default values in the cell tagged ``parameters``; empty if there is none.

    Raises:
        ValueError: no notebook, or a default that is not a plain value. Derived values stand in the
            next cell, after papermill's.
    """
    for cell in source_of(notebook).cells:
        if "parameters" in cell.metadata.get("tags", ()):
            statements = _statements(cell.source, notebook.name)
            return dict(_assigned(statement, notebook.name) for statement in statements)
    return {}


def fan_out(values: Mapping[str, object], only: Iterable[str], notebooks: Path) -> dict[str, list]:
    """The ``values`` that fan out in a sweep: lists for parameters that are no lists."""
    defaults: dict[str, object] = {}
    for declared in _select(_declared(notebooks), only).values():
        defaults |= declared
    lists, _ = _split(values, lambda name, value: isinstance(value, list))
    return _split(lists, lambda name, value: not isinstance(defaults.get(name), list))[0]


def _read_profile(folder: Path, name: str) -> tuple[dict[str, object], Groups]:
    """A profile's parameters of notebooks, and its settings by family.

    Raises:
        ValueError: an unknown name, or a file of another shape; one line.
    """
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise checks.unknown("profile", name, sorted(file.stem for file in folder.glob("*.yaml")))
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict):
        raise ValueError(f"{path.name} must be a mapping, one 'name: value' a line")
    groups, flat = _split(given, lambda name, value: isinstance(value, dict))
    for key, group in groups.items():
        if any(isinstance(value, dict) for value in group.values()):
            raise ValueError(f"{path.name}: the group '{key}' must hold 'name: value' lines only")
    return flat, groups


def _declared(notebooks: Path) -> dict[Path, dict[str, object]]:
    """The parameters of each notebook in a folder."""
    paths = sorted(notebooks.glob("*.ipynb"))
    if not paths and not (PROJECT / "notebooks").is_dir():
        clone = "git clone the repository, then pip install -e . in it"
        raise ValueError(f"no notebooks found: fpnlib runs them from a checkout ({clone})")
    if not paths:
        raise ValueError(f"no notebooks found in {notebooks}; expected *.ipynb files")
    return {path: parameters(path) for path in paths}


def _select(declared: dict[Path, dict], only: Iterable[str]) -> dict[Path, dict]:
    """The notebooks whose names are or start with one of ``only``, in order; all if it is empty."""
    chosen: set[Path] = set()
    for name in only:
        start = name.removesuffix(".ipynb")
        found = {path for path in declared if path.stem.startswith(start)}
        if not found:
            raise checks.unknown("notebook", start, [path.stem for path in declared])
        chosen |= found
    return _split(declared, lambda path, _: path in chosen)[0] if chosen else declared


def _split(values: Mapping, test: Callable[[Any, Any], bool]) -> tuple[dict, dict]:
    """The items of a mapping that pass ``test(name, value)``, and the others."""
    passed: dict = {}
    others: dict = {}
    for name, value in values.items():
        (passed if test(name, value) else others)[name] = value
    return passed, others


def _refuse_unknown(given: Iterable[str], declared: Iterable[Iterable[str]]) -> None:
    """Raise ValueError, with the nearest name, for a parameter that no notebook declares."""
    names = sorted(set().union(*declared))
    for name in given:
        if name not in names and name != "out":
            raise checks.unknown("parameter", name, names)


def _with_override(values: Mapping[str, object], declared: list[dict]) -> dict[str, object]:
    """``values`` with those of dotted names joined to one text, the parameter ``override``."""
    dotted, flat = _split(values, lambda name, value: "." in name)
    _refuse_unknown(flat, declared)
    if not dotted:
        return flat
    if "override" not in set().union(*declared):
        _refuse_unknown(dotted, declared)
    pairs = str(flat.get("override", "")).split()
    for name, value in dotted.items():
        pairs.append(f"{name}={_text(name, value)}")
    return flat | {"override": " ".join(pairs)}


def _text(name: str, value: object) -> str:
    """A value as YAML has it, without spaces."""
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    if text.split() != [text]:
        raise ValueError(f"'{name}' must be a value without spaces, got {value!r}")
    return text


def _resolved(groups: Groups, override: object) -> Groups:
    """The families' settings as the profile and the overrides give them, checked."""
    if not groups and not override:
        return {}
    from fpnlib.families.settings import merge  # heavy, and rarely needed

    return merge(groups, str(override))


def _settings(notebook: Path, declared: dict, given: Mapping[str, object]) -> dict[str, object]:
    """A notebook's parameters: the given values, else its defaults."""
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


def _statements(source: str, where: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except SyntaxError as error:
        said = f"its parameters are no Python: {error.msg}, line {error.lineno}"
        raise ValueError(f"{where}: {said}") from None


def _assigned(statement: ast.stmt, where: str) -> tuple[str, object]:
    assigned = isinstance(statement, ast.Assign)
    target = statement.targets[0] if assigned else getattr(statement, "target", None)
    try:
        return target.id, ast.literal_eval(statement.value)
    except (AttributeError, ValueError):
        said = f"a parameter must be 'name = plain value', got '{ast.unparse(statement)}'"
        raise ValueError(f"{where}: {said}; derive it in the next cell") from None
