"""Runs of tiny notebooks: what is executed, what is kept, what is refused, what a failure looks like."""

import json
import os
import shutil
import subprocess
import sys

import nbformat
import pytest
from nbformat import v4

from fpnlib import runner
from fpnlib.__main__ import main
from fpnlib.artifacts import PROJECT

FIRST = """out = "outputs/tiny"  # help the run's folder
seed = 0  # help the seed
scale = 1.0  # help the scale"""
SECOND = """out = "outputs/tiny"  # help the run's folder
fail = False  # help whether to fail"""
LOG = """from pathlib import Path
def write(name, text):
    path = Path(out, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
log = Path(out, "log.txt")
log.write_text(log.read_text() + NAME if log.exists() else NAME)"""


def write_notebook(path, parameters, *code, text="# Title"):
    cells = [v4.new_markdown_cell(text), v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    for number, cell in enumerate(cells := cells + [v4.new_code_cell(source) for source in code]):
        cell["id"] = f"cell-{number}"
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(v4.new_notebook(cells=cells, metadata=metadata), path)


def write_first(folder, text="# First", more=""):
    steps = [
        "NAME = '1'\n" + LOG,
        "import os, sys, json\nwrite('tables/here.json', json.dumps([sys.executable, os.getcwd(), dict(os.environ)]))",
        "from tqdm.auto import trange\nfor i in trange(3, desc='long work'):\n    pass",
        f"write('results/first.json', str(seed * scale)){more}",
        f"import warnings\nprint({str(PROJECT / 'x')!r}, os.environ['FPN_DATA'])\nwarnings.warn('careful')",
    ]
    write_notebook(folder / "00_first.ipynb", FIRST, *steps, text=text)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder of two notebooks and their finished run, executed by the command itself from somewhere else."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "profiles").mkdir()
    (folder / "profiles" / "small.yaml").write_text("seed: 2\nscale: 1e-1\n")
    write_first(folder)
    ending = "write('results/second.json', '2')\nprint('before')"
    failing = "if fail:\n    raise ValueError('the end')"
    write_notebook(folder / "01_second.ipynb", SECOND, "NAME = '2'\n" + LOG, ending, failing)
    command = [sys.executable, "-m", "fpnlib", "run", "--profile", "small", "--notebooks", ".", "--out", "out"]
    env = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    env |= {"NUMBA_NUM_THREADS": "1", "FPN_DATA": str(folder / "data")}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    folder.joinpath("screen.txt").write_text(done.stdout + done.stderr)
    return folder


@pytest.fixture
def tiny(finished, tmp_path, monkeypatch):
    """A copy of that folder, to be changed at will."""
    monkeypatch.setenv("FPN_DATA", str(finished / "data"))
    return shutil.copytree(finished, tmp_path / "tiny")


def run(folder, *more):
    """Run again; the exit code and which notebooks were executed since the log was last looked at."""
    log = folder / "out" / "log.txt"
    log.write_text("")
    arguments = ["run", "--profile", "small", "--notebooks", str(folder), "--out", str(folder / "out"), *more]
    code = main(arguments)
    return code, log.read_text()


def test_a_run_leaves_copies_results_and_a_manifest(finished):
    out = finished / "out"
    assert (out / "log.txt").read_text() == "12"
    assert (out / "results" / "first.json").read_text() == "0.2"  # the profile's seed and scale, 1e-1 read as a number
    manifest = json.loads((out / "manifest.json").read_text())
    first, second = manifest["notebooks"]["00_first"], manifest["notebooks"]["01_second"]
    assert first["parameters"] == {"out": str(out), "seed": 2, "scale": 0.1}
    assert first["seconds"] > 0
    assert set(first["files"]) == {"results/first.json", "tables/here.json"}
    assert set(second["files"]) == {"results/second.json"}
    assert manifest["files"] == first["files"] | second["files"]
    assert manifest["environment"]["versions"]["nflows"] == "0.14"


def test_the_kernel_is_this_python_with_all_cores_and_a_fixed_hash_seed(finished):
    executable, cwd, env = json.loads((finished / "out" / "tables" / "here.json").read_text())
    assert (executable, cwd) == (sys.executable, str(PROJECT))
    assert env["PYTHONHASHSEED"] == "0"
    assert env["OMP_NUM_THREADS"] == str(runner.cores())
    assert env["NUMBA_NUM_THREADS"] == "1"  # the user's own choice


def test_the_screen_shows_progress_and_where_things_are(finished):
    screen = (finished / "screen.txt").read_text()
    for shown in ("[1/2] 00_first", "[2/2] 01_second", "long work", "2 notebooks  out/notebooks", "2 results"):
        assert shown in screen


def test_executed_copies_hold_outputs_but_no_paths_times_or_bars(finished):
    text = (finished / "out" / "notebooks" / "00_first.ipynb").read_text()
    for absent in (str(PROJECT), str(finished / "data"), "ipykernel_", "papermill", "start_time"):
        assert absent not in text
    assert '"x $FPN_DATA' in text
    outputs = [cell.outputs for cell in nbformat.reads(text, as_version=4).cells if cell.cell_type == "code"]
    assert "careful" in str(outputs) and "long work" not in str(outputs)
    assert not list((finished / "out" / "notebooks").glob(".*"))


def test_what_is_finished_is_not_executed_again(tiny, capfd):
    copy = tiny / "out" / "notebooks" / "00_first.ipynb"
    before = copy.read_bytes()
    assert run(tiny) == (0, "")
    assert capfd.readouterr().out.count("finished before") == 2
    assert copy.read_bytes() == before


def test_a_changed_parameter_executes_those_that_declare_it(tiny):
    assert run(tiny, "--set", "seed=5") == (0, "1")
    assert (tiny / "out" / "results" / "first.json").read_text() == "0.5"


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


def test_a_damaged_file_is_made_again(tiny):
    (tiny / "out" / "results" / "second.json").write_text("tampered")
    assert run(tiny) == (0, "2")
    assert (tiny / "out" / "results" / "second.json").read_text() == "2"


def test_a_failing_cell_fails_the_command_and_is_the_last_thing_seen(tiny, capfd):
    assert run(tiny, "--set", "fail=true") == (1, "2")
    screen = capfd.readouterr().err.rstrip()
    assert screen.endswith("ValueError: the end") and "01_second failed in cell" in screen
    notebooks = tiny / "out" / "notebooks"
    assert sorted(path.name for path in notebooks.iterdir()) == ["00_first.ipynb", "01_second.failed.ipynb"]
    assert "before" in (notebooks / "01_second.failed.ipynb").read_text()  # what came before it is kept
    assert run(tiny, "--only", "01") == (0, "2")
    assert sorted(path.name for path in notebooks.iterdir()) == ["00_first.ipynb", "01_second.ipynb"]


def test_fresh_starts_over_and_spares_what_is_not_the_runs(tiny):
    stale = tiny / "out" / "figures" / "old" / "stale.png"
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    mine = tiny / "out" / "my notes.txt"
    mine.write_text("kept")
    assert run(tiny, "--fresh") == (0, "12")
    assert not stale.exists() and mine.read_text() == "kept"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--set", "sead=3"], "unknown parameter 'sead'; did you mean 'seed'?"),
        (["--only", "01", "--set", "seed=3"], "unknown parameter 'seed'"),  # the second declares no seed
        (["--set", "seed=a"], "parameter 'seed' must be a whole number like 0, got 'a'"),
        (["--set", "seed=0.5"], "parameter 'seed' must be a whole number like 0, got 0.5"),
        (["--set", "seed=true"], "parameter 'seed' must be a whole number like 0, got True"),
        (["--set", "scale=big"], "parameter 'scale' must be a number like 1.0, got 'big'"),
        (["--set", "fail=1"], "parameter 'fail' must be true or false like False, got 1"),
        (["--set", "seed"], "--set takes name=value, got 'seed'"),
        (["--only", "02_secnd"], "unknown notebook '02_secnd'; did you mean '01_second'?"),
        (["--profile", "smal"], "unknown profile 'smal'; did you mean 'small'?"),
        (["--fresh", "--only", "01"], "--fresh starts a whole run over"),
        (["--notebooks", "/"], "no notebooks found"),
    ],
)
def test_mistakes_are_refused_in_one_line_before_anything_runs(tiny, capsys, more, said):
    assert run(tiny, *more) == (2, "")
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ("sead: 3", "unknown parameter 'sead'; did you mean 'seed'?"),
        ("training:\n  seed: 3", "must be a flat mapping"),
        ("- seed", "must be a flat mapping"),
        ("seed: [", "is not valid YAML"),
    ],
)
def test_a_wrong_profile_is_one_line(tiny, capsys, profile, said):
    (tiny / "profiles" / "small.yaml").write_text(profile)
    assert run(tiny) == (2, "")
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_an_unwritable_output_folder_is_one_line(tiny, capsys):
    (tiny / "file").write_text("")
    assert run(tiny, "--out", str(tiny / "file" / "out"))[0] == 2
    error = capsys.readouterr().err
    assert "cannot write" in error and "file/out" in error and error.count("\n") == 1


def test_a_folder_inside_the_project_is_named_relative_to_it(tiny, monkeypatch):
    seen = {}
    monkeypatch.setattr(runner, "run", lambda *arguments: seen.update(out=arguments[1]))
    monkeypatch.chdir(PROJECT / "fpnlib")
    main(["run", "--profile", "small", "--out", "../outputs/x/../y"])
    assert seen["out"] == "outputs/y"


def test_parameters_are_plain_values(tmp_path):
    path = tmp_path / "x.ipynb"
    write_notebook(path, "a = -1  # help a\nb: str = 'x'\nc = [1, 2]\nd = None")
    assert runner.parameters(path) == {"a": -1, "b": "x", "c": [1, 2], "d": None}
    write_notebook(path, "a = 1\nb = 2 * a")
    with pytest.raises(ValueError, match=r"x.ipynb: .* got 'b = 2 \* a'; derive it in the next cell"):
        runner.parameters(path)


def test_a_default_of_none_takes_anything_and_whole_numbers_serve_as_floats():
    assert runner.fitting("budget", 60, None) == 60
    scale = runner.fitting("scale", 2, 1.0)
    assert scale == 2.0 and isinstance(scale, float)
