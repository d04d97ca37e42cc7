"""Runs of tiny notebooks: what is executed, kept and refused, and how a failure looks."""

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from functools import partial
from pathlib import Path

import nbformat
import papermill
import pytest
import torch
import zmq
from joblib import cpu_count
from jupyter_client.connect import LocalPortCache
from laws import error_line, one_line
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbclient.output_widget import OutputWidget
from nbformat import v4

from fpnlib.__main__ import main
from fpnlib.checks import fitting
from fpnlib.data import load
from fpnlib.runs import copies, engine, execute, inputs, kernel, places, plan
from fpnlib.runs.engine import CellError, Limits, TimeUp
from fpnlib.store import PROJECT, Manifest, Uses, claim, sha256, write, write_json

FIRST = """out = "outputs/tiny"  # help the run's folder
seed = 0  # help the seed
scale = 1.0  # help the scale"""
SECOND = """out = "outputs/tiny"  # help the run's folder
fail = False  # help whether to fail"""
# Without the library, which takes seconds to import, a notebook tells of its files as Uses does.
LOG = """import json
from pathlib import Path
def write(name, text):
    path, uses = Path(out, name), Path(out, ".uses", f"{NOTEBOOK}.jsonl")
    for one in (path, uses):
        one.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    with open(uses, "a") as told:
        told.write(json.dumps({"file": name}) + "\\n")
with open(Path(out, "log.txt"), "a") as log:
    log.write(str(int(NOTEBOOK[1]) + 1))"""
FILES_OF_FIRST = {"notebooks/00_first.ipynb", "results/first.json", "tables/here.json"}
LOG_FIRST, LOG_SECOND = f"NOTEBOOK = '00_first'\n{LOG}", f"NOTEBOOK = '01_second'\n{LOG}"


def command(notebooks, out):
    """The words of the command that runs the profile "small"."""
    return ["run", "--profile", "small", "--notebooks", str(notebooks), "--out", str(out)]


def write_notebook(path, parameters, *code, text="# Title"):
    tagged = v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    cells = [v4.new_markdown_cell(text), tagged, *map(v4.new_code_cell, code)]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(v4.new_notebook(cells=cells, metadata=metadata), path)


def write_first(folder, text="# First", more=""):
    here = "here = [sys.executable, os.getcwd(), dict(os.environ)]"
    shown = f"print({str(PROJECT / 'x')!r}, os.environ['FPN_DATA'])"
    steps = [
        LOG_FIRST,
        f"import os, sys, json\n{here}\nwrite('tables/here.json', json.dumps(here))",
        "from tqdm.auto import trange\nfor i in trange(3, desc='long work'):\n    pass",
        f"write('results/first.json', str(seed * scale)){more}",
        f"import warnings\n{shown}\nwarnings.warn('careful')",
        "import ipywidgets\nipywidgets.HBox([ipywidgets.IntSlider()])",
        "for piece in ('in', ' three ', 'pieces'):\n    print(piece, end='', flush=True)",
    ]
    write_notebook(folder / "00_first.ipynb", FIRST, *steps, text=text)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder of two notebooks and their finished run, by the command from somewhere else."""
    folder = tmp_path_factory.mktemp("tiny")
    write(folder / "profiles" / "small.yaml", "seed: 2\nscale: 1e-1\n")
    write_first(folder)
    ending = "write('results/second.json', '2')\nprint('before')"
    failing = "if fail:\n    raise ValueError('the end')"
    write_notebook(folder / "01_second.ipynb", SECOND, LOG_SECOND, ending, failing)
    words = [sys.executable, "-m", "fpnlib", *command(".", "out")]
    words += ["--jobs", "1"]  # in order; two at a time have tests of their own
    env = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    env |= {"NUMBA_NUM_THREADS": "1", "FPN_DATA": str(folder / "data"), "MPLBACKEND": "Agg"}
    env |= {"TQDM_DISABLE": ""}  # bars are drawn, though nobody sees them
    pipes = {"capture_output": True, "text": True}
    done = subprocess.run(words, cwd=folder, env=env, check=False, **pipes)
    assert done.returncode == 0, done.stderr
    folder.joinpath("screen.txt").write_text(done.stdout + done.stderr)
    return folder


@pytest.fixture
def tiny(finished, tmp_path, monkeypatch):
    """A copy of that folder, to be changed at will."""
    monkeypatch.setenv("FPN_DATA", str(finished / "data"))
    library = Manifest(finished / "out").read()["notebooks"]["00_first"]["library"]
    # Whatever is edited while the tests run.
    monkeypatch.setattr(execute, "library_digest", lambda: library)
    return shutil.copytree(finished, tmp_path / "tiny")


def run(folder, *more):
    """Run again; the exit code, and which notebooks were executed."""
    log = folder / "out" / "log.txt"
    log.write_text("")
    code = main([*command(folder, folder / "out"), "--jobs", "1", *more])
    return code, "".join(sorted(log.read_text()))


def test_a_run_leaves_copies_results_and_a_manifest(finished):
    out = finished / "out"
    assert sorted((out / "log.txt").read_text()) == ["1", "2"]
    # The profile's seed times its scale: 1e-1 is read as a number.
    assert (out / "results" / "first.json").read_text() == "0.2"
    manifest = json.loads((out / "manifest.json").read_text())
    first, second = manifest["notebooks"]["00_first"], manifest["notebooks"]["01_second"]
    assert first["parameters"] == {"out": str(out), "seed": 2, "scale": 0.1}
    assert first["seconds"] > 0
    assert set(first["files"]) == FILES_OF_FIRST
    assert set(second["files"]) == {"notebooks/01_second.ipynb", "results/second.json"}
    assert manifest["files"] == first["files"] | second["files"]
    here = manifest["environment"]
    assert here["versions"]["nflows"] == "0.14"
    assert here["cores"] >= 1 and here["device"] and here["processor"]
    assert here["commit"] is None or re.fullmatch("[0-9a-f]{40}", here["commit"])
    assert manifest["total"]["notebooks"] == 2
    apart = first["seconds"] + second["seconds"]  # one after the other, each rounded to a tenth
    assert manifest["total"]["seconds"] > apart - 0.2


def test_the_kernel_is_this_python_and_nothing_in_it_depends_on_the_machine(finished):
    executable, cwd, env = json.loads((finished / "out" / "tables" / "here.json").read_text())
    assert (executable, cwd) == (sys.executable, str(PROJECT))
    assert env["PYTHONHASHSEED"] == "0"
    assert env["MPLBACKEND"] == "module://matplotlib_inline.backend_inline"
    assert env["OMP_NUM_THREADS"] == ("1" if not torch.cuda.is_available() else str(cpu_count()))
    assert env["NUMBA_NUM_THREADS"] == "1"  # the user's own choice


def test_into_a_file_goes_one_plain_line_a_notebook_and_where_things_are(finished):
    screen = (finished / "screen.txt").read_text()
    first, second, *rest = screen.splitlines()
    assert re.fullmatch(r"\[1/2\] 00_first: [\d.]+ s", first)
    assert re.fullmatch(r"\[2/2\] 01_second: [\d.]+ s", second)
    assert rest[:3] == ["", "out holds", "     2 notebooks  out/notebooks"] and len(rest) == 6
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", screen), "a control character in a file"


def test_executed_copies_hold_outputs_but_no_paths_times_or_bars(finished):
    text = (finished / "out" / "notebooks" / "00_first.ipynb").read_text()
    for absent in (str(PROJECT), str(finished / "data"), "ipykernel_", "papermill", "start_time"):
        assert absent not in text
    assert '"x $FPN_DATA' in text
    copy = nbformat.reads(text, as_version=4)
    outputs = [cell.outputs for cell in copies.code_cells(copy.cells)]
    assert "careful" in str(outputs)
    (pieces,) = outputs[-1]
    assert pieces.text == "in three pieces"
    assert "long work" not in str(outputs)
    models = copy.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    box, slider, style = "HBoxModel", "IntSliderModel", "SliderStyleModel"
    kept = sorted(model["model_name"] for model in models)
    assert kept == [box, slider, "LayoutModel", "LayoutModel", style], "not those of bars"
    assert not list((finished / "out" / "notebooks").glob(".*"))


def test_what_is_finished_is_not_executed_again(tiny, capfd):
    copy, manifest = tiny / "out" / "notebooks" / "00_first.ipynb", Manifest(tiny / "out")
    before, total = copy.read_bytes(), manifest.read()["total"]
    assert run(tiny) == (0, "")
    assert capfd.readouterr().out.count("finished before") == 2
    assert copy.read_bytes() == before and manifest.read()["total"] == total


def test_changed_code_is_executed_and_changed_text_only_shown(tiny):
    write_first(tiny, text="# Better words")
    assert run(tiny) == (0, "")
    copy = nbformat.read(tiny / "out" / "notebooks" / "00_first.ipynb", as_version=4)
    assert copy.cells[0].source == "# Better words"
    assert "injected-parameters" in copy.cells[2].metadata.tags and copy.cells[-1].outputs
    write_first(tiny, more="  # changed")
    assert run(tiny) == (0, "1")


def test_a_stopped_run_is_taken_up_where_it_stopped(tiny):
    notebooks = tiny / "out" / "notebooks"
    left = notebooks / ".01_second.running.ipynb"
    (notebooks / "01_second.ipynb").rename(left)  # as a kill in the midst of the second leaves it
    assert run(tiny) == (0, "2")
    assert (notebooks / "01_second.ipynb").is_file() and not left.exists()


COPY, RESULT = "notebooks/01_second.ipynb", "results/second.json"


@pytest.mark.parametrize(("file", "text"), [(RESULT, "tampered"), (COPY, '{"cells": []}')])
def test_a_file_that_is_not_what_the_run_wrote_is_made_again(tiny, file, text):
    (tiny / "out" / file).write_text(text)
    assert run(tiny) == (0, "2")
    assert (tiny / "out" / RESULT).read_text() == "2"
    copy = nbformat.read(tiny / "out" / COPY, as_version=4)
    assert "before" in str(copy.cells[-2].outputs)


def test_what_another_notebook_left_is_not_vouched_for_anew(tiny):
    manifest = Manifest(tiny / "out")
    before = manifest.read()["files"]
    (tiny / "out" / "results" / "second.json").write_text("rotten")
    write(tiny / "out" / "figures" / "stray.png", "")
    assert manifest.unlisted() == ["figures/stray.png"]
    assert run(tiny, "--only", "00", "--set", "seed=5") == (0, "1")
    after = manifest.read()["files"]
    assert {name for name in before if after[name] != before[name]} == FILES_OF_FIRST
    assert after.keys() == before.keys()


def test_what_a_notebook_makes_no_more_is_not_vouched_for(tiny):
    write_notebook(tiny / "00_first.ipynb", FIRST, LOG_FIRST, "write('results/first.json', '1')")
    assert run(tiny) == (0, "1")
    manifest = Manifest(tiny / "out")
    assert manifest.unlisted() == ["tables/here.json"] and manifest.changed() == []


@pytest.mark.parametrize(
    ("data", "executed"),
    [
        ({"digits": load("digits").checksum}, ""),
        ({"digits": "of other images"}, "1"),
        ({"mnist": "not here any more"}, ""),
        ({"somebody's": "of no loader"}, ""),
    ],
)
def test_changed_data_executes_the_notebooks_that_loaded_it(tiny, data, executed):
    entry = Manifest(tiny / "out").read()["notebooks"]["00_first"]
    Manifest(tiny / "out").note("notebooks", {"00_first": entry | {"data": data}})
    assert run(tiny) == (0, executed)


def test_a_notebook_whose_files_are_not_noted_is_executed_again(tiny):
    manifest = Manifest(tiny / "out")
    entry = manifest.read()["notebooks"]["00_first"]
    manifest.note("notebooks", {"00_first": {**entry, "files": {}}})
    assert run(tiny) == (0, "1")
    del entry["files"]
    manifest.note("notebooks", {"00_first": entry})
    assert run(tiny) == (0, "1")


def test_a_changed_file_outside_the_folder_executes_the_notebooks_that_read_it(tiny, monkeypatch):
    weights = write_json(tiny / "elsewhere" / "weights.json", {"sha256": "1"})
    monkeypatch.setenv("FPN_DATA", str(weights.parent))
    manifest = Manifest(tiny / "out")
    entry = manifest.read()["notebooks"]["00_first"]
    entry["inputs"] = {"$FPN_DATA/weights.json": sha256(weights)}
    manifest.note("notebooks", {"00_first": entry})
    assert run(tiny) == (0, "")
    write_json(weights, {"sha256": "2"})
    assert run(tiny) == (0, "1")
    inputs = {"inputs": {str(weights): "another"}}
    manifest.note("notebooks", {"00_first": manifest.read()["notebooks"]["00_first"] | inputs})
    weights.unlink()
    assert run(tiny) == (0, "")  # what is gone has not changed


def test_a_run_that_is_taken_up_elsewhere_says_what_was_executed_where(tiny, monkeypatch):
    manifest = Manifest(tiny / "out")
    before = manifest.read()["environment"]
    there = before | {"device": "another", "versions": before["versions"] | {"torch": "9"}}
    monkeypatch.setattr(execute, "environment", lambda: there)
    assert run(tiny, "--set", "seed=5") == (0, "1")
    noted = manifest.read()
    assert noted["environment"] == there and "environment" not in noted["notebooks"]["00_first"]
    second = noted["notebooks"]["01_second"]
    changed = {"device": before["device"], "versions": before["versions"]}
    assert second["environment"] == changed
    for name in ("commit", "uncommitted changes"):
        assert second[name] == before[name]


def test_a_failing_cell_fails_the_command_and_is_the_last_thing_seen(tiny, capfd):
    assert run(tiny, "--set", "fail=true") == (1, "2")
    screen = capfd.readouterr().err.rstrip()
    assert screen.endswith("ValueError: the end") and "01_second, cell 5 failed:" in screen
    notebooks = tiny / "out" / "notebooks"
    whole, failed = ["00_first.ipynb", "01_second.ipynb"], "01_second.failed.ipynb"
    assert sorted(os.listdir(notebooks)) == sorted([*whole, failed])
    assert "before" in (notebooks / failed).read_text(), "what came before it is kept"
    assert run(tiny, "--only", "01") == (0, "")  # what stood before the failure is whole, and fits
    assert sorted(os.listdir(notebooks)) == whole


def test_fresh_starts_over_and_spares_what_is_not_the_runs(tiny):
    stale = write(tiny / "out" / "figures" / "old" / "stale.png", "")
    mine = tiny / "out" / "my notes.txt"
    mine.write_text("kept")
    assert run(tiny, "--fresh") == (0, "12")
    assert not stale.exists() and mine.read_text() == "kept"


def test_a_notebook_that_fails_stops_no_other(tiny, capfd):
    write_notebook(tiny / "00_broken.ipynb", SECOND, "raise ValueError('broken')")
    assert run(tiny, "--set", "seed=5") == (1, "1")
    assert capfd.readouterr().err.rstrip().endswith("ValueError: broken")
    assert (tiny / "out" / "results" / "first.json").read_text() == "0.5"


def test_starting_over_spares_folders_that_no_run_has_made(tiny, capsys):
    thesis = write(tiny / "thesis" / "figures" / "mine.png", "")
    assert run(tiny, "--fresh", "--out", str(tiny / "thesis"))[0] == 2
    assert "is no run's folder" in capsys.readouterr().err
    assert thesis.exists() and not (tiny / "thesis" / ".run.lock").exists()


@pytest.mark.parametrize("below", ["notebooks", "notebooks/deeper", "figures"])
def test_a_run_never_writes_where_its_notebooks_are(tiny, capsys, below):
    sources = tiny / "project" / below
    sources.parent.mkdir(parents=True)
    shutil.copytree(tiny, sources, ignore=shutil.ignore_patterns("out", "project"))
    before = {path: path.read_bytes() for path in sources.rglob("*") if path.is_file()}
    for more in ([], ["--fresh"]):
        assert main([*command(sources, tiny / "project"), *more]) == 2
        assert "would overwrite the notebooks in" in error_line(capsys)
    assert before == {path: path.read_bytes() for path in sources.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--set", "sead=3"], "unknown parameter 'sead'; did you mean 'seed'?"),
        # The second notebook declares no seed.
        (["--only", "01", "--set", "seed=3"], "unknown parameter 'seed'"),
        (["--set", "seed=a"], "parameter 'seed' must be a whole number like 0, got 'a'"),
        (["--set", "seed=0.5"], "parameter 'seed' must be a whole number like 0, got 0.5"),
        (["--set", "seed=true"], "parameter 'seed' must be a whole number like 0, got True"),
        (["--set", "scale=big"], "parameter 'scale' must be a number like 1.0, got 'big'"),
        (["--set", "scale=.nan"], "parameter 'scale' must be finite, got nan"),
        (["--out", "o{y}"], "out may have no braces, which papermill replaces; got 'o{y}'"),
        (["--jobs", "0"], "jobs must be a positive whole number, got 0"),
        (["--set", "fail=1"], "parameter 'fail' must be true or false like False, got 1"),
        (["--set", "seed"], "--set takes name=value, got 'seed'"),
        (["--set", "seed=1", "seed=2"], "--set has seed twice; a list of values makes one run"),
        (["--set", "out=x"], "the run's folder is set with --out x, not with --set"),
        (["--set", "seed=[1,"], "--set takes a value in YAML: while parsing a flow node"),
        (["--only", "02_secnd"], "unknown notebook '02_secnd'; did you mean '01_second'?"),
        (["--profile", "smal"], "unknown profile 'smal'; did you mean 'small'?"),
        (["--fresh", "--only", "01"], "--fresh starts the whole run over"),
        (["--notebooks", "/"], "no notebooks found"),
        (["--out", str(Path(__file__, "out"))], "[Errno "),  # a folder in a file
    ],
)
def test_mistakes_are_refused_in_one_line_before_anything_runs(tiny, capsys, more, said):
    assert run(tiny, *more) == (2, "")
    assert error_line(capsys).startswith(f"error: {said}")


PROFILE, SOURCE, MANIFEST = "profiles/small.yaml", "01_second.ipynb", "out/manifest.json"
NO_NOTEBOOK = r"error: {} is no notebook that can be executed \((?!.*delete)"
CUT = '{"cells": [], "metadata": {}, "nbform'


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        (PROFILE, "sead: 3", "unknown parameter 'sead'; did you mean 'seed'?"),
        (PROFILE, "training:\n  seed: 3", "unknown parameter 'profile'"),
        (PROFILE, "training:\n  digits:\n    seed: 3", "'training' must hold 'name: value'"),
        (PROFILE, "- seed", "must be a mapping"),
        (PROFILE, "seed: [", "is not valid YAML"),
        (PROFILE, "name: \udce4", "small.yaml is not valid YAML: .utf-8"),  # ä in Latin-1
        *(
            (SOURCE, text, NO_NOTEBOOK)
            for text in ("[]", "{}", "", CUT, '{"cells": 1, "nbformat": 4}')
        ),
        *((MANIFEST, text, "error: {} is damaged") for text in ("", '{"notebooks": {"00_', CUT)),
    ],
)
def test_a_wrong_or_damaged_file_is_one_line_before_anything_runs(tiny, capsys, file, text, said):
    (tiny / file).write_text(text, errors="surrogateescape")
    assert run(tiny) == (2, "")
    assert re.search(said.format(tiny / file), error_line(capsys))


def test_a_folder_inside_the_project_is_named_relative_to_it(tiny, monkeypatch):
    seen = {}
    monkeypatch.setattr(execute, "run", lambda profile, **options: seen.update(options))
    monkeypatch.chdir(PROJECT / "fpnlib")
    main(["run", "--profile", "small", "--out", "../outputs/x/../y"])
    assert seen["out"] == "outputs/y"


def test_parameters_are_plain_values(tmp_path):
    path = tmp_path / "x.ipynb"
    write_notebook(path, "a = -1  # help a\nb: str = 'x'\nc = [1, 2]\nd = None")
    assert plan.parameters(path) == {"a": -1, "b": "x", "c": [1, 2], "d": None}
    write_notebook(path, "a = 1\nb = 2 * a")
    said = r"x.ipynb: .* got 'b = 2 \* a'; derive it in the next cell"
    with pytest.raises(ValueError, match=said):
        plan.parameters(path)
    write_notebook(path, "a = 1\nb = (")
    with one_line(ValueError, "x.ipynb: its parameters are no Python: .*, line 2$"):
        plan.parameters(path)


def test_a_default_of_none_takes_anything_and_whole_numbers_serve_as_floats():
    assert fitting("budget", 60, None) == 60
    scale = fitting("scale", 2, 1.0)
    assert scale == 2.0 and isinstance(scale, float)


def test_what_a_notebook_used_is_told_apart_by_where_it_lies(tmp_path, monkeypatch):
    manifest, uses = Manifest(tmp_path / "run"), Uses(tmp_path / "run", "first")
    model = write_json(tmp_path / "run" / "models" / "shared.json", {})
    elsewhere = write_json(tmp_path / "elsewhere.json", {})
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_text("weights")
    for path in (model, elsewhere, tmp_path / "run" / "gone.csv", tmp_path / "gone.csv"):
        uses.file(path)
    uses.data("digits", "12ab")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    settings = [str(checkpoint), "", "no file", "x" * 5000, 3, "README.md"]
    used = inputs.Inputs(manifest).used("first", settings)
    assert used["data"] == {"digits": "12ab"}
    assert used["files"] == {"models/shared.json": sha256(model)}
    assert used["inputs"] == {
        "README.md": sha256(PROJECT / "README.md"),
        "~/checkpoint.pt": sha256(checkpoint),
        "~/elsewhere.json": sha256(elsewhere),
    }
    assert inputs.Inputs(manifest).used("other", []) == {"data": {}, "files": {}, "inputs": {}}


BUSY = """out = "outputs/tiny"  # help the run's folder
wait = False  # help whether to go on for ever
die = False  # help whether the process ends
hide = ""  # help which callback fails"""
TROUBLE = """import ipywidgets as widgets
if hide == "interact":
    widgets.interact(lambda x: 1 / x, x=0)
if hide == "button":
    button = widgets.Button()
    button.on_click(lambda _: 1 / 0)
    button.click()
if hide == "output":
    with widgets.Output():
        raise ZeroDivisionError('division by zero')"""


@pytest.fixture
def busy(tmp_path):
    """A folder with one notebook that may go wrong in many ways."""
    write(tmp_path / "profiles" / "small.yaml", "")
    steps = [
        "print('begun')",
        "import threading\nif wait:\n    threading.Event().wait()",
        "import os\nif die:\n    os._exit(3)",
        TROUBLE,
        "print('end')",
    ]
    write_notebook(tmp_path / "00_busy.ipynb", BUSY, *steps)
    (tmp_path / "out").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["wait=true", "--cell-limit", "3"], "cell 4: stopped at the limit of 3 s for a cell"),
        (["wait=true", "--limit", "0.05m"], ".*cell.*: stopped at the run's limit of 3 s"),
        (["die=true"], "cell 5: its process died, most often for want of memory"),
    ],
    ids=["endless cell", "endless run", "dead kernel"],
)
def test_a_notebook_that_does_not_end_by_itself_is_one_line(busy, capfd, more, said):
    assert run(busy, "--set", *more)[0] == 1
    lines = capfd.readouterr().err.rstrip().splitlines()
    assert re.fullmatch(f"00_busy, {said}", lines[-1]) and not lines[-2].strip()
    assert "print('begun')" in (busy / "out" / "notebooks" / "00_busy.failed.ipynb").read_text()


@pytest.mark.parametrize("hide", ["interact", "button", "output"])
def test_a_callback_that_fails_inside_a_widget_fails_the_command(busy, capfd, hide):
    assert run(busy, "--set", f"hide={hide}")[0] == 1
    screen = capfd.readouterr().err.rstrip()
    assert screen.endswith("ZeroDivisionError: division by zero") and "00_busy, cell 6" in screen
    cells = nbformat.read(busy / "out" / "notebooks" / "00_busy.failed.ipynb", as_version=4).cells
    assert not [cell for cell in cells if cell.source == "print('end')" and cell.outputs]


def test_a_reply_that_comes_while_an_output_widget_is_told_is_not_lost(tmp_path, monkeypatch):
    """A cell waited for ever, because the message sent next consumed the signal of the reply."""
    send, late, sending = OutputWidget.send, [], tmp_path / "sending"

    def send_late(widget, *args, **options):
        if not late:
            sending.touch()
            poller = zmq.Poller()
            poller.register(widget.kernel_client.shell_channel.socket, zmq.POLLIN)
            late.append(poller.poll(60_000))
        send(widget, *args, **options)

    monkeypatch.setattr(OutputWidget, "send", send_late)
    show = "from pathlib import Path\nfrom ipywidgets import Output\n"
    show += "with Output():\n    print('shown')\n"
    # Else the reply may have come before.
    show += f"while not Path({str(sending)!r}).exists():\n    pass"
    source = tmp_path / "shows.ipynb"
    write_notebook(source, FIRST, show, "print('end')")
    done = engine.execute(source, source, {}, title="shows", limits=Limits(cell=60))
    assert late[0] and done.cells[-1].outputs[0].text == "end\n"
    longest = max(cell.metadata.papermill.duration for cell in done.cells)
    assert longest < 60, "a cell waited until its limit"


def test_a_second_run_into_one_folder_is_refused_by_the_name_of_the_first(tiny, capsys):
    with claim(tiny / "out"):
        assert run(tiny) == (2, "")
    said = f"out is in use by process {os.getpid()} on {socket.gethostname()}, since 2"
    assert said in error_line(capsys)


def test_what_a_killed_run_holds_is_taken_up(tiny, capsys):
    write_json(tiny / "out" / ".run.json", {"host": "far", "process": 1, "since": "2026-01-01"})
    assert run(tiny) == (0, "")
    assert "taking up what process 1 on far left" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "0", "-1", "1d", "soon", "inf", "nan"])
def test_a_time_that_is_none_is_refused(tiny, capsys, text):
    with pytest.raises(SystemExit, match="2"):
        run(tiny, f"--limit={text}")
    assert f"like 90s, 15m or 2h, got '{text}'" in capsys.readouterr().err


def test_a_folder_without_a_name_is_not_the_working_directory(tiny, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(tiny, "--out", "")  # a variable of the shell that is not set
    assert "argument --out: expected a folder, got an empty name" in capsys.readouterr().err


def test_side_by_side_failures_are_all_said_and_the_first_comes_last(capsys):
    begun, both = [], threading.Barrier(2)

    def call(name):
        begun.append(name)
        if name != "waits":
            both.wait(30)
            raise CellError(f"{name} failed")

    with pytest.raises(CellError, match="^one failed$"):
        execute._abreast(2, call, ["one", "other", "waits"], stop=None)
    assert sorted(begun[:2]) == ["one", "other"]
    assert begun[2:] == ["waits"]
    assert capsys.readouterr().err == "\nother failed\n"


@pytest.mark.parametrize("failure", [TimeUp("no time left"), OSError("cannot write x")])
def test_nothing_begins_once_the_time_is_up_or_the_disk_is_full(capsys, failure):
    failures = {"fails": CellError("fails failed"), "stops": failure}
    begun = []

    def call(name):
        begun.append(name)
        raise failures[name]

    with pytest.raises(type(failure), match=str(failure)):
        execute._abreast(1, call, ["fails", "stops", "waits"], stop=None)
    assert begun == ["fails", "stops"]
    assert "fails failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (OSError(28, "No space left"), OSError, "cannot write .*copy.ipynb .No space left"),
        (FileNotFoundError(2, "No such file", "python"), FileNotFoundError, "'python'"),
        (RuntimeError("no reply\nin 300 s"), CellError, "did not start .no reply in 300 s"),
        (CellTimeoutError("IOPub"), CellError, "stopped at the limit of 300 s for the outputs"),
    ],
)
def test_what_papermill_raises_is_one_line(tmp_path, monkeypatch, error, raised, said):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(papermill, "execute_notebook", fails)
    paths = tmp_path / "x.ipynb", tmp_path / "copy.ipynb"
    with one_line(raised, said):
        engine.execute(*paths, {}, title="", limits=Limits())


def test_an_error_of_ours_is_not_taken_for_a_process_that_does_not_start(busy, monkeypatch):
    def broken(*_):
        raise RuntimeError("ours")

    monkeypatch.setattr(engine._Client, "set_widgets_metadata", broken)
    with pytest.raises(RuntimeError, match="^ours$"):
        run(busy)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("read '/data/MNIST/raw' and /data.", "read '$FPN_DATA/MNIST/raw' and $FPN_DATA."),
        ("PATH=/data:/data", "PATH=$FPN_DATA:$FPN_DATA"),
        ("\x1b[32m/data/x.py\x1b[39m:3", "\x1b[32m$FPN_DATA/x.py\x1b[39m:3"),
        ("fpnlib/data/digits.py, https://x.org/data, /database, /data-old, /data.zip", None),
        (f"File {PROJECT}/fpnlib/data/digits.py in {PROJECT}", "File fpnlib/data/digits.py in ."),
        (f"{Path.home()}/x /mnt{Path.home()}/x", f"~/x /mnt{Path.home()}/x"),
    ],
)
def test_folders_are_named_where_a_path_begins_and_found_again(monkeypatch, text, written):
    monkeypatch.setenv("FPN_DATA", "/data")
    named = places.named({"text": [text], "image/png": text})
    assert named == {"text": [written or text], "image/png": text}
    for path in ("/data/x", f"{Path.home()}/x", "/elsewhere/x", "digits"):
        assert places.found(places.named(path)) == path


def test_addresses_stay_whole_where_home_is_the_root(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/"))
    notebook = v4.new_notebook(cells=[v4.new_markdown_cell(f"https://arxiv.org and {PROJECT}/x")])
    copies.save(notebook, tmp_path / "copy.ipynb")
    assert "https://arxiv.org and x" in (tmp_path / "copy.ipynb").read_text()


@pytest.mark.skipif(os.name != "posix", reason="sockets in a folder are POSIX's")
def test_ports_that_somebody_else_took_do_not_matter(busy, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(LocalPortCache, "find_available_port", lambda self, ip: port)
        assert run(busy, "--cell-limit", "60")[0] == 0


def test_a_temporary_folder_too_long_for_sockets_does_not_matter(busy, monkeypatch):
    folder = busy / ("x" * 110)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    assert run(busy)[0] == 0 and not list(folder.iterdir())


def test_paths_in_the_environment_mean_what_the_shell_means(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FPN_DATA", "data")
    assert kernel._environment()["FPN_DATA"] == str(tmp_path / "data")
    monkeypatch.setenv("FPN_DATA", "~/data")
    assert kernel._environment()["FPN_DATA"] == str(Path.home() / "data")


def test_without_a_checkout_the_command_says_what_it_needs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plan, "PROJECT", tmp_path)
    assert main(["run", "--profile", "demo", "--notebooks", str(tmp_path)]) == 2
    assert "from a checkout (git clone" in error_line(capsys)


@pytest.mark.parametrize("more", [["--out", "x y"], ["--out", "x y", "--fresh"]])
def test_an_interrupt_is_said_once_with_the_command_that_resumes(monkeypatch, capsys, more):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(execute, "run", interrupted)
    assert main(["run", "--profile", "demo", *more]) == 130
    error = capsys.readouterr().err.strip()
    assert error.startswith("stopped; to resume: ")
    assert error.endswith(" -m fpnlib run --profile demo --out 'x y'")


def test_an_interrupted_notebook_leaves_no_failed_copy_and_no_kernel(busy, monkeypatch, capsys):
    limits, begun = Limits(), engine._Line.begin

    def begin(line, cell, cell_index):
        begun(line, cell, cell_index)
        limits.stop()

    monkeypatch.setattr(engine._Line, "begin", begin)
    with pytest.raises(TimeUp, match="stopped at an interrupt$"):
        execute.run("small", str(busy / "out"), notebooks=busy, limits=limits)
    assert not list((busy / "out" / "notebooks").iterdir()) and limits.kernels == []
    assert "failed" not in capsys.readouterr().out


@pytest.mark.parametrize("error", [CellTimeoutError, DeadKernelError, RuntimeError])
def test_whatever_an_interrupted_kernel_raises_it_is_an_interrupt(busy, monkeypatch, error):
    limits = Limits()

    def interrupted(*_, **__):
        limits.stop()
        raise error("Kernel died")

    monkeypatch.setattr(papermill, "execute_notebook", interrupted)
    with pytest.raises(TimeUp, match="stopped at an interrupt$"):
        execute.run("small", str(busy / "out"), notebooks=busy, limits=limits)


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self):
        return True


def test_a_kernels_bar_is_told_on_the_notebooks_line(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(engine, "tqdm", partial(engine.tqdm, file=screen, ncols=60, ascii=True))
    line = engine._Line("[1/2] 00_first")
    line.show({"_model_name": "FloatSliderModel", "value": 5.0, "max": 7.0})
    assert "5/7" not in screen.getvalue()
    line.show({"_model_name": "FloatProgressModel", "value": 1.0, "max": 3.0})
    assert "1/3" in screen.getvalue()


GROUPED = """out = "outputs/tiny"  # help the run's folder
seed = 0  # help the seed
profile = "demo"  # help the profile
override = ""  # help settings in place of the profile's"""


@pytest.fixture
def grouped(tmp_path):
    """A notebook that takes a profile, and one that does not."""
    text = "seed: 2\ndigits: {flow_epochs: 3, flow_width: 8}\nfaces:\n  msp_epochs: 1\n"
    write(tmp_path / "profiles" / "small.yaml", text)
    write_notebook(tmp_path / "00_grouped.ipynb", GROUPED)
    write_notebook(tmp_path / "01_plain.ipynb", FIRST)
    return tmp_path


def test_dotted_names_become_the_notebooks_override(grouped):
    values = {"override": "faces.msp_epochs=3", "digits.flow_epochs": 64, "digits.flow_width": 9}
    values["device"] = "cpu"
    todo = plan.plan("small", "out", (), values, grouped)
    settings, plain = todo.tasks.values()
    override = "faces.msp_epochs=3 digits.flow_epochs=64 digits.flow_width=9 device=cpu"
    assert settings == {"out": "out", "seed": 2, "profile": "small", "override": override}
    assert plain == {"out": "out", "seed": 2, "scale": 1.0}
    resolved = {"digits": {"flow_epochs": 64, "flow_width": 9}, "faces": {"msp_epochs": 3}}
    takes_a_profile, plain = todo.tasks
    assert todo.groups_for(takes_a_profile, "Study(run, FAMILIES[name])") == resolved
    assert todo.groups_for(plain, "Study(run, DIGITS)") == {}


def test_a_notebook_depends_on_the_groups_of_the_families_that_it_names(grouped):
    todo = plan.plan("small", "out", (), {}, grouped)
    notebook = next(iter(todo.tasks))
    assert todo.groups_for(notebook, "Study(run, FACES)") == {"faces": {"msp_epochs": 1}}
    assert todo.groups_for(notebook, "DIGITS, FACES") == todo.groups


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"override": "flow_epochs=3"}, "like digits.flow_epochs=64, got 'flow_epochs=3'"),
        ({"override": "digits.flow_epochs=[3"}, "override takes values in YAML, got 'digits.f"),
        ({"override": "digits.flow_epochs"}, "override takes pairs like digits.flow_epochs=64"),
        ({"digits.name": "a b"}, "'digits.name' must be a value without spaces, got 'a b'"),
        ({"override": "digits.flow_epochs=-1"}, "'digits.flow_epochs' must be 1 or more, got -1"),
        ({"override": "digits.flow_width=0"}, "'digits.flow_width' must be 1 or more, got 0"),
        ({"override": "digits.flow_seed=-1"}, "'digits.flow_seed' must be 0 or more, got -1"),
        ({"override": "digits.confidence=-0.1"}, "'digits.confidence' must be 0 or more, got -0."),
        ({"profile": "paper"}, "the profile is set with --profile"),
        ({"seed": -1}, "parameter 'seed' must be 0 or more, got -1"),
    ],
)
def test_wrong_overrides_are_refused_in_one_line(grouped, values, said):
    with one_line(ValueError, re.escape(said)):
        plan.plan("small", "out", (), values, grouped)


def test_dotted_names_need_a_notebook_that_takes_an_override(grouped):
    with pytest.raises(ValueError, match="unknown parameter 'digits.flow_epochs'"):
        plan.plan("small", "out", ["01"], {"digits.flow_epochs": 3}, grouped)


def test_an_unknown_dataset_is_refused_unless_the_notebook_itself_names_it(tmp_path):
    write(tmp_path / "profiles" / "small.yaml", "")
    parameters = "out = 'x'  # help x\nfaces = 'drawn_faces'  # help y"
    write_notebook(tmp_path / "00_a.ipynb", parameters, "DATASETS['mine'] = load_mine")
    for known in ("celeba", "mine", "somewhere:loader"):
        assert plan.plan("small", "out", (), {"faces": known}, tmp_path).tasks
    with pytest.raises(ValueError, match="unknown dataset 'celebs'; did you mean 'celeba'?"):
        plan.plan("small", "out", (), {"faces": "celebs"}, tmp_path)


def test_an_edited_group_of_the_profile_executes_the_notebooks_that_take_a_profile(grouped):
    (grouped / "out").mkdir()
    assert run(grouped)[0] == 0
    finished = Manifest(grouped / "out").read()["notebooks"]
    profile = grouped / "profiles" / "small.yaml"
    profile.write_text(profile.read_text().replace("msp_epochs: 1", "msp_epochs: 2"))
    assert run(grouped)[0] == 0
    again = Manifest(grouped / "out").read()["notebooks"]
    assert again["00_grouped"]["key"] != finished["00_grouped"]["key"]
    assert again["01_plain"] == finished["01_plain"]
