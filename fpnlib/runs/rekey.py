"""Give kept models, latents and scores the keys of this version of the library, without training.

Run it after a change of the keys, or to take along weights that were trained elsewhere:
``python -m fpnlib.runs.rekey``. It visits the runs in ``outputs/`` that keep models, asks their
studies for everything they have, and stamps what is kept under the name asked for.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fpnlib import store
from fpnlib.families import Family, Run, Study, baseline_scores
from fpnlib.runs.plan import parameters
from fpnlib.runs.verify import FAMILIES

OLD_NAMES = {
    "digits_judge": "judge",
    "shapes_judge": "point_judge",
    "faces_judge": "face_judge",
}
AUTHORS_WIDTH = 40
DRAWS: tuple[dict[str, Any], ...] = ({}, {"draws": "fixed"})
SHAPES_OF_FLOWS: tuple[dict[str, Any], ...] = ({}, {"hidden_features": AUTHORS_WIDTH})


class _Adopting(store.Cache):
    """A cache that takes what is kept under a name as made with the key that is asked for."""

    def __init__(self, cache: store.Cache):
        super().__init__(cache.folder, cache.device, lambda path: None)
        self.renamed: dict[Path, Path] = {}
        self._data: dict[str, str] = {}

    def module(
        self,
        name: str,
        key: store.Key,
        module: nn.Module,
        train: Callable,
        pretrained: Path | None = None,
    ) -> tuple[nn.Module, dict]:
        own = self.folder / f"{name}.safetensors"
        path = own if self._find(own) or pretrained is None else pretrained
        found = self._find(path)
        if found is None:
            raise FileNotFoundError(f"no model '{name}' is stored")
        tensors, meta = store.load_tensors(found)
        if path == pretrained:  # its key tells the data that it was trained on
            inherited = [self._data[parent] for parent in key.parents if parent in self._data]
            made_from = meta.get("made_from", {})
            data = made_from.get("data") or next(iter(inherited), "")
            key = store.Key(key.kind, key.settings, key.parents, data)
        self._data[key.digest] = key.data
        stamp = {"key": key.digest, "made_from": key.description, "config": module.config}
        self._replace(found, path, tensors, {**meta, **stamp})
        store.load_module(path, module)
        model: Any = module.eval()
        model.key_ = key.digest
        return model, meta

    def tensors(self, name: str, key: store.Key, make: Callable) -> dict[str, Tensor]:
        path = self.folder / f"{name}.safetensors"
        found = self._find(path)
        if found is None:
            raise FileNotFoundError(f"no tensors '{name}' are stored")
        tensors, meta = store.load_tensors(found)
        stamp = {"key": key.digest, "made_from": key.description}
        self._replace(found, path, tensors, {**meta, **stamp})
        return tensors

    def values(self, name: str, key: store.Key, make: Callable) -> dict:
        path = self.folder / f"{name}.json"
        if not path.is_file():
            raise FileNotFoundError(f"no scores '{name}' are stored")
        kept: Any = store.read_json(path)
        values = kept.pop("scores", None) or kept["values"]
        stamp = {"made_from": key.description, "library": kept.get("library")}
        store.write_kept(path, key.digest, **stamp, values=values)
        self.renamed[path] = path
        return values

    def _find(self, path: Path) -> Path | None:
        """Return the file at a path, or at the path that an earlier version gave it."""
        for stem in _earlier_stems(path.stem):
            found = path.with_name(f"{stem}.safetensors")
            if found.is_file():
                return found
        return None

    def _replace(self, found: Path, path: Path, tensors: Mapping, meta: Mapping) -> None:
        store.save_tensors(path, tensors, meta)
        for suffix in (".safetensors", ".json"):
            if found != path:
                found.with_suffix(suffix).unlink()
            self.renamed[found.with_suffix(suffix)] = path.with_suffix(suffix)


def main(folders: Sequence[Path], families: Mapping[str, Family] = FAMILIES) -> None:
    """Give new keys to everything that runs use, and bring their manifests up to date.

    Args:
        folders: the runs' folders; each is named like its profile.
        families: the family of each notebook parameter that names a dataset.
    """
    renamed: dict[Path, Path] = {}
    for folder in folders:
        renamed |= _rekey(folder, families)
    for folder in folders:
        _refresh(folder, renamed)


def _rekey(folder: Path, families: Mapping[str, Family]) -> dict[Path, Path]:
    """Give everything that a run uses its new key, under its new name.

    Returns:
        The new path of each file that was changed, by its old one.
    """
    given: dict[str, Any] = {}
    for entry in store.Manifest(folder).read().get("notebooks", {}).values():
        given |= _renamed(entry["parameters"])
    with contextlib.redirect_stdout(io.StringIO()):
        run = Run("rekey", out=folder, profile=folder.name)
    adopting = _Adopting(run.cache)
    run.cache = adopting
    for parameter, family in families.items():
        if parameter in given:
            study = Study(run, family, given[parameter])
            for step in _steps(study, given):
                with contextlib.suppress(FileNotFoundError):
                    step()
    return adopting.renamed


def _renamed(parameters_then: Mapping[str, Any]) -> dict[str, Any]:
    """A notebook's parameters by their names of today."""
    given = dict(parameters_then)
    if "faces" in given:
        given["face_dataset"] = given.pop("faces")
    return given


def _refresh(folder: Path, renamed: Mapping[Path, Path]) -> None:
    """Bring a run's manifest up to date with the new names, checksums and parameters."""
    manifest = store.Manifest(folder)
    sections = manifest.read()
    for name, entry in sections["notebooks"].items():
        entry["files"] = _checksums(folder, entry["files"], renamed)
        entry["inputs"] = _checksums(store.PROJECT, entry.get("inputs", {}), renamed)
        declared = parameters(store.PROJECT / "notebooks" / f"{name}.ipynb")
        given = _renamed(entry["parameters"])
        kept = {key: value for key, value in given.items() if key in declared}
        chosen = {"profile": folder.name, "override": ""} if "profile" in declared else {}
        entry["parameters"] = kept | chosen
    sections["files"] = _checksums(folder, sections.get("files", {}), renamed)
    stems = {old.stem: new.stem for old, new in renamed.items()}
    seconds = sections.get("seconds", {}).items()
    sections["seconds"] = {stems.get(name, name): value for name, value in seconds}
    store.write_json(manifest.path, sections)


def _checksums(
    folder: Path, files: Mapping[str, str], renamed: Mapping[Path, Path]
) -> dict[str, str]:
    """Return the checksums of files, by their path in a folder, after they were renamed."""
    checksums = {}
    for name, checksum in files.items():
        path = renamed.get(folder / name, folder / name)
        known = path.relative_to(folder).as_posix()
        checksums[known] = store.sha256(path) if folder / name in renamed else checksum
    return checksums


def _steps(study: Study, given: Mapping[str, Any]) -> Iterator[Callable[[], Any]]:
    """Yield every step whose result a run may keep."""
    for base, recipe in study.family.bases.items():
        yield partial(study.base, base)
        variants = product(recipe.flows, DRAWS, SHAPES_OF_FLOWS)
        for flow, draws, shape in variants:
            yield partial(study.plugin, base, flow, **draws, **shape)
        if recipe.keep_latents:
            yield partial(_train_latents, study, base)
        for (name, settings), features in product(_baselines(given).items(), ("draw", "mean")):
            yield partial(baseline_scores, study, name, base, features, **settings)
    yield study.judge


def _train_latents(study: Study, base: str) -> Any:
    return study.latents(base).train


def _baselines(given: Mapping[str, Any]) -> dict[str, dict]:
    settings: dict[str, dict] = {"logistic_regression": {}, "linear_svm": {}}
    if "svm_search" in given:
        settings["rbf_svm"] = {"max_search": given["svm_search"]}
        automl = {"seconds": given["automl_seconds"], "max_trials": given["automl_trials"]}
        settings["automl"] = automl
    return settings


def _earlier_stems(stem: str) -> Iterator[str]:
    """Yield a file's stem and the stems that earlier versions gave it."""
    yield stem
    for new, old in OLD_NAMES.items():
        yield stem.replace(new, old)
    width = f"_hidden_features_{AUTHORS_WIDTH}"
    old = stem.removesuffix(width)
    draws = "" if old.endswith("fixed") else "_fresh"
    yield old + draws + (f"_width{AUTHORS_WIDTH}" if stem.endswith(width) else "")


if __name__ == "__main__":
    main([store.PROJECT / "outputs" / name for name in ("paper", "drawn_faces", "drawn_shapes")])
