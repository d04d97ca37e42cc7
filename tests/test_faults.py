"""Kills, full and read-only disks, damaged files: nothing that was made is lost.

The kills are as many as FPN_KILLS says; ``make test-faults`` asks for thirty.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress

import nbformat
import psutil
import pytest
from test_runner import command, write_notebook

from fpnlib import store
from fpnlib.__main__ import main
from fpnlib.store import Manifest, Results

KILLS = int(os.environ.get("FPN_KILLS", "1"))
VICTIMS = ("runner", "kernel", "all")
PARAMETERS = """out = "outputs/tiny"  # help the run's folder
seed = 0  # help of everything random"""
# What notebooks do: models with checkpoints and a loss that draws, two of them side by side,
# latents, figures, tables and results.
BEGIN = """import matplotlib.pyplot as plt
import pandas as pd
import torch
from dataclasses import asdict
from fpnlib.families import Run
from fpnlib.families.parallel import run_in_processes
from fpnlib.store.cache import Key
from fpnlib.training import fit
from joblib import cpu_count
run = Run(NAME, out=out, seed=seed)"""
STEP = """def model(arguments, name):
    run = Run(**arguments)
    torch.manual_seed(run.seed + len(name))
    module, x = torch.nn.Linear(200, 100), torch.randn(60, 200)
    module.config = {}
    def loss(x):
        return (module(x) + torch.randn(len(x), 100)).square().mean()
    settings = dict(epochs=8, batch_size=10, learning_rate=0.01, seed=run.seed)
    def train(checkpoint):
        data = (x[:40],), (x[40:],)
        history = asdict(fit(module, loss, *data, checkpoint=checkpoint, **settings))
        del history['seconds']
        return {'history': history}
    return run.cache.module(name, Key(name, settings), module, train)[0]"""
END = (
    "weight = model(run.arguments, MODEL).weight.detach()",
    "make = lambda: {'z': weight @ weight.T}\nkey = Key('latents', {'of': MODEL})",
    "z = run.cache.tensors(f'{NAME}_latents', key, make)['z']",
    "figure, axes = plt.subplots()\naxes.imshow(z)\nshown = run.figure(figure, 'latents')",
    "shown = run.table(pd.DataFrame(z.numpy()), 'latents')",
    "for part in range(5):\n    run.record(f'mean {part}', z[part::5].mean())",
    "print('the end')",
)
NOTEBOOKS = {
    "00_first": (
        "other",
        "jobs = [(run.arguments, name) for name in ('shared', 'other')]\n"
        "run_in_processes(model, jobs, cpu_count())",
    ),
    "01_second": ("shared", "first = model(run.arguments, 'shared')"),
}


@pytest.fixture(scope="module")
def notebooks(tmp_path_factory):
    """Two notebooks that share a model."""
    folder = tmp_path_factory.mktemp("faults")
    store.write(folder / "profiles" / "small.yaml", "seed: 4\n")
    for name, (of, make) in NOTEBOOKS.items():
        steps = [f"NAME, MODEL = '{name}', '{of}'", BEGIN, STEP, make, *END]
        write_notebook(folder / f"{name}.ipynb", PARAMETERS, *steps)
    return folder


def arguments(notebooks, out, *more):
    return [*command(notebooks, out), "--jobs", "2", *more]


def run(notebooks, out, *more):
    """Run in this process; the exit code."""
    return main(arguments(notebooks, out, *more))


class Command:
    """The command in a process of its own, and how many changes it has made in its folder."""

    def __init__(self, notebooks, out):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        quiet["env"] = os.environ | {"LOKY_MAX_CPU_COUNT": "2"}  # workers, whatever the machine
        words = [sys.executable, "-m", "fpnlib", *arguments(notebooks, out)]
        self.process = psutil.Popen(words, **quiet)
        self.out, self.changes, self.seen = out, 0, {}

    def goes_on(self):
        """Whether it does; looks what has changed, a file at a time."""
        now = {}
        for path in self.out.rglob("*") if self.out.exists() else ():
            with suppress(OSError):
                now[path] = path.stat().st_mtime_ns
        self.changes += len(now.items() ^ self.seen.items())
        self.seen = now
        with suppress(psutil.TimeoutExpired):
            self.process.wait(timeout=0.02)
        return self.process.poll() is None

    def kill(self, victim, chance):
        """SIGKILL the runner, one of its kernels, or all processes; whether that ended the command.

        It is over when those that were spared have ended by themselves.
        """
        children = self.process.children(recursive=True)
        kernels = [child for child in children if "ipykernel_launcher" in " ".join(child.cmdline())]
        if victim == "kernel" and not kernels:
            return False
        if victim == "kernel":
            victims = [chance.choice(kernels)]
        else:
            victims = [self.process, *(children if victim == "all" else ())]
        for process in victims:
            process.kill()
        assert not psutil.wait_procs([self.process, *children], timeout=600)[1]
        return self.process.wait() == (1 if victim == "kernel" else -signal.SIGKILL)


def killed(notebooks, out, victim, moment, chance):
    """Run the command and kill at the given change of its folder; False where it ended before."""
    running = Command(notebooks, out)
    while running.goes_on():
        if running.changes >= moment:
            with suppress(psutil.NoSuchProcess):  # of a process that has just ended
                if running.kill(victim, chance):
                    return True
    return False


@pytest.fixture(scope="module")
def undisturbed(notebooks, tmp_path_factory):
    """The folder of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert run(notebooks, out) == 0
    return out


def made(out):
    """The bytes of what a run has made, by name: figures, tables, results and models."""
    return {name: path.read_bytes() for name, path in Manifest(out).made().items()}


def assert_whole(out, expected):
    """Every file is as the undisturbed run left it; results may be the first of its results."""
    for name, data in made(out).items():
        if name.startswith("results/"):
            begun = Results.read(out / name)
            assert begun == Results.read(expected / name)[: len(begun)]
        else:
            assert data == (expected / name).read_bytes(), name
    for copy in (out / "notebooks").glob("[!.]*.ipynb"):
        nbformat.validate(nbformat.read(copy, as_version=4))
    Manifest(out).read()


def assert_finished(out, expected):
    """All is there and vouched for, as if nothing had happened, and nothing else is."""
    assert made(out) == made(expected)
    manifest = Manifest(out)
    assert not manifest.unlisted() and not manifest.changed()
    for name in NOTEBOOKS:
        copy = nbformat.read(out / "notebooks" / f"{name}.ipynb", as_version=4)
        assert copy.cells[-1].outputs[0].text == "the end\n"
    assert not [path for path in out.rglob(".*") if path.suffix in (".tmp", ".ipynb")]


def test_a_run_that_is_killed_ends_as_if_nothing_had_happened(notebooks, undisturbed, tmp_path):
    chance, changes = random.Random(7), 2 * len(made(undisturbed))  # a run makes no fewer
    for number in range(KILLS):
        victim, moment = VICTIMS[number % len(VICTIMS)], chance.randint(1, changes)
        while not killed(notebooks, out := tmp_path / f"{number}-{moment}", victim, moment, chance):
            moment //= 2  # it was over before
        assert_whole(out, undisturbed)
        assert run(notebooks, out) == 0, f"{victim} killed at change {moment}"
        assert_finished(out, undisturbed)


@contextmanager
def mounted(folder, *options):
    """A small file system of its own at ``folder``."""
    if not shutil.which("mount") or os.geteuid():
        pytest.skip("needs root, to mount a small file system")
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", folder]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting a small file system is not allowed here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def last_line(capsys):
    return capsys.readouterr().err.rstrip().splitlines()[-1]


def test_a_full_disk_is_one_line_and_spares_what_was_made(notebooks, undisturbed, tmp_path, capsys):
    with mounted(tmp_path / "disk", "size=4m") as disk:
        out, filler = disk / "out", disk / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(disk).free))
        assert run(notebooks, out) == 2
        said = rf"error: \[Errno 28\] cannot write {out}\S* \(No space left .*"
        assert re.fullmatch(said, last_line(capsys))
        os.truncate(filler, filler.stat().st_size - 200_000)  # a training's state is larger
        assert run(notebooks, out, "--only", "01") == 1
        said = rf"OSError: \[Errno 28\] cannot write {out}/models/\.shared-\S+ "
        said += r"\(No space left .*can be written to"
        assert re.fullmatch(said, last_line(capsys))
        assert_whole(out, undisturbed)
        filler.unlink()
        assert run(notebooks, out, "--only", "01") == 0
        assert_whole(out, undisturbed)
        assert made(out).keys() > {"models/shared.safetensors", "results/01_second.json"}


def test_a_read_only_folder_is_one_line(notebooks, undisturbed, tmp_path, capsys):
    with mounted(tmp_path / "disk", "size=4m") as disk:
        out = shutil.copytree(undisturbed, disk / "out")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert run(notebooks, out) == 2
        said = rf"error: .*cannot write {out}\S* \(Read-only file system\);.*"
        assert re.fullmatch(said, last_line(capsys))
        assert_finished(out, undisturbed)
