"""Sizes of models and trainings: a family's defaults, then a profile's values, then overrides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from fpnlib import checks
from fpnlib.store import PROJECT

PROFILES = PROJECT / "notebooks" / "profiles"
Settings = Mapping[str, Any]


def resolve(family: str, defaults: Settings, profile: str = "demo", override: str = "") -> dict:
    """Return a family's settings: its defaults, the profile's values, then the overrides.

    Args:
        family: the family's name, which the groups of a profile and the overrides begin with.
        defaults: every setting of the family with its default value.
        profile: name of a file in ``notebooks/profiles``.
        override: ``"family.name=value"`` pairs separated by spaces, with values in YAML. Settings
            of other families are left to their own studies.

    Raises:
        ValueError: an unknown profile, family or setting, with the nearest name, or a malformed
            pair.
        TypeError: a value of another type than the default's.
    """
    from fpnlib.families import FAMILIES  # it imports this module

    overrides, known = parse_override(override), [*FAMILIES, family]
    for name in overrides:
        if name not in known:
            raise checks.unknown("family", name, known)
    given = {**_read_groups(profile).get(family, {}), **overrides.get(family, {})}
    return defaults_with(family, defaults, given)


def defaults_with(family: str, defaults: Settings, given: Settings) -> dict:
    """Return a family's defaults with given values in their place. Raises as :func:`resolve`."""
    settings = dict(defaults)
    for name, value in given.items():
        if name not in defaults:
            raise checks.unknown("setting", f"{family}.{name}", [f"{family}.{n}" for n in defaults])
        settings[name] = checks.fitting(f"{family}.{name}", value, defaults[name])
    return settings


def _read_groups(profile: str) -> dict[str, dict]:
    """Return the settings that a profile gives, by family.

    Raises:
        ValueError: an unknown profile, with the nearest name.
    """
    path = PROFILES / f"{profile}.yaml"
    if not path.is_file():
        raise checks.unknown(
            "profile", profile, sorted(file.stem for file in PROFILES.glob("*.yaml"))
        )
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return {name: group for name, group in content.items() if isinstance(group, dict)}


def parse_override(override: str) -> dict[str, dict]:
    """Return the values in ``"digits.flow_epochs=64 faces.msp_epochs=3"`` by family and name.

    Raises:
        ValueError: a pair that is not ``family.name=value``.

    >>> parse_override("digits.flow_epochs=64 faces.msp_epochs=3")
    {'digits': {'flow_epochs': 64}, 'faces': {'msp_epochs': 3}}
    """
    groups: dict[str, dict] = {}
    for pair in override.split():
        path, equals, value = pair.partition("=")
        family, dot, name = path.partition(".")
        if not (equals and dot and family and name):
            raise ValueError(f"override takes pairs like digits.flow_epochs=64, got '{pair}'")
        groups.setdefault(family, {})[name] = yaml.safe_load(value)
    return groups


def changed(settings: Settings, defaults: Settings, names: tuple[str, ...]) -> dict:
    """Return those of the named settings that differ from their defaults.

    A name that ends in "_" stands for all settings that begin with it.

    >>> changed({"msp_epochs": 3, "epochs": 3}, {"msp_epochs": 18, "epochs": 1}, ("msp_",))
    {'msp_epochs': 3}
    """
    prefixes = tuple(name for name in names if name.endswith("_"))
    named = [name for name in settings if name in names or name.startswith(prefixes)]
    return {name: settings[name] for name in named if settings[name] != defaults[name]}
