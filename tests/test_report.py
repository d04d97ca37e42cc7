"""The page of a run: it is complete, needs nothing beside it, and takes no text for HTML."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from laws import error_line, note_files
from nbformat import read, v4, write

from fpnlib import store
from fpnlib.__main__ import main
from fpnlib.runs import report
from fpnlib.runs.report import _Number
from fpnlib.store import PROJECT, Manifest

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>"


@pytest.fixture
def folder(tmp_path):
    """A run's folder with one notebook's files, named and worded by somebody who means harm."""
    store.write(tmp_path / "figures" / "04_some_figure_7.png", PNG)
    store.write(tmp_path / "figures" / "04_some_no_picture.png", EVIL)
    scores = f'model,score\n"{EVIL}",0.123456\nplain,12\n'
    store.write(tmp_path / "tables" / "04_some_scores.csv", scores)
    rows = "\n".join(f"{i},{i / 7}" for i in range(100))
    store.write(tmp_path / "tables" / "04_some_long.csv", f"i,x\n{rows}\n")
    results = store.Results(tmp_path / "results" / "04_some.json")
    results.record(f"accuracy {EVIL}", 0.9777, paper=0.9677, n=10000, seed=0)
    results.record("far short", 0.5, paper=0.9)
    results.record("ours alone", 2.5)
    results.record("largest difference", -1.5e-06)
    results.record("parameters", 1234567)
    heading = v4.new_markdown_cell(f"# 04 · Some {EVIL}\n\ntext")
    (tmp_path / "notebooks").mkdir()
    write(v4.new_notebook(cells=[heading]), tmp_path / "notebooks" / "04_some.ipynb")
    manifest = Manifest(tmp_path)
    environment = {"device": "cpu", "processor": EVIL, "cores": 2}
    manifest.note("environment", environment | {"versions": {"torch": "2.15.0"}})
    manifest.note("data", {"mnist": "06b0d1"})
    manifest.note("total", {"seconds": 5312.4, "notebooks": 9})
    entry = {"parameters": {"seed": 3, "note": EVIL}, "seconds": 81.3, "commit": "c" * 40}
    manifest.note("notebooks", {"04_some": entry})
    note_files(manifest.folder)
    return tmp_path


MARKDOWN = {"cell_type": "markdown", "source": ["# 08 · Some"]}


@pytest.fixture
def sweep(tmp_path):
    """A sweep's folder: three runs, two widths, more numbers than a page shows of a table."""
    lines = ["flow_width,notebook,quantity,paper,mean,standard deviation,runs"]
    printed = {"Table 1, FPN, test accuracy": 0.9677, "accuracy": 0.5}
    for name in [*printed, *(f"other {k}" for k in range(60))]:
        paper = printed.get(name, "")
        lines += [f'{width},08_some,"{name}",{paper},0.9777,0.0012,3' for width in (40, 224)]
    store.write(tmp_path / "tables" / "summary.csv", "\n".join(lines) + "\n")
    store.write(tmp_path / "figures" / "08_some_spread.png", PNG)
    for seed in (0, 9):
        store.write(tmp_path / "runs" / f"seed={seed}" / "notebooks" / "08_some.ipynb", "{}")
    store.write_json(tmp_path / "grid.json", {f"seed={seed}": {"seed": seed} for seed in range(3)})
    manifest = Manifest(tmp_path)
    manifest.note("notebooks", {"08_some": {"parameters": {"seed": [0, 1, 2]}, "seconds": 3}})
    manifest.note("failed", {"seed=1": "<b>no such luck"})
    manifest.note("differences", {"versions, torch": f"2.14 in seed=0; {EVIL} in seed=1"})
    note_files(manifest.folder)
    return tmp_path


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def page(folder):
    return Page(report.write(folder).read_text())


def test_everything_is_on_the_page(folder):
    text = " ".join(page(folder).text.split())
    numbers = ["0.9777", "0.9677", "+0.0100", "10,000", "2.5000", "−1.5e−06", "1,234,567"]
    said = ["1 of 2", "✓ ahead", "✗ behind", "5312 s in all, 9 notebooks executed", "81 s"]
    others = ["scores", "0.123", "100 rows", "figure 7"]
    origin = ["cccccccccc", "torch", "2.15.0", "sha256 06b0d1"]
    for shown in (*numbers, *said, *others, *origin):
        assert shown in text, shown


def test_a_sweeps_means_stand_beside_the_papers_values_and_come_first(sweep):
    shown = page(sweep)
    text = " ".join(shown.text.split())
    row = "Table 1, FPN, test accuracy, flow_width 40 0.9777 ± 0.0012 0.9677 +0.0100 3 ✓ ahead"
    second = text.index("accuracy, flow_width 224 0.9777 ± 0.0012 0.5000")
    assert text.index(row) < second < text.index("other 59, flow_width 224")
    assert "124 numbers" in text and "2.14 in seed=0" in text and "124 rows" in text
    assert ("a", {"href": "runs/seed%3D0/notebooks/08_some.ipynb"}) in shown.tags
    assert "seed=9" not in text  # of an earlier sweep
    assert "Failed, and not among the numbers: seed=1 (<b>no such luck)." in text
    (sweep / "tables" / "summary.csv").write_text("quantity,paper\nx,1\n")
    with pytest.raises(ValueError, match="summary.csv is damaged .no summary: "):
        report.write(sweep)


def test_a_sweep_has_its_notebooks_title_and_its_tall_figure_in_full_width(sweep, monkeypatch):
    store.write(sweep / "captions.yaml", "{}")
    store.write_json(sweep / "08_some.ipynb", {"cells": [MARKDOWN]})
    monkeypatch.setattr(report, "CAPTIONS", sweep / "captions.yaml")
    header = PNG[:16] + (10).to_bytes(4) + (40).to_bytes(4)
    store.write(sweep / "figures" / "08_some_spread.png", header + PNG[24:])
    shown = page(sweep)
    assert ("figure", {"class": "tall"}) in shown.tags
    assert "08 · Some" in shown.text and "The sweep as a whole" in shown.text


def test_what_was_executed_elsewhere_says_where(folder):
    entry = Manifest(folder).read()["notebooks"]["04_some"]
    entry |= {"uncommitted changes": True, "inputs": {"outputs/pretrained/x.json": "9f9f"}}
    entry["environment"] = {"device": "another card", "versions": {"torch": "2.14.0", "numpy": "2"}}
    Manifest(folder).note("notebooks", {"04_some": entry})
    text = page(folder).text
    where = ["another card", "2.14.0", "with uncommitted changes"]
    for shown in (*where, "outputs/pretrained/x.json", "sha256 9f9f"):
        assert shown in text, shown


def test_the_page_needs_nothing_beside_it_and_text_from_files_stays_text(folder):
    allowed = re.compile(r"data:image/png;base64,|#|(notebooks|figures|tables|results|models)/")
    shown = page(folder)
    for tag, attributes in shown.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed"), tag
        for name in ("src", "href"):
            assert allowed.match(attributes.get(name, "#")), attributes
        assert not [name for name in attributes if name.startswith("on")]
    assert ("a", {"href": "notebooks/04_some.ipynb"}) in shown.tags
    pictures = [tag for tag, _ in shown.tags if tag == "img"]
    assert len(pictures) == 1, "what is no picture is shown as one"
    places = ("title", "result", "table", "parameter", "processor")
    assert shown.text.count("<script>alert('x')</script>") >= len(places)


def test_odd_names_of_files_stay_names_and_are_no_links_out(folder):
    for name in ("<u>x<u>", "a b&c", "%2e%2e", "#"):
        store.write(folder / "tables" / f"04_some_{name}.csv", "a\n1\n")
    Manifest(folder).note("files", {"javascript:alert(1)": "ab", "https:evil.example": "ab"})
    shown = page(folder)
    assert not [tag for tag, _ in shown.tags if tag == "u"] and "<u>x<u>" in shown.text
    links = {attributes["href"] for tag, attributes in shown.tags if tag == "a"}
    quoted = [f"tables/04_some_{name}.csv" for name in ("a%20b%26c", "%252e%252e", "%23")]
    assert {*quoted, "javascript%3Aalert%281%29", "https%3Aevil.example"} <= links


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path_factory):
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.png"
    secret.write_bytes(PNG)
    (folder / "figures" / "04_some_linked.png").symlink_to(secret)
    with pytest.raises(ValueError, match="'figures/04_some_linked.png' leads out of"):
        report.write(folder)


def test_what_is_not_as_the_manifest_has_it_is_said(folder):
    (folder / "tables" / "04_some_scores.csv").write_text("model\nanother\n")
    (folder / "tables" / "04_some_long.csv").unlink()
    store.write(folder / "tables" / "stray.csv", "a\n1\n")
    text = page(folder).text
    another = "tables/04_some_scores.csv is not the file that the run made"
    assert f"tables/04_some_long.csv is missing; {another}" in text
    assert "Not in the manifest: tables/stray.csv." in text


@pytest.mark.parametrize(
    ("number", "standing"),
    [
        (_Number("accuracy", 0.96, 0.96), "ahead"),
        (_Number("accuracy", 0.95, 0.96), "near"),  # short of it by about 1 %
        (_Number("accuracy", 0.94, 0.96), "behind"),
        (_Number("train accuracy", 0.94, 0.96), ""),
        (_Number("alone", 0.5), ""),
    ],
)
def test_results_on_test_data_are_ahead_of_the_paper_near_it_or_behind(number, standing):
    assert number.standing == standing


RESULTS, COPY, MANIFEST = "results/04_some.json", "notebooks/04_some.ipynb", "manifest.json"


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (RESULTS, [{"quantity": "x", "value": "1"}], "$[0].value must be number, got '1'"),
        (COPY, [], "04_some.ipynb is damaged (no notebook)"),
        (COPY, {"cells": [{"cell_type": "markdown"}]}, "04_some.ipynb is damaged (no notebook)"),
        (MANIFEST, [1], "must be object, got [1]"),
        (MANIFEST, {"files": {"../outside.csv": "ab"}}, "'../outside.csv' leads out of"),
    ],
)
def test_what_is_damaged_is_named_in_one_line(folder, capsys, file, content, said):
    (folder / file).write_text(json.dumps(content))
    assert main(["report", str(folder)]) == 2
    assert said in error_line(capsys) and not (folder / "report.html").exists()


@pytest.mark.parametrize("text", ["", "a,b\n1\n", "a,b\n1,2,3\n"])
def test_a_table_with_uneven_rows_is_named(folder, capsys, text):
    (folder / "tables" / "04_some_scores.csv").write_text(text)
    assert main(["report", str(folder)]) == 2
    assert "04_some_scores.csv is damaged (no table)" in error_line(capsys)


def test_a_folder_without_a_page_keeps_no_other_from_its_own(folder, tmp_path_factory, capsys):
    empty = tmp_path_factory.mktemp("empty")
    assert main(["report", str(empty), str(folder)]) == 2
    out, error = capsys.readouterr()
    assert out.strip() == str(folder / "report.html")
    assert f"{empty / 'manifest.json'} is missing" in error and error.count("\n") == 1


@pytest.mark.parametrize("path", sorted((PROJECT / "notebooks").glob("[01]*.ipynb")))
def test_captions_stand_in_the_order_of_the_notebook(path):
    cells = [cell.source for cell in read(path, 4).cells if cell.cell_type == "code"]
    places = []
    for caption in yaml.safe_load(report.CAPTIONS.read_text()):
        kind, file = Path(caption).parts
        if not file.startswith(path.stem):
            continue
        name = Path(file).stem.removeprefix(f"{path.stem}_")
        call = re.compile(rf'\.{kind[:-1]}\(.*"{name}"(, digits=\d)?\)', re.DOTALL)
        places += [number for number, cell in enumerate(cells) if call.search(cell)]
    assert places and places == sorted(places)


def test_every_figure_and_table_of_a_kept_run_has_a_caption():
    captions = yaml.safe_load(report.CAPTIONS.read_text())
    for run in ("paper", "drawn_faces", "drawn_shapes"):
        files = Manifest(PROJECT / "outputs" / run).made()
        shown = {name for name in files if name.startswith(("figures/", "tables/"))}
        assert shown and shown <= captions.keys()
