"""README's code runs, and its tables show what the runs in outputs/ recorded, to the last digit."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from fpnlib.families import DIGITS, SHAPES
from fpnlib.families.settings import resolve
from fpnlib.store import Manifest

PAPER, PAPER_2 = DIGITS.paper, SHAPES.paper
ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
FLOWS = {"maf": "C-MAF", "realnvp": "C-RNVP"}
BASELINES = {
    "logistic_regression": "logistic regression",
    "linear_svm": "linear SVM",
    "rbf_svm": "RBF SVM",
    "automl": "AutoML",
}
MODELS = BASELINES | {key: f"FPN ({name})" for key, name in FLOWS.items()}


class Results:
    """What a run's notebook recorded, by quantity."""

    def __init__(self, run: str, notebook: str):
        self.path = ROOT / "outputs" / run / "results" / f"{notebook}.json"
        if not self.path.is_file():
            pytest.skip(f"needs {self.path.relative_to(ROOT)}")
        self.records = {record["quantity"]: record for record in json.loads(self.path.read_text())}

    def of(self, quantity: str, field: str) -> float | str:
        if field not in (record := self.records.get(quantity, {})):
            older = f"{self.path.relative_to(ROOT)} is older than its notebook"
            pytest.fail(f"{older}: no {field} of '{quantity}'", pytrace=False)
        return record[field]

    def __call__(self, quantity: str, digits: int = 4, bold: bool = False) -> str:
        text = f"{self.of(quantity, 'value'):.{digits}f}"
        return f"**{text}**" if bold else text


def table_1() -> list[list[str]]:
    results, rows = Results("paper", "08_classification"), []
    for key, name in MODELS.items():
        means = (
            results(f"Table 1, {name}, means, test accuracy") if key in ("rbf_svm", *FLOWS) else "–"
        )
        ours = f"Table 1, {name}, draws, test accuracy"
        chosen = f" ({results.of(ours, 'chosen')})" if key == "automl" else ""
        rows.append([name + chosen, f"{PAPER[key][1]:.4f}", results(ours, bold=True), means])
    return rows


def seeds() -> list[list[str]]:
    path = ROOT / "outputs/mnist_seeds" / Manifest.SUMMARY
    means, rows = pd.read_csv(path).set_index("quantity")["mean ± std"], []
    for key, name in MODELS.items():
        ours = [f"Table 1, {name}, {kind}, test accuracy" for kind in ("draws", "means")]
        ours.append(f"test accuracy, ConvAE + {FLOWS.get(key)}")
        rows.append([name, *(means.get(quantity, "–") for quantity in ours)])
    return rows


def variants() -> list[list[str]]:
    results, rows = Results("paper", "08_classification"), []
    manifest = json.loads((ROOT / "outputs/paper/manifest.json").read_text())
    authors = manifest["notebooks"]["08_classification"]["parameters"]["authors_width"]
    chosen = resolve(DIGITS, "paper")["flow_width"]
    for name in FLOWS.values():
        row = [name]
        for draws, wide in (
            ("fresh", chosen),
            ("fixed", chosen),
            ("fresh", authors),
            ("fixed", authors),
        ):
            variant = f"ConvVAE + {name}, {draws} draws, width {wide}, flat prior"
            row.append(
                " / ".join(
                    results(f"test accuracy on {kind}, {variant}") for kind in ("draws", "means")
                )
            )
        rows.append(row)
    return rows


def on_request() -> list[list[str]]:
    results, rows = Results("paper", "04_conditional_generation"), []
    fitted = ["class Gaussians", "class mixtures", *FLOWS.values(), "test images"]
    ways = [("ConvVAE", way) for way in ["unconditional", *fitted, "test images, one draw"]]
    for base, way in [*ways, *(("ConvAE", way) for way in fitted), ("–", "test images themselves")]:
        of = f"{base}, {way}"
        cooler = f"right class at temperature 0.9, {base} + {way}"
        rows.append([
            way if base == "–" else of,
            results(f"right class, {of}", 3),
            results(cooler, 3) if way in FLOWS.values() else "–",
            results(f"Fréchet distance, {of}", 2),
            results(f"diversity, {of}", 2),
        ])  # fmt: skip
    return rows


def table_2() -> list[list[str]]:
    results, rows = Results("paper", "08_classification"), []
    for key, name in BASELINES.items():
        rows.append([name, "–", f"{PAPER_2[key][1]:.4f}", f"Table 2, {name}"])
    for key, name in FLOWS.items():
        for prior in ("flat", "train"):
            paper = f"{PAPER_2[key][1]:.4f}" if key in PAPER_2 else "–"
            rows.append([f"FPN ({name})", prior, paper, f"Table 2, FPN ({name}), {prior} prior"])
    ours = ("{}, test accuracy", "{}, test, macro accuracy")
    return [
        [*row, results(ours[0].format(of), bold=True), results(ours[1].format(of))]
        for *row, of in rows
    ]


def shapes() -> list[list[str]]:
    runs, rows = [Results(run, "06_point_clouds") for run in ("drawn_shapes", "paper")], []
    for way in (
        "test shapes",
        "training shapes",
        "reconstructions of test",
        "category Gaussians",
        *FLOWS.values(),
    ):
        scores = [f"{score}, {way}" for score in ("right class", "coverage", "1-nna")]
        row = [way]
        for results in runs:
            row.append(results(scores[0], 3))
            if way == "test shapes":  # the others are compared with them
                row += ["–", "–"]
            else:
                row += [results(score, 3) for score in scores[1:]]
        rows.append(row)
    return rows


def faces() -> list[list[str]]:
    runs, rows = [Results(run, "07_attribute_editing") for run in ("drawn_faces", "paper")], []
    for editor in ("C-MAF (ours)", "MSP's own", "difference of means"):
        scores = [
            f"{score}, {editor}" for score in ("achieved", "others", "achieved at equal 'others'")
        ]
        rows.append([editor, *(results(score, 3) for results in runs for score in scores)])
    return rows


TABLES = {
    "| model | paper, test |": table_1,
    "| model | ConvVAE, one draw": seeds,
    "| flow | fresh draws": variants,
    "| latents from |": on_request,
    "| model | prior | paper (ShapeNet)": table_2,
    "| shapes | drawn": shapes,
    "| editor | drawn": faces,
}


def table(header: str) -> list[str]:
    """The rows of the table in README whose head begins with ``header``."""
    lines = README.splitlines()
    (start,) = (i for i, line in enumerate(lines) if line.startswith(header))
    rows = lines[start + 2 :]
    return rows[: next(i for i, line in enumerate(rows) if not line.startswith("|"))]


@pytest.mark.parametrize("header", TABLES)
def test_a_table_is_what_the_runs_recorded(header):
    expected = ["| " + " | ".join(row) + " |" for row in TABLES[header]()]
    if table(header) != expected:
        pytest.fail(
            "README's table should have these rows:\n\n" + "\n".join(expected) + "\n", pytrace=False
        )


@pytest.mark.parametrize(
    ("said", "run", "notebook", "quantity"),
    [
        (r"1,024 points: ([\d.]+) and", "drawn_shapes", "06_point_clouds", "judge, test accuracy"),
        (
            r"1,024 points: [\d.]+ and ([\d.]+)\.",
            "paper",
            "06_point_clouds",
            "judge, test accuracy",
        ),
        (
            r"\(([\d.]+) right on test faces\)",
            "paper",
            "07_attribute_editing",
            "judge, test accuracy, mean over attributes",
        ),
        (
            r"reads ([\d.]+) of the attributes as asked for before",
            "paper",
            "07_attribute_editing",
            "achieved, no edit",
        ),
    ],
)
def test_a_number_in_the_text_is_what_the_runs_recorded(said, run, notebook, quantity):
    assert re.findall(said, " ".join(README.split())) == [Results(run, notebook)(quantity, 3)]


@pytest.mark.parametrize(
    ("said", "file", "rows", "column", "which"),
    [
        (
            r"ConvVAE's flow ([\d,.]+) times faster",
            "flows",
            "sample 10,000: D 40",
            "over nflows",
            min,
        ),
        (
            r"2,048-dimensional layer ([\d,.]+) times",
            "flows",
            "sample 10: D 2048",
            "over nflows",
            min,
        ),
        (
            r"ten classes' densities ([\d,.]+) times",
            "flows",
            "10,000 latents under 10",
            "over nflows",
            min,
        ),
        (
            r"training step ([\d,.]+) to [\d,.]+ times",
            "flows",
            "training step of 1,024",
            "over nflows",
            min,
        ),
        (
            r"training step [\d,.]+ to ([\d,.]+) times",
            "flows",
            "training step of 1,024",
            "over nflows",
            max,
        ),
        (
            r"density needs is ([\d,.]+) times",
            "decoding",
            "with the trace, as the original",
            "times",
            min,
        ),
        (r"\[an edit\]\S+ takes ([\d,.]+) ms", "edit_latency", "all", "95th percentile ms", min),
    ],
)
def test_a_speed_in_the_text_is_what_the_benchmark_measured(said, file, rows, column, which):
    table = pd.read_csv(ROOT / "outputs" / "benchmarks" / f"{file}.csv")
    measured = table.loc[table.iloc[:, 0].str.startswith(rows), column]
    (text,) = re.findall(said, " ".join(README.split()))
    assert float(text.replace(",", "")) == pytest.approx(which(measured), rel=0.03)  # as rounded


def test_the_longest_training_takes_what_is_said():
    seconds = json.loads((ROOT / "outputs/paper/manifest.json").read_text())["seconds"]
    (said,) = re.findall(r"ConvVAE's training alone takes (\d+) minutes", " ".join(README.split()))
    assert int(said) == round(max(seconds.values()) / 60) == round(seconds["ConvVAE"] / 60)


def test_an_edit_is_live_and_decoding_without_the_trace_pays():
    """An edit takes at most 50 ms on one core; solving without the trace takes half the time."""
    kept = ROOT / "outputs" / "benchmarks"
    assert (
        pd.read_csv(kept / "edit_latency.csv").set_index("stage").loc["all", "95th percentile ms"]
        <= 50
    )
    assert (
        pd.read_csv(kept / "decoding.csv").set_index("way").loc["with the trace, forward", "times"]
        >= 2
    )


def test_every_table_is_whole():
    """No blank line separates a row from the head of its table."""
    lines = README.splitlines()
    for before, line, after in zip(["", *lines], lines, [*lines[1:], ""]):
        if line.startswith("|") and not before.startswith("|"):
            assert re.fullmatch(r"\|(-+\|)+", after), line


def test_every_link_leads_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert len(links) > 20 and [link for link in links if not (ROOT / link).exists()] == []


class Model(nn.Module):
    """An autoencoder of a reader, in train mode, with layers that a call in train mode changes."""

    latent_dim = 3

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 3)
        )
        self.decoder = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 6))

    def encode(self, x):
        return self.encoder(x)

    def decode(self, z):
        return self.decoder(z)


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("labels", [["cat", "dog"] * 40, [0, 1] * 40], ids=["names", "indices"])
def test_the_lines_that_plug_in_a_model_of_ones_own(labels, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = (block for block in blocks() if "FlowPluginNetwork(" in block)
    torch.manual_seed(0)
    model = Model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    given = {"model": model, "x": torch.randn(80, 6), "y": labels}
    lines = code.rstrip().splitlines()
    exec("\n".join([*lines[:-1], f"shown = {lines[-1].split('  #')[0]}"]), given)
    made, predicted, edited = given["shown"]
    assert made.shape == (16, 6) and set(predicted) <= set(labels) and edited.shape == (80, 6)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_lines_that_train_a_model_on_data_of_ones_own():
    (code,) = (block for block in blocks() if "ConvVAE(" in block)
    torch.manual_seed(0)
    exec(code, given := {"x": torch.rand(40, 1, 28, 28), "x_validation": torch.rand(10, 1, 28, 28)})
    assert given["mean"].shape == given["std"].shape == (40, 40)
    assert len(given["model"].state_dict()) and not given["model"].training
