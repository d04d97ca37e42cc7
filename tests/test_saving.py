"""Laws of saved plugins: the same samples to the bit, names and history with them, no pickles."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import zuko
from laws import one_line
from torch import nn

from fpnlib import Attributes, Classes, FlowPlugin, FlowPluginNetwork, Reals, Several, Vector, adapt
from fpnlib.conditions import from_spec
from fpnlib.store.tensors import _opened, load_module, save_tensors

pytestmark = pytest.mark.filterwarnings("ignore:the flow describes", "ignore:.*overflowed")

KEPT = Path(__file__).with_name("plugin_format_1.safetensors")
Y = torch.arange(60) % 3
V = torch.linspace(0, 2, 60)
Z = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)) + 3 * Y[:, None]
PAIR = Several(kind=Classes(["cat", "sea lion", "owl"]), size=Reals(["size"], unknown=True))
NAMED = {"kind": [PAIR.columns[0].items[k] for k in Y], "size": V.where(Y > 0, torch.nan)}

CASES = {
    "classes": (Classes("abc"), Y, "b"),
    "unknown classes": (Classes("abc", unknown=True), [None, *Y.tolist()[1:]], None),
    "attributes": (
        Attributes(["red hair", "bald"], exclusive=[("red hair", "bald")]),
        torch.stack([Y == 0, Y == 1], 1),
        "+Bald",
    ),
    "reals": (Reals(["size"]), V, 1.5),
    "vector": (Vector(2, unknown=True), Z / 2, None),
    "several": (PAIR, NAMED, {"kind": "Sea Lion"}),
}
FITTED = [*((kind, "maf") for kind in CASES), ("classes", "realnvp"), ("classes", "spline")]


def fitted(condition, y, flow="maf", **more):
    torch.manual_seed(0)
    shape = {"hidden_features": 4, "num_layers": 2} if isinstance(flow, str) else {}
    plugin = FlowPlugin(2, condition, flow, **shape)
    return plugin.fit(Z, y, epochs=2, progress=False, **more)


def own_flow(transforms=2):
    return zuko.flows.NSF(2, 3, transforms=transforms, hidden_features=(8,))


@pytest.fixture(scope="module")
def plugin():
    return fitted(Classes("abc"), Y)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "plugin.safetensors"


def reloaded(plugin, path, asked, *flow):
    """The plugin saved and loaded again, whose samples are the same to the bit."""
    plugin.save(path)
    loaded = FlowPlugin.load(path, *flow)
    assert torch.equal(loaded.sample(asked, 20, seed=1), plugin.sample(asked, 20, seed=1))
    return loaded


@pytest.mark.parametrize(("kind", "flow"), FITTED)
def test_a_loaded_plugin_is_the_one_saved(path, kind, flow):
    condition, y, asked = CASES[kind]
    plugin = fitted(condition, y, flow)
    loaded = reloaded(plugin, path, asked)
    assert loaded.condition.spec == plugin.condition.spec
    assert loaded.read(Z[:5]).equals(plugin.read(Z[:5]))
    assert type(loaded.labels(Z[:5])) is type(plugin.labels(Z[:5]))
    assert str(loaded.labels(Z[:5])) == str(plugin.labels(Z[:5]))
    assert loaded.history_ == plugin.history_ and not loaded.training


def test_weights_that_a_run_keeps_hold_the_training_labels(path):
    plugin = fitted(Classes("abc", unknown=True), Y)
    save_tensors(path, plugin.state_dict(), {})
    loaded = FlowPlugin(2, Classes("abc", unknown=True), hidden_features=4, num_layers=2)
    load_module(path, loaded.eval())
    assert len(loaded.training_values_) == 54
    assert torch.equal(loaded.sample(n=20, seed=1), plugin.sample(n=20, seed=1))


def test_double_precision_survives(path):
    plugin = FlowPlugin(2, Classes("abc"), hidden_features=4, num_layers=1).double()
    reloaded(plugin.fit(Z, Y, epochs=1, progress=False), path, 0)


FRESH = """
import sys, torch
torch.set_num_threads(2)
from fpnlib import FlowPlugin
plugin = FlowPlugin.load(sys.argv[1])
sys.stdout.write(repr(plugin.sample(["a", "c"], 50, seed=3).tolist()))
plugin.fit(torch.randn(60, 2), torch.arange(60) % 3, epochs=1, progress=False)
assert "torch._dynamo" not in sys.modules, "a fit waits for torch's compiler"
"""


def test_a_fresh_process_with_other_threads_gives_the_same_bits(path, plugin):
    plugin.save(path)
    fresh = [sys.executable, "-c", FRESH, path]
    printed = subprocess.run(fresh, check=True, capture_output=True, text=True)
    assert json.loads(printed.stdout) == plugin.sample(["a", "c"], 50, seed=3).tolist()


def test_import_takes_no_torch():
    code = "import sys, fpnlib; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_kept_file_of_format_1_still_loads():
    plugin = FlowPlugin.load(KEPT)
    expected = torch.tensor([[11.76508, -6.20334], [2.13138, 9.19282], [-7.31708, 6.4073]])
    found = plugin.sample({"kind": "sea_lion", "size": 1.0}, 3, seed=0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    unsaid = plugin.sample({"kind": "owl"}, seed=0)  # the file has no training values to draw from
    torch.testing.assert_close(unsaid, torch.tensor([[12.3787, -5.9953]]), atol=1e-4, rtol=1e-5)
    assert plugin.condition.names == ("kind", "size")
    assert list(plugin.labels(Z[:2])) == ["kind", "size"] and plugin.history_.best_epoch
    with safetensors.safe_open(KEPT, framework="pt") as file:
        assert file.metadata()["format"] == "1"


@pytest.mark.parametrize("flow", ["maf", "realnvp"])
def test_a_file_of_wide_latents_from_before_the_default_width_followed_them(path, flow):
    plugin = FlowPlugin(48, Classes("abc"), flow, hidden_features=40, num_layers=1)
    plugin.fit(torch.randn(60, 48), Y[:60], epochs=1, progress=False)
    del plugin.config["hidden_features"]
    reloaded(plugin, path, "a")


def test_numbers_of_numpy_and_the_home_folder_are_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.manual_seed(0)
    plugin = FlowPlugin(np.int64(2), Classes("abc"), hidden_features=np.int64(4), num_layers=1)
    plugin.fit(Z, Y, epochs=np.int64(1), learning_rate=np.float32(1e-3), progress=False)
    plugin.save("~/plugin.safetensors")
    assert FlowPlugin.load("~/plugin.safetensors").latent_dim == 2


def base():
    torch.manual_seed(1)
    net = nn.Linear(2, 2)
    return adapt(net, encode=net, decode=lambda z: z)


def test_a_network_says_that_the_base_is_another(tmp_path, recwarn):
    path, model = tmp_path / "network.safetensors", base()
    network = FlowPluginNetwork(model, classes=["a", "b", "c"], hidden_features=4, num_layers=1)
    network.fit(Z, Y, epochs=1, progress=False).save(path)
    recwarn.clear()
    loaded = FlowPluginNetwork.load(path, base())
    assert torch.equal(loaded.generate("a", 9, seed=0), network.generate("a", 9, seed=0))
    assert not recwarn.list
    with torch.no_grad():
        model.model.weight.add_(1e-6)
    with pytest.warns(UserWarning, match="weights of Adapted are not those"):
        FlowPluginNetwork.load(path, model)


def test_a_flow_of_the_users_own_is_given_again(path):
    reloaded(fitted(Classes("abc"), Y, own_flow()), path, "a", own_flow())
    with one_line(ValueError, "made with a flow of your own: pass flow, a NSF"):
        FlowPlugin.load(path)
    with one_line(ValueError, "is of another flow or damaged: Error"):
        FlowPlugin.load(path, own_flow(transforms=3))


def test_weights_that_two_layers_share_are_saved(path):
    flow = own_flow()
    flow.transform.transforms[1] = flow.transform.transforms[0]
    reloaded(fitted(Classes("abc"), Y, flow), path, "a", own_flow())


DAMAGES = ["truncated", "text", "no plugin", "another format", "one bit", "a setting of later"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_no_plugin_gets_one_line(path, plugin, damage):
    weights = {"w": torch.zeros(1)}
    plugin.save(path)
    whole = path.read_bytes()
    tensors, about = _opened(path)
    about["plugin"] = about["plugin"].replace('"num_layers"', '"layers"')
    del about["sha256"]
    contents = {
        "truncated": whole[:-9],
        "text": b"hello",
        "no plugin": safetensors.torch.save(weights),
        "another format": safetensors.torch.save(weights, {"format": "2", "plugin": "{}"}),
        "one bit": whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:],
        "a setting of later": safetensors.torch.save(tensors, about),
    }
    path.write_bytes(contents[damage])
    with one_line(ValueError, "damaged|no plugin of format 1"):
        FlowPlugin.load(path)


def test_paths_that_cannot_be_get_one_line(path, tmp_path, plugin):
    with pytest.raises(FileNotFoundError, match="no plugin at"):
        FlowPlugin.load(path)
    with pytest.raises(ValueError, match=r"kept as \.safetensors, got 'plugin\.pt'"):
        plugin.save(tmp_path / "plugin.pt")
    spline = FlowPlugin(2, Classes("ab"), "spline", activation=nn.Tanh)
    with pytest.raises(TypeError, match="got .*; pass a flow of your own"):
        spline.save(path)
    with pytest.raises(ValueError, match="unknown condition 'Class'; did you mean 'Classes'"):
        from_spec({"type": "Class", "names": ["a"]})


def test_nothing_is_unpickled(path, plugin, monkeypatch):
    plugin.save(path)
    for name in ("pickle.Unpickler", "pickle.loads", "torch.load"):
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("a pickle"))
    assert FlowPlugin.load(path).latent_dim == 2
