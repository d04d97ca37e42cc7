"""Faces: what is drawn is what was asked for, and CelebA is read from whole and partial copies."""

import shutil

import numpy as np
import pytest
import torch
from laws import one_line
from PIL import Image

from fpnlib import data
from fpnlib.conditions import Attributes
from fpnlib.data.drawn import portrait
from fpnlib.data.drawn.faces import ATTRIBUTES, VARIATION, draw, load_drawn_faces
from fpnlib.data.faces import load_celeba, prepare_celeba
from fpnlib.families.faces import EXCLUSIVE
from fpnlib.runs.cli import main
from fpnlib.store import write_json

NAMES = ["Bald", "Smiling", "Young"]
# Rows and columns of 64 in which an attribute may change anything, wherever the head is. The other
# attributes may change the whole picture.
PLACES = {
    "Bangs": ((3, 31), (9, 56)),
    "Big_Nose": ((28, 46), (20, 44)),
    "Bushy_Eyebrows": ((18, 33), (14, 50)),
    "Eyeglasses": ((22, 43), (9, 55)),
    "Goatee": ((44, 61), (20, 44)),
    "Mouth_Slightly_Open": ((38, 56), (16, 48)),
    "Mustache": ((36, 50), (17, 47)),
    "Narrow_Eyes": ((22, 40), (13, 51)),
    "Rosy_Cheeks": ((30, 48), (11, 53)),
    "Smiling": ((38, 56), (16, 48)),
    "Wearing_Earrings": ((33, 49), (6, 58)),
    "Wearing_Hat": ((0, 27), (5, 59)),
    "Wearing_Lipstick": ((38, 56), (16, 48)),
    "Young": ((15, 61), (14, 50)),
}


@pytest.fixture(scope="module")
def drawn():
    return load_drawn_faces(seed=0, train=400, validation=40, test=60)


def column(name):
    return ATTRIBUTES.index(name)


def difference(x, other, threshold=0.02):
    """The pixels, bool (n, 64, 64), in which two drawings (n, 3, 64, 64) differ visibly."""
    return ((x - other).abs() > threshold).any(1)


def test_drawn_faces_are_laid_out_as_celeba(drawn):
    assert drawn.classes == ATTRIBUTES and len(ATTRIBUTES) >= 16
    for split, n in ((drawn.train, 400), (drawn.validation, 40), (drawn.test, 60)):
        assert split.x.shape == (n, 3, 64, 64) and split.x.dtype == torch.float32
        assert split.x.min() >= 0 and split.x.max() <= 1
        assert split.y.shape == (n, len(ATTRIBUTES)) and set(split.y.unique().tolist()) == {0, 1}
    assert torch.equal(drawn.test.first(5).x, drawn.test.x[:5])


def test_a_seed_gives_the_same_faces_and_another_others(drawn):
    few = {"train": 400, "validation": 40, "test": 60}
    again, other = load_drawn_faces(seed=0, **few), load_drawn_faces(seed=1, **few)
    assert again.checksum == drawn.checksum != other.checksum
    assert torch.equal(again.test.x, drawn.test.x) and not torch.equal(other.test.x, drawn.test.x)
    seen = {x.numpy().tobytes() for x in drawn.train.x}
    assert not any(x.numpy().tobytes() in seen for x in drawn.test.x)


def test_faces_are_drawn_as_the_kept_weights_know_them():
    """Each pixel has its own weight; the last digits may differ between machines."""
    few = load_drawn_faces(train=5, validation=5, test=5)
    assert few.checksum.startswith("2d29a2137ecab61aaf594132d95a965f")
    faces = load_drawn_faces(train=1, validation=1, test=8).test.x.double()
    weights = torch.sin(torch.arange(faces[0].numel())).reshape(faces[0].shape)
    sums = (weights * faces).sum((1, 2, 3)).tolist()
    expected = [7.2022, -1.3062, -1.7324, 8.8692, 23.452, -6.8861, -0.5153, -2.6344]
    assert sums == pytest.approx(expected, abs=1e-3)


def test_attributes_hang_together_as_celebas_do():
    y = load_drawn_faces(seed=3, train=20_000).train.y.float()
    names = ["Male", "Wearing_Lipstick", "Gray_Hair", "Young", "Bald"]
    male, lipstick, gray, young, bald = (y[:, column(name)] for name in names)
    assert torch.corrcoef(torch.stack([male, lipstick]))[0, 1] < -0.4
    assert torch.corrcoef(torch.stack([gray, young]))[0, 1] < -0.3
    assert torch.corrcoef(torch.stack([male, bald]))[0, 1] > 0.15
    assert (y.mean(0) > 0.04).all() and (y.mean(0) < 0.75).all(), "each can be learned"
    beards = y[:, [column("Mustache"), column("Goatee")]]
    assert 0 < beards[male == 0].mean() < 0.02 and beards[male == 1].mean() > 0.2
    hair = y[:, [column(name) for name in ATTRIBUTES if name.endswith("_Hair")]].sum(1)
    assert ((hair + bald) <= 1).all() and (hair + bald == 0).any()
    assert not (bald * y[:, column("Bangs")]).any()


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_every_attribute_shows_and_only_where_it_should(drawn, name):
    faces, kinds = drawn.test.first(30), Attributes(ATTRIBUTES, EXCLUSIVE["drawn_faces"])
    with_it = kinds.edited(faces.y, {name: 1})
    without = with_it.clone()
    without[:, column(name)] = 0
    seen = difference(*(draw(y, faces.extra["variation"]) for y in (without, with_it)))
    assert (seen.flatten(1).sum(1) >= 20).all(), "twenty pixels or more of a face differ"
    (top, bottom), (left, right) = PLACES.get(name, ((0, 64), (0, 64)))
    seen[:, top:bottom, left:right] = False
    assert not seen.any()


@pytest.mark.parametrize("name", VARIATION)
def test_every_variation_shows_in_every_face(drawn, name):
    """Else an edit could not know it: the colour of a cap shows before the face wears it."""
    faces = drawn.test.first(30)
    ends = [faces.extra["variation"].clone() for _ in range(2)]
    # Hues go round in a circle, so -1 and 1 are the same.
    for variation, value in zip(ends, (-0.6, 0.6)):
        variation[:, VARIATION.index(name)] = value
    assert difference(*(draw(faces.y, variation) for variation in ends)).flatten(1).any(1).all()


def test_a_beard_outlives_the_hair(drawn):
    faces, kinds = drawn.test.first(20), Attributes(ATTRIBUTES, EXCLUSIVE["drawn_faces"])
    shaven, blond, bald = (
        draw(kinds.edited(faces.y, edits), faces.extra["variation"])
        for edits in ("-Goatee +Blond_Hair", "+Goatee +Blond_Hair", "+Goatee +Bald")
    )
    beard = difference(shaven, blond, threshold=0.4)
    assert beard.any() and not (difference(blond, bald) & beard).any()


def test_parts_are_drawn_whole(drawn, monkeypatch):
    """The rows that a part is drawn in are a matter of speed alone."""
    faces = drawn.test
    kept = faces.x
    monkeypatch.setattr(portrait, "PARTS", [(part, 0.0, 1.0) for part, _, _ in portrait.PARTS])
    torch.testing.assert_close(draw(faces.y, faces.extra["variation"]), kept, atol=1e-6, rtol=0)


def test_half_an_attribute_lies_between(drawn):
    faces = drawn.test.first(8)
    low, high = faces.y.clone().float(), faces.y.clone().float()
    low[:, column("Eyeglasses")], high[:, column("Eyeglasses")] = 0, 1
    levels = low, (low + high) / 2, high
    without, half, whole = (draw(y, faces.extra["variation"]).flatten(1) for y in levels)
    assert ((half - without).abs().mean(1) < (whole - without).abs().mean(1)).all()


def test_what_cannot_be_drawn_is_refused(drawn):
    y, variation = drawn.test.y[:2], drawn.test.extra["variation"][:2]
    for arguments, message in (
        ((y[:, 1:], variation), rf"y must have shape \(n, {len(ATTRIBUTES)}\)"),
        ((2 * y - 1, variation), r"y must lie in \[0, 1\]"),
        ((y, 3 * variation), r"variation must lie in \[-1, 1\]"),
        ((y, variation[:1]), "same length"),
        ((y, variation * torch.nan), "variation has 32 NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            draw(*arguments)
    assert len(VARIATION) == variation.shape[1]


def test_faces_are_drawn_only_when_they_are_needed(monkeypatch):
    drawn = []

    def counting(attributes, variation, size):
        drawn.append(len(variation["x"]))
        return torch.zeros(len(variation["x"]), 3, size, size)

    monkeypatch.setattr(portrait, "draw", counting)
    faces = load_drawn_faces(train=5_000, validation=40, test=60)
    first = faces.test.first(10)
    assert not drawn and len(first) == 10
    assert first.x is first.x and drawn == [10]


def write_celeba(root, n=9, skip=(), rows=None, parts=None):
    """A tiny copy in CelebA's layout: n images, without those in ``skip``, and the two lists."""
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{i + 1:06d}.jpg" for i in range(n)]
    for i, name in enumerate(names):
        if i not in skip:
            image = Image.new("RGB", (178, 218), (25 * i, 100, 200))
            image.save(folder / "img_align_celeba" / name, quality=95)
    if rows is None:
        rows = [" ".join("1" if i >> k & 1 else "-1" for k in range(3)) for i in range(n)]
    lines = [f"{name}  {row}" for name, row in zip(names, rows) if row]
    header = f"{n}\n{' '.join(NAMES)} \n"
    (folder / "list_attr_celeba.txt").write_text(header + "\n".join(lines) + "\n")
    parts = parts or [i % 3 for i in range(n)]
    lines = [f"{name} {part}" for name, part in zip(names, parts)]
    (folder / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_a_partial_copy_is_joined_with_the_lists(tmp_path, capsys):
    write_celeba(tmp_path, skip=(1, 3))
    faces = load_celeba(tmp_path, size=16)
    assert capsys.readouterr().err == "", "bars in a file"
    assert faces.classes == tuple(NAMES) and faces.name == "celeba"
    assert [len(split) for split in (faces.train, faces.validation, faces.test)] == [2, 2, 3]
    assert faces.train.y.tolist() == [[0, 0, 0], [0, 1, 1]]  # images 1 and 7: bits of 0 and 6
    assert faces.train.x.shape == (2, 3, 16, 16) and faces.train.data.dtype == torch.uint8
    assert torch.equal(faces.train.first(1).x, faces.train.x[:1])
    color = torch.tensor([150, 100, 200]) / 255
    torch.testing.assert_close(faces.train.x[1, :, 8, 8], color, atol=0.02, rtol=0)
    again, smaller = load_celeba(tmp_path, size=16), load_celeba(tmp_path, size=8)
    assert faces.checksum == again.checksum != smaller.checksum
    assert data.load("celeba", root=tmp_path).train.x.shape[-1] == 64


def test_a_list_of_chosen_images_makes_a_part_of_celeba_the_same_for_everyone(tmp_path):
    part, whole = write_celeba(tmp_path / "part", skip=(1, 3)), write_celeba(tmp_path / "whole")
    chosen = sorted(path.name for path in (part / "img_align_celeba").iterdir())
    one, other = (load_celeba(tmp_path / name, size=16) for name in ("part", "whole"))
    assert one.checksum != other.checksum
    (whole / "list_chosen.txt").write_text("\n".join(chosen) + "\n")
    assert one.checksum == load_celeba(tmp_path / "whole", size=16).checksum
    (part / "list_chosen.txt").write_text("000001.jpg\n000002.jpg\n")
    said = "000002.jpg, which .*list_chosen.txt names, is not in"
    with pytest.raises(FileNotFoundError, match=said):
        load_celeba(tmp_path / "part", size=16)


def same(one, other):
    """Whether two datasets hold the same pixels and labels."""
    names = ("train", "validation", "test")
    pairs = [(getattr(one, name), getattr(other, name)) for name in names]
    return all(torch.equal(a.data, b.data) and torch.equal(a.y, b.y) for a, b in pairs)


def as_csv(folder):
    """Put Kaggle's lists in the place of the official ones."""
    attributes, partition = folder / "list_attr_celeba.txt", folder / "list_eval_partition.txt"
    _, header, *rows = attributes.read_text().splitlines()
    lines = [",".join(line.split()) for line in [f"image_id {header}", *rows]]
    attributes.with_suffix(".csv").write_text("\n".join(lines) + "\n")
    lines = [",".join(line.split()) for line in partition.read_text().splitlines()]
    partition.with_suffix(".csv").write_text("\n".join(["image_id,partition", *lines]) + "\n")
    attributes.unlink(), partition.unlink()


def semicolons(folder):
    as_csv(folder)
    for path in folder.glob("*.csv"):
        path.write_text(path.read_text().replace(",", "; "))


def below_a_folder(folder, name="archive"):
    moved = folder.rename(folder.with_name("moved"))
    folder.mkdir()
    moved.rename(folder / name)


def one_deeper(folder):
    below_a_folder(folder / "img_align_celeba", "img_align_celeba")


def as_png(folder):
    for path in list((folder / "img_align_celeba").iterdir()):
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()


def mixed_with_webp(folder):
    deeper = folder / "img_align_celeba" / "more"
    deeper.mkdir()
    for path in sorted((folder / "img_align_celeba").glob("*.jpg"))[5:]:
        Image.open(path).save(deeper / f"{path.stem}.webp", lossless=True)
        path.unlink()


def csv_named_txt(folder):
    as_csv(folder)
    for path in folder.glob("*.csv"):
        path.rename(path.with_suffix(".txt"))


@pytest.mark.parametrize(
    "change",
    [as_csv, csv_named_txt, semicolons, one_deeper, below_a_folder, as_png, mixed_with_webp],
    ids=lambda change: change.__name__,
)
def test_other_layouts_are_read(tmp_path, change):
    folder = write_celeba(tmp_path)
    official = load_celeba(tmp_path, size=16)
    change(folder)
    other = load_celeba(tmp_path, size=16)
    assert same(official, other) and official.classes == other.classes


def test_a_prepared_copy_is_made_once_and_read_instead_of_the_originals(tmp_path):
    folder = write_celeba(tmp_path)
    originals = load_celeba(tmp_path, size=16)
    assert main(["data", "celeba", "--size", "16", "--data", str(tmp_path)]) == 0
    assert len(list((folder / "img_align_celeba_16").glob("*.png"))) == 9
    shutil.rmtree(folder / "img_align_celeba")
    assert same(load_celeba(tmp_path, size=16), originals)
    with pytest.raises(FileNotFoundError, match="no images in .*img_align_celeba;"):
        load_celeba(tmp_path, size=8)


def test_preparing_resumes_and_half_a_copy_is_not_read(tmp_path):
    folder = write_celeba(tmp_path)
    truncate(folder)
    with one_line(ValueError, "000002.jpg is damaged"):
        prepare_celeba(tmp_path, size=16)
    copy = folder / "img_align_celeba_16"
    before = {path: path.stat().st_ino for path in copy.glob("*.png")}
    Image.new("RGB", (178, 218)).save(folder / "img_align_celeba" / "000002.jpg")
    assert not (copy / "prepared.json").exists() and len(load_celeba(tmp_path, size=16).train) == 3
    prepare_celeba(tmp_path, size=16)
    assert len(list(copy.glob("*.png"))) == 9
    assert all(path.stat().st_ino == inode for path, inode in before.items())


@pytest.mark.parametrize("about", [{"crop": 100, "size": 16}, {"crop": 148, "size": 32}])
def test_a_copy_of_another_crop_or_size_is_passed_over(tmp_path, about):
    folder = write_celeba(tmp_path)
    originals = load_celeba(tmp_path, size=16)
    copy = folder / "img_align_celeba_16"
    copy.mkdir()
    Image.new("RGB", (16, 16)).save(copy / "000001.jpg")
    write_json(copy / "prepared.json", about)
    assert same(load_celeba(tmp_path, size=16), originals)


def test_images_without_a_copy_are_counted_and_own_faces_need_none(tmp_path):
    folder = write_celeba(tmp_path, skip=(1, 3))
    prepare_celeba(tmp_path, size=16)
    write_celeba(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole" / "celeba", folder, dirs_exist_ok=True)
    with pytest.warns(UserWarning, match="_16 has no copies of 2 images; python -m fpnlib data"):
        assert len(load_celeba(tmp_path, size=16).train) == 2
    write_faces(tmp_path / "own")
    with one_line(ValueError, "have 16×16 pixels already; no copy is needed"):
        prepare_celeba(tmp_path / "own", size=16)


def write_faces(root, n=30, attributes=True, size=16):
    """A user's own faces, with a list of attributes or without."""
    images = root / "celeba" / "img_align_celeba"
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k in range(n):
        pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"anna {k:02}.png")
    if attributes:
        rows = [f"anna {k:02}.png,{k % 2},{k // 2 % 2}" for k in range(n)]
        lines = "\n".join(["name,Glasses,Hat", *rows])
        (root / "celeba" / "list_attr_celeba.csv").write_text(lines)


def test_own_faces_are_read_as_they_are(tmp_path):
    write_faces(tmp_path)
    faces = data.load("celeba", tmp_path, size=16)
    assert faces.classes == ("Glasses", "Hat")
    splits = faces.train, faces.validation, faces.test
    assert [len(split) for split in splits] == [24, 3, 3]
    first = Image.open(tmp_path / "celeba" / "img_align_celeba" / "anna 00.png")
    place = torch.from_numpy(np.array(first)).permute(2, 0, 1)
    found = [split.y[(split.data == place).flatten(1).all(1)].tolist() for split in splits]
    assert sum(found, []) == [[0, 0]]
    assert not same(faces, data.load("celeba", tmp_path, seed=1, size=16))


def test_chosen_faces_may_have_spaces_in_their_names(tmp_path):
    write_faces(tmp_path)
    chosen = tmp_path / "celeba" / "list_chosen.txt"
    chosen.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(b"anna %02d.png" % k for k in range(20)))
    assert len(data.load("celeba", tmp_path, size=16).train) == 16
    chosen.write_text("\n")
    with one_line(ValueError, "list_chosen.txt names no image"):
        data.load("celeba", tmp_path, size=16)


def test_own_faces_need_no_list_of_attributes(tmp_path):
    write_faces(tmp_path, attributes=False)
    faces = data.load("celeba", tmp_path, size=16)
    assert faces.classes == () and faces.train.y.shape == (24, 0)
    assert faces.train.x.shape == (24, 3, 16, 16)


def test_what_other_programs_leave_among_the_images_is_passed_over(tmp_path):
    folder = write_celeba(tmp_path)
    before = load_celeba(tmp_path, size=16)
    (folder / "img_align_celeba" / "._000001.jpg").write_bytes(b"Mac OS X")
    (folder / "img_align_celeba" / ".ipynb_checkpoints").mkdir()
    assert load_celeba(tmp_path, size=16).checksum == before.checksum


def test_the_crop_is_the_middle(tmp_path):
    folder = write_celeba(tmp_path, n=3)
    image = Image.new("RGB", (178, 218), (255, 0, 0))
    image.paste((0, 0, 255), (23, 43, 155, 175))
    image.save(folder / "img_align_celeba" / "000001.jpg", quality=100)
    red, _, blue = load_celeba(tmp_path, size=148).train.x[0]
    assert blue[12:-12, 12:-12].min() > 0.8 and red[12:-12, 12:-12].max() < 0.2
    for edge in (red[:4], red[-4:], red[:, :4], red[:, -4:]):
        assert edge.min() > 0.8


def truncate(folder):
    path = folder / "img_align_celeba" / "000002.jpg"
    path.write_bytes(path.read_bytes()[:600])


def an_image(mode, size, name="000002.jpg"):
    image = Image.new(mode, size)
    return lambda folder: image.save(folder / "img_align_celeba" / name, format="png")


def a_second_row(folder):
    with (folder / "list_attr_celeba.txt").open("a") as attributes:
        attributes.write("000001.jpg 1 1 1\n")


def another_encoding(folder):
    path = folder / "list_attr_celeba.txt"
    path.write_text(path.read_text().replace("Bald", "Älter"), encoding="latin-1")


def headless(folder):
    path = folder / "list_attr_celeba.txt"
    path.write_text("\n".join(path.read_text().splitlines()[2:]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: shutil.rmtree(f / "img_align_celeba"), "CelebA: no images in .*set FPN_DATA to"),
        (truncate, "000002.jpg is damaged"),
        (an_image("RGBA", (178, 218)), "178×218 or 16×16 pixels in RGB, got 178×218, RGBA"),
        (an_image("RGB", (64, 64)), "000002.jpg must be 178×218 or 16×16 pixels in RGB, got 64×64"),
        (an_image("RGB", (178, 218), "000777.jpg"), "list_attr_celeba.txt has no row for 000777"),
        (a_second_row, "000001 has two rows"),
        (an_image("RGB", (178, 218), "000001.png"), "two images are called 000001"),
        (another_encoding, "list_attr_celeba.txt is damaged .'utf-8' codec can't decode"),
        (headless, "list_attr_celeba.txt has no line of attributes' names"),
        (lambda f: (f / "list_attr_celeba.txt").unlink(), "CelebA: list_attr_celeba.txt is not in"),
    ],
)
def test_files_that_are_missing_or_damaged_get_one_line(tmp_path, damage, message):
    damage(write_celeba(tmp_path))
    with one_line((FileNotFoundError, ValueError), message):
        load_celeba(tmp_path, size=16)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"rows": ["1 -1 1", "1 -1", "1 1 1"]}, "damaged in the row of 000002"),
        ({"rows": ["1 -1 1", "1 -1 yes", "1 1 1"]}, "damaged in the row of 000002"),
        ({"rows": ["1 -1 1", None, "1 1 1"]}, "list_attr_celeba.txt has no row for 000002"),
        ({"parts": ["0", "1", "5"]}, "list_eval_partition.txt is damaged"),
        ({"parts": ["0", "1"]}, "list_eval_partition.txt has no row for 000003"),
        ({"parts": ["0", "1", "1"]}, "has no test image"),
    ],
)
def test_lists_that_do_not_fit_get_one_line(tmp_path, lists, message):
    write_celeba(tmp_path, n=3, **lists)
    with one_line(ValueError, message):
        load_celeba(tmp_path, size=16)


def test_real_celeba_is_read(shared, tmp_path):
    celeba, part, folder = shared / "data" / "celeba", tmp_path / "celeba", "img_align_celeba"
    if not (celeba / folder).is_dir():
        pytest.skip(f"needs images of CelebA under shared/data/celeba/{folder}")
    (part / folder).mkdir(parents=True)
    names = sorted(path.name for path in (celeba / folder).glob("*.jpg"))
    images = [f"{folder}/{name}" for name in names[:: len(names) // 100]]
    for path in ["list_attr_celeba.txt", "list_eval_partition.txt", *images]:
        (part / path).symlink_to(celeba / path)
    faces = load_celeba(tmp_path, size=32)
    assert len(faces.classes) == 40
    assert faces.classes[0] == "5_o_Clock_Shadow" and faces.classes[-1] == "Young"
    assert faces.train.x.shape[1:] == (3, 32, 32) and 0.2 < faces.train.x.mean() < 0.7
