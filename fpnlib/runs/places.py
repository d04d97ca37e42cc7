"""This machine's folders in text: replaced by names when written, found again when read."""

import os
import re
import sys
from pathlib import Path
from typing import Any

from fpnlib.store import PROJECT


def named(node: Any) -> Any:
    """Replace this machine's folders in text by names like ``$FPN_DATA``.

    Args:
        node: something JSON-able; its pictures stay as they are.
    """
    return _named(_places(), node)


def found(text: str) -> str:
    """Return the path that :func:`named` has named, on this machine; other text as it is."""
    named = text.startswith(("~/", "$FPN_DATA"))
    return os.path.expandvars(os.path.expanduser(text)) if named else text


def _places() -> list[tuple[re.Pattern, str]]:
    """Return each folder as a pattern, and its name; no root, because every path begins with it."""
    data = os.environ.get("FPN_DATA")  # noqa: TID251 the user's
    places = {str(Path(data).absolute()): "$FPN_DATA"} if data else {}
    places |= {f"{PROJECT}{os.sep}": "", str(PROJECT): "."}
    places |= {f"{sys.prefix}{os.sep}": "", f"{Path.home()}{os.sep}": "~/"}
    patterns = [(re.compile(r"()[^\s\"']*/ipykernel_\d+/\d+\.py"), r"\1cell")]
    for place, name in places.items():
        if Path(place) != Path(Path(place).anchor):
            patterns.append((_path(place), rf"\1{name}"))
    return patterns


def _path(place: str) -> re.Pattern:
    """Return a pattern of a folder that begins a path, even behind a colour, and ends a name."""
    end = "" if place.endswith(os.sep) else r"(?![\w-]|\.\w)"
    return re.compile(rf"(^|[^\w.~$/-]|\x1b\[[\d;]*m){re.escape(place)}{end}")


def _named(places: list[tuple[re.Pattern, str]], node: Any) -> Any:
    if isinstance(node, dict):
        texts = dict(node)
        for key, value in node.items():
            if not str(key).startswith("image/"):
                texts[key] = _named(places, value)
        return texts
    if isinstance(node, list):
        return [_named(places, value) for value in node]
    if isinstance(node, str):
        for place, name in places:
            node = place.sub(name, node)
    return node
