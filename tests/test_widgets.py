"""The panels without a browser: the picture follows the controls, and errors are shown."""

import asyncio
import io
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from lamps import lamps
from PIL import Image
from torch import nn

from fpnlib import Classes, FlowPlugin, FlowPluginNetwork
from fpnlib.widgets import AttributeEditor, DigitExplorer
from fpnlib.widgets.parts import png


class Pixels(nn.Module):
    """A base model that sees each image as four numbers, its quarters' brightness."""

    latent_dim = 4

    def encode(self, x):
        return nn.functional.adaptive_avg_pool2d(x.mean(1, keepdim=True), 2).flatten(1)

    def decode(self, z):
        return nn.functional.interpolate(z.view(-1, 1, 2, 2), scale_factor=4)


@pytest.fixture
def editor():
    return AttributeEditor(*lamps())


def shown(image):
    return pixels(image.value)


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data))).astype(float) / 255


def test_it_begins_with_the_face_as_it_is(editor):
    assert values(editor) == editor.y[0].tolist()
    np.testing.assert_allclose(shown(editor.edited), shown(editor.original), atol=0.01)
    assert not editor.message.value


def test_a_slider_moves_and_the_picture_is_the_right_one(editor):
    before = shown(editor.edited)
    slider = editor.sliders["left_lit"]
    slider.value = 1 - slider.value
    expected = editor.picture(0, {"left_lit": slider.value})
    np.testing.assert_allclose(shown(editor.edited), expected.permute(1, 2, 0), atol=0.01)
    after = shown(editor.edited)
    assert abs(after[:, :8] - before[:, :8]).mean() > 0.25, "what was asked for changed"
    assert abs(after[:, 8:] - before[:, 8:]).mean() < 0.05, "and little else"
    editor.reset.click()
    np.testing.assert_allclose(shown(editor.edited), before, atol=0.01)


def test_a_stronger_editor_goes_further_for_the_same_slider():
    twice = AttributeEditor(*lamps(), strength=2)
    picture = twice.picture(0, {"left_lit": 0.5})
    assert picture[0, 0, 0].item() == pytest.approx(0.8), "as a whole edit of strength 1"
    assert picture[0, 0, -1].item() == pytest.approx(0.8), "the other lamp is lit as before"


def test_another_face_brings_its_own_attributes(editor):
    editor.sliders["left_lit"].value = 1.5
    editor.face.value = 2
    assert values(editor) == editor.y[2].tolist()
    np.testing.assert_allclose(shown(editor.original), editor.x[2].permute(1, 2, 0), atol=0.01)
    editor.random.click()
    assert 0 <= editor.face.value < 3


def test_edits_by_name_move_the_sliders(editor):
    editor.edits.value = "+left_lit right_lit=0.5"
    assert values(editor) == [1, 0.5]
    expected = editor.picture(0, {"left_lit": 1, "right_lit": 0.5})
    np.testing.assert_allclose(shown(editor.edited), expected.permute(1, 2, 0), atol=0.01)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ("+left_lot", "did you mean &#x27;left_lit&#x27;?"),
        ("+left_lit -left_lit", "contradictory"),
        ("left_lit=x", "number"),
        ("left_lit=3", "the sliders go from -0.5 to 1.5"),
    ],
)
def test_errors_stand_in_the_panel_until_the_next_success(editor, edits, message):
    before = editor.edited.value
    editor.edits.value = edits
    assert message in editor.message.value and editor.edited.value == before
    editor.sliders["left_lit"].value = 0.7
    assert not editor.message.value and editor.edited.value != before


def test_an_image_of_ones_own_is_cropped_scaled_and_read(editor):
    wide = Image.new("RGB", (80, 40))
    wide.paste((200, 200, 200), (40, 0, 60, 40))  # the right half of the middle
    data = io.BytesIO()
    wide.save(data, "png")
    editor.upload.value = [file_of(data.getvalue())]
    assert editor.face.value == 3 and tuple(editor.x.shape) == (4, 3, 16, 16)
    assert values(editor) == [0, 1], "the plugin reads the lamp that is lit"
    assert shown(editor.original)[:, 9:].mean() == pytest.approx(200 / 255, abs=0.02)
    editor.upload.value = [file_of(b"no image")]
    assert "cannot identify image" in editor.message.value and editor.face.max == 3


def file_of(content):
    """A file as a browser uploads it."""
    about = {"name": "own.png", "type": "image/png", "size": len(content)}
    return about | {"content": memoryview(content), "last_modified": datetime.now(UTC)}


@pytest.fixture
def one_lamp():
    """A panel of two lamps of which one is lit at most; the first face has the right one lit."""
    return AttributeEditor(*lamps(exclusive=[("left_lit", "right_lit")]))


def values(editor):
    return [slider.value for slider in editor.sliders.values()]


def test_what_a_slider_excludes_goes_as_it_comes_and_comes_back(one_lamp):
    assert values(one_lamp) == [0, 1]
    for value, other in ((0.25, 0.75), (0.5, 0.5), (1, 0), (1.5, 0), (-0.5, 1), (0.75, 0.25)):
        one_lamp.sliders["left_lit"].value = value
        assert values(one_lamp) == [value, other]
        expected = one_lamp.picture(0, {"left_lit": value, "right_lit": other})
        np.testing.assert_allclose(shown(one_lamp.edited), expected.permute(1, 2, 0), atol=0.01)
        assert torch.equal(one_lamp.picture(0, {"left_lit": value}), expected)
    one_lamp.sliders["right_lit"].value = 0.15  # now the other rises, from where it stands
    assert values(one_lamp) == [0.65, 0.15], "0.6375, to the slider's step"
    one_lamp.reset.click()
    assert values(one_lamp) == [0, 1]


def test_what_a_browser_rounds_is_no_move(one_lamp):
    one_lamp.sliders["left_lit"].value = 0.7
    assert values(one_lamp) == [0.7, 0.3], "no rounding of float32's"
    one_lamp.sliders["right_lit"].value = 0.3 + 1e-9
    assert one_lamp.sliders["left_lit"].value == 0.7


def test_one_change_draws_one_picture(one_lamp, monkeypatch):
    drawn, picture = [], one_lamp.picture

    def draw(face, given):
        drawn.append((face, *given.values()))
        return picture(face, given)

    monkeypatch.setattr(one_lamp, "picture", draw)
    one_lamp.sliders["left_lit"].value = 0.5
    one_lamp.edits.value = "+left_lit"
    one_lamp.reset.click()
    one_lamp.edits.value = "+left_lit"
    one_lamp.face.value = 2
    assert drawn == [(0, 0.5, 0.5), (0, 1, 0), (0, 0, 1), (0, 1, 0), (2, 0, 0)]


def test_a_model_that_fails_is_reported_in_the_panel(editor, monkeypatch):
    monkeypatch.setattr(editor.network, "decode", lambda z: 1 / 0)
    editor.sliders["left_lit"].value = 0.6
    assert "division by zero" in editor.message.value


def test_a_drag_draws_only_what_it_ends_at(editor, monkeypatch):
    drawn = []
    picture = editor.picture
    monkeypatch.setattr(editor, "picture", lambda *given: drawn.append(given) or picture(*given))

    async def drag():
        for value in torch.linspace(-0.5, 1.5, 41).tolist():
            editor.sliders["left_lit"].value = value
        while not drawn:
            await asyncio.sleep(0)

    asyncio.run(drag())
    assert len(drawn) == 1 and drawn[0][1]["left_lit"] == 1.5


def test_a_picture_is_a_function_of_its_arguments(editor):
    values = {"left_lit": 0.3, "right_lit": 1.2}
    first = editor.picture(2, values)
    editor.sliders["left_lit"].value = 1.1
    assert torch.equal(editor.picture(2, values), first)
    with pytest.raises(ValueError, match="face 9 is out of range; expected 0 to 2"):
        editor.picture(9, values)
    with pytest.raises(ValueError, match="did you mean 'left_lit'"):
        editor.picture(0, {"left_light": 1})


@pytest.fixture(scope="module")
def digits():
    torch.manual_seed(0)
    y = torch.arange(3).repeat(200)
    z = 0.2 + 0.3 * y[:, None] + 0.02 * torch.randn(600, 4)
    plugin = FlowPlugin(4, Classes("abc"), num_layers=2, hidden_features=16)
    plugin.fit(z, y, epochs=10, batch_size=60, learning_rate=1e-2)
    return FlowPluginNetwork(Pixels(), plugin)


def test_the_explorer_draws_what_is_asked_for_and_morphs(digits):
    explorer = DigitExplorer(digits)
    morphs = [explorer.picture("a", "c", amount, 0.5, seed=0) for amount in (0, 0.5, 1)]
    a, between, c = (picture.mean().item() for picture in morphs)
    assert a == pytest.approx(0.2, abs=0.1) and c == pytest.approx(0.8, abs=0.1)
    assert between == pytest.approx((a + c) / 2, abs=1e-4)
    without_noise = explorer.picture("a", "c", 0, 0, seed=0)
    assert torch.equal(without_noise, explorer.picture("a", "b", 0, 0, seed=7))
    before = explorer.image.value
    explorer.first.value = "b"
    assert explorer.image.value != before
    before = explorer.image.value
    explorer.draw.click()
    assert explorer.image.value != before and not explorer.message.value
    with pytest.raises(ValueError, match=r"morph must lie in \[0, 1\]"):
        explorer.picture("a", "b", 2, 1, 0)


def test_panels_refuse_a_plugin_of_the_other_kind(digits):
    with pytest.raises(TypeError, match="needs a plugin for Classes"):
        DigitExplorer(lamps()[0])
    with pytest.raises(TypeError, match="needs a plugin for Attributes"):
        AttributeEditor(digits, torch.rand(2, 1, 8, 8), torch.zeros(2, 2))


def test_apng_is_the_image():
    image, grey = torch.rand(3, 6, 5), torch.rand(1, 6, 5)
    np.testing.assert_allclose(pixels(png(image)), image.permute(1, 2, 0), atol=0.003)
    np.testing.assert_allclose(1 - pixels(png(grey)), grey[0], atol=0.003)
