"""Points, densities and transformations in the plane (Figures 9 and 10; equations 2 to 13)."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from fpnlib import checks
from fpnlib.plots.given import Array, checked, names_of, need_entries
from fpnlib.plots.look import COLORS, HALO, INK, key, new_figure, style

SHORT = 2  # characters of a name that hides few of the points that it is written on


@style()
def embedding(
    panels: Mapping[str, tuple[Array, Array]],
    class_names: Sequence | None = None,
    *,
    axis_labels: tuple[str, str] = ("UMAP 1", "UMAP 2"),
    legend_title: str = "class",
    numbered: bool = True,
    ticks: bool = False,
) -> Figure:
    """Labelled points in the plane, in panels with the same axes (Figures 9, 10 and 12).

    Args:
        panels: title → (points (n, 2), labels (n,)); labels are class indices 0…K-1.
        class_names: K names; None: the indices.
        axis_labels: of both axes.
        legend_title: what the classes are.
        numbered: write each class's name among its points, a longer one above most of them.
        ticks: show the axes' numbers, which have no meaning in UMAP.
    """
    need_entries(panels, "panels")
    halves = [_labelled(*panel) for panel in panels.values()]
    all_points, all_labels = map(np.concatenate, zip(*halves))
    present = np.unique(all_labels).tolist()
    names = names_of(class_names, max(1 + present[-1], len(class_names or ())))
    colors = dict(zip(present, itertools.cycle(COLORS)))
    fig, axes = new_figure(3.1 * len(panels) + 0.9, 3.2, 1, len(panels), sharex=True, sharey=True)
    reach = np.ptp(all_points, axis=0)
    for ax, title, (points, labels) in zip(axes[0], panels, halves):
        # A fixed shuffle keeps the class that is drawn last from hiding the others.
        order = np.random.default_rng(0).permutation(len(points))
        shades = np.array([colors[k] for k in labels])
        look = {"alpha": 0.8, "linewidths": 0, "rasterized": len(points) > 5000}
        size = float(np.clip(9000 / len(points), 3, 14))
        ax.scatter(*points[order].T, c=shades[order], s=size, **look)
        if numbered:
            _write_names(ax, points, labels, names, reach / (3.1, 2.7))
        ax.margins(0.1)  # room for names at the rim
        ax.set(title=title, xlabel=axis_labels[0])
        if not ticks:
            ax.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)
    axes[0, 0].set_ylabel(axis_labels[1])
    keys = [key(marker="o", markersize=5, color=colors[k], label=names[k]) for k in colors]
    fig.legend(handles=keys, title=legend_title, loc="outside right center")
    return fig


def _write_names(
    ax: Axes, points: np.ndarray, labels: np.ndarray, names: Sequence[str], inch: np.ndarray
) -> None:
    """Write each class's name among its points; ``inch`` (2,) is an inch in their units."""
    words, places = [], []
    for k in np.unique(labels):
        words.append(names[k])
        places.append(_place(points[labels == k], names[k], inch))
    look: dict[str, Any] = {"ha": "center", "va": "center", "fontweight": "bold", "color": INK}
    for word, place in zip(words, _apart(places, words, inch)):
        size = 10 if len(word) <= SHORT else 8
        ax.text(place[0], place[1], word, fontsize=size, path_effects=HALO, **look)


def _place(points: np.ndarray, name: str, inch: np.ndarray) -> np.ndarray:
    """Place (2,) of a class's name: the median of its ``points`` (n, 2), or above most of them."""
    middle = np.median(points, axis=0)
    if len(name) <= SHORT:
        return middle
    away = np.linalg.norm((points - middle) / inch, axis=1)
    return np.array([middle[0], points[away <= np.median(away), 1].max() + 0.12 * inch[1]])


def _apart(places: Sequence[np.ndarray], words: Sequence[str], inch: np.ndarray) -> np.ndarray:
    """Places (n, 2) of words, moved up until none covers another."""
    moved = np.array(places, dtype=float)
    order = np.argsort(moved[:, 1], kind="stable")
    for count, i in enumerate(order):
        for j in order[:count]:
            across = 0.042 * (len(words[i]) + len(words[j])) * inch[0]
            if abs(moved[i, 0] - moved[j, 0]) < across:
                moved[i, 1] = max(moved[i, 1], moved[j, 1] + 0.17 * inch[1])
    return moved


@style()
def densities(
    panels: Mapping[str, Array],
    extent: tuple[float, float, float, float],
    *,
    samples: Mapping[str, Array] | None = None,
) -> Figure:
    """Densities in the plane as heat maps on one colour scale, samples on top.

    Args:
        panels: title → density (m, k), not negative, on a regular lattice; a row has one second
            coordinate, from low to high.
        extent: (left, right, bottom, top) of the lattice.
        samples: title → points (n, 2) drawn in that panel.
    """
    values = _all_checked(panels, "density", "m", "k")
    points = _all_checked(samples, "samples", "n", 2) if samples else {}
    for title in points:
        checks.known("panel", title, values)
    columns = min(4, len(values))
    bands = math.ceil(len(values) / columns)
    size = 2.3 * columns + 0.9, 2.3 * bands + 0.5
    fig, axes = new_figure(*size, bands, columns, sharex=True, sharey=True)
    top = max(map(np.max, values.values()))
    look: dict[str, Any] = {"cmap": "cividis", "vmin": 0, "vmax": top, "aspect": "equal"}
    for ax, (title, density) in zip(axes.flat, values.items()):
        shown = ax.imshow(density, extent=extent, origin="lower", **look)
        if title in points:
            ax.scatter(*points[title].T, s=5, color="white", edgecolors=INK, linewidths=0.3)
        ax.set(title=title, xlim=extent[:2], ylim=extent[2:], xlabel="$x_1$", ylabel="$x_2$")
        ax.label_outer()
    for ax in axes.flat[len(values) :]:
        ax.set_visible(False)
    fig.colorbar(shown, ax=axes, label="density", shrink=0.85, pad=0.02).outline.set_visible(False)
    return fig


@style()
def change_of_variables(
    u: Array,
    x: Array,
    density_u: Array,
    density_x: Array,
    *,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Figure:
    """Equations 2 and 3 on a line: p_u below, x = T(u) in the middle, p_x on the left.

    Args:
        u: increasing numbers (n,).
        x: T(u), monotone.
        density_u: p_u(u).
        density_x: p_x(x).
        interval: of u; the mass above it and the mass above its image, which are equal, are shaded.
    """
    u = checked(u, "u", "n")
    x, density_u = checked(x, "x", len(u)), checked(density_u, "density_u", len(u))
    density_x = checked(density_x, "density_x", len(u))
    fig, axes = new_figure(4.6, 4.0, 2, 2, width_ratios=[1, 2.6], height_ratios=[2.6, 1])
    left, middle, below = axes[0, 0], axes[0, 1], axes[1, 1]
    axes[1, 0].axis("off")
    left.sharey(middle)
    below.sharex(middle)
    ends = np.linspace(*interval, 200)
    images = np.interp(ends, u, x)
    mass_u, mass_x = np.interp(ends, u, density_u), np.interp(ends, u, density_x)
    middle.plot(u, x, color=INK)
    dashed: dict[str, Any] = {"color": COLORS[1], "linewidth": 0.8, "linestyle": (0, (3, 2))}
    for k in (0, -1):
        middle.plot([ends[k], ends[k], u.min()], [x.min(), images[k], images[k]], **dashed)
    below.plot(u, density_u, color=COLORS[0])
    below.fill_between(ends, mass_u, color=COLORS[1], alpha=0.5, linewidth=0)
    left.plot(density_x, x, color=COLORS[2])
    left.fill_betweenx(images, mass_x, color=COLORS[1], alpha=0.5, linewidth=0)
    left.invert_xaxis()
    below.set(xlabel="$u$", ylabel="$p_u(u)$", ylim=(0, None))
    left.set(ylabel="$x$", xlabel="$p_x(x)$")
    left.set_xlim(None, 0)
    middle.set(title="$x = T(u)$", xlim=(u.min(), u.max()), ylim=(x.min(), x.max()))
    middle.tick_params(labelleft=False, labelbottom=False)
    masses = np.trapezoid(mass_u, ends), abs(np.trapezoid(mass_x, images))  # T may decrease
    text = f"shaded mass\nof $u$: {masses[0]:.4f}\nof $x$: {masses[1]:.4f}"
    look: dict[str, Any] = {"ha": "center", "va": "center", "linespacing": 1.6}
    axes[1, 0].text(0.5, 0.5, text, transform=axes[1, 0].transAxes, **look)
    return fig


@style()
def deformations(panels: Mapping[str, Array], *, stride: int = 1) -> Figure:
    """What a transformation does to a square lattice of the plane (equations 4, 11 and 12).

    Args:
        panels: title → where the lattice's points are (rows, columns, 2), a panel for each step.
        stride: draw every so many lines of the lattice; more points than lines make smooth curves.
    """
    lattices = _all_checked(panels, "points of", "rows", "columns", 2)
    everywhere = np.concatenate([points.reshape(-1, 2) for points in lattices.values()])
    low, high = everywhere.min(0), everywhere.max(0)
    (left, below), (right, above) = low - 0.04 * (high - low), high + 0.04 * (high - low)
    shape = np.clip((above - below) / (right - left), 0.4, 2)
    fig, axes = new_figure(2.4 * len(panels) + 0.3, 2.2 * shape + 0.8, 1, len(panels))
    for ax, (title, points) in zip(axes[0], lattices.items()):
        for lines, color in zip((points, points.transpose(1, 0, 2)), COLORS):
            curves = LineCollection(list(lines[::stride]), colors=[color], linewidths=0.8)
            ax.add_collection(curves)
        ax.set(title=title, xlabel="first coordinate", ylabel="second coordinate")
        ax.set(xlim=(left, right), ylim=(below, above), aspect="equal")
        ax.label_outer()
    return fig


@style()
def jacobians(panels: Mapping[str, Array]) -> Figure:
    """Jacobians ∂u/∂x as heat maps, exact zeros hatched (equations 10 and 13).

    Args:
        panels: title → (D, D), entry (i, j) = ∂u_i/∂x_j.
    """
    matrices = _all_checked(panels, "Jacobian", "D", "D")
    fig, axes = new_figure(2.5 * len(panels) + 0.6, 2.7, 1, len(panels))
    top = max(np.abs(matrix).max() for matrix in matrices.values())
    # The scale is linear below this number, logarithmic above.
    linear = 10.0 ** round(math.log10(top or 1) - 1.5)
    norm = mpl.colors.SymLogNorm(linthresh=linear, vmin=-top or -1, vmax=top or 1)
    for ax, (title, matrix) in zip(axes[0], matrices.items()):
        ax.patch.set(facecolor="0.93", edgecolor="0.72", hatch="////", linewidth=0)
        shown = ax.imshow(np.ma.masked_equal(matrix, 0), cmap="PuOr", norm=norm)
        ticks = np.arange(0, len(matrix), max(1, len(matrix) // 8))
        ax.set_xticks(ticks, ticks + 1)
        ax.set_yticks(ticks, ticks + 1)
        ax.set(title=title, xlabel="$j$ (of $x_j$)", ylabel="$i$ (of $u_i$)")
        ax.spines[:].set_visible(True)
    meaning = r"$\partial u_i / \partial x_j$ (hatched: exactly 0)"
    bar = fig.colorbar(shown, ax=axes, label=meaning, shrink=0.85, pad=0.02)
    bar.outline.set_visible(False)
    bar.minorticks_off()
    steps = linear * np.array([-10, -1, 0, 1, 10])
    bar.set_ticks(steps.tolist(), labels=[f"{step:g}" for step in steps])
    return fig


def _all_checked(
    panels: Mapping[str, Array], kind: str, *shape: int | str
) -> dict[str, np.ndarray]:
    """The panels' arrays, checked."""
    need_entries(panels, "panels")
    return {title: checked(values, f"{kind} '{title}'", *shape) for title, values in panels.items()}


def _labelled(points: Array, labels: Array) -> tuple[np.ndarray, np.ndarray]:
    points = checked(points, "points", "n", 2)
    return points, checked(labels, "labels", len(points)).astype(int)
