"""Panels of an executed notebook as still HTML, from the widget state that the notebook kept."""

from html import escape
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_output

VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
NOTE = "The last state of the panel. Its controls work in JupyterLab."
LOST = "<p class='panel-note'>A panel stood here, but the notebook did not keep its state.</p>"


def still_panels(notebook: NotebookNode) -> None:
    """Replace each widget in a notebook's outputs by what it showed last."""
    kept = notebook.metadata.pop("widgets", {}).get(STATE, {}).get("state", {})
    for cell in notebook.cells:
        for place, output in enumerate(cell.get("outputs", [])):
            if VIEW in output.get("data", {}):
                shown = _panel(kept, output.data[VIEW]["model_id"])
                data = {"text/html": shown}
                cell.outputs[place] = new_output("display_data", data=data)


def _panel(kept: dict[str, Any], model: str) -> str:
    if model not in kept:
        return LOST
    return f"<div class='panel'>{_widget(kept, model)}</div><p class='panel-note'>{NOTE}</p>"


def _widget(kept: dict[str, Any], model: str) -> str:
    """HTML of one widget and of those inside it."""
    widget = kept[model]
    kind, state = widget["model_name"].removesuffix("Model"), widget["state"]
    if "children" in state:
        names = [child.removeprefix("IPY_MODEL_") for child in state["children"]]
        inside = "".join(_widget(kept, name) for name in names)
        return f"<div class='panel-{kind.lower()}'>{inside}</div>"
    if kind == "Image":
        picture = widget["buffers"][0]["data"]
        return f"<img alt='' src='data:image/{state['format']};base64,{picture}'>"
    if kind == "HTML":
        return f"<div>{state['value']}</div>" if state["value"] else ""
    name = escape(state.get("description") or "")
    if kind in ("Button", "FileUpload"):
        return f"<button disabled>{name}</button>"
    return f"<label><span>{name}</span>{_control(kind, state)}</label>"


def _control(kind: str, state: dict[str, Any]) -> str:
    """HTML of a control, which is disabled."""
    value = escape(str(state.get("value", "")))
    if kind == "Label":
        return value
    if kind == "Dropdown":
        chosen = state["_options_labels"][state["index"]]
        return f"<input disabled value='{escape(chosen)}'>"
    if kind == "FloatSlider":
        span = f"min={state['min']} max={state['max']} step={state['step']}"
        return f"<input type=range disabled {span} value={value}> {state['value']:g}"
    return f"<input disabled value='{value}'>"
