"""Losses, latents, confusions and posteriors (section 3.4; Figures 7 to 11)."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fpnlib import checks
from fpnlib.plots.given import Array, checked, names_of, need_columns, need_entries
from fpnlib.plots.look import COLORS, DASHED, FAINT, INK, MARKERS, MUTED, key, new_figure, style

HATCHES = ("", "////", "....", "xxxx")


@style()
def training_curves(
    histories: Mapping[str, Sequence[Mapping] | pd.DataFrame], ylabel: str | Mapping[str, str]
) -> Figure:
    """Training (dashed) and validation (solid) loss against the epoch, the best epoch marked.

    Args:
        histories: name → rows with "epoch", "train" and "validation", as
            ``training.History.epochs`` has them, or a table of these columns.
        ylabel: the loss and its unit. A mapping name → label draws each history in its own panel.

    >>> history = [{"epoch": 1, "train": 2.0, "validation": 2.5}]
    >>> training_curves({"C-MAF": history}, "nats").axes[0].get_xlabel()
    'epoch'
    """
    need_entries(histories, "histories")
    apart = not isinstance(ylabel, str)
    labels = dict.fromkeys(histories, ylabel) if isinstance(ylabel, str) else ylabel
    count = len(histories) if apart else 1
    columns = 2 if count == 4 else min(3, count)
    rows, width = math.ceil(count / columns), 3.6 if apart else 5.2
    fig, axes = new_figure(width * columns, 3.1 * rows, rows, columns)
    for ax in axes.flat[count:]:
        ax.remove()
    for i, (name, history) in enumerate(histories.items()):
        color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
        ax = axes.flat[i % count]
        epoch, train, validation = _losses(name, history)
        best = int(validation.argmin())
        text = f"best: {validation[best]:.4g} (epoch {epoch[best]:g})"
        ax.plot(epoch, train, color=color, linestyle=DASHED, linewidth=1)
        ax.plot(epoch, validation, color=color)
        look = {"color": color, "marker": marker, "markeredgecolor": INK}
        label = text if apart else f"{name}, {text}"
        ax.plot(epoch[best], validation[best], label=label, **look)
        ax.set(xlabel="epoch", ylabel=labels[name], title=name if apart else "")
    for ax in axes.flat[:count]:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        _clip_top(ax)
        kinds = [
            key(color=MUTED, linestyle=DASHED, linewidth=1, label="training"),
            key(color=MUTED, linestyle="-", label="validation"),
        ]
        ax.legend(handles=kinds + ax.get_legend_handles_labels()[0])
    return fig


@style()
def latent_spread(mean: Array, std: Array) -> Figure:
    """Split each latent dimension's variance into that of the means and that of the posteriors.

    Args:
        mean: the posteriors' means (n, D). Dimensions are sorted by their variance.
        std: the posteriors' standard deviations (n, D).
    """
    mean = checked(mean, "mean", "n", "D")
    std = checked(std, "std", *mean.shape)
    between, within = mean.var(0), np.square(std).mean(0)
    order = np.argsort(-between)
    between, within, place = between[order], within[order], np.arange(1, len(order) + 1)
    fig, axes = new_figure(6.2, 2.9)
    ax = axes[0, 0]
    ax.bar(place, between, color=COLORS[0], label="variance of the means")
    noise = {"color": COLORS[1], "hatch": "////", "edgecolor": "white", "linewidth": 0}
    ax.bar(place, within, bottom=between, label="mean variance of the posteriors", **noise)
    ax.axhline(1, color=INK, linewidth=0.8, linestyle=DASHED, label="variance of the prior")
    ax.set(xlabel="latent dimension, sorted", ylabel="variance", xlim=(0, len(order) + 1))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    fig.legend(loc="outside upper center", ncols=3)
    return fig


@style()
def confusion(
    matrix: Array,
    class_names: Sequence | None = None,
    title: str | None = None,
    *,
    row_title: str = "requested class",
    column_title: str = "judged class",
) -> Figure:
    """A confusion matrix in percent of its rows; the diagonal is muted, so confusions stand out.

    Args:
        matrix: counts or rates (K, K); row: true or requested class, column: judged class.
        class_names: K names; None: the indices.
        title: of the figure.
        row_title: what the rows are.
        column_title: what the columns are.
    """
    percent = 100 * _rates(matrix)
    classes = len(percent)
    names = names_of(class_names, classes)
    off = np.ma.masked_array(percent, np.eye(classes, dtype=bool))
    top = max(float(off.max()) if classes > 1 else 0, 0.5)
    fig, axes = new_figure(0.43 * classes + 1.5, 0.4 * classes + 0.9)
    ax = axes[0, 0]
    ax.set_facecolor(FAINT)  # of the diagonal
    shown = ax.imshow(off, cmap="YlOrBr", vmin=0, vmax=top)
    for i, j in np.ndindex(classes, classes):
        value = percent[i, j]
        if i == j or value >= 0.05:
            text = f"{value:.1f}" if value < 99.95 else "100"
            color = MUTED if i == j else "white" if value > 0.65 * top else INK
            ax.text(j, i, text, ha="center", va="center", color=color, fontsize=7)
    ax.set_xticks(range(classes), names)
    ax.set_yticks(range(classes), names)
    ax.set(xlabel=column_title, ylabel=row_title, title=title or "")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    bar = fig.colorbar(shown, ax=ax, label="confused, % of the row", shrink=0.8, pad=0.02)
    bar.outline.set_visible(False)
    return fig


@style()
def confusions(
    matrices: Mapping[str, Array],
    class_names: Sequence | None = None,
    *,
    first: Sequence[tuple[int, int]] = (),
    top: int = 8,
) -> Figure:
    """The most frequent confusions, in percent of the true or requested class, one bar a model.

    Args:
        matrices: model → confusion matrix (K, K) as for :func:`confusion`.
        class_names: K names; None: the indices.
        first: pairs (class, taken for) to show first, however rare, marked with a star.
        top: how many pairs to show; the others are ordered by their sum over the models.
    """
    need_entries(matrices, "matrices")
    rates = {name: _rates(matrix) for name, matrix in matrices.items()}
    classes = len(next(iter(rates.values())))
    names = names_of(class_names, classes)
    total = np.sum(list(rates.values()), axis=0) * (1 - np.eye(classes))
    order = np.unravel_index(np.argsort(-total, axis=None, kind="stable"), total.shape)
    others = [(i, j) for i, j in zip(*order) if i != j and (i, j) not in first]
    pairs = [*first, *others][: checks.positive("top", top)]
    texts = []
    for i, j in pairs:
        star = "*" if (i, j) in first else ""
        texts.append(f"{names[i]} → {names[j]}{star}")
    fig, axes = new_figure(4.6, 0.3 * len(pairs) * max(1, 0.45 * len(rates)) + 0.9)
    ax = axes[0, 0]
    places, height = np.arange(len(pairs)), 0.8 / len(rates)
    for k, (name, rate) in enumerate(rates.items()):
        percent = [100 * rate[pair] for pair in pairs]
        look = {"color": COLORS[k % len(COLORS)], "hatch": HATCHES[k % len(HATCHES)]}
        look |= {"edgecolor": "white", "linewidth": 0.5}
        ax.barh(places - 0.4 + (k + 0.5) * height, percent, height, label=name, **look)
    ax.set_yticks(places, texts)
    ax.set(xlabel="% of the first class taken for the second", ylim=(len(pairs) - 0.5, -0.5))
    fig.legend(loc="outside upper center", ncols=2)
    return fig


@style()
def posteriors(
    images: Array, log_posterior: Array, class_names: Sequence | None = None, *, labels: Array
) -> Figure:
    """Images with their class posteriors p(y | z) beneath (eq. 15); the most probable is darker.

    Args:
        images: (n, channels, h, w) in [0, 1].
        log_posterior: natural logarithms (n, K); each row's exponentials sum to one.
        class_names: K names; None: the indices.
        labels: true classes (n,), names or indices, which are marked with a triangle.
    """
    images = checked(images, "images", "n", "channels", "h", "w")
    probabilities = checked(checks.numbers(log_posterior).exp(), "log_posterior", len(images), "K")
    if not np.allclose(probabilities.sum(1), 1, atol=1e-3):
        raise ValueError("log_posterior's rows must be logarithms of probabilities that sum to 1")
    n, classes = probabilities.shape
    names = names_of(class_names, classes)
    true = checks.labels(labels, names).numpy(force=True)
    checks.same_length(images, true, ("images", "labels"))
    columns = min(5, n)
    bands = math.ceil(n / columns)
    heights = [1.3, 1] * bands
    fig, axes = new_figure(1.45 * columns, 2.3 * bands, 2 * bands, columns, height_ratios=heights)
    fig.set_dpi(200)
    triangle = {"marker": "v", "color": COLORS[3], "markersize": 4.5}
    for ax in axes.flat:
        ax.axis("off")
    for k, (picture, bars) in enumerate(zip(axes[::2].flat[:n], axes[1::2].flat[:n])):
        best = int(probabilities[k].argmax())
        picture.imshow(images[k].transpose(1, 2, 0), cmap="gray_r", vmin=0, vmax=1)
        picture.set_title(f"{names[best]} ({_percent(probabilities[k, best])})")
        bars.axis("on")
        _posterior_bars(bars, probabilities[k], names)
        if k % columns == 0:
            bars.set_ylabel("p(y | z)")
        height = min(probabilities[k, true[k]] + 0.06, 1.06)
        bars.plot(true[k], height, clip_on=False, **triangle)
    fig.legend(handles=[key(label="true class", **triangle)], loc="outside lower right")
    return fig


def _posterior_bars(ax: Axes, probabilities: np.ndarray, names: list[str]) -> None:
    classes = len(names)
    bars = ax.bar(range(classes), probabilities, color="0.75", width=0.8)
    bars[int(probabilities.argmax())].set_facecolor(COLORS[0])
    ax.set(ylim=(0, 1.12), yticks=[0, 1], xlim=(-0.6, classes - 0.4))
    turned = 0 if max(map(len, names)) < 3 else 90
    ax.set_xticks(range(classes), names, rotation=turned, fontsize=7)
    ax.tick_params(length=2)


def _percent(probability: float) -> str:
    return f"{100 * probability:.0f} %" if probability < 0.995 else "> 99 %"


def _losses(name: str, history: Sequence[Mapping] | pd.DataFrame) -> list[np.ndarray]:
    """The columns epoch, train and validation of a history."""
    table, columns = pd.DataFrame(history), ("epoch", "train", "validation")
    need_columns(table, *columns)
    return [checked(table[column], f"history '{name}', {column},", "n") for column in columns]


def _clip_top(ax: Axes) -> None:
    """Keep a few huge first losses from flattening the rest of the curves."""
    losses = np.concatenate([line.get_ydata() for line in ax.lines])
    low, high = losses.min(), np.quantile(losses, 0.97)
    if losses.max() - low > 2.5 * (high - low) > 0:
        ax.set_ylim(low - 0.08 * (high - low), high + 0.25 * (high - low))


def _rates(matrix: Array) -> np.ndarray:
    """A confusion matrix as shares of its rows."""
    counts = checked(matrix, "the confusion matrix", "K", "K").astype(float)
    sizes = counts.sum(1, keepdims=True)
    empty = np.flatnonzero(sizes == 0)
    if len(empty):
        raise ValueError(f"the confusion matrix has no samples of class {empty[0]}")
    return counts / sizes
