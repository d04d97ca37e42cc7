"""The paper's diagrams, drawn anew (Figures 3 to 6)."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch, Polygon

from fpnlib import checks
from fpnlib.plots.look import INK, MUTED, new_figure, style

# Okabe and Ito's green, yellow and vermillion, paled; the outline says the same without colour.
KINDS: dict[str, dict[str, Any]] = {
    "input": {"facecolor": "#a6dccb", "linewidth": 0.8},
    "intermediate": {"facecolor": "#faf3a0", "linewidth": 0.8, "linestyle": (0, (3, 2))},
    "output": {"facecolor": "#f2b391", "linewidth": 2.0},
}
NETWORK: dict[str, Any] = {"facecolor": "#dfe6f0", "edgecolor": INK, "linewidth": 0.8}
ARROW: dict[str, Any] = {"mutation_scale": 9, "shrinkA": 0, "shrinkB": 0, "color": MUTED}
SPACING = 1.4  # between the columns of a diagram
HEIGHTS = (1.5, 0.75, 0.0)  # of its three rows


class _Panel(NamedTuple):
    """A part of a diagram: E, D and F are networks, everything else is a variable.

    Args:
        rows: the nodes of the upper, the middle and the lower row by column; "." is no node.
        arrows: which node leads to which; "↔" leads both ways.
        flow: what F is called.
        title: of the panel.
    """

    rows: tuple[str, str, str]
    arrows: str
    flow: str = "flow"
    title: str = ""


SCHEMAS = {
    "overview": [
        _Panel(
            (r"x E z D \tilde{x}", "", ". y F u"),
            r"x→E E→z z→D D→\tilde{x} z↔F F↔u y→F",
            flow="flow plugin",
        )
    ],
    "training": [
        _Panel(("", "x E z", ""), "x→E E→z", title="(a) data encoding"),
        _Panel(("z", ". F u", "y"), "z→F y→F F→u", "flow, trained", "(b) flow training"),
    ],
    "generation": [_Panel(("u", ". F z D x", "y"), "u→F y→F F→z z→D D→x")],
    "editing": [
        _Panel(
            ("x E z", ". . . F u", ". . y"),
            "x→E E→z z→F y→F F→u",
            title="(a) encoding with the attributes as they are",
        ),
        _Panel(
            ("u", ". F z' D x'", "y'"),
            "u→F y'→F F→z' z'→D D→x'",
            title="(b) decoding with the attributes changed",
        ),
    ],
    "classification": [
        _Panel(
            ("x E z", r". . . F p(z|y) \hat{y}", ". . Y"),
            r"x→E E→z z→F Y→F F→p(z|y) p(z|y)→\hat{y}",
        )
    ],
}


@style()
def schema(name: str) -> Figure:
    """Draw one of the paper's diagrams anew.

    Inputs are green with a thin outline, intermediates yellow and dashed, outputs red and thick.

    Args:
        name: "overview" (Figure 3), "training" (4), "generation" (5), "editing" (6), or
            "classification" (section 3.4).

    >>> schema("overview").legends[0].get_texts()[0].get_text()
    'input'
    """
    if name not in SCHEMAS:
        raise checks.unknown("schema", name, SCHEMAS)
    panels = SCHEMAS[name]
    spans = []
    for panel in panels:
        columns = max(len(row.split()) for row in panel.rows)
        spans.append(SPACING * (columns - 1) + 1.3)
    fig, axes = new_figure(0.72 * sum(spans), 2.4, 1, len(panels), width_ratios=spans)
    present = set()
    for ax, panel, span in zip(axes[0], panels, spans):
        present |= _draw_panel(ax, panel)
        ax.set(title=panel.title, xlim=(-0.65, span - 0.65), ylim=(-0.75, 2.2), aspect="equal")
        ax.axis("off")
    kinds = [kind for kind in KINDS if kind in present]
    handles = [Patch(label=kind, edgecolor=INK, **KINDS[kind]) for kind in kinds]
    fig.legend(handles=handles, loc="outside lower center", ncols=3)
    return fig


def _draw_panel(ax: Axes, panel: _Panel) -> set[str]:
    """Draw a panel and return the kinds of its variables."""
    places, kinds = {}, set()
    for height, row in zip(HEIGHTS, panel.rows):
        for column, label in enumerate(row.split()):
            places[label] = np.array([SPACING * column, height])
    sources, targets = set(), set()
    for arrow in panel.arrows.split():
        start, way, end = re.split("([→↔])", arrow)
        sources |= {start, end} if way == "↔" else {start}
        targets |= {start, end} if way == "↔" else {end}
        step = places[end] - places[start]
        margin = 0.47 * step / np.linalg.norm(step)
        ends = places[start] + margin, places[end] - margin
        shape = "-|>" if way == "→" else "<|-|>"
        ax.add_patch(FancyArrowPatch(*ends, arrowstyle=shape, linewidth=1, **ARROW))
    networks = {"E": "encoder, frozen", "D": "decoder, frozen", "F": panel.flow}
    for label, place in places.items():
        if label in networks:
            _draw_network(ax, label, networks[label], *place)
        elif label != ".":
            kind = "input" if label not in targets else "output"
            kind = "intermediate" if label in sources & targets else kind
            kinds.add(kind)
            _draw_variable(ax, label, kind, *place)
    return kinds


def _draw_variable(ax: Axes, label: str, kind: str, x: float, y: float) -> None:
    rounded = "round,pad=0.1,rounding_size=0.35"
    box = FancyBboxPatch((x - 0.3, y - 0.3), 0.6, 0.6, boxstyle=rounded, edgecolor=INK)
    box.set(**KINDS[kind])
    ax.add_patch(box)
    size = 12 if len(label) < 3 or "{" in label else 9
    ax.text(x, y, rf"$\mathbf{{{label}}}$", fontsize=size, ha="center", va="center")


def _draw_network(ax: Axes, label: str, kind: str, x: float, y: float) -> None:
    """Draw a network with its kind below; an autoencoder's half is a trapezium."""
    if label == "F":
        corner = x - 0.33, y - 0.33
        ax.add_patch(FancyBboxPatch(corner, 0.66, 0.66, boxstyle="round,pad=0.08", **NETWORK))
    else:
        wide, narrow = (0.55, 0.3) if label == "E" else (0.3, 0.55)
        corners = np.array([(-0.4, -wide), (0.4, -narrow), (0.4, narrow), (-0.4, wide)])
        ax.add_patch(Polygon(corners + (x, y), closed=True, **NETWORK))
    middle: dict[str, Any] = {"ha": "center", "va": "center"}
    ax.text(x, y, rf"$\mathcal{{{label}}}$", fontsize=12, **middle)
    ax.text(x, y - 0.66, kind, fontsize=7, color=MUTED, **middle)
