"""Molecules drawn by RDKit, and the quantities asked for against those got."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fpnlib import checks
from fpnlib.plots.given import Array, checked, need_entries
from fpnlib.plots.look import COLORS, DASHED, FAINT, INK, new_figure, style

SIZE = (250, 190)  # of a drawing in dots
DPI = 130
SPREAD = (5, 95)  # percentiles of the data that are shaded
BINS = 9  # of the values asked for, if they are many
MANY = 30


@style()
def molecules(smiles: Sequence[str], captions: Sequence[str] = (), *, columns: int = 6) -> Figure:
    """Draw molecules in rows by RDKit.

    Args:
        smiles: of the molecules; an empty one leaves its place empty.
        captions: one for each molecule, or none.
        columns: molecules to a row.

    Raises:
        ValueError: no molecule, or captions of another number.

    >>> molecules(["CCO", "c1ccccc1"], ["ethanol", "benzene"]).axes[0].axison
    False
    """
    from rdkit.Chem import Draw, MolFromSmiles  # only molecules need it
    from rdkit.Chem.Draw import MolDrawOptions

    captions = list(captions) or [""] * len(smiles)
    if len(captions) != len(smiles):
        raise ValueError(f"captions must be {len(smiles)}, one a molecule, got {len(captions)}")
    drawn = [MolFromSmiles(one) for one in smiles]
    for one, molecule in zip(smiles, drawn):
        if molecule is None:
            raise ValueError(f"'{one}' is no molecule that RDKit can read")
    options = MolDrawOptions()
    options.drawMolsSameScale = False  # one long chain would make the others tiny
    count = checks.positive("the number of molecules", len(drawn))
    across = min(checks.positive("columns", columns), count)
    look: dict[str, Any] = {"molsPerRow": across, "subImgSize": SIZE, "drawOptions": options}
    look |= {"useSVG": False, "returnPNG": False}
    image = Draw.MolsToGridImage(drawn, legends=captions, **look)
    fig, axes = new_figure(image.width / DPI, image.height / DPI, dpi=DPI)
    axes[0, 0].imshow(image)
    axes[0, 0].axis("off")
    return fig


@style()
def asked_and_got(
    asked: Mapping[str, Array], got: Mapping[str, Array], data: Mapping[str, Array]
) -> Figure:
    """The quantities of molecules against those that were asked for: a panel for each.

    A point is a molecule, and the line joins the means of those with about the same request. The
    dashed line is where what was got equals what was asked for. The data's 5th to 95th percentile
    is shaded.

    Args:
        asked: quantity → what was asked for (n,).
        got: quantity → what the molecules have (n,).
        data: quantity → the data's values (m,).

    Raises:
        ValueError: a quantity that is missing, arrays of other lengths or with NaN.
    """
    need_entries(asked, "asked")
    fig, axes = new_figure(2.6 * len(asked) + 0.2, 2.6, 1, len(asked))
    for ax, name in zip(axes[0], asked):
        for given in (got, data):
            checks.known("quantity", name, given)
        x = checked(asked[name], "asked", "n")
        y = checked(got[name], "got", len(x))
        low, high = np.percentile(checked(data[name], "data", "m"), SPREAD)
        ax.axhspan(low, high, color=FAINT, linewidth=0)
        ax.plot(x, y, ".", color=COLORS[0], alpha=0.25, markersize=3, markeredgewidth=0)
        ax.plot(*_means(x, y), "o-", color=COLORS[0], markersize=4, markeredgecolor="white")
        ends = [min(x.min(), low), max(x.max(), high)]
        ax.plot(ends, ends, color=INK, linestyle=DASHED, linewidth=1)
        ax.set(xlabel=f"{name} asked for", ylabel=f"{name} got")
    return fig


def _means(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of x and y where x is about the same."""
    groups = np.unique(x, return_inverse=True)[1]
    if groups.max() >= MANY:
        edges = np.unique(np.quantile(x, np.linspace(0, 1, BINS + 1)))
        groups = np.searchsorted(edges[1:-1], x)
    counts = np.bincount(groups)
    return np.bincount(groups, x) / counts, np.bincount(groups, y) / counts
