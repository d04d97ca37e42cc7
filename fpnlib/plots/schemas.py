"""The paper's diagrams, drawn anew (Figures 3 to 6)."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch, Polygon

from fpnlib import checks
from fpnlib.plots.look import INK, MUTED, new_figure, style

# Okabe and Ito's green, yellow and vermillion, paled; the outline says the same without colour.
KINDS: dict[str, dict[str, Any]] = {
    "input": {"facecolor": "#a6dccb", "edgecolor": INK, "linewidth": 0.8},
    "intermediate": {
        "facecolor": "#faf3a0",
        "edgecolor": INK,
        "linewidth": 0.8,
        "linestyle": (0, (3, 2)),
    },
    "output": {"facecolor": "#f2b391", "edgecolor": INK, "linewidth": 2.0},
}

NETWORK: dict[str, Any] = {"facecolor": "#dfe6f0", "edgecolor": INK, "linewidth": 0.8}
ARROW: dict[str, Any] = {
    "mutation_scale": 9,
    "shrinkA": 0,
    "shrinkB": 0,
    "color": MUTED,
    "linewidth": 1,
}

# A schema's panels: title, nodes (name → kind, x, y) and arrows. E, D and F are networks.
SCHEMAS = {
    "overview": [
        (
            "",
            {
                "x": ("input", 0, 1.5),
                "E": ("encoder, frozen", 1.5, 1.5),
                "z": ("intermediate", 3, 1.5),
                "D": ("decoder, frozen", 4.5, 1.5),
                r"\tilde{x}": ("output", 6, 1.5),
                "y": ("input", 1.5, 0),
                "F": ("flow plugin", 3, 0),
                "u": ("intermediate", 4.5, 0),
            },
            r"x→E E→z z→D D→\tilde{x} z↔F F↔u y→F",
        )
    ],
    "training": [
        (
            "(a) data encoding",
            {
                "x": ("input", 0, 0.75),
                "E": ("encoder, frozen", 1.5, 0.75),
                "z": ("output", 3, 0.75),
            },
            "x→E E→z",
        ),
        (
            "(b) flow training",
            {
                "z": ("input", 0, 1.5),
                "y": ("input", 0, 0),
                "F": ("flow, trained", 1.5, 0.75),
                "u": ("output", 3, 0.75),
            },
            "z→F y→F F→u",
        ),
    ],
    "generation": [
        (
            "",
            {
                "u": ("input", 0, 1.5),
                "y": ("input", 0, 0),
                "F": ("flow", 1.5, 0.75),
                "z": ("intermediate", 3, 0.75),
                "D": ("decoder, frozen", 4.5, 0.75),
                "x": ("output", 6, 0.75),
            },
            "u→F y→F F→z z→D D→x",
        )
    ],
    "editing": [
        (
            "(a) encoding with the attributes as they are",
            {
                "x": ("input", 0, 1.5),
                "E": ("encoder, frozen", 1.35, 1.5),
                "z": ("intermediate", 2.7, 1.5),
                "y": ("input", 2.7, 0),
                "F": ("flow", 4.05, 0.75),
                "u": ("output", 5.4, 0.75),
            },
            "x→E E→z z→F y→F F→u",
        ),
        (
            "(b) decoding with the attributes changed",
            {
                "u": ("input", 0, 1.5),
                "y'": ("input", 0, 0),
                "F": ("flow", 1.35, 0.75),
                "z'": ("intermediate", 2.7, 0.75),
                "D": ("decoder, frozen", 4.05, 0.75),
                "x'": ("output", 5.4, 0.75),
            },
            "u→F y'→F F→z' z'→D D→x'",
        ),
    ],
    "classification": [
        (
            "",
            {
                "x": ("input", 0, 1.5),
                "E": ("encoder, frozen", 1.5, 1.5),
                "z": ("intermediate", 3, 1.5),
                "Y": ("input", 3, 0),
                "F": ("flow", 4.5, 0.75),
                "p(z|y)": ("intermediate", 6, 0.75),
                r"\hat{y}": ("output", 7.5, 0.75),
            },
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
    spans = [max(x for _, x, _ in nodes.values()) + 1.3 for _, nodes, _ in panels]
    fig, axes = new_figure(0.72 * sum(spans), 2.4, 1, len(panels), width_ratios=spans)
    for ax, (title, nodes, arrows), span in zip(axes[0], panels, spans):
        for label, node in nodes.items():
            _draw_node(ax, label, *node)
        for start, way, end in (re.split("([→↔])", arrow) for arrow in arrows.split()):
            ends = _between(nodes[start][1:], nodes[end][1:])
            shape = "-|>" if way == "→" else "<|-|>"
            ax.add_patch(FancyArrowPatch(*ends, arrowstyle=shape, **ARROW))
        ax.set(title=title, xlim=(-0.65, span - 0.65), ylim=(-0.75, 2.2), aspect="equal")
        ax.axis("off")
    present = {kind for _, nodes, _ in panels for kind, *_ in nodes.values()}
    handles = [Patch(label=kind, **look) for kind, look in KINDS.items() if kind in present]
    fig.legend(handles=handles, loc="outside lower center", ncols=3)
    return fig


def _draw_node(ax: Axes, label: str, kind: str, x: float, y: float) -> None:
    """A variable, rounded; or a network with its kind below, an autoencoder's half a trapezium."""
    middle: dict[str, Any] = {"ha": "center", "va": "center"}
    if kind in KINDS:
        corner, rounded = (x - 0.3, y - 0.3), "round,pad=0.1,rounding_size=0.35"
        ax.add_patch(FancyBboxPatch(corner, 0.6, 0.6, boxstyle=rounded, **KINDS[kind]))
        size = 12 if len(label) < 3 or "{" in label else 9
        ax.text(x, y, rf"$\mathbf{{{label}}}$", fontsize=size, **middle)
        return
    if kind.startswith("flow"):
        corner, rounded = (x - 0.33, y - 0.33), "round,pad=0.08"
        ax.add_patch(FancyBboxPatch(corner, 0.66, 0.66, boxstyle=rounded, **NETWORK))
    else:
        wide, narrow = (0.55, 0.3) if kind.startswith("encoder") else (0.3, 0.55)
        corners = np.array([(-0.4, -wide), (0.4, -narrow), (0.4, narrow), (-0.4, wide)])
        ax.add_patch(Polygon(corners + (x, y), closed=True, **NETWORK))
    ax.text(x, y, rf"$\mathcal{{{label}}}$", fontsize=12, **middle)
    ax.text(x, y - 0.66, kind, fontsize=7, color=MUTED, **middle)


def _between(start: tuple[float, float], end: tuple[float, float]) -> tuple:
    """The arrow's ends: the line between two nodes, less a margin at both."""
    a, b = np.array(start), np.array(end)
    step = (b - a) / np.linalg.norm(b - a) * 0.47
    return tuple(a + step), tuple(b - step)
