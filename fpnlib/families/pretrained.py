"""The weights in the repository: networks made of them, and how they get there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from fpnlib import store
from fpnlib.base_models import MSP, ConvVAE, PointFlow
from fpnlib.conditions import Condition
from fpnlib.data.digits import CLASSES
from fpnlib.data.drawn.faces import load_drawn_faces
from fpnlib.data.drawn.shapes import SHAPES as DRAWN_SHAPES
from fpnlib.families.digits import DIGITS
from fpnlib.families.faces import FACES
from fpnlib.families.shapes import SHAPES
from fpnlib.families.study import PRETRAINED
from fpnlib.network import FlowPluginNetwork
from fpnlib.plugin import FlowPlugin

DIGIT_MODELS = store.PROJECT / "outputs" / "paper" / "models"


def pretrained_digits(models: Path = DIGIT_MODELS) -> FlowPluginNetwork:
    """Load the ConvVAE and its C-MAF for MNIST, as the paper's run left them.

    Raises:
        FileNotFoundError: the weights are not there.
    """
    condition = DIGITS.condition("mnist", CLASSES)
    return _network(models / "ConvVAE", models / "ConvVAE_maf", ConvVAE, condition)


def pretrained_shapes() -> FlowPluginNetwork:
    """Load PointFlow and its C-MAF for drawn shapes.

    Raises:
        FileNotFoundError: the weights are not in ``outputs/pretrained``.
    """
    condition = SHAPES.condition("shapes", tuple(DRAWN_SHAPES))
    base = PRETRAINED / "shapes_PointFlow"
    return _network(base, PRETRAINED / "shapes_PointFlow_maf", PointFlow, condition)


def pretrained_faces(n: int = 100) -> tuple[FlowPluginNetwork, Tensor, Tensor]:
    """Load MSP and its plugin for drawn faces, with test faces to edit.

    Args:
        n: number of test faces.

    Returns:
        The network, faces (n, 3, 64, 64) in [0, 1], and their attributes (n, 21).

    Raises:
        FileNotFoundError: the weights are not in ``outputs/pretrained``.
    """
    data = load_drawn_faces()
    condition = FACES.condition(data.name, data.classes)
    base = PRETRAINED / "drawn_faces_MSP"
    network = _network(base, PRETRAINED / "drawn_faces_MSP_maf", MSP, condition)
    test = data.test.first(n)
    return network, test.x, test.y


def keep(models: Path, dataset: str, names: Iterable[str]) -> list[Path]:
    """Copy weights from a run's ``models`` folder into the repository; return the files.

    Raises:
        FileNotFoundError: one of them is not there.
    """
    kept = []
    for name in names:
        tensors, meta = store.load_tensors(Path(models) / f"{name}.safetensors")
        path = PRETRAINED / f"{dataset}_{name}.safetensors"
        kept.append(store.save_tensors(path, tensors, meta))
    return kept


def _network(base: Path, plugin: Path, kind: type, condition: Condition) -> FlowPluginNetwork:
    model = kind(**_config(base))
    store.load_module(base.with_suffix(".safetensors"), model)
    config = _config(plugin)
    del config["condition"]
    flow = FlowPlugin(condition=condition, **config)
    store.load_module(plugin.with_suffix(".safetensors"), flow)
    return FlowPluginNetwork(model.eval(), flow.eval())


def _config(path: Path) -> dict:
    meta = store.read_meta(path.with_suffix(".safetensors"), config=dict)
    if meta is None:
        raise FileNotFoundError(f"{path}.safetensors is missing; it comes with the repository")
    return dict(meta["config"])
