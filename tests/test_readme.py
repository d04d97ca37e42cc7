"""The pages' code and commands run; their numbers are those that the runs in outputs/ recorded."""

import json
import re
import shlex
from functools import cache
from itertools import pairwise, product
from pathlib import Path

import pandas as pd
import pytest
import torch
from test_network import Base

from fpnlib.families import DIGITS, FACES, SHAPES, Family
from fpnlib.families.settings import resolve
from fpnlib.runs import cli
from fpnlib.store import Manifest

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("README", "notebooks/README", "outputs/README", "CONTRIBUTING", "CHANGELOG")
PAGES = {ROOT / f"{name}.md": (ROOT / f"{name}.md").read_text(encoding="utf-8") for name in NAMES}
HOW_TO = (ROOT / "notebooks" / "book" / "how_to").glob("*.md")
ALL_PAGES = PAGES | {path: path.read_text(encoding="utf-8") for path in sorted(HOW_TO)}
TEXT = "\n".join(PAGES.values())
FLAT = " ".join(TEXT.split())


@cache
def records(run: str) -> dict[str, dict]:
    """What a run's notebooks recorded, by quantity; of two with one quantity, the later counts."""
    found = {}
    for path in sorted((ROOT / "outputs" / run / "results").glob("*.json")):
        found |= {record["quantity"]: record for record in json.loads(path.read_text())}
    if not found:
        pytest.skip(f"needs outputs/{run}")
    return found


def recorded(run: str, quantity: str, field: str = "value") -> float | str:
    record = records(run).get(quantity, {})
    if field not in record:
        older = f"outputs/{run} is older than its notebooks"
        pytest.fail(f"{older}: no {field} of '{quantity}'", pytrace=False)
    return record[field]


BASELINES = "logistic regression", "linear SVM", "RBF SVM", "AutoML"
CLASSIFIERS = {name: name.lower().replace(" ", "_") for name in BASELINES}
CLASSIFIERS |= {"FPN (C-MAF)": "maf", "FPN (C-RNVP)": "realnvp"}
# Where the pages call a row otherwise than the runs.
ROWS = {
    "AutoML (mlp, 8 trials)": "AutoML",
    "ConvVAE, reconstructions": "ConvVAE, test images",
    "ConvVAE, reconstructions from one draw": "ConvVAE, test images, one draw",
    "ConvAE, reconstructions": "ConvAE, test images",
    "real test images": "–, test images themselves",
}
TOLD_WELL = "31 attributes told well"
FOUND = "right class, {}", "coverage, {}", "1-nna, {}"
RAISED = [f"{score}, each edit at its own strength" for score in ("succeeded", "others", "moved")]
RAISED = [f"{of}, {{}}" for of in (*RAISED, "moved after 5 edits in a row")]
REQUESTED = "logP", "TPSA", "SA", "QED", "weight", "logP and TPSA", "all but weight"
ERROR = "mean absolute error in deviations, {}, "


def printed(family: Family) -> dict[str, str]:
    """A column of the paper's accuracies on test data."""
    named = {name: family.paper[key] for name, key in CLASSIFIERS.items() if key in family.paper}
    return {name: f"{test:.4f}" for name, (_, test) in named.items()}


def columns(run: str, *quantities: str) -> list[tuple[str, str]]:
    """Columns of numbers that a run recorded; {} stands for the row's name."""
    return [(run, quantity) for quantity in quantities]


def variants() -> list[tuple[str, ...]]:
    """Columns of two numbers, of one draw and of means."""
    found = []
    for width, draws in product((224, 40), ("fresh", "fixed")):
        of = f"ConvVAE + {{}}, {draws} draws, width {width}, flat prior"
        found.append(("paper", f"test accuracy on draws, {of}", f"test accuracy on means, {of}"))
    return found


OF_TABLE_1, OF_TABLE_2 = "Table 1, {}, test accuracy", "Table 2, {}, test accuracy"
TABLES = {  # how many rows, and the columns after the row's name
    "| model | paper, test |": (
        7,
        printed(DIGITS),
        *columns("paper", OF_TABLE_1.format("{}, draws"), OF_TABLE_1.format("{}, means")),
    ),
    "| flow | fresh draws": (2, *variants()),
    "| latents from |": (
        20,
        *columns("paper", "right class, {}", "Fréchet distance, {}", "diversity, {}"),
    ),
    "| model | prior | paper (ShapeNet)": (
        9,
        printed(SHAPES),
        *columns("paper", OF_TABLE_2, "Table 2, {}, test, macro accuracy"),
    ),
    "| shapes | drawn": (10, *columns("drawn_shapes", *FOUND), *columns("paper", *FOUND)),
    "| editor | drawn": (
        7,
        *columns("drawn_faces", "achieved, {}", "others, {}"),
        *columns("paper", "strength, {}"),
        *columns("paper", f"achieved, {{}}, {TOLD_WELL}", f"others, {{}}, {TOLD_WELL}"),
    ),
    "| raised editor |": (5, *columns("drawn_faces", *RAISED), *columns("paper", *RAISED)),
    "| molecules by |": (10, *columns("paper", *(ERROR + name for name in REQUESTED))),
}


def rows_of(header: str) -> list[list[str]]:
    lines = TEXT.splitlines()
    (start,) = (i for i, line in enumerate(lines) if line.startswith(header))
    return [line[2:-2].split(" | ") for line in lines[start + 2 : lines.index("", start)]]


def as_recorded(shown: str, name: str, column: dict[str, str] | tuple[str, ...]) -> str:
    """A table's cell with the recorded numbers, to as many digits as it shows."""
    if isinstance(column, dict):
        return column.get(name.split(",")[0], "–")
    run, *quantities = column
    numbers = (quantity.format(name) for quantity in quantities)

    def number(match: re.Match) -> str:
        quantity, digits = next(numbers), len(match[0].partition(".")[2])
        if match[0] == "–" and quantity not in records(run):
            return match[0]
        return f"{recorded(run, quantity):.{digits}f}"

    return re.sub(r"–|\d+\.\d+", number, shown)


@pytest.mark.parametrize("header", TABLES)
def test_a_table_is_what_the_runs_recorded(header):
    (count, *of), rows, expected = TABLES[header], rows_of(header), []
    for row in rows:
        label, shown = row[: -len(of)], row[-len(of) :]
        name = ", ".join([ROWS.get(label[0], label[0]), *(f"{prior} prior" for prior in label[1:])])
        name = name.removesuffix(", – prior")
        expected.append([*label, *map(as_recorded, shown, [name] * len(of), of)])
    if rows != expected:
        lines = ["| " + " | ".join(row) + " |" for row in expected]
        pytest.fail("the table should have these rows:\n\n" + "\n".join(lines), pytrace=False)
    assert len({*map(str, rows)}) == count, "a row is missing or there twice"


OF_FLOW = "Table 2, FPN ({}), flat prior, test"
SEEDS = {  # row: digits shown, and quantity of a flow
    "MNIST": {
        "test accuracy, one draw": (4, "Table 1, FPN ({}), draws, test accuracy"),
        "test accuracy, *means*": (4, "Table 1, FPN ({}), means, test accuracy"),
        "right class": (3, "right class, ConvVAE, {}"),
        "right class, drawn again": (3, "right class, ConvVAE, {}, drawn again"),
    },
    "ModelNet": {
        "test accuracy": (4, f"{OF_FLOW} accuracy"),
        "test, macro accuracy": (4, f"{OF_FLOW}, macro accuracy"),
        "right class": (3, "right class, {}"),
        "coverage": (3, "coverage, {}"),
        "1-NNA": (3, "1-nna, {}"),
        "right class, drawn again": (3, "right class, {}, drawn again"),
        "coverage, drawn again": (3, "coverage, {}, drawn again"),
        "1-NNA, drawn again": (3, "1-nna, {}, drawn again"),
    },
}


def gathered(data: str) -> pd.DataFrame:
    """What the sweep over seeds of a dataset's plugins gathered, by quantity."""
    folder = ROOT / "outputs" / f"{data.lower()}_seeds"
    return pd.read_csv(folder / Manifest.SUMMARY).set_index("quantity")


@pytest.mark.parametrize("data", SEEDS)
def test_a_table_of_five_seeds_is_what_the_sweep_gathered(data):
    found, expected = gathered(data), []
    for title, (digits, quantity) in SEEDS[data].items():
        row = [title]
        for flow in ("C-MAF", "C-RNVP"):
            mean, deviation = found.loc[quantity.format(flow), ["mean", "standard deviation"]]
            row.append(f"{mean:.{digits}f} ± {deviation:.{digits}f}")
        expected.append(row)
    assert rows_of(f"| {data}, five seeds |") == expected


def test_over_the_seeds_simple_rivals_classify_shapes_better_than_the_flows():
    assert "both flows have a lower mean accuracy than the RBF SVM and RDA" in FLAT
    mean, accuracy = gathered("ModelNet")["mean"], f"{OF_FLOW} accuracy"
    rivals = mean[[OF_TABLE_2.format(name) for name in ("RBF SVM", "RDA")]]
    assert mean[[accuracy.format(flow) for flow in ("C-MAF", "C-RNVP")]].max() < rivals.min()
    assert "Seed 0, in the tables above, is one of the better ones" in FLAT
    assert recorded("paper", accuracy.format("C-MAF")) > mean[accuracy.format("C-MAF")]


def test_the_model_that_automl_chose_is_named():
    chosen = recorded("paper", OF_TABLE_1.format("AutoML, draws"), "chosen")
    kind, trials = re.match(r"(\w+); (\d+ trials)", chosen).groups()
    assert f"| AutoML ({kind}, {trials}) |" in TEXT


SHAPES_JUDGE = "judge, test accuracy"
FACES_JUDGE = "judge, test balanced accuracy, mean over attributes"
DIGITS_JUDGED = "right class, ConvVAE, C-MAF"
REBUILT = "reconstruction of test faces, mean squared error"
OURS, NO_EDIT = f"achieved, C-MAF (ours), {TOLD_WELL}", f"achieved, no edit, {TOLD_WELL}"
EXACT = "test molecules rebuilt exactly, from means"
NUMBERS = [
    (r"accuracy is (\S+) for drawn shapes", "drawn_shapes", SHAPES_JUDGE),
    (r"for drawn shapes and (\S+) for ModelNet\.", "paper", SHAPES_JUDGE),
    (r"reads (\S+) of the attributes of test faces", "paper", FACES_JUDGE),
    (r"mean squared error of (\S+) on test faces", "paper", REBUILT),
    (r"plugin achieves (\S+) of the edits", "paper", OURS),
    (r"\((\S+) without any edit", "paper", NO_EDIT),
    (r"assigns (\S+) of C-MAF's digits", "paper", DIGITS_JUDGED),
    (r"class, and (\S+) if the plugin", "paper", f"{DIGITS_JUDGED}, drawn again"),
    (r"autoencoder rebuilds (\S+) of the test molecules", "paper", EXACT),
]


@pytest.mark.parametrize(("said", "run", "quantity"), NUMBERS)
def test_a_number_in_the_text_is_what_the_runs_recorded(said, run, quantity):
    assert re.findall(said, FLAT) == [f"{recorded(run, quantity):.3f}"]


EDITED = "achieved, {}, " + TOLD_WELL
ON_VAE, ON_AE = "right class, ConvVAE, {}", "right class, ConvAE, {}"
# What is said, a quantity, who has the larger values, and who has the smaller ones.
AHEAD = [
    ("each image, both flows are ahead of", OF_TABLE_1, r"FPN .*, draws", "[^F].*, draws"),
    ("the RBF SVM is ahead of both flows, by", OF_TABLE_1, "RBF SVM, means", "FPN .*, means"),
    ("flows drawn again are ahead of", ON_VAE, "C-.*, drawn again", "class mixtures.*"),
    ("The RBF SVM has the highest accuracy", OF_TABLE_2, "RBF SVM", "(?!RBF).*"),
    ("the plugin is ahead of MSP's own editing (MSP", EDITED, "C-.*", "MSP's own"),
    ("Raised strengths put it ahead of all", EDITED, "C-.*, until read", "(?!.*until).*"),
    ("are ahead of the mixtures in both scores", ON_AE, "C-.*, drawn again", "class mixtures.*"),
]
for again in ("", ", drawn again"):
    mixtures, gaussians = f"class mixtures{again}", f"category Gaussians{again}"
    flows, said = f"C-(MAF|RNVP){again}", "the category Gaussians have better values"
    AHEAD += [(said, score, gaussians, flows) for score in ("right class, {}", "coverage, {}")]
    AHEAD.append((said, "1-nna, {}", flows, gaussians))  # 0.5 is best
    said = "are ahead of the mixtures in both scores"
    AHEAD.append((said, "Fréchet distance, ConvAE, {}", mixtures, flows))
for name in REQUESTED:
    error, pair = f"{ERROR}read back, {name}", ("PluGeN", "C-MAF")
    said = "When molecules are read back, the nearest neighbours are ahead of all other"
    AHEAD.append((said, error, "(?!nearest).*", "nearest neighbours"))
    said = "ahead of the linear Gaussian, and of PluGeN except in TPSA"
    AHEAD.append((said, error, "linear Gaussian", "C-MAF"))
    AHEAD.append((said, error, *(reversed(pair) if name == "TPSA" else pair)))


@pytest.mark.parametrize(("said", "quantity", "ahead", "behind"), AHEAD)
def test_who_the_text_says_is_ahead_is_ahead(said, quantity, ahead, behind):
    def values(who):
        names = [name for name in records("paper") if re.fullmatch(quantity.format(who), name)]
        return [recorded("paper", name) for name in names]

    assert said in FLAT
    assert min(values(ahead)) > max(values(behind))


def test_editors_of_photographs_differ_as_is_said():
    """By more than two standard errors of the paired differences, or by less."""
    table = pd.read_csv(ROOT / "outputs/paper/tables/07_attribute_editing_differences.csv")
    table["errors"] = table["difference"] / table["standard error"]
    errors = table.set_index(["ours", "editor"])["errors"]
    plain = errors["C-MAF (ours)"]
    assert "the plugin is ahead of MSP's own editing and of the difference of means" in FLAT
    assert plain[["MSP's own", "difference of means"]].min() > 2
    assert "It is level with linear regression and with PluGeN" in FLAT
    assert plain[["linear regression", "PluGeN"]].abs().max() < 2
    assert "with it, the plugin is ahead of all other editors" in FLAT
    assert errors["C-MAF (ours), until read"].min() > 2
    raised = pd.read_csv(ROOT / "outputs/paper/tables/07_attribute_editing_raised.csv")
    less, error = raised.set_index("editor").loc["PluGeN", ["others: C-MAF less", "others: error"]]
    assert f"than PluGeN (by {less:.3f} with a standard error of {error:.3f})" in FLAT


def test_neighbours_tell_all_generated_shapes_from_test_shapes():
    """So that a lower 1-NNA is the better one."""
    ways = [name for name in records("paper") if re.match(r"1-nna, (C-|category)", name)]
    assert min(recorded("paper", name) for name in ways) > 0.5


ZUKO = "zuko's NSF on digits"
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
    (r"classifies (\S+) of 1,000 test", "conditions", f"{ZUKO}: accuracy", "value", min),
    (r"class in (\S+) of its samples", "conditions", f"{ZUKO}: right class of s", "value", min),
    (r"samples and in (\S+) of its", "conditions", f"{ZUKO}: right class of e", "value", min),
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


def test_the_base_model_of_photographs_was_trained_as_is_said():
    kept = json.loads((ROOT / "outputs/pretrained/celeba_MSP.json").read_text())["meta"]
    first, *_, last = (epoch["epoch"] for epoch in kept["history"]["epochs"])
    assert f"for {first - 1} epochs with MSP's published loss, then for {last - first + 1}" in FLAT
    assert resolve(FACES, "paper")["msp_epochs"] == last
    assert f"`msp_fidelity`, {resolve(FACES, 'paper')['msp_fidelity']:g})" in FLAT


def test_the_molecules_base_model_took_what_is_said():
    kept = json.loads((ROOT / "outputs/pretrained/moses_SelfiesVAE.json").read_text())["meta"]
    assert f"after {kept['core_hours']:.1f} core-hours" in FLAT


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
