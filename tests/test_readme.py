"""The pages' code and commands run; their numbers are those that the runs in outputs/ recorded."""

import json
import re
import shlex
from itertools import pairwise, product
from pathlib import Path

import pandas as pd
import pytest
import torch
from test_network import Base

from fpnlib.families import DIGITS, SHAPES
from fpnlib.families.settings import resolve
from fpnlib.runs import cli
from fpnlib.store import Manifest

PAPER, PAPER_2 = DIGITS.paper, SHAPES.paper
ROOT = Path(__file__).resolve().parents[1]
NAMES = ("README", "notebooks/README", "outputs/README", "CONTRIBUTING", "CHANGELOG")
PAGES = {ROOT / f"{name}.md": (ROOT / f"{name}.md").read_text(encoding="utf-8") for name in NAMES}
HOW_TO = (ROOT / "notebooks" / "book" / "how_to").glob("*.md")
ALL_PAGES = PAGES | {path: path.read_text(encoding="utf-8") for path in sorted(HOW_TO)}
TEXT = "\n".join(PAGES.values())
FLAT = " ".join(TEXT.split())
FLOWS = {"maf": "C-MAF", "realnvp": "C-RNVP"}
BASELINES = {
    "logistic_regression": "logistic regression",
    "linear_svm": "linear SVM",
    "rbf_svm": "RBF SVM",
    "automl": "AutoML",
    "rda": "RDA",
}
MODELS = BASELINES | {key: f"FPN ({name})" for key, name in FLOWS.items()}
WAYS = {"test images": "reconstructions", "test images, one draw": "reconstructions from one draw"}


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
            results(f"Table 1, {name}, means, test accuracy")
            if key in ("rbf_svm", "rda", *FLOWS)
            else "–"
        )
        ours = f"Table 1, {name}, draws, test accuracy"
        chosen = ""
        if key == "automl":  # "mlp; 8 trials, ended by its 8 trials"
            kind, trials = results.of(ours, "chosen").split(",")[0].split("; ")
            chosen = f" ({kind}, {trials})"
        paper = f"{PAPER[key][1]:.4f}" if key in PAPER else "–"
        rows.append([name + chosen, paper, results(ours, bold=True), means])
    return rows


SEEDS = {  # row: digits shown, and quantity of a flow
    "test accuracy, one draw": (4, "Table 1, FPN ({}), draws, test accuracy"),
    "test accuracy, *means*": (4, "Table 1, FPN ({}), means, test accuracy"),
    "right class": (3, "right class, ConvVAE, {}"),
    "right class, drawn again": (3, "right class, ConvVAE, {}, drawn again"),
}


def seeds() -> list[list[str]]:
    found = pd.read_csv(ROOT / "outputs/mnist_seeds" / Manifest.SUMMARY).set_index("quantity")
    rows = []
    for title, (digits, quantity) in SEEDS.items():
        row = [title]
        for flow in FLOWS.values():
            mean, deviation = found.loc[quantity.format(flow), ["mean", "standard deviation"]]
            row.append(f"{mean:.{digits}f} ± {deviation:.{digits}f}")
        rows.append(row)
    return rows


def variants() -> list[list[str]]:
    results, rows = Results("paper", "08_classification"), []
    manifest = json.loads((ROOT / "outputs/paper/manifest.json").read_text())
    authors = manifest["notebooks"]["08_classification"]["parameters"]["authors_width"]
    widths = resolve(DIGITS, "paper")["flow_width"], authors
    for name in FLOWS.values():
        row = [name]
        for width, draws in product(widths, ("fresh", "fixed")):
            variant = f"ConvVAE + {name}, {draws} draws, width {width}, flat prior"
            pair = [results(f"test accuracy on {kind}, {variant}") for kind in ("draws", "means")]
            row.append(" / ".join(pair))
        rows.append(row)
    return rows


def on_request() -> list[list[str]]:
    results, rows = Results("paper", "04_conditional_generation"), []
    conditional = ["class Gaussians", "class mixtures", *FLOWS.values()]
    again = [f"{name}, drawn again" for name in conditional[1:]]
    fitted = [*conditional, *again, "test images"]
    ways = [("ConvVAE", way) for way in ["unconditional", *fitted, "test images, one draw"]]
    ways += [("ConvAE", way) for way in fitted]
    for base, way in [*ways, ("ConditionalVAE", "from scratch"), ("–", "test images themselves")]:
        of, shown = f"{base}, {way}", f"{base}, {WAYS.get(way, way)}"
        rows.append([
            "real test images" if base == "–" else shown,
            results(f"right class, {of}", 3),
            results(f"Fréchet distance, {of}", 2),
            results(f"diversity, {of}", 2),
        ])  # fmt: skip
    return rows


def table_2() -> list[list[str]]:
    results = Results("paper", "08_classification")
    models = [(key, name, "–", name) for key, name in BASELINES.items()]
    for key, prior in product(FLOWS, ("flat", "train")):
        models.append((key, MODELS[key], prior, f"{MODELS[key]}, {prior} prior"))
    rows = []
    for key, name, prior, of in models:
        paper = f"{PAPER_2[key][1]:.4f}" if key in PAPER_2 else "–"
        ours = results(f"Table 2, {of}, test accuracy", bold=True)
        rows.append([name, prior, paper, ours, results(f"Table 2, {of}, test, macro accuracy")])
    return rows


def shapes() -> list[list[str]]:
    runs, rows = [Results(run, "06_point_clouds") for run in ("drawn_shapes", "paper")], []
    compared = ["training shapes", "reconstructions of test", "category Gaussians"]
    compared += ["category Gaussians, pooled", *FLOWS.values()]
    again = [f"{name}, drawn again" for name in ("category Gaussians", *FLOWS.values())]
    for way in ["test shapes", *compared, *again]:
        row = [way]
        for results in runs:
            row.append(results(f"right class, {way}", 3))
            if way == "test shapes":  # the others are compared with them
                row += ["–", "–"]
            else:
                row += [results(f"coverage, {way}", 3), results(f"1-nna, {way}", 3)]
        rows.append(row)
    return rows


TOLD_WELL = "28 attributes told well"


def faces() -> list[list[str]]:
    drawn, celeba = (Results(run, "07_attribute_editing") for run in ("drawn_faces", "paper"))
    rows = []
    linear = "linear regression", "difference of means"
    ours = "C-MAF (ours)", "C-MAF (ours), until read"
    for editor in (*ours, "MSP's own", "PluGeN", *linear):
        row = [editor, "–", "–"]  # drawn faces are edited at strength 1
        if editor != ours[1]:
            row[1:] = drawn(f"achieved, {editor}", 3), drawn(f"others, {editor}", 3)
        row.append(celeba(f"strength, {editor}", 2))
        row += [celeba(f"{score}, {editor}, {TOLD_WELL}", 3) for score in ("achieved", "others")]
        rows.append(row)
    floor = celeba(f"achieved, no edit, {TOLD_WELL}", 3)
    rows.append(["no edit", drawn("achieved, no edit", 3), "0.000", "–", floor, "0.000"])
    return rows


def raised() -> list[list[str]]:
    runs = [Results(run, "07_attribute_editing") for run in ("drawn_faces", "paper")]

    def row(editor: str) -> list[str]:
        found = [editor]
        for results in runs:
            of = f"each edit at its own strength, {editor}"
            found += [results(f"{score}, {of}", 3) for score in ("succeeded", "others", "moved")]
            found.append(results(f"moved after 5 edits in a row, {editor}", 3))
        return found

    rivals = "MSP's own", "PluGeN", "linear regression", "difference of means"
    return [row(editor) for editor in ("C-MAF (ours)", *rivals)]


def requests() -> list[list[str]]:
    results, rows = Results("paper", "10_molecules"), []
    simple = "linear Gaussian", "nearest neighbours", "rejection"
    for way in ("C-MAF", "PluGeN", *simple):
        for how in ("", ", read back"):
            of = f"mean absolute error in deviations, {way}{how}"
            said = "logP", "TPSA", "SA", "QED", "weight", "logP and TPSA", "all but weight"
            rows.append([way + how, *(results(f"{of}, {name}", 2) for name in said)])
    return rows


TABLES = {
    "| model | paper, test |": table_1,
    "| five seeds |": seeds,
    "| flow | fresh draws": variants,
    "| latents from |": on_request,
    "| model | prior | paper (ShapeNet)": table_2,
    "| shapes | drawn": shapes,
    "| editor | drawn": faces,
    "| raised editor |": raised,
    "| molecules by |": requests,
}


@pytest.mark.parametrize("header", TABLES)
def test_a_table_is_what_the_runs_recorded(header):
    lines = TEXT.splitlines()
    (start,) = (i for i, line in enumerate(lines) if line.startswith(header))
    rows = lines[start + 2 : lines.index("", start)]
    expected = ["| " + " | ".join(row) + " |" for row in TABLES[header]()]
    if rows != expected:
        pytest.fail("the table should have these rows:\n\n" + "\n".join(expected), pytrace=False)


FIGURE_13 = "06_point_clouds"
SHAPES_JUDGE = "judge, test accuracy"
FACES_JUDGE = "judge, test balanced accuracy, mean over attributes"
DIGITS_JUDGED = "right class, ConvVAE, C-MAF"
DIGITS_CHECKED = f"{DIGITS_JUDGED}, drawn again"
EXACT = "test molecules rebuilt exactly, from means"
REBUILT = "reconstruction of test faces, mean squared error"
OURS, NO_EDIT = f"C-MAF (ours), {TOLD_WELL}", f"achieved, no edit, {TOLD_WELL}"
NUMBERS = [
    (r"accuracy is (\S+) for drawn shapes", "drawn_shapes", "06_point_clouds", SHAPES_JUDGE),
    (r"for drawn shapes and (\S+) for ModelNet\.", "paper", "06_point_clouds", SHAPES_JUDGE),
    (r"reads (\S+) of the attributes of test faces", "paper", "07_attribute_editing", FACES_JUDGE),
    (r"mean squared error of (\S+) on test faces", "paper", "07_attribute_editing", REBUILT),
    (r"plugin achieves (\S+) of the edits", "paper", "07_attribute_editing", f"achieved, {OURS}"),
    (r"\((\S+) without any edit", "paper", "07_attribute_editing", NO_EDIT),
    (r"assigns (\S+) of C-MAF's digits", "paper", "04_conditional_generation", DIGITS_JUDGED),
    (r"class, and (\S+) if the plugin", "paper", "04_conditional_generation", DIGITS_CHECKED),
    (r"autoencoder rebuilds (\S+) of the test molecules", "paper", "10_molecules", EXACT),
]


@pytest.mark.parametrize(("said", "run", "notebook", "quantity"), NUMBERS)
def test_a_number_in_the_text_is_what_the_runs_recorded(said, run, notebook, quantity):
    assert re.findall(said, FLAT) == [Results(run, notebook)(quantity, 3)]


OF_TABLE_1, OF_TABLE_2 = "Table 1, {}, test accuracy", "Table 2, {}, test accuracy"
EDITED = "achieved, {}, " + TOLD_WELL
REQUESTED, ON_AE = "right class, ConvVAE, {}", "right class, ConvAE, {}"
AHEAD = [
    ("each image, both flows are ahead of", OF_TABLE_1, r"FPN .*, draws", "[^F].*, draws"),
    ("the RBF SVM is ahead of both flows, by", OF_TABLE_1, "RBF SVM, means", "FPN .*, means"),
    ("flows drawn again are ahead of", REQUESTED, "C-.*, drawn again", "class mixtures.*"),
    ("The RBF SVM has the highest accuracy", OF_TABLE_2, "RBF SVM", "(?!RBF).*"),
    ("the plugin is ahead of MSP's own editing and", EDITED, "C-.*", "(MSP|difference).*"),
    ("the plugin is ahead of MSP's own editing (MSP", EDITED, "C-.*", "MSP's own"),
    ("It is behind linear regression", EDITED, "linear .*", r"C-MAF \(ours\)"),
    ("and behind linear regression at a similar", EDITED, "linear .*", r"C-MAF \(ours\)"),
    ("are ahead of the mixtures in both scores", ON_AE, "C-.*, drawn again", "class mixtures.*"),
]
for score, again in product(("right class", "coverage"), ("", ", drawn again")):
    said, rivals = "the category Gaussians have better values", f"category Gaussians{again}"
    AHEAD.append((said, f"{score}, {{}}", rivals, f"C-(MAF|RNVP){again}"))
RUNS = {
    OF_TABLE_1: ("paper", "08_classification"),
    OF_TABLE_2: ("paper", "08_classification"),
    EDITED: ("paper", "07_attribute_editing"),
    REQUESTED: ("paper", "04_conditional_generation"),
    ON_AE: ("paper", "04_conditional_generation"),
}


@pytest.mark.parametrize(("said", "quantity", "ahead", "behind"), AHEAD)
def test_who_the_text_says_is_ahead_is_ahead(said, quantity, ahead, behind):
    records = Results(*RUNS.get(quantity, ("paper", "06_point_clouds"))).records

    def values(who):
        pattern = quantity.format(who)
        return [row["value"] for name, row in records.items() if re.fullmatch(pattern, name)]

    assert said in FLAT
    assert min(values(ahead)) > max(values(behind))


SPEEDS = [
    (r"C-MAF: (\S+) times", "flows", "sample 10,000: D 40", "over nflows", min),
    (r"C-MAF in 1/(\S+) of", "flows", "sample 10,000: D 40", "over nflows", min),
    (r"224, (\S+) times at width 40", "flows", "sample 10,000: D 40", "over nflows", max),
    (r"dimensional layer: (\S+) times", "flows", "sample 10: D 2048", "over nflows", min),
    (r"under ten classes: (\S+) times", "flows", "10,000 latents under", "over nflows", min),
    (r"step of C-MAF: (\S+) to", "flows", "training step of 1,024", "over nflows", min),
    (r"step of C-MAF: \S+ to (\S+) times", "flows", "training step", "over nflows", max),
    (r"PointFlow: (\S+) times", "decoding", "with the trace, as the original", "times", min),
    (r"picture: median (\S+) ms", "edit_latency", "all", "median ms", min),
    (r"95th percentile (\S+) ms\.", "edit_latency", "all", "95th percentile ms", min),
    (
        r"classifies (\S+) of 1,000 test digits",
        "conditions",
        "zuko's NSF on digits: accuracy",
        "value",
        min,
    ),
    (
        r"class in (\S+) of its samples",
        "conditions",
        "zuko's NSF on digits: right class of s",
        "value",
        min,
    ),
    (
        r"of its samples and in (\S+) of its edits",
        "conditions",
        "zuko's NSF on digits: right class of e",
        "value",
        min,
    ),
    (r"category in (\S+) of C-MAF's", "conditions", "183 shapes, C-MAF: right", "value", min),
    (r"samples, in (\S+) of C-RNVP's", "conditions", "183 shapes, C-RNVP: right", "value", min),
    (r"in (\S+) of the Gaussians'\.", "conditions", "183 shapes, category Gaussians", "value", min),
]


@pytest.mark.parametrize(("said", "file", "rows", "column", "which"), SPEEDS)
def test_a_speed_in_the_text_is_what_the_benchmark_measured(said, file, rows, column, which):
    table = pd.read_csv(ROOT / "outputs" / "benchmarks" / f"{file}.csv")
    measured = table.loc[table.iloc[:, 0].str.startswith(rows), column]
    (text,) = re.findall(said, FLAT)
    assert float(text.replace(",", "")) == pytest.approx(which(measured), rel=0.03)  # as rounded


def test_samples_are_drawn_again_by_the_settings_that_are_said():
    settings = resolve(DIGITS, "paper")
    assert f"posterior probability below {settings['confidence']}." in FLAT
    assert f"*temperature*, of {settings['temperature']}." in FLAT


def test_the_longest_training_takes_what_is_said():
    seconds = json.loads((ROOT / "outputs/paper/manifest.json").read_text())["seconds"]
    (said,) = re.findall(r"Training the ConvVAE takes (\d+) minutes", FLAT)
    assert int(said) == round(max(seconds.values()) / 60) == round(seconds["ConvVAE"] / 60)


def test_the_molecules_base_model_took_what_is_said():
    kept = json.loads((ROOT / "outputs/pretrained/moses_SelfiesVAE.json").read_text())["meta"]
    assert f"after {kept['core_hours']:.1f} core-hours" in FLAT


def test_who_is_ahead_when_molecules_are_read_back():
    assert "When molecules are read back, the nearest neighbours are ahead of all other" in FLAT
    rows = {way: list(map(float, errors)) for way, *errors in requests() if "read back" in way}
    ahead = rows.pop("nearest neighbours, read back")
    for errors in rows.values():
        assert all(low < error for low, error in zip(ahead, errors))
    assert "ahead of the linear Gaussian, and of PluGeN except in TPSA" in FLAT
    ours = rows["C-MAF, read back"]
    assert all(low < error for low, error in zip(ours, rows["linear Gaussian, read back"]))
    of_plugen = [low < error for low, error in zip(ours, rows["PluGeN, read back"])]
    assert of_plugen == [True, False, *[True] * 5]


def test_flows_are_ahead_of_the_mixture_in_distance_and_behind_the_gaussians_in_neighbours():
    digits, shapes = Results("paper", "04_conditional_generation"), Results("paper", FIGURE_13)
    for flow, again in product(FLOWS.values(), ("", ", drawn again")):
        distance, neighbours = f"Fréchet distance, ConvAE, {{}}{again}", f"1-nna, {{}}{again}"
        ours, mixture = (
            digits.of(distance.format(way), "value") for way in (flow, "class mixtures")
        )
        assert ours < mixture
        ours, simple = (
            shapes.of(neighbours.format(way), "value") for way in (flow, "category Gaussians")
        )
        assert ours > simple > 0.5


def test_an_edit_is_live_and_decoding_without_the_trace_pays():
    """An edit takes at most 50 ms on one core; solving without the trace takes half the time."""
    kept = ROOT / "outputs" / "benchmarks"
    edits = pd.read_csv(kept / "edit_latency.csv").set_index("stage")
    decoding = pd.read_csv(kept / "decoding.csv").set_index("way")
    assert edits.loc["all", "95th percentile ms"] <= 50
    assert decoding.loc["with the trace, forward", "times"] >= 2


def test_every_table_is_whole():
    """No blank line separates a row from the head of its table."""
    lines = "\n".join(ALL_PAGES.values()).splitlines()
    for (before, line), (_, after) in pairwise(pairwise(["", *lines, ""])):
        if line.startswith("|") and not before.startswith("|"):
            assert re.fullmatch(r"\|(-+\|)+", after), line


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", ALL_PAGES[page]):
        if "://" not in link:
            place, _, heading = link.partition("#")
            target = page.parent / place if place else page
            assert target.exists(), link
            titles = re.findall(r"^#+ (.*)$", ALL_PAGES.get(target.resolve(), ""), re.MULTILINE)
            assert not heading or heading in [title.lower().replace(" ", "-") for title in titles]


def test_the_readme_is_short_and_comes_to_the_readers_own_model():
    text = PAGES[ROOT / "README.md"]
    assert len(text.split()) <= 900
    assert text.splitlines().index("## Your own model") < 45


def test_every_command_is_understood(monkeypatch):
    for command in ("_run", "_report", "_verify", "_prepare"):
        monkeypatch.setattr(cli, command, lambda given: 0)
    text = "\n".join(ALL_PAGES.values())
    commands = re.findall(r"(?:^|`)(?:\S*/)?python -m fpnlib ([^`\n]+)", text, re.MULTILINE)
    assert commands and {cli.main(shlex.split(words)) for words in commands} == {0}
    rules = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)) <= set(rules)


def block(of: str) -> str:
    """The one block of code in the pages that has ``of`` in it."""
    blocks = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    (code,) = (code for code in blocks if of in code)
    return code


def test_the_lines_that_plug_in_a_model_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels = ["cat", "dog"] * 40
    torch.manual_seed(0)
    model = Base()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    code = block("FlowPluginNetwork(")
    exec(code, here := {"model": model, "x": torch.randn(80, 5), "y": labels})
    assert here["cats"].shape == (16, 5) and here["dogs"].shape == (80, 5)
    assert set(here["labels"]) <= set(labels)
    assert here["fpn"].generate("cat", n=2).shape == (2, 5)
    assert len(re.findall(r"^\S", code, re.MULTILINE)) == 8
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_lines_that_train_a_model_on_data_of_ones_own():
    torch.manual_seed(0)
    given = {"x": torch.rand(40, 1, 28, 28), "x_validation": torch.rand(10, 1, 28, 28)}
    exec(block("ConvVAE("), given)
    assert given["mean"].shape == given["std"].shape == (40, 40)
    assert len(given["model"].state_dict()) and not given["model"].training
