"""The figures show what they were given, leave nothing behind, and refuse what they can't show."""

import doctest
import itertools
import re
import warnings
from importlib import import_module

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from fpnlib import plots

IMAGES = torch.rand(4, 3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
HISTORY = [
    {"epoch": i + 1, "train": 5.0 - i, "validation": v} for i, v in enumerate([5.0, 3.0, 4.0])
]
COUNTS = torch.tensor([[90, 10, 0], [0, 100, 0], [1, 1, 48]])
POINTS = torch.tensor([[0.0, 0], [1, 1], [2, 2], [10, 10], [11, 11], [12, 12]])
LABELS = torch.tensor([0, 0, 0, 1, 1, 1])
TABLE = pd.DataFrame({"model": ["SVM", "FPN"], "paper": [0.96, 0.97], "ours": [0.95, np.nan]})
COSTS = pd.DataFrame(
    {
        "flow": "maf",
        "implementation": ["nflows", "one pass"] * 2,
        "D": [8, 8, 64, 64],
        "seconds": [1, 0.5, 8, 0.6],
    }
)
GRID = torch.stack(
    torch.meshgrid(torch.linspace(-1, 1, 5), torch.linspace(-1, 1, 4), indexing="xy"), -1
)
U = torch.linspace(-4, 4, 2001)
P_U = torch.exp(-(U**2) / 2) / (2 * torch.pi) ** 0.5

FIGURES = {
    "grid": lambda: plots.grid(IMAGES, "abcd", [1, 2, "reconstruction"], "title", framed=[(1, 2)]),
    "grid of a list": lambda: plots.grid(IMAGES[0], columns=2),
    "grid in colour": lambda: plots.grid(IMAGES.expand(-1, -1, 3, -1, -1)),
    "grid of panels": lambda: plots.grid({"base": IMAGES, "plugin": IMAGES}, {"plugin": "abcd"}),
    "grid of labelled panels": lambda: plots.grid(
        {"C-MAF": IMAGES, "C-RNVP": IMAGES}, "abcd", row_title="class"
    ),
    "grid of clouds": lambda: plots.grid(torch.rand(2, 3, 50, 3), row_labels="ab"),
    "posteriors": lambda: plots.posteriors(
        IMAGES[0], torch.full((3, 2), 0.5).log(), labels=[0, 1, 1]
    ),
    "training_curves": lambda: plots.training_curves(
        {"C-MAF": HISTORY, "C-RNVP": HISTORY}, "loss (nats)"
    ),
    "training_curves apart": lambda: plots.training_curves(
        {"a": HISTORY, "b": HISTORY}, {"a": "nats", "b": "error"}
    ),
    "latent_spread": lambda: plots.latent_spread(POINTS, torch.ones(6, 2)),
    "confusion": lambda: plots.confusion(COUNTS, ["a", "b", "c"], "title"),
    "confusions": lambda: plots.confusions({"C-MAF": COUNTS, "C-RNVP": COUNTS}, top=3),
    "accuracies": lambda: plots.accuracies(TABLE),
    "costs": lambda: plots.costs(COSTS, ylabel="CPU time", reference="one pass"),
    "embedding": lambda: plots.embedding(
        {"base": (POINTS, LABELS), "plugin": (POINTS / 2, LABELS)}
    ),
    "densities": lambda: plots.densities(
        {"a": torch.rand(5, 6), "b": torch.rand(5, 6)}, (0, 6, 0, 5), samples={"b": POINTS}
    ),
    "change_of_variables": lambda: plots.change_of_variables(U, 2 * U, P_U, P_U / 2),
    "deformations": lambda: plots.deformations({"u": GRID, "x": 2 * GRID}),
    "jacobians": lambda: plots.jacobians({"layer": torch.tril(torch.ones(4, 4))}),
    **{f"schema {name}": lambda name=name: plots.schema(name) for name in plots.SCHEMAS},
}


@pytest.mark.parametrize("module", ["clouds", "look", "pictures", "schemas", "scores", "tables"])
def test_examples(module):
    result = doctest.testmod(import_module(f"fpnlib.plots.{module}"))
    assert result.attempted and not result.failed


def texts(fig):
    return [text.get_text() for ax in fig.axes for text in ax.texts]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_without_warnings_and_changes_nothing_global(name):
    before = dict(plt.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fig = FIGURES[name]()
        fig.canvas.draw()
    assert dict(plt.rcParams) == before
    assert not plt.get_fignums()
    drawn = [
        ax for ax in fig.axes if ax.axison and ax.lines and name != "posteriors"
    ]  # these share one label
    assert all(ax.get_xlabel() or ax.get_ylabel() or ax.get_title() for ax in drawn)


def test_the_best_epoch_is_that_of_the_validation_loss():
    (ax,) = plots.training_curves({"C-MAF": HISTORY}, "loss (nats)").axes
    marked = [line for line in ax.lines if line.get_marker() not in ("None", None, "")]
    assert [line.get_xydata().tolist() for line in marked] == [[[2.0, 3.0]]]
    assert "best: 3 (epoch 2)" in ax.get_legend().get_texts()[-1].get_text()


def test_the_confusion_matrix_is_in_percent_of_its_rows_and_hides_the_diagonal():
    fig = plots.confusion(COUNTS)
    shown = fig.axes[0].images[0].get_array()
    assert shown.mask.tolist() == np.eye(3, dtype=bool).tolist()
    assert shown[0, 1] == 10 and shown[2, 0] == 2
    assert sorted(texts(fig)) == sorted(["90.0", "10.0", "100", "2.0", "2.0", "96.0"])


def test_the_most_frequent_confusion_comes_first():
    (ax,) = plots.confusions({"C-MAF": COUNTS}, ["five", "zero", "nine"], top=2).axes
    assert ax.get_yticklabels()[0].get_text() == "five → zero"
    assert [bar.get_width() for bar in ax.containers[0]] == pytest.approx([10, 2])
    several = plots.confusions({"C-MAF": COUNTS, "C-RNVP": COUNTS})
    hatches = [bars[0].get_hatch() for bars in several.axes[0].containers]
    assert (
        len(set(hatches)) == 2
        and [key.get_hatch() for key in several.legends[0].legend_handles] == hatches
    )
    (ax,) = plots.confusions(
        {"C-MAF": COUNTS}, ["five", "zero", "nine"], first=[(2, 0)], top=2
    ).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["nine → five*", "five → zero"]


def test_a_score_that_is_not_reported_has_no_dot():
    (ax,) = plots.accuracies(TABLE).axes
    ours = next(line for line in ax.lines if line.get_label() == "ours")
    assert np.isfinite(ours.get_xdata()).tolist() == [True, False]
    assert {"0.9600", "0.9700", "0.9500", "–"} <= {text.get_text() for text in ax.texts}


def test_names_in_an_embedding_do_not_cover_each_other():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(5).repeat_interleave(20)
    points = (
        torch.randn(100, 2, generator=generator) + 8 * (labels > 3)[:, None]
    )  # four on one place, one elsewhere
    fig = plots.embedding(
        {"all": (points, labels)}, ["table", "desk", "night_stand", "dresser", "chair"]
    )
    fig.draw_without_rendering()
    boxes = [text.get_window_extent() for text in fig.axes[0].texts]
    assert len(boxes) == 5
    for a, b in itertools.combinations(boxes, 2):
        assert not a.overlaps(b)


def test_embeddings_share_their_axes_and_number_the_classes_at_their_medians():
    left, right = plots.embedding(
        {"base": (POINTS, LABELS), "plugin": (POINTS / 2, LABELS)}, ["0", "1"]
    ).axes
    assert left.get_xlim() == right.get_xlim() and left.get_ylim() == right.get_ylim()
    assert {text.get_text(): text.get_position() for text in left.texts} == {
        "0": (1, 1),
        "1": (11, 11),
    }


def test_longer_names_stand_above_their_points():
    (ax, *_) = plots.embedding({"base": (POINTS, LABELS)}, ["cat", "dog"]).axes
    points = torch.as_tensor(POINTS)
    for k, text in enumerate(ax.texts):
        x, y = text.get_position()
        own = points[torch.as_tensor(LABELS) == k]
        assert x == own[:, 0].median() and y > own[:, 1].max()


def test_ten_classes_have_ten_colours():
    fig = plots.embedding(
        {"all": (torch.rand(10, 2), 5 * torch.arange(10))}
    )  # ten of ShapeNet's 55, say
    assert len({key.get_color() for key in fig.legends[0].legend_handles}) == 10


def test_the_mass_of_an_interval_is_that_of_its_image():
    fig = plots.change_of_variables(U, 2 * U, P_U, P_U / 2, interval=(0, 1))
    (text,) = texts(fig)
    assert [line.split(": ")[1] for line in text.splitlines()[1:]] == ["0.3413", "0.3413"]


def test_exact_zeros_of_a_jacobian_are_hatched():
    fig = plots.jacobians(
        {"layer": torch.tril(torch.ones(4, 4)), "tiny": torch.full((4, 4), 1e-12)}
    )
    layer, tiny = (ax.images[0].get_array() for ax in fig.axes[:2])
    assert np.ma.getmaskarray(layer).sum() == 6 and not np.ma.getmaskarray(tiny).any()
    assert all(ax.patch.get_hatch() for ax in fig.axes[:2])


BAD = {
    "sum to 1": lambda: plots.posteriors(IMAGES[0], torch.zeros(3, 2)),
    "log_posterior must have shape (3, K), got (2, 2)": lambda: plots.posteriors(
        IMAGES[0], torch.zeros(2, 2)
    ),
    "must have rows with epoch, train and validation; it lacks validation": lambda: (
        plots.training_curves({"C-MAF": [{"epoch": 1, "train": 2.0}]}, "loss")
    ),
    "at least one training history": lambda: plots.training_curves({}, "loss"),
    "must have shape (K, K), got (2, 3)": lambda: plots.confusion(torch.ones(2, 3)),
    "no samples of class 1": lambda: plots.confusion(torch.tensor([[1, 0], [0, 0]])),
    "class_names must name 3 classes, got 2": lambda: plots.confusion(COUNTS, ["a", "b"]),
    "unknown column 'model'": lambda: plots.accuracies(TABLE.drop(columns="model")),
    "unknown column 'seconds'": lambda: plots.costs(COSTS.drop(columns="seconds")),
    "points must have shape (n, 2), got (6, 3)": lambda: plots.embedding(
        {"base": (torch.rand(6, 3), LABELS)}
    ),
    "labels must have shape (6,), got (5,)": lambda: plots.embedding(
        {"base": (POINTS, LABELS[:5])}
    ),
    "unknown panel 'c'": lambda: plots.densities(
        {"a": torch.rand(5, 6)}, (0, 6, 0, 5), samples={"c": POINTS}
    ),
    "density_x must have shape (2001,), got (5,)": lambda: plots.change_of_variables(
        U, 2 * U, P_U, P_U[:5]
    ),
    "unknown schema 'trainig'; did you mean 'training'?": lambda: plots.schema("trainig"),
}


def test_the_spread_of_latents_is_sorted_and_adds_up_to_their_variance():
    (ax,) = plots.latent_spread(
        torch.tensor([[0.0, -3.0], [2.0, 3.0]]), torch.full((2, 2), 0.5)
    ).axes
    between, within = ([bar.get_height() for bar in bars] for bars in ax.containers)
    assert between == [9, 1] and within == [0.25, 0.25]


@pytest.mark.parametrize("line", BAD)
def test_what_can_not_be_shown_is_said_in_one_line(line):
    with pytest.raises(ValueError, match=f"^.*{re.escape(line)}.*$"):
        BAD[line]()


def test_in_a_trade_off_points_grow_with_the_dial():
    rows = [
        {"model": m, "T": t, "diversity": t + k, "right class": 1 - t / 4}
        for k, m in enumerate("ab")
        for t in (1.0, 0.5)
    ]
    fig = plots.trade_off(
        pd.DataFrame(rows), x="diversity", y="right class", hue="model", along="T", mark=1
    )
    points = [line for line in fig.axes[0].lines if len(line.get_xdata()) == 1]
    assert [line.get_xdata()[0] for line in points] == [0.5, 1, 1.5, 2]
    small, large, *_ = (line.get_markersize() for line in points)
    assert small < large and points[0].get_markeredgecolor() != points[1].get_markeredgecolor()
    assert [text.get_text().strip() for text in fig.legends[0].get_texts()] == [
        "a",
        "b",
        "T",
        "0.5",
        "1",
    ]
    with pytest.raises(ValueError, match="unknown column 'diversty'; did you mean 'diversity'?"):
        plots.trade_off(pd.DataFrame(rows), x="diversty", y="right class", hue="model", along="T")


def test_a_long_dial_names_its_ends_and_its_mark():
    table = pd.DataFrame(
        {"editor": "a", "strength": [0, 0.5, 1, 1.5, 2], "x": range(5), "y": range(5)}
    )
    fig = plots.trade_off(table, x="x", y="y", hue="editor", along="strength", mark=1)
    assert [text.get_text() for text in fig.legends[0].get_texts()][-3:] == ["0", "1", "2"]


def test_a_reference_is_dashed_and_times_have_units():
    (ax,) = plots.costs(COSTS, ylabel="CPU time", reference="one pass").axes
    assert [line.get_linestyle() for line in ax.lines] == [
        "-",
        "--",
    ] and ax.get_ylabel() == "CPU time"
    ax.figure.draw_without_rendering()
    assert {"500 ms", "1 s", "5 s"} <= {label.get_text() for label in ax.get_yticklabels()}
