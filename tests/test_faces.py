"""Faces: what is drawn is what was asked for, and CelebA is read from whole and partial copies."""

import pytest
import torch
from PIL import Image

from fpnlib import data
from fpnlib.conditions import Attributes
from fpnlib.data.drawn import portrait
from fpnlib.data.drawn.faces import ATTRIBUTES, VARIATION, difference, draw, load_drawn_faces
from fpnlib.data.faces import load_celeba
from fpnlib.families.faces import EXCLUSIVE

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


def test_drawn_faces_are_laid_out_as_celeba(drawn):
    assert drawn.classes == ATTRIBUTES and len(ATTRIBUTES) >= 16
    for split, n in ((drawn.train, 400), (drawn.validation, 40), (drawn.test, 60)):
        assert (
            len(split) == n and split.x.shape == (n, 3, 64, 64) and split.x.dtype == torch.float32
        )
        assert split.x.min() >= 0 and split.x.max() <= 1
        assert split.y.shape == (n, len(ATTRIBUTES)) and set(split.y.unique().tolist()) == {0, 1}
    assert torch.equal(drawn.test.first(5).x, drawn.test.x[:5])


def test_a_seed_gives_the_same_faces_and_another_others(drawn):
    again, other = (
        load_drawn_faces(seed=seed, train=400, validation=40, test=60) for seed in (0, 1)
    )
    assert again.checksum == drawn.checksum != other.checksum
    assert torch.equal(again.test.x, drawn.test.x) and not torch.equal(other.test.x, drawn.test.x)
    assert not {x.numpy().tobytes() for x in drawn.test.x} & {
        x.numpy().tobytes() for x in drawn.train.x
    }


def test_attributes_hang_together_as_celebas_do():
    y = load_drawn_faces(seed=3, train=20_000).train.y.float()
    male, lipstick, gray, young, bald = (
        y[:, column(n)] for n in ("Male", "Wearing_Lipstick", "Gray_Hair", "Young", "Bald")
    )
    assert torch.corrcoef(torch.stack([male, lipstick]))[0, 1] < -0.4
    assert torch.corrcoef(torch.stack([gray, young]))[0, 1] < -0.3
    assert torch.corrcoef(torch.stack([male, bald]))[0, 1] > 0.15
    assert (y.mean(0) > 0.04).all() and (y.mean(0) < 0.75).all(), (
        "each occurs often enough to be learned"
    )
    beards = y[:, [column("Mustache"), column("Goatee")]]
    assert 0 < beards[male == 0].mean() < 0.02 and beards[male == 1].mean() > 0.2
    hair = y[:, [column(name) for name in ATTRIBUTES if name.endswith("_Hair")]].sum(1)
    assert ((hair + bald) <= 1).all() and (hair + bald == 0).any()
    assert not (bald * y[:, column("Bangs")]).any()


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_every_attribute_shows_and_only_where_it_should(drawn, name):
    faces, kinds = drawn.test, Attributes(ATTRIBUTES, EXCLUSIVE["drawn_faces"])
    with_it = kinds.edited(faces.y, {name: 1})
    without = with_it.clone()
    without[:, column(name)] = 0
    seen = difference(
        draw(without, faces.extra["variation"]), draw(with_it, faces.extra["variation"])
    )
    assert (seen.flatten(1).sum(1) >= 20).all(), (
        "a face with and without it must differ in twenty pixels or more"
    )
    (top, bottom), (left, right) = PLACES.get(name, ((0, 64), (0, 64)))
    seen[:, top:bottom, left:right] = False
    assert not seen.any()


@pytest.mark.parametrize("name", VARIATION)
def test_every_variation_shows_in_every_face(drawn, name):
    """Else an edit could not know it: the colour of a cap shows before the face wears it."""
    faces = drawn.test
    ends = [faces.extra["variation"].clone() for _ in range(2)]
    for variation, value in zip(
        ends, (-0.6, 0.6)
    ):  # of hues, which go round in a circle, not its two equal ends
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
    without, half, with_ = (
        draw(y, faces.extra["variation"]) for y in (low, (low + high) / 2, high)
    )
    assert ((half - without).abs().mean((1, 2, 3)) < (with_ - without).abs().mean((1, 2, 3))).all()


def test_what_cannot_be_drawn_is_refused(drawn):
    y, variation = drawn.test.y[:2], drawn.test.extra["variation"][:2]
    for arguments, message in (
        ((y[:, 1:], variation), rf"y must have shape \(n, {len(ATTRIBUTES)}\)"),
        ((2 * y - 1, variation), r"y must lie in \[0, 1\]"),
        ((y, 3 * variation), r"variation must lie in \[-1, 1\]"),
        ((y, variation[:1]), "same length"),
        ((y, variation * torch.nan), "variation must lie in"),
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
            Image.new("RGB", (178, 218), (25 * i, 100, 200)).save(
                folder / "img_align_celeba" / name, quality=95
            )
    if rows is None:
        rows = [" ".join("1" if i >> k & 1 else "-1" for k in range(3)) for i in range(n)]
    lines = [f"{name}  {row}" for name, row in zip(names, rows) if row]
    header = f"{n}\n{' '.join(NAMES)} \n"
    (folder / "list_attr_celeba.txt").write_text(header + "\n".join(lines) + "\n")
    parts = parts or [i % 3 for i in range(n)]
    lines = [f"{name} {part}" for name, part in zip(names, parts)]
    (folder / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_a_partial_copy_is_joined_with_the_lists(tmp_path):
    write_celeba(tmp_path, skip=(1, 3))
    faces = load_celeba(tmp_path, size=16)
    assert faces.classes == tuple(NAMES) and faces.name == "celeba"
    assert [len(split) for split in (faces.train, faces.validation, faces.test)] == [2, 2, 3]
    assert faces.train.y.tolist() == [[0, 0, 0], [0, 1, 1]]  # images 1 and 7: bits of 0 and 6
    assert faces.train.x.shape == (2, 3, 16, 16) and faces.train.data.dtype == torch.uint8
    assert torch.equal(faces.train.first(1).x, faces.train.x[:1])
    torch.testing.assert_close(
        faces.train.x[1, :, 8, 8], torch.tensor([150, 100, 200]) / 255, atol=0.02, rtol=0
    )
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
    with pytest.raises(
        FileNotFoundError, match="000002.jpg, which .*list_chosen.txt names, is not in"
    ):
        load_celeba(tmp_path / "part", size=16)


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


def damage(folder, what):
    images = folder / "img_align_celeba"
    if what == "no images":
        for path in images.iterdir():
            path.unlink()
    elif what == "no list":
        (folder / "list_attr_celeba.txt").unlink()
    elif what == "truncated":
        path = images / "000002.jpg"
        path.write_bytes(path.read_bytes()[:600])
    elif what == "alpha":
        Image.new("RGBA", (178, 218)).save(images / "000002.jpg", format="png")
    elif what == "size":
        Image.new("RGB", (64, 64)).save(images / "000002.jpg")
    elif what == "not in the list":
        Image.new("RGB", (178, 218)).save(images / "000777.jpg")


@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        (
            "no images",
            FileNotFoundError,
            "CelebA: no images in .*set FPN_DATA to the folder that has celeba/img_align_celeba",
        ),
        ("no list", FileNotFoundError, "CelebA: list_attr_celeba.txt is not in"),
        ("truncated", ValueError, "000002.jpg is damaged"),
        ("alpha", ValueError, "000002.jpg must be 178×218 pixels in RGB, got 178×218, RGBA"),
        ("size", ValueError, "000002.jpg must be 178×218 pixels in RGB, got 64×64, RGB"),
        ("not in the list", ValueError, "list_attr_celeba.txt has no row for 000777.jpg"),
    ],
)
def test_what_is_missing_or_damaged_gets_one_line(tmp_path, what, kind, message):
    damage(write_celeba(tmp_path), what)
    with pytest.raises(kind, match=message) as error:
        load_celeba(tmp_path, size=16)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"rows": ["1 -1 1", "1 -1", "1 1 1"]}, "damaged in the row of 000002.jpg"),
        ({"rows": ["1 -1 1", "1 -1 yes", "1 1 1"]}, "damaged in the row of 000002.jpg"),
        ({"rows": ["1 -1 1", None, "1 1 1"]}, "list_attr_celeba.txt has no row for 000002.jpg"),
        ({"parts": ["0", "1", "5"]}, "list_eval_partition.txt is damaged"),
        ({"parts": ["0", "1"]}, "list_eval_partition.txt has no row for 000003.jpg"),
        ({"parts": ["0", "1", "1"]}, "has no test image"),
    ],
)
def test_lists_that_do_not_fit_get_one_line(tmp_path, lists, message):
    write_celeba(tmp_path, n=3, **lists)
    with pytest.raises(ValueError, match=message) as error:
        load_celeba(tmp_path, size=16)
    assert "\n" not in str(error.value)


def test_an_image_with_two_rows_is_refused(tmp_path):
    path = write_celeba(tmp_path, n=3) / "list_attr_celeba.txt"
    path.write_text(path.read_text() + "000001.jpg 1 1 1\n")
    with pytest.raises(ValueError, match="000001.jpg has two rows"):
        load_celeba(tmp_path, size=16)


def test_real_celeba_is_read(shared, tmp_path):
    celeba, part = shared / "data" / "celeba", tmp_path / "celeba"
    if not celeba.is_dir():
        pytest.skip("needs images of CelebA under shared/data/celeba")
    part.mkdir()
    for name in ("img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt"):
        (part / name).symlink_to(celeba / name)
    names = sorted(path.name for path in (celeba / "img_align_celeba").iterdir())
    (part / "list_chosen.txt").write_text("\n".join(names[:: len(names) // 100]))
    faces = load_celeba(tmp_path, size=32)
    assert len(faces.classes) == 40
    assert faces.classes[0] == "5_o_Clock_Shadow" and faces.classes[-1] == "Young"
    assert faces.train.x.shape[1:] == (3, 32, 32) and 0.2 < faces.train.x.mean() < 0.7
