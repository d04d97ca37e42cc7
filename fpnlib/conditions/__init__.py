"""What conditions a flow: labels, and their context vectors (section 3.2)."""

from collections.abc import Mapping
from typing import Any

from fpnlib import checks
from fpnlib.conditions.condition import Condition
from fpnlib.conditions.kinds import Attributes, Classes, Reals, Several, Vector

_KINDS: dict[str, Any] = {kind.__name__: kind for kind in (Attributes, Classes, Reals, Vector)}


def from_spec(spec: Mapping[str, Any]) -> Condition:
    """Build the condition that has this ``spec``.

    >>> from_spec(Classes(["cat", "dog"]).spec)
    Classes([cat, dog])
    """
    settings = dict(spec)
    kind = settings.pop("type")
    if kind == "Several":
        return Several({name: from_spec(part) for name, part in settings["parts"].items()})
    checks.known("condition", kind, _KINDS)
    return _KINDS[kind](**settings)
