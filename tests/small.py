"""Settings at which the notebooks soon finish; what they give then says nothing."""

from fpnlib.runs.plan import parameters
from fpnlib.store import PROJECT

PARAMETERS = {
    "samples_per_class": 10,
    "components": 2,
    "judged_per_category": 3,
    "clouds_per_category": 2,
    "score_points": 32,
    "distance_points": 32,
    "automl_trials": 2,
    "n": 400,
    "epochs": 3,
    "resolution": 40,
    "edits_each": 2,
    "curve_each": 2,
    "sampled_faces": 20,
}
SIZES = {
    "digits.vae_epochs": 1,
    "digits.ae_epochs": 1,
    "digits.flow_epochs": 2,
    "digits.flow_width": 16,
    "digits.ae_flow_epochs": 2,
    "digits.ae_flow_layers": 2,
    "digits.ae_flow_blocks": 1,
    "digits.judge_epochs": 1,
    "faces.train_faces": 400,
    "faces.msp_features": 4,
    "faces.msp_decoder_features": 4,
    "faces.msp_epochs": 1,
    "faces.flow_layers": 2,
    "faces.flow_blocks": 1,
    "faces.flow_width": 32,
    "faces.flow_embedding": 8,
    "faces.flow_epochs": 4,
    "faces.judge_epochs": 1,
}
OVERRIDE = " ".join(f"{name}={value}" for name, value in SIZES.items())


def small(*names: str) -> dict:
    """Those that the notebooks of these names have."""
    declared = set()
    for name in names:
        declared |= parameters(PROJECT / "notebooks" / f"{name}.ipynb").keys()
    values = PARAMETERS | {"override": OVERRIDE}
    return {name: value for name, value in values.items() if name in declared}
