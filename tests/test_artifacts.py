"""What a run leaves behind: complete or not there, and never silently something else."""

import ast
import json
import multiprocessing
import os
import pickle
import re

import numpy as np
import pytest
import torch
from torch import nn
from traps import Code

from fpnlib import artifacts
from fpnlib.artifacts import Checkpoint, Manifest, Results, tensors

TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(7), "flag": torch.tensor([True, False])}


def one_line(caught) -> str:
    said = str(caught.value)
    assert "\n" not in said and said
    return said


def test_tensors_come_back_to_the_bit_with_their_meta(tmp_path):
    path = artifacts.save_tensors(tmp_path / "deep" / "x.safetensors", TENSORS, {"seed": 3})
    tensors, meta = artifacts.load_tensors(path)
    assert meta == {"seed": 3}
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor)


def test_tensors_that_share_memory_or_are_strided_are_kept(tmp_path):
    base = torch.randn(3, 4)
    path = artifacts.save_tensors(tmp_path / "x.safetensors", {"a": base, "b": base, "c": base.T}, {})
    tensors, _ = artifacts.load_tensors(path)
    assert torch.equal(tensors["b"], base) and torch.equal(tensors["c"], base.T)


def test_the_same_content_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        artifacts.save_tensors(tmp_path / name / "x.safetensors", TENSORS, {"k": 1})
    for file in ("x.safetensors", "x.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("keep", [0, 5, -1], ids=["empty", "header cut", "last byte gone"])
def test_truncated_tensors_are_refused(tmp_path, keep):
    path = artifacts.save_tensors(tmp_path / "x.safetensors", TENSORS, {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="truncated or damaged") as caught:
        artifacts.load_tensors(path)
    assert str(path) in one_line(caught)


def test_truncated_json_is_refused(tmp_path):
    path = artifacts.save_tensors(tmp_path / "x.safetensors", TENSORS, {})
    described = path.with_suffix(".json")
    described.write_text(described.read_text()[:20])
    with pytest.raises(ValueError, match="damaged") as caught:
        artifacts.load_tensors(path)
    assert str(described) in one_line(caught)


@pytest.mark.parametrize("described", ["[]", "{}", '{"meta": 1, "sha256": ""}', '{"meta": {}}'])
def test_json_that_describes_no_weights_is_refused(tmp_path, described):
    path = artifacts.save_tensors(tmp_path / "x.safetensors", TENSORS, {"key": "abc"})
    assert artifacts.read_meta(path) == {"key": "abc"} and artifacts.read_meta(tmp_path / "y.safetensors") is None
    path.with_suffix(".json").write_text(described)
    for read in (artifacts.load_tensors, artifacts.read_meta):
        with pytest.raises(ValueError, match="x.json is damaged") as caught:
            read(path)
        one_line(caught)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_half_a_pair_is_named(tmp_path, suffix):
    path = artifacts.save_tensors(tmp_path / "x.safetensors", TENSORS, {})
    path.with_suffix(suffix).unlink()
    with pytest.raises(FileNotFoundError, match=f"x{suffix} is missing") as caught:
        artifacts.load_tensors(path)
    one_line(caught)


def test_a_kill_between_the_two_writes_leaves_no_complete_looking_pair(tmp_path, monkeypatch):
    path = artifacts.save_tensors(tmp_path / "x.safetensors", TENSORS, {"version": 1})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tensors, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        artifacts.save_tensors(path, {"weight": torch.zeros(2)}, {"version": 2})
    with pytest.raises(FileNotFoundError):
        artifacts.load_tensors(path)


def test_a_write_that_fails_keeps_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = artifacts.write_text(tmp_path / "x.txt", "old")

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(OSError, match="cannot write .*x.txt .*No space left") as caught:
        artifacts.write_text(path, "new")
    one_line(caught)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x.txt"]


def test_an_unwritable_folder_is_one_line(tmp_path):
    file = artifacts.write_text(tmp_path / "file", "")
    for write in (
        lambda: artifacts.write_text(file / "x.txt", ""),
        lambda: Results(file / "results" / "x.json").record("a", 1),
        lambda: Manifest(file).note("data", {}),
        lambda: Checkpoint(file / "x.safetensors").save({}, {}),
    ):
        with pytest.raises(OSError, match=f"cannot write {file}.*expected a folder that can be written to") as caught:
            write()
        one_line(caught)


def test_json_takes_tensors_and_arrays_but_no_nan(tmp_path):
    values = {"a": torch.tensor([1, 2]), "b": np.float32(0.5), "c": tmp_path, "d": np.arange(2)}
    path = artifacts.write_json(tmp_path / "x.json", values)
    assert artifacts.read_json(path) == {"a": [1, 2], "b": 0.5, "c": str(tmp_path), "d": [0, 1]}
    with pytest.raises(ValueError, match="finite"):
        artifacts.write_json(path, {"a": float("nan")})
    with pytest.raises(TypeError, match="object"):
        artifacts.write_json(path, {"a": object()})
    assert artifacts.read_json(path)["b"] == 0.5


def test_a_module_comes_back_whole(tmp_path):
    module, other = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    module(torch.randn(8, 3))  # moves the running statistics
    path = artifacts.save_module(tmp_path / "m.safetensors", module, {"epochs": 2})
    assert artifacts.load_module(path, other) == {"epochs": 2}
    for name, tensor in module.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (nn.Linear(4, 2), r"'weight' is of shape \(2, 3\), expected of shape \(2, 4\)"),
        (nn.Linear(3, 2, bias=False), r"'bias' is of shape \(2,\), expected absent"),
        (nn.Sequential(nn.Linear(3, 2)), r"'0.weight' is absent, expected of shape \(2, 3\)"),
    ],
    ids=["another width", "more in the file", "other names"],
)
def test_another_architecture_is_refused_and_nothing_is_loaded(tmp_path, other, said):
    path = artifacts.save_module(tmp_path / "m.safetensors", nn.Linear(3, 2), {})
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(ValueError, match=said) as caught:
        artifacts.load_module(path, other)
    assert str(path) in one_line(caught)
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


def test_half_precision_halves_matrices_that_fit_it_and_nothing_else(tmp_path):
    tensors = {
        "matrix": torch.randn(40, 30),
        "large": torch.full((2, 2), 1e6),
        "bias": torch.randn(30),
        "of": torch.eye(3).long(),
    }
    kept, _ = artifacts.load_tensors(artifacts.save_tensors(tmp_path / "h.safetensors", artifacts.halved(tensors), {}))
    assert kept["matrix"].dtype == torch.float16
    torch.testing.assert_close(kept["matrix"].float(), tensors["matrix"], rtol=2**-11, atol=1e-7)
    assert all(torch.equal(kept[name], tensors[name]) for name in ("large", "bias", "of"))


def test_weights_need_the_right_suffix(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'model.safetensors'"):
        artifacts.save_tensors(tmp_path / "model.pt", TENSORS, {})


def test_a_checkpoint_is_nothing_then_the_last_state_then_nothing(tmp_path):
    checkpoint = Checkpoint(tmp_path / "c.safetensors")
    assert checkpoint.load() is None
    for epoch in (1, 2):
        checkpoint.save({"w": torch.full((2,), epoch)}, {"epoch": epoch})
    tensors, meta = checkpoint.load()
    assert meta == {"epoch": 2} and tensors["w"].tolist() == [2, 2]
    assert len(os.listdir(tmp_path)) == 1  # tensors and meta are replaced as one
    checkpoint.clear()
    assert checkpoint.load() is None


@pytest.mark.parametrize("keep", [0, 12, -1])
def test_a_truncated_checkpoint_is_one_line(tmp_path, keep):
    checkpoint = Checkpoint(tmp_path / "c.safetensors")
    checkpoint.save(TENSORS, {"epoch": 1})
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="damaged.*delete it to start over") as caught:
        checkpoint.load()
    assert str(checkpoint.path) in one_line(caught)


def test_digests_know_content_and_not_order():
    assert artifacts.digest({"a": 1, "b": [2.5, None]}) == artifacts.digest({"b": [2.5, None], "a": 1})
    assert artifacts.digest({"a": 1}) != artifacts.digest({"a": 2})
    assert len(artifacts.digest("x")) == 12


def test_results_stand_beside_the_papers_and_are_the_same_bytes_twice(tmp_path):
    for run in ("a", "b"):
        results = Results(tmp_path / run / "results" / "08.json")
        assert results.record("accuracy", np.float64(0.5), paper=0.9677, n=10, seed=0) == 0.5
        results.record("loss", torch.tensor(2.0), latents="means")
        results.record("accuracy", 0.75, paper=0.9677, n=10, seed=0)
    written = (tmp_path / "a" / "results" / "08.json").read_bytes()
    assert written == (tmp_path / "b" / "results" / "08.json").read_bytes()
    assert json.loads(written) == [
        {"quantity": "accuracy", "value": 0.75, "paper": 0.9677, "n": 10, "seed": 0},
        {"quantity": "loss", "value": 2.0, "paper": None, "n": None, "seed": None, "latents": "means"},
    ]
    assert Results(tmp_path / "a" / "results" / "08.json").records == []  # a rerun leaves no stale rows


def test_a_result_that_is_not_a_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'accuracy' must be a finite number, got nan"):
        Results(tmp_path / "x.json").record("accuracy", float("nan"))


def test_the_manifest_gathers_and_vouches_for_files(tmp_path):
    manifest = Manifest(tmp_path / "run")
    assert manifest.read() == {}
    manifest.note("data", {"digits": "abc"})
    manifest.note("data", {"mnist": "def"})
    assert manifest.read() == {"data": {"digits": "abc", "mnist": "def"}}
    figure = artifacts.write_bytes(manifest.folder / "figures" / "deep" / "a.png", b"1")
    artifacts.write_bytes(manifest.folder / "models" / ".unfinished.safetensors", b"2")
    artifacts.write_bytes(manifest.folder / "notebooks" / "a.ipynb", b"3")
    manifest.note_files()
    assert manifest.read()["files"] == {"figures/deep/a.png": artifacts.sha256(figure)}
    figure.unlink()
    manifest.note_files()
    assert manifest.read() == {"data": {"digits": "abc", "mnist": "def"}, "files": {}}


def _note_many(folder, name):
    for i in range(25):
        Manifest(folder).note("data", {f"{name}{i}": i})


def test_two_processes_lose_none_of_each_others_notes(tmp_path):
    spawn = multiprocessing.get_context("fork")
    writers = [spawn.Process(target=_note_many, args=(tmp_path, name)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(Manifest(tmp_path).read()["data"]) == 50


def test_the_environment_names_commit_versions_and_device():
    here = artifacts.environment()
    assert here["versions"]["torch"] == torch.__version__.split("+")[0]
    assert here["cores"] >= 1 and here["device"] and here["processor"]
    assert here["commit"] is None or re.fullmatch("[0-9a-f]{40}", here["commit"])


def test_a_model_or_checkpoint_with_code_in_it_is_refused_and_the_code_does_not_run(tmp_path):
    path, evidence = tmp_path / "x.safetensors", tmp_path / "evidence"
    for write in (lambda thing: torch.save(thing, path), lambda thing: path.write_bytes(pickle.dumps(thing))):
        write({"weight": torch.zeros(2), "code": Code(evidence)})
        artifacts.write_json(path.with_suffix(".json"), {"meta": {}, "sha256": artifacts.sha256(path), "shapes": {}})
        with pytest.raises(ValueError, match="damaged"):
            artifacts.load_tensors(path)
        with pytest.raises(ValueError, match="damaged"):
            Checkpoint(path).load()
    assert not evidence.exists()


def test_nothing_is_unpickled():
    """In the library's code: no call of what reads pickles, but torch's reader of weights alone."""
    modules = ("pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib")
    readers = {f"{module}.{name}" for module in modules for name in ("load", "loads", "open", "Unpickler")}
    for path in sorted((artifacts.PROJECT / "fpnlib").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not readers & {f"{node.module}.{name.name}" for name in node.names}, path
            if isinstance(node, ast.Call):
                called, given = ast.unparse(node.func), {key.arg: ast.unparse(key.value) for key in node.keywords}
                assert called not in readers | {"pd.read_pickle"}, path
                assert called != "torch.load" or given.get("weights_only") == "True", path
                assert called != "np.load" or given.get("allow_pickle", "False") == "False", path


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "", ".", "link/x", "link"])
def test_names_from_files_lead_nowhere_else(tmp_path, name):
    folder = artifacts.make_folder(tmp_path / "run")
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="leads out of") as caught:
        artifacts.inside(folder, name)
    one_line(caught)
    assert artifacts.inside(folder, "figures/a..b.png") == folder.resolve() / "figures" / "a..b.png"


def _hold(folder, held, let_go):
    with artifacts.claim(folder):
        held.set()
        let_go.wait(60)


def test_a_folder_is_claimed_by_one_and_free_again_when_its_holder_is_killed(tmp_path):
    fork = multiprocessing.get_context("fork")
    held, let_go = fork.Event(), fork.Event()
    holder = fork.Process(target=_hold, args=(tmp_path, held, let_go))
    holder.start()
    assert held.wait(60)
    with pytest.raises(artifacts.FolderInUse, match=f"in use by process {holder.pid} on .*, since 2") as caught:
        with artifacts.claim(tmp_path):
            pass
    one_line(caught)
    holder.kill()
    holder.join()
    with artifacts.claim(tmp_path) as left:
        assert left["process"] == holder.pid
    with artifacts.claim(tmp_path) as left:
        assert left is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": 1}', "\0"])
def test_a_damaged_card_of_the_holder_hinders_nobody(tmp_path, text):
    (tmp_path / ".run.json").write_text(text)
    with artifacts.claim(tmp_path) as left:
        assert left is None


def test_what_killed_processes_left_is_swept_up_and_what_the_living_write_is_not(tmp_path):
    names = {"dead": f".x.json.{2**22 + 1}.tmp", "alive": f".x.json.{os.getpid()}.tmp", "not ours": ".x.tmp"}
    for name in names.values():
        (tmp_path / name).write_text("")
    artifacts.sweep_up(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {names["alive"], names["not ours"]}


@pytest.mark.parametrize("text", ["[]", "1", '{"files": []}'])
def test_a_manifest_of_another_shape_is_one_line(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match="manifest.json is damaged") as caught:
        Manifest(tmp_path).read()
    one_line(caught)
