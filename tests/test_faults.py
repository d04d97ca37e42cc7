"""What goes wrong in the middle: kills, full and read-only disks, damaged files. Nothing that was made is lost.

The kills are as many as FPN_KILLS says; ``make test-faults`` asks for thirty.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import ANY

import pytest
from test_runner import write_notebook

from fpnlib import artifacts
from fpnlib.__main__ import main
from fpnlib.artifacts import Manifest

KILLS = int(os.environ.get("FPN_KILLS", "1"))
PARAMETERS = """out = "outputs/tiny"  # help the run's folder
seed = 0  # help of everything random"""
# What notebooks do: a model in several steps with a checkpoint, loaded where it is there; figures; tables; results.
STEPS = (
    "import time, numpy, torch\nfrom pathlib import Path\nfrom fpnlib import artifacts\nfolder = Path(out)",
    """def make(name, steps=6):
    path = folder / 'models' / f'{name}.safetensors'
    with artifacts.alone(folder / 'models' / name):
        if path.with_suffix('.json').exists():
            return artifacts.load_tensors(path)[0]['w']
        checkpoint = artifacts.Checkpoint(path.with_name(f'.{name}-part.safetensors'))
        tensors, meta = checkpoint.load() or ({'w': torch.zeros(1000)}, {'step': 0})
        for step in range(meta['step'], steps):
            noise = torch.randn(1000, generator=torch.Generator().manual_seed(seed + step))
            tensors = {'w': (tensors['w'] + noise).tanh()}
            time.sleep(0.01)
            checkpoint.save(tensors, {'step': step + 1})
        artifacts.save_tensors(path, tensors, {'steps': steps})
        checkpoint.clear()
        return tensors['w']""",
    "shared = make('shared')",
    "own = make(NAME)",
    "figure = artifacts.write_bytes(folder / 'figures' / f'{NAME}.png', own.numpy().tobytes())",
    "table = artifacts.write_text(folder / 'tables' / f'{NAME}.csv', '\\n'.join(map(str, own.tolist())))",
    """results = artifacts.Results(folder / 'results' / f'{NAME}.json')
for part in range(5):
    results.record(f'mean {part}', own[part::5].mean(), seed=seed)
    time.sleep(0.01)""",
    "artifacts.Manifest(folder).note('data', {NAME: 'checksum'})\nprint('end')",
)


@pytest.fixture(scope="module")
def notebooks(tmp_path_factory):
    """Two notebooks that share a model."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "profiles").mkdir()
    (folder / "profiles" / "small.yaml").write_text("seed: 4\n")
    for number, name in enumerate(("first", "second")):
        write_notebook(folder / f"0{number}_{name}.ipynb", PARAMETERS, f"NAME = '{name}'\n{STEPS[0]}", *STEPS[1:])
    return folder


def command(notebooks, out):
    arguments = ["run", "--profile", "small", "--notebooks", str(notebooks), "--out", str(out), "--jobs", "2"]
    return [sys.executable, "-m", "fpnlib", *arguments]


def run(notebooks, out):
    """Run in this process; the exit code."""
    return main(command(notebooks, out)[3:])


def watched(notebooks, out, kill_at=None):
    """Run the command and count what changes in the folder, a file at a time; SIGKILL at change ``kill_at``."""
    process = subprocess.Popen(command(notebooks, out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seen, changes = {}, 0
    while process.poll() is None:
        now = {}
        for path in out.rglob("*") if out.exists() else ():
            with suppress(OSError):
                now[path] = path.stat().st_mtime_ns
        changes += len(now.items() ^ seen.items())
        seen = now
        if kill_at is not None and changes >= kill_at:
            process.kill()
        time.sleep(0.005)
    return process.wait(), changes, process.stderr.read()


@pytest.fixture(scope="module")
def undisturbed(notebooks, tmp_path_factory):
    """The folder of a run that nothing disturbed, and how many changes it made there."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    code, changes, said = watched(notebooks, out)
    assert code == 0, said
    return out, changes


def content(out):
    """What a run has made: the bytes of its files by name; the manifest, which has times, aside."""
    copies = sorted((out / "notebooks").glob("*.ipynb"))
    copies = {path.name: re.sub(r"out = [^,]*,", "", path.read_text()) for path in copies}  # where it is
    return Manifest(out).each(Path.read_bytes) | copies


def assert_whole(out):
    """Every file that bears its name is complete."""
    for path in Manifest(out).each(lambda path: path).values():
        if path.suffix == ".json":
            json.loads(path.read_text())
        if path.suffix == ".safetensors" and path.with_suffix(".json").exists():
            artifacts.load_tensors(path)
        if path.suffix in (".png", ".csv"):
            assert path.stat().st_size >= 4000
    Manifest(out).read()


def test_a_run_that_is_killed_ends_as_if_nothing_had_happened(notebooks, undisturbed, tmp_path):
    expected, changes = undisturbed
    moments, killed = random.Random(7), 0
    for kill in range(KILLS):
        out = tmp_path / f"out{kill}"
        code, *_ = watched(notebooks, out, kill_at=moments.randint(1, int(0.9 * changes)))
        killed += code == -signal.SIGKILL
        assert_whole(out)
        code, _, said = watched(notebooks, out)
        assert code == 0, said
        assert content(out) == content(expected), f"kill {kill}"
        assert Manifest(out).read()["files"] == Manifest(out).files()
        assert not [path for path in out.rglob(".*") if path.suffix in (".tmp", ".ipynb")]
    assert killed > KILLS / 2


def fails_in_one_line(notebooks, out, capsys, code=2):
    """Run; the one line of the error."""
    assert run(notebooks, out) == code
    said = capsys.readouterr().err.rstrip().splitlines()[-1]
    return said


@pytest.fixture
def finished(undisturbed, tmp_path):
    """A copy of the finished run, to be damaged."""
    return shutil.copytree(undisturbed[0], tmp_path / "out")


@contextmanager
def mounted(folder, *options):
    """A small file system of its own at ``folder``."""
    if not shutil.which("mount") or os.geteuid():
        pytest.skip("needs root, to mount a small file system")
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", folder], capture_output=True)
    if done.returncode:
        pytest.skip(f"mounting a small file system is not allowed here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_one_line_and_spares_what_was_made(notebooks, undisturbed, tmp_path, capsys):
    with mounted(tmp_path / "disk", "size=256k") as disk:
        out, filler = disk / "out", disk / "filler"
        filler.write_bytes(bytes(215_000))
        assert "No space left on device" in fails_in_one_line(notebooks, out, capsys, code=ANY)
        made = Manifest(out).each(Path.read_bytes)
        assert_whole(out)
        filler.unlink()
        assert run(notebooks, out) == 0
        assert made.items() <= Manifest(out).each(Path.read_bytes).items()
        assert content(out) == content(undisturbed[0])


def test_a_read_only_folder_is_one_line(notebooks, undisturbed, tmp_path, capsys):
    with mounted(tmp_path / "disk", "size=1m") as disk:
        out = shutil.copytree(undisturbed[0], disk / "out")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        said = fails_in_one_line(notebooks, out, capsys)
        assert "cannot write" in said and "Read-only file system" in said and str(out) in said
        assert content(out) == content(undisturbed[0])


@pytest.mark.parametrize("keep", [0, 60, -7], ids=["empty", "begun", "almost whole"])
def test_a_damaged_manifest_is_one_line_before_anything_runs(notebooks, finished, capsys, keep):
    path, before = finished / "manifest.json", content(finished)
    path.write_bytes(path.read_bytes()[:keep])
    assert f"{path} is damaged" in fails_in_one_line(notebooks, finished, capsys)
    assert content(finished) == before


def test_a_damaged_model_is_named_and_made_again_once_deleted(notebooks, undisturbed, finished, capsys):
    path = finished / "models" / "shared.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    line = fails_in_one_line(notebooks, finished, capsys, code=1)
    assert line.startswith("ValueError: ") and "shared.safetensors is truncated or damaged" in line
    assert line.endswith("delete it and run again")
    path.unlink()
    path.with_suffix(".json").unlink()
    assert run(notebooks, finished) == 0
    assert content(finished) == content(undisturbed[0])


def test_damaged_figures_results_and_copies_are_made_again(notebooks, undisturbed, finished):
    for name in ("figures/first.png", "results/first.json", "notebooks/00_first.ipynb"):
        path = finished / name
        path.write_bytes(path.read_bytes()[:-9])
    assert run(notebooks, finished) == 0
    assert content(finished) == content(undisturbed[0])
