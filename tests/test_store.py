"""What a run leaves behind: complete or not there, and never silently something else."""

import json
import multiprocessing
import os
import pickle

import numpy as np
import pytest
import torch
from laws import note_files, one_line, same_state
from torch import nn
from traps import Code

from fpnlib import store
from fpnlib.store import Manifest, Results, Uses, locks
from fpnlib.store.cache import Cache, Key
from fpnlib.store.tensors import Checkpoint, load_module, load_tensors, read_meta, save_tensors

TENSORS = {
    "weight": torch.arange(6.0).reshape(2, 3),
    "steps": torch.tensor(7),
    "flag": torch.tensor([True, False]),
}


def test_tensors_come_back_to_the_bit_with_their_meta(tmp_path):
    """Those that share memory or are strided, too."""
    weight = TENSORS["weight"]
    given = TENSORS | {"shared": weight, "strided": weight.T}
    path = save_tensors(tmp_path / "deep" / "x.safetensors", given, {"seed": 3})
    tensors, meta = load_tensors(path)
    assert meta == read_meta(path) == {"seed": 3} and same_state(tensors, given)
    assert read_meta(tmp_path / "y.safetensors") is None
    assert all(tensors[name].dtype == tensor.dtype for name, tensor in given.items())


def test_the_same_content_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save_tensors(tmp_path / name / "x.safetensors", TENSORS, {"k": 1})
    for file in ("x.safetensors", "x.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.fixture(params=["x.safetensors", "x.json", "c.safetensors"])
def kept_file(request, tmp_path):
    """A file of a pair, or a checkpoint; and what reads it."""
    meta = {"key": "abc", "losses": [0.5, 0.25]}
    odd = {"empty": torch.zeros(0), "half": torch.ones(3).bfloat16()}
    path = save_tensors(tmp_path / "x.safetensors", TENSORS | odd, meta)
    checkpoint = Checkpoint(tmp_path / "c.safetensors")
    checkpoint.save(TENSORS | odd, meta)
    read = checkpoint.load if request.param[0] == "c" else lambda: load_tensors(path)
    return tmp_path / request.param, read


@pytest.mark.parametrize("keep", [0, 5, 12, -2])
def test_a_truncated_file_is_refused(kept_file, keep):
    path, read = kept_file
    path.write_bytes(path.read_bytes()[:keep])
    with one_line(ValueError, "damaged") as caught:
        read()
    assert str(path) in str(caught.value)


def test_whichever_byte_of_a_file_is_flipped_it_is_refused(kept_file):
    path, read = kept_file
    whole = path.read_bytes()
    for at in range(0, len(whole), 3):
        flipped = bytearray(whole)
        # In JSON one bit might change the name of the digest, which older files have not.
        flipped[at] ^= 0x01 if at % 2 and path.suffix == ".safetensors" else 0xFF
        path.write_bytes(flipped)
        with one_line(ValueError, "damaged"):
            read()
    path.write_bytes(whole)
    assert read()[1]["key"] == "abc"


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_half_a_pair_is_named(tmp_path, suffix):
    path = save_tensors(tmp_path / "x.safetensors", TENSORS, {})
    path.with_suffix(suffix).unlink()
    with one_line(FileNotFoundError, f"x{suffix} is missing"):
        load_tensors(path)


def test_a_json_of_an_earlier_version_without_a_digest_is_read(tmp_path):
    path = save_tensors(tmp_path / "x.safetensors", TENSORS, {1: (2, 3), "b": 0.1})
    described = json.loads(path.with_suffix(".json").read_text())
    assert described.pop("digest")
    store.write_json(path.with_suffix(".json"), described)
    assert read_meta(path) == {"1": [2, 3], "b": 0.1}


def no_space(monkeypatch, name, after=0):
    """Let a function of ``os`` fail after so many calls, as on a full disk."""
    call, done = getattr(os, name), []

    def instead(*arguments):
        if len(done) == after:
            raise OSError(28, "No space left on device")
        done.append(call(*arguments))

    monkeypatch.setattr(os, name, instead)


def test_a_stop_between_the_two_files_leaves_no_complete_looking_pair(tmp_path, monkeypatch):
    path = save_tensors(tmp_path / "x.safetensors", TENSORS, {"version": 1})
    no_space(monkeypatch, "replace", after=1)
    with pytest.raises(OSError, match="cannot write .*x.json .*No space left"):
        save_tensors(path, {"weight": torch.zeros(2)}, {"version": 2})
    with pytest.raises(FileNotFoundError):
        load_tensors(path)
    assert read_meta(path) is None and os.listdir(tmp_path) == ["x.safetensors"]


def test_a_disk_that_is_full_spares_the_earlier_pair(tmp_path, monkeypatch):
    path = save_tensors(tmp_path / "x.safetensors", TENSORS, {"version": 1})
    no_space(monkeypatch, "fsync", after=1)  # of the second of the two
    with pytest.raises(OSError, match="cannot write .*No space left"):
        save_tensors(path, {"weight": torch.zeros(2)}, {"version": 2})
    kept, meta = load_tensors(path)
    assert meta == {"version": 1} and torch.equal(kept["weight"], TENSORS["weight"])
    assert sorted(os.listdir(tmp_path)) == ["x.json", "x.safetensors"]


def test_a_write_that_fails_keeps_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = store.write(tmp_path / "x.txt", "old")
    no_space(monkeypatch, "replace")
    with one_line(OSError, "cannot write .*x.txt .*No space left"):
        store.write(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x.txt"]


def test_an_unwritable_folder_is_one_line(tmp_path):
    file = store.write(tmp_path / "file", "")
    for write in (
        lambda: store.write(file / "x.txt", ""),
        lambda: Results(file / "results" / "x.json").record("a", 1),
        lambda: Manifest(file).note("data", {}),
        lambda: Checkpoint(file / "x.safetensors").save({}, {}),
    ):
        with one_line(OSError, f"cannot write {file}.*expected a folder that can be written to"):
            write()


def test_json_takes_tensors_and_arrays_but_no_nan(tmp_path):
    values = {"a": torch.tensor([1, 2]), "b": np.float32(0.5), "c": tmp_path, "d": np.arange(2)}
    path = store.write_json(tmp_path / "x.json", values)
    assert store.read_json(path) == {"a": [1, 2], "b": 0.5, "c": str(tmp_path), "d": [0, 1]}
    with pytest.raises(ValueError, match="finite"):
        store.write_json(path, {"a": float("nan")})
    with pytest.raises(TypeError, match="object"):
        store.write_json(path, {"a": object()})
    assert store.read_json(path)["b"] == 0.5


def test_a_module_comes_back_whole(tmp_path):
    module, other = (nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)) for _ in range(2))
    module(torch.randn(8, 3))  # moves the running statistics
    path = save_tensors(tmp_path / "m.safetensors", module.state_dict(), {"epochs": 2})
    load_module(path, other)
    assert read_meta(path) == {"epochs": 2}
    assert same_state(module.state_dict(), other.state_dict())


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
    path = save_tensors(tmp_path / "m.safetensors", nn.Linear(3, 2).state_dict(), {})
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with one_line(ValueError, said) as caught:
        load_module(path, other)
    assert str(path) in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


def test_half_precision_halves_matrices_that_fit_it_and_nothing_else(tmp_path):
    tensors = {"matrix": torch.randn(40, 30), "large": torch.full((2, 2), 1e6)}
    tensors |= {"bias": torch.randn(30), "of": torch.eye(3).long()}
    module = nn.Module()
    for name, tensor in tensors.items():
        module.register_buffer(name, tensor)
    module.config = {}
    cache_in(tmp_path).module("h", Key("h"), module, lambda checkpoint: {"history": {}})
    kept, _ = load_tensors(tmp_path / "h.safetensors")
    assert kept["matrix"].dtype == torch.float16
    torch.testing.assert_close(kept["matrix"].float(), tensors["matrix"], rtol=2**-11, atol=1e-7)
    assert all(torch.equal(kept[name], tensors[name]) for name in ("large", "bias", "of"))


def test_weights_need_the_right_suffix(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'model.safetensors'"):
        save_tensors(tmp_path / "model.pt", TENSORS, {})


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


def cache_in(folder):
    return Cache(folder, torch.device("cpu"), used=lambda path: None)


def kept(folder, kind, values=None):
    """Values that are kept under a key of this kind, or else made."""
    return cache_in(folder).values("x", Key(kind), lambda: values)


def test_what_is_kept_under_a_key_comes_back_under_that_key_alone(tmp_path):
    scores = {"accuracy": 0.9638, "settings": {"C": [1, 2]}}
    assert kept(tmp_path / "deep", "svm", scores) == scores
    assert kept(tmp_path / "deep", "svm") == scores
    assert kept(tmp_path / "deep", "automl", {}) == {}


def test_numbers_that_somebody_edited_are_refused(tmp_path):
    kept(tmp_path, "svm", {"accuracy": 0.9638})
    pair = save_tensors(tmp_path / "y.safetensors", TENSORS, {"accuracy": 0.9638})
    reads = {"x.json": lambda: kept(tmp_path, "svm"), "y.json": lambda: read_meta(pair)}
    for name, read in reads.items():
        path = tmp_path / name
        path.write_text(path.read_text().replace("0.9638", "0.9938"))
        with one_line(ValueError, f"{name} is damaged .its digest.*delete it and run again"):
            read()


def test_digests_know_content_and_not_order():
    assert store.digest({"a": 1, "b": [2.5, None]}) == store.digest({"b": [2.5, None], "a": 1})
    assert store.digest({"a": 1}) != store.digest({"a": 2})
    assert len(store.digest("x")) == 12


def test_results_stand_beside_the_papers_and_are_the_same_bytes_twice(tmp_path):
    for run in ("a", "b"):
        results = Results(tmp_path / run / "results" / "08.json")
        assert results.record("accuracy", np.float64(0.5), paper=0.9677, n=10, seed=0) == 0.5
        results.record("loss", torch.tensor(2.0), latents="means")
        results.record("accuracy", 0.75, paper=0.9677, n=10, seed=0)
    written = (tmp_path / "a" / "results" / "08.json").read_bytes()
    assert written == (tmp_path / "b" / "results" / "08.json").read_bytes()
    accuracy = {"quantity": "accuracy", "value": 0.75, "paper": 0.9677, "n": 10, "seed": 0}
    loss = {"quantity": "loss", "value": 2.0, "paper": None, "n": None, "seed": None}
    assert json.loads(written) == [accuracy, loss | {"latents": "means"}]
    assert store.Results.read(tmp_path / "a" / "results" / "08.json") == json.loads(written)
    again = Results(tmp_path / "a" / "results" / "08.json")
    assert again.records == {}, "a rerun leaves stale rows"
    with pytest.raises(ValueError, match="'accuracy' must be a finite number, got nan"):
        again.record("accuracy", float("nan"))


def test_the_manifest_gathers_and_vouches_for_files(tmp_path):
    manifest = Manifest(tmp_path / "run")
    assert manifest.read() == {}
    manifest.note("data", {"digits": "abc"})
    manifest.note("data", {"mnist": "def"})
    assert manifest.read() == {"data": {"digits": "abc", "mnist": "def"}}
    figure = store.write(manifest.folder / "figures" / "deep" / "a.png", b"1")
    store.write(manifest.folder / "models" / ".unfinished.safetensors", b"2")
    note_files(manifest.folder)
    assert manifest.read()["files"] == {"figures/deep/a.png": store.sha256(figure)}
    figure.unlink()
    note_files(manifest.folder)
    assert manifest.read() == {"data": {"digits": "abc", "mnist": "def"}, "files": {}}


def _use_many(folder, name):
    for i in range(200):
        Uses(folder, "04_some").file(folder / "tables" / f"{name}{i}.csv")
        if i < 25:
            Manifest(folder).note("data", {f"{name}{i}": "checksum"})


def test_two_processes_lose_none_of_each_others_notes_and_uses(tmp_path):
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_use_many, args=(tmp_path, name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len(Manifest(tmp_path).read()["data"]) == 50
    assert len(Uses(tmp_path, "04_some").read()[0]) == 400


def test_a_model_or_checkpoint_with_code_in_it_is_refused_and_the_code_does_not_run(tmp_path):
    path, evidence = tmp_path / "x.safetensors", tmp_path / "evidence"
    for write in (torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))):
        write({"weight": torch.zeros(2), "code": Code(evidence)}, path)
        described = {"meta": {}, "sha256": store.sha256(path), "shapes": {}}
        store.write_json(path.with_suffix(".json"), described)
        with pytest.raises(ValueError, match="damaged"):
            load_tensors(path)
        with pytest.raises(ValueError, match="damaged.*delete it to start over"):
            Checkpoint(path).load()
    assert not evidence.exists()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "", ".", "link/x", "link"])
def test_names_from_files_lead_nowhere_else(tmp_path, name):
    manifest, folder = Manifest(tmp_path / "run"), tmp_path / "run"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    with one_line(ValueError, "leads out of"):
        manifest.path_of(name)
    assert manifest.path_of("figures/a..b.png") == folder.resolve() / "figures" / "a..b.png"


def _hold(lock, path, held, let_go):
    with lock(path):
        held.set()
        let_go.wait(60)


def holder_of(lock, path):
    """A process that holds a lock, and the event upon which it lets go."""
    fork = multiprocessing.get_context("fork")
    held, let_go = fork.Event(), fork.Event()
    holder = fork.Process(target=_hold, args=(lock, path, held, let_go))
    holder.start()
    assert held.wait(60)
    return holder, let_go


def test_a_folder_is_claimed_by_one_and_free_again_when_its_holder_is_killed(tmp_path):
    holder, _ = holder_of(store.claim, tmp_path)
    said = f"in use by process {holder.pid} on .*, since 2"
    with one_line(OSError, said), store.claim(tmp_path):
        pass
    holder.kill()
    holder.join()
    with store.claim(tmp_path) as left:
        assert left["process"] == holder.pid
    with store.claim(tmp_path) as left:
        assert left is None


def test_who_waits_is_told_so(tmp_path, monkeypatch, capsys):
    holder, let_go = holder_of(store.alone, tmp_path / "model")
    monkeypatch.setattr(locks, "MOMENT", 0)
    tries, acquire = [], locks._acquire

    def counted(*arguments, **options):
        tries.append(1)
        if len(tries) == 2:
            let_go.set()
        acquire(*arguments, **options)

    monkeypatch.setattr(locks, "_acquire", counted)
    with store.alone(tmp_path / "model"):
        holder.join()
    assert "model: waiting for another process" in capsys.readouterr().err
    with store.alone(tmp_path / "model"):
        pass
    assert capsys.readouterr().err == "" and os.listdir(tmp_path) == [".model.lock"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": 1}', "\0"])
def test_a_damaged_card_of_the_holder_hinders_nobody(tmp_path, text):
    (tmp_path / ".run.json").write_text(text)
    with store.claim(tmp_path) as left:
        assert left is None


def test_what_killed_processes_left_is_swept_up_and_what_the_living_write_is_not(tmp_path):
    dead, alive, other = f".x.json.{2**22 + 1}.tmp", f".x.json.{os.getpid()}.tmp", ".x.tmp"
    for name in (dead, alive, other):
        (tmp_path / name).write_text("")
    with store.claim(tmp_path):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {alive, other, ".run.lock"}


@pytest.mark.parametrize("name", ["../../s", "..", ".hidden", "a/b", "//evil.example/x", "/etc"])
def test_a_notebook_whose_name_leads_elsewhere_is_refused(tmp_path, name):
    store.write_json(tmp_path / "manifest.json", {"notebooks": {name: {"parameters": {}}}})
    with one_line(ValueError, f"'{name}' names no notebook"):
        Manifest(tmp_path).read()


READERS = {
    "weights": lambda path: load_tensors(path.with_suffix(".safetensors")),
    "values": lambda path: kept(path.parent, "svm"),
    "results": Results.read,
    "manifest": lambda path: Manifest(path.parent).read(),
}
OF_AN_ENTRY = '{"notebooks": {"00_first": {"parameters": {}, %s}}}'


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("weights", "[]", "expected a mapping, got list"),
        ("weights", "{}", "'meta' is missing"),
        ("weights", '{"meta": 1, "sha256": ""}', "'meta' is of another type"),
        ("weights", '{"meta": {}}', "'sha256' is missing"),
        ("values", "[]", "expected a mapping, got list"),
        ("values", "{}", "'key' is missing"),
        ("values", '{"key": 1}', "'key' is of another type"),
        ("values", '{"key": "k", "values": [1]}', "'values' is of another type"),
        ("values", '{"key": "k"', "no valid JSON"),
        ("results", "{}", "$ must be array, got {}"),
        ("results", "[1]", "$[0] must be object, got 1"),
        ("results", '[{"quantity": "a"}]', "$[0] must contain ["),
        ("results", '[{"quantity": "a", "value": "1"}]', "$[0].value must be number, got '1'"),
        (
            "results",
            '[{"quantity": "a", "value": 1, "paper": "1"}]',
            "$[0].paper must be number or",
        ),
        ("results", '[{"quantity": "a", "value": NaN}]', "no valid JSON: "),
        ("results", '[{"quantity": "a", "value": 1e999}]', "$[0].value must be smaller than"),
        ("results", "[{", "no valid JSON"),
        ("manifest", '{"notebooks": {"a": []}}', "$.notebooks.a must be object, got []"),
        ("manifest", '{"notebooks": {"a": {}}}', "$.notebooks.a must contain ['parameters']"),
        ("manifest", OF_AN_ENTRY % '"seconds": "x"', "$.notebooks.00_first.seconds must be number"),
        ("manifest", OF_AN_ENTRY % '"files": {"a": 1}', "$.notebooks.00_first.files.a must be str"),
        ("manifest", '{"files": {"results/a.json": null}}', "$.files.results/a.json must be str"),
        ("manifest", '{"environment": {"versions": "2"}}', "$.environment.versions must be object"),
        ("manifest", '{"data": 1}', "$.data must be object, got 1"),
        ("manifest", '{"files": []}', "$.files must be object, got []"),
        ("manifest", "[]", "$ must be object, got []"),
    ],
)
def test_json_of_another_shape_is_one_line(tmp_path, kind, text, said):
    save_tensors(tmp_path / "x.safetensors", TENSORS, {})
    path = store.write(tmp_path / ("manifest.json" if kind == "manifest" else "x.json"), text)
    with one_line(ValueError, "is damaged") as caught:
        READERS[kind](path)
    assert f"{path} is damaged ({said}" in str(caught.value)


def test_what_a_notebooks_processes_use_comes_back_once_each(tmp_path):
    uses = Uses(tmp_path / "run", "04_some")
    assert uses.read() == ([], {})
    uses.file(tmp_path / "run" / "tables" / "a.csv")
    uses.file(tmp_path / "run" / "tables" / "a.csv")
    uses.file(tmp_path / "kept" / "x.safetensors")
    uses.data("digits", "06b0")
    outside = [str(tmp_path / "kept" / f"x.{kind}") for kind in ("json", "safetensors")]
    assert uses.read() == (sorted([*outside, "tables/a.csv"]), {"digits": "06b0"})
    assert Uses(tmp_path / "run", "05_other").read() == ([], {})
    uses.clear()
    assert uses.read() == ([], {})
