"""The figures show what they were given, leave nothing behind, and refuse what they can't show."""

import itertools
import re
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from laws import refusals

from fpnlib import plots

IMAGES = torch.rand(4, 3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
HISTORY = [
    {"epoch": i + 1, "train": 5.0 - i, "validation": v} for i, v in enumerate([5.0, 3.0, 4.0])
]
CURVES = pd.DataFrame(HISTORY)
COUNTS = torch.tensor([[90, 10, 0], [0, 100, 0], [1, 1, 48]])
POINTS = torch.tensor([[0.0, 0], [1, 1], [2, 2], [10, 10], [11, 11], [12, 12]])
LABELS = torch.tensor([0, 0, 0, 1, 1, 1])
TABLE = pd.DataFrame({"model": ["SVM", "FPN"], "paper": [0.96, 0.97], "ours": [0.95, np.nan]})
COSTS = pd.DataFrame({"flow": "maf", "D": [8, 8, 64, 64], "seconds": [1, 0.5, 8, 0.6]})
COSTS["implementation"] = ["nflows", "one pass"] * 2
EDITS = pd.DataFrame({"editor": ["ours"] * 2 + ["theirs"] * 2, "achieved": [0.9, 1.0, 0.5, 0.7]})
EDITS["attribute"] = ["Smiling", "Wearing_Hat"] * 2
EDITS["others"] = [0.01, 0.02, 0.03, 0.04]
SCORES = {"achieved": "achieved", "others": "others changed"}
GRID = torch.cartesian_prod(torch.linspace(-1, 1, 4), torch.linspace(-1, 1, 5)).unflatten(0, (4, 5))
U = torch.linspace(-4, 4, 2001)
P_U = torch.exp(-(U**2) / 2) / (2 * torch.pi) ** 0.5
TWICE = (U, 2 * U, P_U, P_U / 2)
HALVES = {"base": (POINTS, LABELS), "plugin": (POINTS / 2, LABELS)}
DENSITIES = {"a": torch.rand(5, 6), "b": torch.rand(5, 6)}, (0, 6, 0, 5)
HALF = torch.full((3, 2), 0.5)
TWO = {"C-MAF": COUNTS, "C-RNVP": COUNTS}

FIGURES = {
    "grid": lambda: plots.grid(IMAGES, "abcd", [1, 2, "reconstruction"], "title", framed=[(1, 2)]),
    "grid of a list": lambda: plots.grid(IMAGES[0], columns=2),
    "grid in colour": lambda: plots.grid(IMAGES.expand(-1, -1, 3, -1, -1)),
    "grid of panels": lambda: plots.grid({"base": IMAGES, "plugin": IMAGES}, {"plugin": "abcd"}),
    "grid of labelled panels": lambda: plots.grid({"a": IMAGES}, "abcd", row_title="class"),
    "grid of clouds": lambda: plots.grid(torch.rand(2, 3, 50, 3), row_labels="ab"),
    "posteriors": lambda: plots.posteriors(IMAGES[0], HALF.log(), "ab", labels=["a", "b", "b"]),
    "training_curves": lambda: plots.training_curves({"a": HISTORY, "b": CURVES}, "nats"),
    "training_curves apart": lambda: plots.training_curves({"a": HISTORY}, {"a": "error"}),
    "latent_spread": lambda: plots.latent_spread(POINTS, torch.ones(6, 2)),
    "confusion": lambda: plots.confusion(COUNTS, ["a", "b", "c"], "title"),
    "confusions": lambda: plots.confusions(TWO, top=3),
    "accuracies": lambda: plots.accuracies(TABLE),
    "attribute_scores": lambda: plots.attribute_scores(EDITS, SCORES),
    "costs": lambda: plots.costs(COSTS, ylabel="CPU time", reference="one pass"),
    "embedding": lambda: plots.embedding(HALVES),
    "densities": lambda: plots.densities(*DENSITIES, samples={"b": POINTS}),
    "change_of_variables": lambda: plots.change_of_variables(*TWICE),
    "deformations": lambda: plots.deformations({"u": GRID, "x": 2 * GRID}),
    "jacobians": lambda: plots.jacobians({"layer": torch.tril(torch.ones(4, 4))}),
    **{f"schema {name}": lambda name=name: plots.schema(name) for name in plots.SCHEMAS},
}


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
    for ax in fig.axes:
        unlabelled = not (ax.get_xlabel() or ax.get_ylabel() or ax.get_title())
        # The panels of posteriors share one label.
        assert not (ax.axison and ax.lines and unlabelled) or name == "posteriors"


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
    several = plots.confusions(TWO)
    hatches = [bars[0].get_hatch() for bars in several.axes[0].containers]
    assert len(set(hatches)) == 2
    assert [key.get_hatch() for key in several.legends[0].legend_handles] == hatches
    names = ["five", "zero", "nine"]
    (ax,) = plots.confusions({"C-MAF": COUNTS}, names, first=[(2, 0)], top=2).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["nine → five*", "five → zero"]


def test_a_score_that_is_not_reported_has_no_dot():
    (ax,) = plots.accuracies(TABLE).axes
    ours = next(line for line in ax.lines if line.get_label() == "ours")
    assert np.isfinite(ours.get_xdata()).tolist() == [True, False]
    assert {"0.9600", "0.9700", "0.9500", "–"} <= {text.get_text() for text in ax.texts}


def test_names_in_an_embedding_do_not_cover_each_other():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(5).repeat_interleave(20)
    # Four classes are at one place, one is elsewhere.
    points = torch.randn(100, 2, generator=generator) + 8 * (labels > 3)[:, None]
    names = ["table", "desk", "night_stand", "dresser", "chair"]
    fig = plots.embedding({"all": (points, labels)}, names)
    fig.draw_without_rendering()
    boxes = [text.get_window_extent() for text in fig.axes[0].texts]
    assert len(boxes) == 5
    for a, b in itertools.combinations(boxes, 2):
        assert not a.overlaps(b)


def test_embeddings_share_their_axes_and_number_the_classes_at_their_medians():
    left, right = plots.embedding(HALVES, ["0", "1"]).axes
    assert left.get_xlim() == right.get_xlim() and left.get_ylim() == right.get_ylim()
    shown = {text.get_text(): text.get_position() for text in left.texts}
    assert shown == {"0": (1, 1), "1": (11, 11)}


def test_longer_names_stand_above_their_points():
    (ax, *_) = plots.embedding({"base": (POINTS, LABELS)}, ["cat", "dog"]).axes
    for k, text in enumerate(ax.texts):
        x, y = text.get_position()
        own = POINTS[LABELS.eq(k)]
        assert x == own[:, 0].median() and y > own[:, 1].max()


def test_ten_classes_have_ten_colours():
    ten_of_55 = 5 * torch.arange(10)
    fig = plots.embedding({"all": (torch.rand(10, 2), ten_of_55)})
    assert len({key.get_color() for key in fig.legends[0].legend_handles}) == 10


def test_the_mass_of_an_interval_is_that_of_its_image():
    for factor in (2, -2):  # also if T decreases
        fig = plots.change_of_variables(U, factor * U, P_U, P_U / 2, interval=(0, 1))
        (text,) = texts(fig)
        assert [line.split(": ")[1] for line in text.splitlines()[1:]] == ["0.3413", "0.3413"]


def test_exact_zeros_of_a_jacobian_are_hatched():
    ones = torch.ones(4, 4)
    fig = plots.jacobians({"layer": torch.tril(ones), "tiny": 1e-12 * ones})
    layer, tiny = (ax.images[0].get_array() for ax in fig.axes[:2])
    assert np.ma.getmaskarray(layer).sum() == 6 and not np.ma.getmaskarray(tiny).any()
    assert all(ax.patch.get_hatch() for ax in fig.axes[:2])


BAD = {
    "sum to 1": lambda: plots.posteriors(IMAGES[0], torch.zeros(3, 2), labels=[0, 1, 1]),
    "class 2 is out of range": lambda: plots.posteriors(IMAGES[0], HALF.log(), labels=[0, 1, 2]),
    "class -1 is out of range": lambda: plots.posteriors(IMAGES[0], HALF.log(), labels=[0, 1, -1]),
    "shape (3, K), got (2, 2)": lambda: plots.posteriors(IMAGES[0], HALF[:2], labels=[0, 1]),
    "unknown column 'train'": lambda: plots.training_curves({"a": [{"epoch": 1}]}, "loss"),
    "must have shape (K, K), got (2, 3)": lambda: plots.confusion(torch.ones(2, 3)),
    "no samples of class 1": lambda: plots.confusion(torch.tensor([[1, 0], [0, 0]])),
    "class_names must name 3 classes, got 2": lambda: plots.confusion(COUNTS, ["a", "b"]),
    "unknown column 'model'": lambda: plots.accuracies(TABLE.drop(columns="model")),
    "unknown column 'seconds'": lambda: plots.costs(COSTS.drop(columns="seconds")),
    "did you mean 'achieved'": lambda: plots.attribute_scores(EDITS, {"achived": "x"}),
    "points must have shape (n, 2), got (6,)": lambda: plots.embedding({"a": (LABELS, LABELS)}),
    "labels must have shape (6,), got (5,)": lambda: plots.embedding({"a": (POINTS, LABELS[:5])}),
    "unknown panel 'c'": lambda: plots.densities(*DENSITIES, samples={"c": POINTS}),
    "must have shape (2001,), got (1,)": lambda: plots.change_of_variables(*TWICE[:3], P_U[:1]),
    "unknown schema 'trainig'; did you mean 'training'?": lambda: plots.schema("trainig"),
}


def test_the_spread_of_latents_is_sorted_and_adds_up_to_their_variance():
    mean = torch.tensor([[0.0, -3.0], [2.0, 3.0]])
    (ax,) = plots.latent_spread(mean, torch.full((2, 2), 0.5)).axes
    between, within = ([bar.get_height() for bar in bars] for bars in ax.containers)
    assert between == [9, 1] and within == [0.25, 0.25]


ROWS = [(call, re.escape(line)) for line, call in BAD.items()]
test_what_can_not_be_shown_is_said_in_one_line = refusals(ROWS)

NOTHING = [
    lambda: plots.training_curves({}, {}),
    lambda: plots.confusions({}),
    lambda: plots.embedding({}),
    lambda: plots.densities({}, (0, 1, 0, 1)),
    lambda: plots.deformations({}),
    lambda: plots.attribute_scores(EDITS, {}),
    lambda: plots.accuracies(TABLE[:0]),
    lambda: plots.asked_and_got({}, {}, {}),
    lambda: plots.grid({}),
]
test_nothing_to_draw_is_said_in_one_line = refusals(
    [(call, "must not be empty: there is nothing to draw") for call in NOTHING]
)


def test_in_a_trade_off_points_grow_with_the_dial():
    rows = [("a", 1.0, 1.0), ("a", 0.5, 0.5), ("b", 1.0, 2.0), ("b", 0.5, 1.5)]
    table = pd.DataFrame(rows, columns=["model", "T", "diversity"])
    table["right class"] = 1 - table["T"] / 4
    axes = {"y": "right class", "hue": "model", "along": "T"}
    fig = plots.trade_off(table, x="diversity", mark=1, **axes)
    points = [line for line in fig.axes[0].lines if len(line.get_xdata()) == 1]
    assert [line.get_xdata()[0] for line in points] == [0.5, 1, 1.5, 2]
    small, large, *_ = (line.get_markersize() for line in points)
    assert small < large and points[0].get_markeredgecolor() != points[1].get_markeredgecolor()
    shown = [text.get_text().strip() for text in fig.legends[0].get_texts()]
    assert shown == ["a", "b", "T", "0.5", "1"]
    with pytest.raises(ValueError, match="unknown column 'diversty'; did you mean 'diversity'?"):
        plots.trade_off(table, x="diversty", **axes)


def test_a_long_dial_names_its_ends_and_its_mark():
    table = pd.DataFrame({"editor": "a", "strength": [0, 0.5, 1, 1.5, 2]})
    table["x"] = table["y"] = range(5)
    fig = plots.trade_off(table, x="x", y="y", hue="editor", along="strength", mark=1)
    assert [text.get_text() for text in fig.legends[0].get_texts()][-3:] == ["0", "1", "2"]


def test_a_reference_is_dashed_and_times_have_units():
    (ax,) = plots.costs(COSTS, ylabel="CPU time", reference="one pass").axes
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--"]
    assert ax.get_ylabel() == "CPU time"
    ax.figure.draw_without_rendering()
    assert {"500 ms", "1 s", "5 s"} <= {label.get_text() for label in ax.get_yticklabels()}


def test_scores_of_edits_stand_at_their_values():
    figure = plots.attribute_scores(EDITS, SCORES)
    first, second = figure.axes
    assert first.get_xlabel() == "achieved" and second.get_xlabel() == "others changed"
    assert [line.get_xdata().tolist() for line in first.lines] == [[0.9, 1.0], [0.5, 0.7]]
    assert [label.get_text() for label in first.get_yticklabels()] == ["Smiling", "Wearing Hat"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ours", "theirs"]


def test_the_floor_of_edits_is_shown_if_the_panel_reaches_down_to_it():
    floor = EDITS[:2].assign(editor="no edit", achieved=0.6, others=0.0)
    first, second = plots.attribute_scores(pd.concat([EDITS, floor]), SCORES, floor="no edit").axes
    assert first.lines[-1].get_xdata().tolist() == [0.6, 0.6]
    assert first.lines[-1].get_label() == "no edit"
    assert len(second.lines) == 2 and first.get_xlim()[0] < 0.6
