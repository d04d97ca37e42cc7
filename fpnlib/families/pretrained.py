"""The networks whose weights come with the repository."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fpnlib import checks
from fpnlib.base_models import MSP, ConvVAE, PointFlow, SelfiesVAE
from fpnlib.conditions import Classes, Condition
from fpnlib.data.digits import CLASSES
from fpnlib.data.drawn.faces import ATTRIBUTES
from fpnlib.data.drawn.shapes import SHAPES
from fpnlib.families.faces import FACES
from fpnlib.families.family import PRETRAINED
from fpnlib.families.molecules import MOLECULES, QUANTITIES
from fpnlib.network import FlowPluginNetwork
from fpnlib.plugin import FlowPlugin
from fpnlib.store import PROJECT
from fpnlib.store.tensors import load_tensors

PAPER = PROJECT / "outputs" / "paper" / "models"
# Of each network: the file of its base model, what builds it, and the plugin's condition.
NETWORKS: dict[str, tuple[Path, Callable, Condition]] = {
    "digits": (PAPER / "ConvVAE", ConvVAE, Classes(CLASSES)),
    "shapes": (PRETRAINED / "shapes_PointFlow", PointFlow, Classes(SHAPES)),
    "faces": (PRETRAINED / "drawn_faces_MSP", MSP, FACES.condition("drawn_faces", ATTRIBUTES)),
    "molecules": (
        PRETRAINED / "moses_SelfiesVAE",
        SelfiesVAE,
        MOLECULES.condition("moses", QUANTITIES),
    ),
}


def pretrained(name: str, used: Callable[[Path], None] = lambda path: None) -> FlowPluginNetwork:
    """Load a base model and its C-MAF from the repository.

    Args:
        name: "digits" (ConvVAE on MNIST), "shapes" (PointFlow on drawn shapes), "faces" (MSP on
            drawn faces) or "molecules" (SelfiesVAE on MOSES).
        used: told the path of each file that is read, e.g. ``run.used``.

    Raises:
        ValueError: an unknown name, with the nearest one.
        FileNotFoundError: the weights are not there.
    """
    checks.known("pretrained network", name, NETWORKS)
    base, build, condition = NETWORKS[name]

    def load(stem: Path, build: Callable, **settings: Any) -> Any:
        path = stem.with_suffix(".safetensors")
        tensors, meta = load_tensors(path)
        used(path)
        module = build(**meta["config"] | settings)
        module.load_state_dict(tensors)
        return module.eval()

    plugin = load(base.with_name(f"{base.name}_maf"), FlowPlugin, condition=condition)
    return FlowPluginNetwork(load(base, build), plugin)
