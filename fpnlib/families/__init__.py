"""Families of objects and the study that puts them to work: what the notebooks talk to."""

from collections.abc import Mapping

from fpnlib import checks
from fpnlib.families.classification import (
    baseline_scores,
    classification_table,
    leads,
    plugin_accuracies,
)
from fpnlib.families.digits import DIGITS
from fpnlib.families.editing import (
    edit_scores,
    editors,
    most_edited,
    redrawn_scores,
    rows_of_edits,
    sampled_scores,
    strips,
)
from fpnlib.families.faces import FACES
from fpnlib.families.family import FLOW_NAMES, Base, Family, Plug, Trained
from fpnlib.families.pretrained import pretrained_digits, pretrained_faces, pretrained_shapes
from fpnlib.families.run import Run
from fpnlib.families.scores import first_of_each, judged_objects, most_common, score_clouds
from fpnlib.families.settings import Settings, defaults_with, parse_override
from fpnlib.families.shapes import SHAPES
from fpnlib.families.study import Study

FAMILIES = {family.name: family for family in (DIGITS, SHAPES, FACES)}
"""The families of this library by name."""


def check_settings(groups: Mapping[str, Settings]) -> None:
    """Check settings by family, as a profile's groups give them.

    Raises:
        ValueError: an unknown family or setting, with the nearest name.
        TypeError: a value of another type than the default's.
    """
    for name, given in groups.items():
        if name not in FAMILIES:
            raise checks.unknown("family", name, FAMILIES)
        defaults_with(name, FAMILIES[name].settings, given)


__all__ = [
    "DIGITS",
    "FACES",
    "FAMILIES",
    "FLOW_NAMES",
    "SHAPES",
    "Base",
    "Family",
    "Plug",
    "Run",
    "Study",
    "Trained",
    "baseline_scores",
    "check_settings",
    "classification_table",
    "edit_scores",
    "editors",
    "first_of_each",
    "judged_objects",
    "leads",
    "most_common",
    "most_edited",
    "parse_override",
    "plugin_accuracies",
    "pretrained_digits",
    "pretrained_faces",
    "pretrained_shapes",
    "redrawn_scores",
    "rows_of_edits",
    "sampled_scores",
    "score_clouds",
    "strips",
]
