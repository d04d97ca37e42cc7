"""Profiles: YAML files of notebooks' parameters and, in groups, of families' settings."""

from pathlib import Path
from typing import Any

import yaml

from fpnlib import checks


def read_profile(path: Path) -> tuple[dict[str, Any], dict[str, dict]]:
    """Return a profile's parameters of notebooks, and its settings by family.

    Args:
        path: of the YAML file.

    Raises:
        ValueError: an unknown profile, with the nearest name, or a file of another shape; one line.
    """
    if not path.is_file():
        known = sorted(other.stem for other in path.parent.glob("*.yaml"))
        raise checks.unknown("profile", path.stem, known)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} must be a mapping, one 'name: value' a line")
    parameters: dict[str, Any] = {}
    groups: dict[str, dict] = {}
    for name, value in content.items():
        if not isinstance(value, dict):
            parameters[name] = value
            continue
        groups[name] = value
        if dict in map(type, value.values()):
            raise ValueError(f"{path.name}: the group '{name}' must hold 'name: value' lines only")
    return parameters, groups
