"""Pins, versions, notebooks and profiles hold together.

``make check`` holds the rest: layout, lint rules, import layers, type hints, clean notebooks.
"""

import base64
import io
import re
import statistics
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

import fpnlib
from fpnlib.families.profiles import read_profile
from fpnlib.runs import plan

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROFILES = sorted((ROOT / "notebooks" / "profiles").glob("*.yaml"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def pins() -> dict[str, str]:
    """Versions by name in constraints.txt, which names no hosts, paths or ranges."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = {}
    for line in lines:
        if not line.startswith("#"):
            name, version = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+]+)", line).groups()
            found[canonicalize_name(name)] = version
    return found


def code(path: Path) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_every_dependency_is_pinned_within_its_range():
    extras = PROJECT["optional-dependencies"].values()
    for text in [*PROJECT["dependencies"], *(text for extra in extras for text in extra)]:
        wanted = Requirement(text)
        assert pins()[canonicalize_name(wanted.name)] in wanted.specifier, text


def test_conda_users_get_the_same_pins():
    pip = next(entry["pip"] for entry in CONDA if isinstance(entry, dict))
    extras = PROJECT["optional-dependencies"]
    texts = [*PROJECT["dependencies"], *extras["examples"], *extras["molecules"]]
    wanted = [Requirement(text) for text in texts]
    given = [Requirement(text) for text in pip if not text.startswith("-")]
    versions = pins()
    assert {(r.name, *r.extras): str(r.specifier) for r in given} == {
        (r.name, *r.extras): f"=={versions[canonicalize_name(r.name)]}" for r in wanted
    }
    assert pip[-2:] == ["-c constraints.txt", "-e .[examples,molecules]"]
    python = Requirement(f"python{PROJECT['requires-python']}")
    assert "python=3.11" in CONDA and "3.11" in python.specifier


def applies(marker, extras) -> bool:
    """Whether a requirement with a marker holds for one of the extras."""
    return not marker or any(marker.evaluate({"extra": extra}) for extra in extras)


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the pins are those of Python 3.11")
@pytest.mark.parametrize("extras", ["test,examples,molecules", "book"])
def test_what_the_dependencies_need_is_pinned_too(extras):
    known, waiting, missing = set(), [Requirement(f"fpnlib[{extras}]")], set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if (name, *wanted.extras) in known:
            continue
        known.add((name, *wanted.extras))
        try:
            needs = map(Requirement, metadata.requires(name) or ())
        except metadata.PackageNotFoundError:
            pytest.skip(f"{name} is not installed here")
        missing |= {name} - {"fpnlib", *pins()}
        waiting += [need for need in needs if applies(need.marker, ("", *wanted.extras))]
    assert not missing


def test_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == fpnlib.__version__


def test_no_room_imports_a_private_name_of_another():
    """Ruff's own rule (PLC2701) looks only at names of other packages."""
    imports = re.compile(r"^\s*from fpnlib\.?(\S*) import (\([^)]*\)|[^\n]*)", re.MULTILINE)
    private = re.compile(r"(?<!\w)_[a-zA-Z]")
    for path in sorted((ROOT / "fpnlib").rglob("*.py")):
        room = path.relative_to(ROOT / "fpnlib").with_suffix("").parts[0]
        for module, names in imports.findall(path.read_text()):
            if module.split(".")[0] != room:
                assert not private.search(module + " " + names), f"{path} imports {names}"


def test_the_pre_commit_hooks_fetch_nothing():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert {repository["repo"] for repository in hooks["repos"]} == {"local"}


@each_notebook
def test_a_notebook_begins_with_its_parameters_a_dozen_at_most(path):
    first, *others = code(path)
    assert first.metadata.get("tags") == ["parameters"]
    assert not any("parameters" in cell.metadata.get("tags", ()) for cell in others)
    defaults = plan.parameters(path)
    assert {"out", "seed"} <= defaults.keys() and len(defaults) <= 12
    described = papermill.inspect_notebook(str(path))
    assert described.keys() == defaults.keys()
    assert all(one["help"].strip() for one in described.values()), "one without '# help'"


@each_notebook
def test_a_notebook_runs_anywhere(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    absolute = r"(?<![\w.:/~$)}])/(home|root|Users|tmp|opt|mnt|work|usr|var)/|\b[A-Z]:\\"
    for cell in notebook.cells:
        assert not re.search(absolute, cell.source), cell.source


@each_notebook
def test_a_notebook_is_thin(path):
    """Ruff holds the width of its lines and the length of its functions: notebooks/ruff.toml."""
    cells = [cell.source.splitlines() for cell in code(path)]
    assert statistics.median(map(len, cells)) <= 8
    assert max(map(len, cells[1:])) <= 15, "a cell that no screen holds"


@each_notebook
def test_a_notebook_says_what_it_costs_sums_up_and_names_the_next(path):
    cells = nbformat.read(path, as_version=4).cells
    texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    assert texts[0].startswith(f"# {path.stem[:2]} · ") and "**Cost:**" in texts[0]
    assert texts[-1].startswith("## Summary") and "**Next:**" in texts[-1]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("mnist_seeds/grid.json", True),
        ("mnist_seeds/tables/summary.csv", True),
        ("mnist_seeds/runs/digits.flow_seed=0/results/08_classification.json", True),
        ("mnist_seeds/runs/digits.flow_seed=0/models/ConvVAE.safetensors", False),
        ("mnist_seeds/runs/digits.flow_seed=0/notebooks/08_classification.ipynb", False),
        ("mnist_seeds/runs/digits.flow_seed=0/.run.lock", False),
        ("modelnet_seeds/runs/shapes.flow_seed=0/results/06_point_clouds.json", True),
        ("modelnet_seeds/runs/shapes.flow_seed=0/models/PointFlow_maf.safetensors", False),
        ("paper/models/.ConvVAE.lock", False),
        ("pretrained/.manifest.json.lock", False),
        ("paper/report.html", False),
        ("demo/manifest.json", False),
    ],
)
def test_git_keeps_what_a_reader_wants_and_no_locks(name, kept):
    done = subprocess.run(["git", "check-ignore", "-q", f"outputs/{name}"], cwd=ROOT, check=False)
    if done.returncode > 1:
        pytest.skip("needs git and the repository")
    assert done.returncode == kept


def test_parameters_of_one_name_have_one_default():
    seen = {}
    for path in NOTEBOOKS:
        for name, default in plan.parameters(path).items():
            first, value = seen.setdefault(name, (path.stem, default))
            same = (value, type(value)) == (default, type(default))
            assert same, f"{name} differs in {first} and {path.stem}"
    demo, _ = read_profile(ROOT / "notebooks" / "profiles" / "demo.yaml")
    for name, value in demo.items():
        if name in seen and name != "out":
            assert seen[name][1] == value, f"{name} differs in {seen[name][0]} and the demo profile"


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_profiles_name_parameters_that_exist_with_values_that_fit(profile):
    assert plan.plan(profile.stem, None, (), {}, ROOT / "notebooks").tasks


def test_no_executed_notebook_has_a_face_of_celeba_in_it():
    """Neither among its outputs nor in the states of its widgets, shown or not."""
    notebook = nbformat.read(ROOT / "outputs/paper/notebooks/07_attribute_editing.ipynb", 4)
    pictures = []
    for cell in notebook.cells:
        outputs = cell.get("outputs", ())
        pictures += [output.get("data", {}).get("image/png") for output in outputs]
    for states in notebook.metadata.get("widgets", {}).values():
        for state in states["state"].values():
            pictures += [buffer["data"] for buffer in state.get("buffers", ())]
    files = [io.BytesIO(base64.b64decode(data)) for data in pictures if data]
    assert files and (64, 64) not in {Image.open(file).size for file in files}
