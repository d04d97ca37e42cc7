"""Settings at which the notebooks soon finish; what they give then says nothing."""

from fpnlib import runs
from fpnlib.store import PROJECT

SMALL = {
    "base_epochs": 1,
    "ae_epochs": 1,
    "flow_epochs": 2,
    "ae_flow_epochs": 2,
    "ae_flow_layers": 2,
    "ae_flow_blocks": 1,
    "flow_width": 16,
    "judge_epochs": 1,
    "samples_per_class": 10,
    "components": 2,
    "points": 60,
    "shapes_per_category": 2,
    "judged_per_category": 3,
    "clouds_per_category": 2,
    "score_points": 32,
    "distance_points": 32,
    "automl_trials": 2,
    "n": 400,
    "epochs": 3,
    "resolution": 40,
    "train_faces": 400,
    "msp_features": 4,
    "msp_decoder_features": 4,
    "msp_epochs": 1,
    "face_flow_layers": 2,
    "face_flow_blocks": 1,
    "face_flow_width": 32,
    "face_flow_embedding": 8,
    "face_flow_epochs": 4,
    "face_judge_epochs": 1,
    "edits_each": 2,
    "curve_each": 2,
    "sampled_faces": 20,
}


def small(*names: str) -> dict:
    """Those that the notebooks of these names have."""
    declared = {
        key for name in names for key in runs.parameters(PROJECT / "notebooks" / f"{name}.ipynb")
    }
    return {key: value for key, value in SMALL.items() if key in declared}
