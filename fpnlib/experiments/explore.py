"""What the sliders play with: networks made of the weights in the repository, ready in a second or two."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from fpnlib import store
from fpnlib.base_models import MSP, ConvVAE, PointFlow
from fpnlib.conditions import Attributes, Classes, Condition
from fpnlib.data.digits import CLASSES
from fpnlib.data.drawn.faces import load_drawn_faces
from fpnlib.data.drawn.shapes import SHAPES
from fpnlib.experiments.faces import EXCLUSIVE
from fpnlib.experiments.pretrained import FOLDER
from fpnlib.network import FlowPluginNetwork
from fpnlib.plugin import FlowPlugin
from fpnlib.store import PROJECT


def pretrained_faces(n: int = 100) -> tuple[FlowPluginNetwork, Tensor, Tensor]:
    """MSP and its plugin for drawn faces, with n test faces (n, 3, 64, 64) and their attributes (n, 21).

    Raises:
        FileNotFoundError: the weights are not in ``outputs/pretrained``.
    """
    data = load_drawn_faces()
    base = _base(MSP, FOLDER / "drawn_faces_MSP.safetensors")
    plugin = _plugin(
        FOLDER / "drawn_faces_MSP_maf.safetensors", Attributes(data.classes, EXCLUSIVE[data.name])
    )
    test = data.test.first(n)
    return FlowPluginNetwork(base, plugin), test.x, test.y


def pretrained_shapes() -> FlowPluginNetwork:
    """PointFlow and its C-MAF for drawn shapes.

    Raises:
        FileNotFoundError: the weights are not in ``outputs/pretrained``.
    """
    base = _base(PointFlow, FOLDER / "shapes_PointFlow.safetensors")
    return FlowPluginNetwork(
        base, _plugin(FOLDER / "shapes_PointFlow_maf.safetensors", Classes(SHAPES))
    )


def pretrained_digits(models: Path = PROJECT / "outputs" / "paper" / "models") -> FlowPluginNetwork:
    """ConvVAE and its C-MAF for MNIST, as the paper's run left them.

    Raises:
        FileNotFoundError: the weights are not there.
    """
    base = _base(ConvVAE, models / "ConvVAE.safetensors")
    return FlowPluginNetwork(
        base, _plugin(models / "ConvVAE_maf_fresh.safetensors", Classes(CLASSES))
    )


def _base(kind: type[nn.Module], path: Path) -> nn.Module:
    base = kind(**_made_from(path)["model"])
    store.load_module(path, base)
    return base


def _plugin(path: Path, condition: Condition) -> FlowPlugin:
    settings = {
        name: value
        for name, value in _made_from(path)["flow"].items()
        if name not in ("attributes", "condition")
    }
    plugin = FlowPlugin(condition=condition, **settings)
    store.load_module(path, plugin)
    return plugin.eval()


def _made_from(path: Path) -> dict:
    meta = store.read_meta(path)
    if meta is None:
        raise FileNotFoundError(f"{path} is missing; it comes with the repository")
    return meta["made_from"]
