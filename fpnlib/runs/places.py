"""This machine's folders in text: replaced by names when written, found again when read."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from fpnlib.store import PROJECT


def named(node: object) -> object:
    """Replace this machine's folders in the text of ``node`` by names like ``$FPN_DATA``.

    ``node`` is JSON-able; its pictures stay as they are.
    """
    return _named(_places(), node)


def found(text: str) -> str:
    """The path that :func:`named` has named, on this machine; other text stays as it is."""
    named = text.startswith(("~/", "$FPN_DATA"))
    return os.path.expandvars(os.path.expanduser(text)) if named else text


def _places() -> list[tuple[re.Pattern, str]]:
    """Each folder as a pattern, and its name; no root, because every path begins with it."""
    data = os.environ.get("FPN_DATA")
    places = {str(Path(data).absolute()): "$FPN_DATA"} if data else {}
    places |= {f"{PROJECT}{os.sep}": "", str(PROJECT): "."}
    places |= {f"{sys.prefix}{os.sep}": "", f"{Path.home()}{os.sep}": "~/"}
    patterns = [(re.compile(r"()[^\s\"']*/ipykernel_\d+/\d+\.py"), "cell")]
    for place, name in places.items():
        if Path(place) != Path(Path(place).anchor):
            patterns.append((_path(place), name))
    return patterns


def _path(place: str) -> re.Pattern:
    """``place`` where a path begins, which a colour may precede, and where a name in it ends."""
    end = "" if place.endswith(os.sep) else r"(?![\w-]|\.\w)"
    return re.compile(rf"(^|[^\w.~$/-]|\x1b\[[\d;]*m){re.escape(place)}{end}")


def _named(places: list[tuple[re.Pattern, str]], node: object) -> object:
    if isinstance(node, dict):
        texts = dict(node)
        for key, value in node.items():
            if not key.startswith("image/"):
                texts[key] = _named(places, value)
        return texts
    if isinstance(node, list):
        return [_named(places, value) for value in node]
    if isinstance(node, str):
        for place, name in places:
            node = place.sub(lambda match, name=name: match[1] + name, node)
    return node
