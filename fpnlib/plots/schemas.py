"""The paper's diagrams, drawn anew (Figures 3 to 6)."""

import re
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fpnlib import checks
from fpnlib.plots.look import INK, MUTED, new_figure, style

# Okabe and Ito's green, yellow and vermillion, paled; the outline says the same without colour.
KINDS: dict[str, dict[str, Any]] = {
    "input": {"facecolor": "#a6dccb", "linewidth": 0.8},
    "intermediate": {"facecolor": "#faf3a0", "linewidth": 0.8, "linestyle": (0, (3, 2))},
    "output": {"facecolor": "#f2b391", "linewidth": 2.0},
}
NETWORK: dict[str, Any] = {"facecolor": "#dfe6f0", "linewidth": 0.8}
# Outlines: an autoencoder's halves are trapezia.
OUTLINES = {
    "E": [(-0.6, -0.8), (0.6, -0.4), (0.6, 0.4), (-0.6, 0.8), (-0.6, -0.8)],
    "D": [(-0.6, -0.4), (0.6, -0.8), (0.6, 0.8), (-0.6, 0.4), (-0.6, -0.4)],
    "F": "s",
}
SIZE = 1000  # of a node, in square points
ARROW: dict[str, Any] = {"shrinkA": 21, "shrinkB": 21, "color": MUTED, "mutation_scale": 9}
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
    checks.known("schema", name, SCHEMAS)
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
    places = {}
    for height, row in zip(HEIGHTS, panel.rows):
        for column, label in enumerate(row.split()):
            places[label] = SPACING * column, height
    sources, targets, kinds = set(), set(), set()
    for arrow in panel.arrows.split():
        start, way, end = re.split("([→↔])", arrow)
        sources |= {start, end} if way == "↔" else {start}
        targets |= {start, end} if way == "↔" else {end}
        shape = "-|>" if way == "→" else "<|-|>"
        ax.annotate("", places[end], places[start], arrowprops={"arrowstyle": shape, **ARROW})
    networks = {"E": "encoder, frozen", "D": "decoder, frozen", "F": panel.flow}
    for label, (x, y) in places.items():
        if label in networks:
            _draw_node(ax, x, y, rf"$\mathcal{{{label}}}$", marker=OUTLINES[label], **NETWORK)
            about: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7, "color": MUTED}
            ax.text(x, y - 0.66, networks[label], **about)
        elif label != ".":
            kind = "input" if label not in targets else "output"
            kind = "intermediate" if label in sources & targets else kind
            kinds.add(kind)
            _draw_node(ax, x, y, rf"$\mathbf{{{label}}}$", marker="o", **KINDS[kind])
    return kinds


def _draw_node(ax: Axes, x: float, y: float, text: str, **look: Any) -> None:
    ax.scatter(x, y, s=SIZE, edgecolor=INK, **look)
    size = 8 if "|" in text else 12
    ax.text(x, y, text, fontsize=size, ha="center", va="center")
