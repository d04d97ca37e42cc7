"""Progress bars of a notebook's kernel: on the runner's terminal, not in the executed copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import unescape

from tqdm import tqdm

REFERENCE = "IPY_MODEL_"
BOX, PARTS = "HBoxModel", ["HTMLModel", "FloatProgressModel", "HTMLModel"]


class Bars:
    """The bars that tqdm draws in a kernel, each as a line on the terminal.

    In a kernel, a bar of tqdm is a box of three widgets: a text, a bar and another text.

    Args:
        states: the state of each widget by its model's id, as nbclient keeps it.
    """

    def __init__(self, states: Mapping[str, dict]):
        self._states = states
        self._lines: dict[str, tqdm] = {}
        self._box_of: dict[str, str] = {}

    def show(self, model: str) -> bool:
        """Begin a line if the widget is a bar; returns whether it is one."""
        if not self._is_bar(model):
            return False
        self._box_of |= dict.fromkeys(self._parts(model), model)
        shape = {"bar_format": "{desc}", "dynamic_ncols": True}
        self._lines[model] = tqdm(leave=False, disable=None, **shape)
        self.follow(model)
        return True

    def follow(self, model: str, closed: bool = False) -> None:
        """Draw a line again because one of its widgets has changed or is ``closed``."""
        box = self._box_of.get(model, model)
        line = self._lines.get(box)
        if line is None:
            return
        left, bar, right = map(self._states.__getitem__, self._parts(box))
        if closed or bar.get("bar_style") in ("success", "danger"):
            self._lines.pop(box).close()
            return
        line.n, line.total = bar["value"], bar["max"]
        before, after = _plain(left["value"]), _plain(right["value"])
        line.bar_format = f"  {before}|{{bar:10}}|{after}" if before else f"  {after}"
        line.refresh()

    def models(self) -> Iterator[str]:
        """Yield the ids of all models that belong to a bar, for a copy that does without them."""
        for box in filter(self._is_bar, self._states):
            for model in (box, *self._parts(box)):
                yield model
                looks = self._states[model].get("layout"), self._states[model].get("style")
                yield from map(_id, filter(None, looks))

    def close(self) -> None:
        """Remove the lines that are left."""
        while self._lines:
            self._lines.popitem()[1].close()

    def _is_bar(self, model: str) -> bool:
        parts = list(map(self._kind, self._parts(model)))
        return self._kind(model) == BOX and parts == PARTS

    def _kind(self, model: str) -> str | None:
        return self._states.get(model, {}).get("_model_name")

    def _parts(self, box: str) -> list[str]:
        return list(map(_id, self._states.get(box, {}).get("children", ())))


def _id(reference: str) -> str:
    return reference.removeprefix(REFERENCE)


def _plain(text: str) -> str:
    """Return a widget's text without HTML and wide spaces, with braces doubled as in a format."""
    return unescape(text).replace("\u2007", " ").replace("{", "{{").replace("}", "}}")
