"""Point clouds: files that are read, shapes that are drawn, and what is said of bad ones."""

import numpy as np
import pytest
import torch
from laws import one_line, refusals
from scipy.spatial import cKDTree
from sklearn.ensemble import RandomForestClassifier

from fpnlib import data
from fpnlib.data.drawn import surfaces
from fpnlib.data.drawn.furniture import _holed
from fpnlib.data.drawn.shapes import SHAPES, _draw_shape, _sample, load_drawn_shapes
from fpnlib.data.point_clouds import SYNSETS, draw_points, load_modelnet, load_shapenet


def write(folder, counts, points=20, dtype=np.float32):
    """Clouds of random points in ``folder/<split>``."""
    rng = np.random.default_rng(len(str(folder)))
    for split, count in counts.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        for k in range(count):
            np.save(folder / split / f"{k:03}.npy", rng.normal(size=(points, 3)).astype(dtype))


@pytest.fixture
def shapenet(tmp_path):
    """All 55 categories, half of them under their synsets; one has three training shapes."""
    folder = tmp_path / "ShapeNetCore.v2.PC15k"
    for k, (name, synset) in enumerate(SYNSETS.items()):
        counts = {"train": 3 if name == "rocket" else 4 + k % 3, "val": 2, "test": 1}
        write(folder / (synset if k % 2 else name), counts)
    return tmp_path


def test_all_55_categories_by_name_or_synset(shapenet):
    clouds = load_shapenet(shapenet, points=16)
    assert clouds.classes == tuple(sorted(SYNSETS)) and len(clouds.classes) == 55
    assert clouds.train.x.shape[1:] == (16, 3) and clouds.train.x.dtype == torch.float32
    assert clouds.validation.y.bincount().tolist() == [2] * 55
    assert clouds.test.y.bincount().tolist() == [1] * 55
    rocket = clouds.classes.index("rocket")
    assert int((clouds.train.y == rocket).sum()) == 3
    first = np.load(min((shapenet / "ShapeNetCore.v2.PC15k/airplane/train").glob("*.npy")))
    kept = {tuple(point) for point in clouds.train.x[0].tolist()}
    assert len(kept) == 16 and kept <= {tuple(point) for point in first.tolist()}


def test_without_val_a_part_of_train_is_held_out_by_the_seed(tmp_path):
    for name, count in (("bed", 30), ("desk", 3)):
        write(tmp_path / "modelnet" / name, {"train": count, "test": 2}, dtype=np.float16)
    one, again, other = (load_modelnet(tmp_path, seed, points=20) for seed in (0, 0, 1))
    assert one.validation.y.tolist() == [0, 0, 0, 1] and len(one.train) == 29
    rows = {x.numpy().tobytes() for x in one.train.x}
    assert not rows & {x.numpy().tobytes() for x in one.validation.x}
    assert torch.equal(one.train.x, again.train.x)
    assert not torch.equal(one.validation.x, other.validation.x)


def test_clouds_of_any_number_of_points_are_read(tmp_path):
    write(tmp_path / "modelnet" / "bed", {"train": 3, "test": 1}, points=100)
    assert load_modelnet(tmp_path).train.x.shape == (2, 100, 3)
    write(tmp_path / "modelnet" / "desk", {"train": 3, "test": 1}, points=30)
    with pytest.warns(UserWarning, match="have 30 to 100 points; those of the smaller"):
        both = load_modelnet(tmp_path)
    bed, desk = both.test.x
    assert len(bed.unique(dim=0)) == 100 and len(desk.unique(dim=0)) == 30
    assert len(desk[:30].unique(dim=0)) == 30  # no point repeats before all of them are there
    assert load_modelnet(tmp_path, points=20).test.x.shape == (2, 20, 3)


def test_of_points_in_some_order_the_kept_ones_cover_the_shape(tmp_path):
    """Scanners write from the bottom up: the first points of such a file are no smaller shape."""
    write(tmp_path / "modelnet" / "bed", {"train": 3, "test": 1}, points=200)
    height = np.linspace(0, 1, 5000)
    scan = np.stack([np.zeros(5000), np.ones(5000), height], 1)
    np.save(tmp_path / "modelnet/bed/test/000.npy", scan)
    kept = load_modelnet(tmp_path, points=200).test.x[0]
    assert kept[:, 1].min() < 0.05 and kept[:, 1].max() > 0.95
    assert kept[:50, 1].min() < 0.2 and kept[:50, 1].max() > 0.8


def test_clouds_without_folders_of_splits_are_split_by_the_seed(tmp_path):
    write(tmp_path / "modelnet", {"bed": 20, "desk": 3})
    one, other = load_modelnet(tmp_path, points=20), load_modelnet(tmp_path, 1, points=20)
    splits = one.train, one.validation, one.test
    assert one.classes == ("bed", "desk")
    assert [split.y.bincount().tolist() for split in splits] == [[14, 1], [2, 1], [4, 1]]
    rows = [{x.numpy().tobytes() for x in split.x} for split in splits]
    assert len(set.union(*rows)) == 23
    assert not torch.equal(one.test.x, other.test.x)
    write(tmp_path / "modelnet", {"sofa": 2})
    with pytest.raises(ValueError, match="'sofa' has too few shapes, 2, .*for val and test"):
        load_modelnet(tmp_path, points=20)


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_any_axis_may_be_up_and_nothing_is_mirrored(tmp_path, up):
    write(tmp_path / "modelnet" / "bed", {"train": 3, "test": 1})
    cloud = np.load(tmp_path / "modelnet/bed/test/000.npy")
    turned = data.load("modelnet", tmp_path, points=20, up=up).test.x[0].numpy()
    assert np.array_equal(turned[:, 1], cloud[:, "xyz".index(up)])
    if up == "z":  # ModelNet's own
        assert np.array_equal(load_modelnet(tmp_path, points=20).test.x[0].numpy(), turned)
    rotation = np.linalg.lstsq(cloud, turned, rcond=None)[0]
    assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-5)
    with pytest.raises(TypeError, match="dataset 'digits' has no option 'up'"):
        data.load("digits", up=up)


def test_what_other_programs_leave_is_passed_over(tmp_path):
    folder = tmp_path / "modelnet"
    write(folder / "bed", {"train": 3, "test": 1})
    before = load_modelnet(tmp_path, points=20)
    for name in (".ipynb_checkpoints", "__MACOSX"):
        (folder / name / "bed").mkdir(parents=True)
    (folder / "thumbnails").mkdir()
    (folder / "thumbnails" / "000.png").write_bytes(b"PNG")
    (folder / "bed" / "train" / "._000.npy").write_bytes(b"Mac OS X")
    with pytest.warns(UserWarning, match="thumbnails has no .npy files and is left out"):
        after = load_modelnet(tmp_path, points=20)
    assert after.classes == before.classes == ("bed",)
    assert after.checksum == before.checksum


@pytest.mark.parametrize(
    ("folder", "splits"),
    [
        ("bed", {"validation": 2}),  # a name of another's: its shapes would be lost
        ("bed", {"": 2}),  # beside folders of splits
        ("", {"train": 3, "test": 3}),  # would be categories
        ("train", {"desk": 3}),
    ],
)
def test_a_cloud_that_would_not_be_read_is_named(tmp_path, folder, splits):
    write(tmp_path / "modelnet" / "bed", {"train": 3, "test": 1})
    write(tmp_path / "modelnet" / folder, splits)
    with one_line(ValueError, r"/\d+.npy would not be read; expected <category>/<shape>.npy or"):
        load_modelnet(tmp_path, points=20)


def broken(cloud):
    return lambda path: np.save(path, cloud)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (broken(np.zeros((30, 2), np.float32)), r"\(points, 3\), got float32 of shape \(30, 2\)"),
        (broken(np.zeros((30, 3), int)), "must hold floats"),
        (broken(np.zeros((0, 3), np.float32)), r"got float32 of shape \(0, 3\)"),
        (broken(np.full((30, 3), np.nan, np.float32)), "NaN or infinite"),
        (broken(np.ones((30, 3), np.float32)), "degenerate: all its points are equal"),
        (lambda path: path.write_bytes(b"PK"), "is damaged or no array"),
        (lambda path: np.savez(path.open("wb"), np.zeros((30, 3))), "is damaged or no array"),
        (lambda path: np.save(path, np.array([{}]), allow_pickle=True), "is damaged or no array"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "is damaged or no array"),
    ],
)
def test_a_bad_cloud_is_named(tmp_path, damage, line):
    write(tmp_path / "modelnet" / "bed", {"train": 3, "test": 1})
    damage(tmp_path / "modelnet/bed/test/000.npy")
    with one_line(ValueError, line) as raised:
        load_modelnet(tmp_path, points=20)
    assert "bed/test/000.npy" in str(raised.value)


def test_what_is_missing_is_named(shapenet, tmp_path):
    folder = shapenet / "ShapeNetCore.v2.PC15k"
    for settings, said in (({"points": 0}, "points must be"), ({"up": "w"}, "unknown axis 'w'")):
        with pytest.raises(ValueError, match=said):
            load_shapenet(shapenet, **settings)
    for path in (folder / "airplane" / "test").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="'airplane' is empty: no .npy in .*airplane/test"):
        load_shapenet(shapenet, points=5)
    (folder / "airplane" / "test").rmdir()
    missing = "'airplane' has no test: .*airplane/test is missing"
    with pytest.raises(FileNotFoundError, match=missing):
        load_shapenet(shapenet, points=5)
    with pytest.raises(FileNotFoundError, match="FPN_DATA.*modelnet"):
        load_modelnet(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="FPN_DATA.*ShapeNetCore.v2.PC15k"):
        load_shapenet(tmp_path / "nowhere")


def test_points_are_drawn_anew_without_replacement():
    x = torch.arange(2 * 50 * 3.0).reshape(2, 50, 3)
    generator = torch.Generator().manual_seed(0)
    one, two = draw_points(x, 40, generator), draw_points(x, 40, generator)
    assert one.shape == (2, 40, 3) and not torch.equal(one, two)
    assert all(len(cloud.unique(dim=0)) == 40 for cloud in one)
    assert {tuple(point) for point in one[1].tolist()} <= {tuple(point) for point in x[1].tolist()}
    more = draw_points(x, 120, generator)[0]
    times = more.unique(dim=0, return_counts=True)[1]
    assert len(times) == 50 and times.min() == 2 and times.max() == 3


def test_points_lie_on_the_surface_uniformly_by_area():
    """A box of 1 × 1 × 3: its two square ends are a seventh of its surface."""
    points = _sample(surfaces.block(0, 0, 0, 1, 1, 3), 40_000, np.random.default_rng(0))
    away = np.abs(points - [0, 0.5, 0]) / [0.5, 0.5, 1.5]
    assert np.allclose(away.max(1), 1)
    assert np.mean(np.isclose(away[:, 2], 1)) == pytest.approx(1 / 7, abs=0.006)
    assert np.abs(points.mean(0) - [0, 0.5, 0]).max() < 0.02


def test_solids_have_their_areas():
    def area(surface):
        a, b, c = surface.transpose(1, 0, 2)
        return np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2

    sides = surfaces.SIDES
    around = 2 * sides * np.sin(np.pi / sides)  # the regular polygon in the unit circle
    tube = surfaces.tube([0, 0, 0], [1, 2, 2], 0.5, caps=False)
    assert area(tube) == pytest.approx(3 * around / 2)
    assert area(surfaces.lathe([(1, 0), (1, 2)], caps=False)) == pytest.approx(2 * around)
    blocks = surfaces.mirrored(surfaces.block(1, 0, 0, 1, 2, 3))
    assert area(surfaces.turned(blocks, 1, 0.7)) == pytest.approx(44)
    assert area(_holed(2, 1, 0.3)) == pytest.approx(2 - np.pi * 0.3**2, rel=0.02)


def test_shapes_are_imbalanced_as_shapenet_and_split():
    clouds = load_drawn_shapes(n=400, points=32)
    assert clouds.classes == tuple(SHAPES)
    sizes = sum(split.y.bincount() for split in (clouds.train, clouds.validation, clouds.test))
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True) and sizes[0] > 4 * sizes[-1]
    for split in (clouds.train, clouds.validation, clouds.test):
        assert set(split.y.tolist()) == set(range(10))
        assert split.x.shape[1:] == (32, 3) and torch.isfinite(split.x).all()
        assert split.x.norm(dim=-1).amax(1).allclose(torch.ones(len(split)))
    assert load_drawn_shapes(n=400, points=32).checksum == clouds.checksum
    assert load_drawn_shapes(seed=1, n=400, points=32).checksum != clouds.checksum


DRAWN = {"table": 10.64920, "chair": -0.05703, "airplane": 7.43804, "car": 6.76906}
DRAWN |= {"sofa": 10.34410, "rifle": 4.00533, "lamp": 15.05585, "vessel": -12.09589}
DRAWN |= {"bench": -4.42780, "speaker": -5.11270}


def test_shapes_are_drawn_as_the_kept_weights_know_them():
    """Each point has its own weight, so one that moves or changes places shows."""
    for category, expected in DRAWN.items():
        shape = _draw_shape(category, np.random.default_rng([0, 7]), 500).astype(np.float64)
        weights = np.sin(np.arange(shape.size)).reshape(shape.shape)
        assert (weights * shape).sum() == pytest.approx(expected, abs=1e-4), category


def test_a_shape_does_not_depend_on_the_others():
    lamp = list(SHAPES).index("lamp")
    few, more = (load_drawn_shapes(n=n, points=16).train for n in (100, 200))
    assert torch.equal(few.x[few.y == lamp][0], more.x[more.y == lamp][0])


@pytest.mark.parametrize("category", SHAPES)
def test_a_category_varies(category):
    """No two shapes alike, and none so thin that a direction is missing."""
    shapes = [_draw_shape(category, np.random.default_rng(k), 256) for k in range(6)]
    for k, shape in enumerate(shapes):
        assert np.ptp(shape, axis=0).min() > 0.04
        for other in shapes[:k]:
            assert cKDTree(shape).query(other)[0].mean() > 0.01


def test_shapes_can_be_told_apart_but_not_always():
    """Heights, widths and depths by quantiles tell most shapes; kin overlap."""
    clouds = load_drawn_shapes(n=800, points=128)

    def features(split):
        quantiles = np.quantile(split.x.numpy(), np.linspace(0, 1, 9), axis=1)
        return quantiles.transpose(1, 0, 2).reshape(len(split), -1)

    forest = RandomForestClassifier(200, random_state=0).fit(features(clouds.train), clouds.train.y)
    assert 0.85 < forest.score(features(clouds.test), clouds.test.y) < 0.995


test_bad_requests_get_one_clear_line = refusals(
    [
        (lambda: load_drawn_shapes(n=0), "n must be a positive whole number"),
        (lambda: load_drawn_shapes(points=0), "points must be a positive whole number"),
    ],
)


def test_real_modelnet(shared, tmp_path):
    (tmp_path / "modelnet").mkdir()
    for name in ("bathtub", "desk"):
        (tmp_path / "modelnet" / name).symlink_to(shared / "data" / "modelnet" / name)
    clouds = load_modelnet(tmp_path, points=64)
    assert (len(clouds.train), len(clouds.validation), len(clouds.test)) == (275, 30, 134)
    assert clouds.train.x.norm(dim=-1).max() < 1.01
