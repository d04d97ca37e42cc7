"""Sizes of models and trainings: a family's defaults, then a profile's values, then overrides."""

from collections.abc import Mapping
from copy import deepcopy

import yaml

from fpnlib import checks
from fpnlib.families.digits import DIGITS
from fpnlib.families.faces import FACES
from fpnlib.families.family import Family, Settings
from fpnlib.families.molecules import MOLECULES
from fpnlib.families.profiles import read_profile
from fpnlib.families.shapes import SHAPES
from fpnlib.store import PROJECT

FAMILIES = {family.name: family for family in (DIGITS, SHAPES, FACES, MOLECULES)}
"""The families of this library by name."""
PROFILES = PROJECT / "notebooks" / "profiles"


def resolve(family: Family, profile: str = "demo", override: str = "") -> Settings:
    """Return a family's settings: its defaults, the profile's values, then the overrides.

    Args:
        family: the family, one of this library or your own.
        profile: name of a file in ``notebooks/profiles``.
        override: as for :func:`merge`.

    Raises:
        ValueError: an unknown profile, with the nearest name, or as :func:`merge`.
        TypeError: as :func:`merge`.
    """
    _, groups = read_profile(PROFILES / f"{profile}.yaml")
    merged = merge(groups, override, FAMILIES | {family.name: family})
    return {**family.settings, **merged.get(family.name, {})}


def merge(
    groups: Mapping[str, Settings], override: str, families: Mapping[str, Family] = FAMILIES
) -> dict[str, dict]:
    """Return settings by family, as a profile's groups and the overrides give them.

    Args:
        groups: a profile's settings by family.
        override: ``"family.name=value"`` pairs separated by spaces, with values in YAML. A pair
            ``"device=…"`` is the run's and left out.
        families: the known families by name.

    Raises:
        ValueError: an unknown family or setting, with the nearest name, a malformed pair, or a
            number below 0, of counts below 1, unless the default is.
        TypeError: a value of another type than the default's.

    >>> merge({"digits": {"vae_epochs": 3}}, "digits.flow_epochs=64 faces.msp_epochs=3")
    {'digits': {'vae_epochs': 3, 'flow_epochs': 64}, 'faces': {'msp_epochs': 3}}
    """
    merged: dict[str, dict] = deepcopy(dict(groups))  # type: ignore[arg-type]
    for pair in override.split():
        path, equals, value = pair.partition("=")
        if path == "device":
            continue
        family, dot, name = path.partition(".")
        if not (equals and dot and family and name):
            raise ValueError(f"override takes pairs like digits.flow_epochs=64, got '{pair}'")
        try:
            merged.setdefault(family, {})[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(f"override takes values in YAML, got '{pair}'") from None
    for family, settings in merged.items():
        checks.known("family", family, families)
        defaults = families[family].settings
        for name, value in settings.items():
            if name not in defaults:
                known = [f"{family}.{default}" for default in defaults]
                raise checks.unknown("setting", f"{family}.{name}", known)
            default = defaults[name]
            settings[name] = checks.fitting(f"{family}.{name}", value, default)
            if type(default) in (int, float):
                least = min(default, int(type(default) is int))  # counts begin at 1
                if settings[name] < least:
                    said = f"must be {least} or more, got {settings[name]}"
                    raise ValueError(f"setting '{family}.{name}' {said}")
    return merged
