"""Splits and loaders: what they return, and what they say when something is missing."""

import sys
from contextlib import contextmanager
from itertools import combinations
from types import ModuleType

import pytest
import torch
from laws import one_line, refusal

from fpnlib import data
from fpnlib.data import Dataset, Split
from fpnlib.data import digits as digits_module
from fpnlib.store import PROJECT


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def write_mnist(root, train=60, test=20):
    """A tiny data set in MNIST's own file format."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, n in (("train", train), ("t10k", test)):
        pixels = torch.arange(n * 28 * 28).remainder(256).to(torch.uint8).numpy().tobytes()
        labels = bytes(i % 10 for i in range(n))
        sizes = b"".join(size.to_bytes(4, "big") for size in (n, 28, 28))
        (raw / f"{name}-images-idx3-ubyte").write_bytes(b"\x00\x00\x08\x03" + sizes + pixels)
        labels = b"\x00\x00\x08\x01" + n.to_bytes(4, "big") + labels
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(labels)
    return raw


def rows(split):
    return {x.numpy().tobytes() for x in split.x}


def test_bytes_are_seen_as_floats_between_0_and_1_and_floats_as_they_are():
    pixels = torch.tensor([[0, 51], [255, 102]], dtype=torch.uint8)
    split = Split(pixels, torch.tensor([0, 1]))
    torch.testing.assert_close(split.x, torch.tensor([[0, 0.2], [1, 0.4]]))
    assert split.data is pixels and split.x is split.x
    floats = Split(split.x, split.y)
    assert floats.x is split.x


def test_rows_are_taken_of_everything():
    y = torch.tensor([[0, 1], [1, 0], [1, 1]])
    split = Split(torch.arange(3.0), y, {"weight": torch.tensor([5, 6, 7])})
    taken = split.take([2, 0])
    assert taken.x.tolist() == [2, 0] and taken.y.tolist() == [[1, 1], [0, 1]]
    assert taken.extra["weight"].tolist() == [7, 5]
    assert split.first(2).x.tolist() == [0, 1] and split.first(9) is split
    assert split.take(y[:, 0] > 0).x.tolist() == [1, 2]


def test_objects_are_made_once_and_only_of_the_rows_that_are_needed():
    made = []

    def make(y, weight):
        made.append(y.tolist())
        return weight.float() * y

    split = Split(make, torch.tensor([1, 2, 3]), {"weight": torch.tensor([1, 10, 100])})
    assert split.first(2).x.tolist() == [1, 20] and made == [[1, 2]]
    assert split.x.tolist() == [1, 20, 300] and split.take([1]).x.tolist() == [20]
    assert made == [[1, 2], [1, 2, 3]]


def test_parts_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="data and y must have the same length, got 2 and 3"):
        Split(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="weight and y must have the same length, got 2 and 3"):
        Split(torch.zeros(3), torch.zeros(3), {"weight": torch.zeros(2)})


def own(test_y=(0, 1), classes=("cat", "dog"), **parts):
    """A dataset of a user's own."""
    split = Split(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]))
    test = Split(torch.zeros(len(test_y), 1, 8, 8), torch.tensor(test_y))
    parts = {"train": split, "validation": split, "test": test} | parts
    return Dataset("pets", **parts, classes=classes, checksum="0")


@pytest.fixture
def own_module(monkeypatch):
    """A module that Python can import, whose function ``load`` returns what ``made`` holds."""
    module = ModuleType("pets_of_mine")
    module.load = lambda root, seed, download: module.made
    monkeypatch.setitem(sys.modules, "pets_of_mine", module)
    return module


def test_a_users_dataset_is_loaded_by_its_name_or_by_its_loader(own_module, monkeypatch):
    own_module.made = own()
    assert data.load("pets_of_mine:load") is own_module.made
    monkeypatch.setitem(data.DATASETS, "pets", own_module.load)
    assert data.load("pets") is own_module.made


@pytest.mark.parametrize(
    "row",
    [
        (lambda: None, "the loader of .* must return a data.Dataset, got NoneType", TypeError),
        (lambda: own(train=torch.zeros(3)), "train split must be a data.Split, got T", TypeError),
        (lambda: own(test_y=()), "its test split is empty"),
        (lambda: own(test_y=(0, 2)), "has classes from 0 to 2; 2 classes have indices 0 to 1"),
        (lambda: own(test_y=(-1, 1)), "has classes from -1 to 1"),
        (lambda: own(test_y=(0.0, 1.0)), "class indices of type torch.float32; expected integers"),
        (lambda: own(test_y=([0, 1, 1],)), r"labels of shape \(1, 3\); expected \(n,\) or"),
        (lambda: own(test_y=([-1, 1],)), "has attributes from -1 to 1; expected 0 and 1"),
        (lambda: own(test_y=([0.5, float("nan")],)), "has NaN or infinite labels"),
    ],
)  # fmt: skip
def test_a_users_dataset_that_does_not_fit_gets_one_line(own_module, row):
    made, said, kind = refusal(row)
    own_module.made = made()
    with one_line(kind, said):
        data.load("pets_of_mine:load")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mnits", "did you mean 'mnist'"),
        ("pets_of_nobody:load", "cannot import 'pets_of_nobody' .*; install it, or put its folder"),
        ("pets_of_mine:laod", "'pets_of_mine' has no function 'laod'"),
    ],
)
def test_a_dataset_that_is_not_there_gets_one_line(own_module, name, said):
    with one_line(ValueError, said):
        data.load(name)


def test_the_root_is_the_argument_else_the_environments_else_the_projects(monkeypatch, tmp_path):
    monkeypatch.delenv("FPN_DATA", raising=False)
    assert data.data_root() == PROJECT / "data"
    monkeypatch.setenv("FPN_DATA", str(tmp_path))
    assert data.data_root() == data.data_root("") == data.data_root(None) == tmp_path
    assert data.data_root("mine") == PROJECT / "mine"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data.data_root("~/mine") == tmp_path / "mine"
    monkeypatch.setenv("FPN_DATA", "~/other")
    assert data.data_root() == tmp_path / "other"


def test_digits_are_laid_out_as_mnist(digits):
    assert sum(map(len, (digits.train, digits.validation, digits.test))) == 1797
    for split in (digits.train, digits.validation, digits.test):
        assert split.x.shape == (len(split), 1, 28, 28) and split.x.dtype == torch.float32
        assert split.x.min() >= 0 and split.x.max() <= 1
        assert split.y.dtype == torch.int64 and set(split.y.tolist()) == set(range(10))
    framed = digits.train.x.clone()
    framed[..., 4:24, 4:24] = 0
    assert not framed.any()
    assert digits.train.x[..., 4:24, 4:24].std() > 0.2


def test_splits_are_disjoint_stratified_and_drawn_by_the_seed(digits):
    for one, two in combinations((digits.train, digits.validation, digits.test), 2):
        assert not rows(one) & rows(two)
    assert digits.test.y.bincount().max() - digits.test.y.bincount().min() <= 2
    again, other = data.load("digits", seed=0), data.load("digits", seed=1)
    assert torch.equal(again.train.x, digits.train.x)
    assert again.checksum == other.checksum == digits.checksum
    assert rows(other.test) != rows(digits.test)


def test_mnist_holds_validation_out_of_train_and_leaves_test_alone(tmp_path):
    write_mnist(tmp_path)
    mnist = data.load("mnist", tmp_path, validation=20)
    assert [len(split) for split in (mnist.train, mnist.validation, mnist.test)] == [40, 20, 20]
    assert mnist.validation.y.bincount().tolist() == [2] * 10
    assert mnist.test.y.tolist() == [i % 10 for i in range(20)]
    assert mnist.test.x[0, 0].flatten()[:3].tolist() == pytest.approx([0, 1 / 255, 2 / 255])


def test_mnist_checksum_follows_the_bytes(tmp_path):
    raw = write_mnist(tmp_path)
    before = data.load("mnist", tmp_path, validation=20).checksum
    labels = raw / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\x03")
    assert data.load("mnist", tmp_path, validation=20).checksum != before


def test_missing_mnist_names_file_folder_and_remedy(tmp_path):
    raw = write_mnist(tmp_path)
    (raw / "t10k-images-idx3-ubyte").unlink()
    with one_line(FileNotFoundError, f"t10k-images-idx3-ubyte .*{raw};.*FPN_DATA.*download=True"):
        data.load("mnist", root=tmp_path)


def test_failed_download_names_file_reason_and_remedy(tmp_path, monkeypatch):
    nobody = ["http://127.0.0.1:9/"]  # where nobody answers
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", nobody)
    said = f"train-images-idx3-ubyte .*{tmp_path}.* could not be fetched .*FPN_DATA"
    with one_line(FileNotFoundError, said):
        data.load("mnist", root=tmp_path, download=True)


def test_of_several_processes_one_fetches(tmp_path, monkeypatch):
    @contextmanager
    def waiting(path):
        write_mnist(path.parent)  # what another process does while this one waits for its turn
        yield

    monkeypatch.setattr(digits_module, "alone", waiting)
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", [])
    assert len(data.load("mnist", tmp_path, download=True, validation=20).test) == 20
    # Files that are there need no lock, for which the folder must be writable.
    monkeypatch.setattr(digits_module, "alone", None)
    assert len(data.load("mnist", tmp_path, download=True, validation=20).test) == 20


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("left", [0, 3, -7])
def test_damaged_mnist_is_refused_in_one_line(tmp_path, name, left):
    raw = write_mnist(tmp_path)
    (raw / name).write_bytes((raw / name).read_bytes()[:left])
    with one_line(ValueError, "damaged"):
        data.load("mnist", root=tmp_path)


def test_real_mnist(shared):
    mnist = data.load("mnist", root=shared / "data")
    assert (len(mnist.train), len(mnist.validation), len(mnist.test)) == (55_000, 5_000, 10_000)
    assert mnist.test.y[:5].tolist() == [7, 2, 1, 0, 4]
    share = mnist.train.y.bincount() / 55_000 - mnist.validation.y.bincount() / 5_000
    assert share.abs().max() < 1e-3
