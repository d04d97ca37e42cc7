"""Kept weights of an earlier version get this version's keys without being trained again."""

from vectors import VECTORS

from fpnlib import store
from fpnlib.families import Run, Study, baseline_scores, classification, study
from fpnlib.runs import rekey
from fpnlib.store import Manifest

FAMILIES = {"vectors": VECTORS}
PARAMETERS = {"vectors": "vectors:load_vectors", "seed": 0}


def everything(folder):
    """Make or load what notebooks keep: models, plugins, a judge and a baseline's scores."""
    vectors = Study(Run("rekey", out=folder), VECTORS)
    modules = [vectors.base(), vectors.plugin(), vectors.plugin(draws="fixed"), vectors.judge()]
    scores = baseline_scores(vectors, "logistic_regression", "Linear", "mean")
    return [module.state_dict() for module in modules], scores


def age(folder):
    """Rewrite what is kept as an earlier version kept it: other keys, other names, no config."""
    for path in list(folder.glob("models/*.safetensors")):
        tensors, meta = store.load_tensors(path)
        path.with_suffix(".json").unlink()
        path.unlink()
        made_from = {"epochs": 2, "data": meta["made_from"]["data"]}
        earlier = {"key": "earlier", "made_from": made_from, "history": meta["history"]}
        name = path.name.replace("maf.", "maf_fresh.")
        store.save_tensors(path.with_name(name), tensors, earlier)
    scores = folder / "models" / "Linear_logistic_regression_mean.json"
    store.write_kept(scores, "earlier", scores=store.read_json(scores)["values"])


def refuse(*_, **__):
    raise AssertionError("something is trained again")


def test_a_rekeyed_run_is_loaded_without_training_and_its_manifest_holds(tmp_path, monkeypatch):
    folder = tmp_path / "demo"
    states, scores = everything(folder)
    age(folder)
    manifest = Manifest(folder)
    entry = {"parameters": PARAMETERS, "files": manifest.files()}
    manifest.note_notebook("02_base_models", entry)

    rekey.main([folder], FAMILIES)

    monkeypatch.setattr(study, "fit_module", refuse)
    monkeypatch.setattr(study, "fit_plugin", refuse)
    monkeypatch.setattr(classification, "BASELINES", {"logistic_regression": refuse})
    again, same_scores = everything(folder)
    assert same_scores == scores
    for state, before in zip(again, states, strict=True):
        assert all(state[name].equal(before[name]) for name in before)
    assert manifest.changed() == [] and manifest.unlisted() == []
    assert "models/Linear_maf.safetensors" in manifest.read()["files"]
