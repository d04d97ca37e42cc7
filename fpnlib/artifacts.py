"""What a run leaves behind: atomic writes, safetensors with a JSON beside them, hashes, results, the manifest.

Every write goes to a temporary file in the same folder, is flushed to the disk and then renamed: a run killed at any
moment leaves either the old file or the new one. Nothing here is pickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

try:
    import fcntl
except ImportError:  # Windows: two processes writing one manifest at the same instant are not kept apart there
    fcntl = None

PROJECT = Path(__file__).resolve().parent.parent
"""The checkout: relative output folders and the default data folder are under it, whatever the working directory."""

PathLike = str | os.PathLike[str]


def write_bytes(path: PathLike, data: bytes) -> Path:
    """Write ``data`` atomically, making the folders above ``path``; returns the path.

    Raises:
        OSError: the folder cannot be written to; one line that names the file and the reason.
    """
    path = Path(path)
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)
    return path


def make_folder(path: PathLike) -> Path:
    """Make a folder and those above it; returns it. Raises OSError, in one line, where that cannot be done."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from None
    return path


def write_text(path: PathLike, text: str) -> Path:
    """Write ``text`` atomically as UTF-8. Raises as :func:`write_bytes` does."""
    return write_bytes(path, text.encode())


def write_json(path: PathLike, obj: object) -> Path:
    """Write ``obj`` atomically as indented JSON; tensors, NumPy values and paths are turned into plain ones.

    Raises:
        ValueError: NaN or infinite numbers, which JSON does not know.
        TypeError: something that JSON cannot hold.
        OSError: as :func:`write_bytes`.
    """
    try:
        text = json.dumps(obj, indent=1, ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError as error:
        raise ValueError(f"{path} must hold finite numbers: {error}") from None
    return write_text(path, text + "\n")


def read_json(path: PathLike) -> object:
    """The object in a JSON file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated or no JSON at all; one line that names the file.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged (no valid JSON: {error}); delete it and run again") from None


def save_tensors(path: PathLike, tensors: Mapping[str, Tensor], meta: Mapping) -> Path:
    """Write ``tensors`` as safetensors and, beside them, ``<stem>.json``: ``meta``, their shapes and the file's sha256.

    The JSON goes first and comes last: where it stands, the pair is complete.

    Raises:
        ValueError: a path that does not end in ``.safetensors``; numbers that are not finite in ``meta``.
        OSError: as :func:`write_bytes`.
    """
    path = _weights(path)
    data = safetensors.torch.save(_plain_tensors(tensors))
    path.with_suffix(".json").unlink(missing_ok=True)
    write_bytes(path, data)
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    write_json(path.with_suffix(".json"), {"meta": meta, "sha256": hashlib.sha256(data).hexdigest(), "shapes": shapes})
    return path


def load_tensors(path: PathLike) -> tuple[dict[str, Tensor], dict]:
    """The tensors (on the CPU) and the ``meta`` that :func:`save_tensors` wrote.

    Raises:
        FileNotFoundError: no such file, or no JSON beside it.
        ValueError: truncated or otherwise not what was written; one line that names the file.
    """
    path = _weights(path)
    for part in (path, path.with_suffix(".json")):
        if not part.is_file():
            raise FileNotFoundError(f"{part} is missing; expected {path.name} and {path.stem}.json in {path.parent}")
    described = read_json(path.with_suffix(".json"))
    data = path.read_bytes()
    if not isinstance(described, dict) or described.get("sha256") != hashlib.sha256(data).hexdigest():
        raise ValueError(
            f"{path} is truncated or damaged: its sha256 is not the one in {path.stem}.json; delete it and run again"
        )
    return safetensors.torch.load(data), described["meta"]


def save_module(path: PathLike, module: nn.Module, meta: Mapping) -> Path:
    """:func:`save_tensors` of the module's state dict."""
    return save_tensors(path, module.state_dict(), meta)


def load_module(path: PathLike, module: nn.Module) -> dict:
    """Load what :func:`save_module` wrote into ``module``, on the module's own device; returns the ``meta``.

    Raises:
        ValueError: another architecture; one line with the first difference. ``module`` stays as it was.
        FileNotFoundError, ValueError: as :func:`load_tensors`.
    """
    tensors, meta = load_tensors(path)
    own = module.state_dict()
    for name in [*own, *tensors]:
        there, here = (tuple(state[name].shape) if name in state else None for state in (tensors, own))
        if there != here:
            there, here = ("absent" if shape is None else f"of shape {shape}" for shape in (there, here))
            wanted = type(module).__name__
            raise ValueError(f"{path} holds another architecture than {wanted}: '{name}' is {there}, expected {here}")
    module.load_state_dict(tensors)
    return meta


class Checkpoint:
    """The state of something unfinished: tensors and a JSON-able ``meta`` in one file, replaced atomically."""

    def __init__(self, path: PathLike):
        self.path = _weights(path)

    def load(self) -> tuple[dict[str, Tensor], dict] | None:
        """What was saved last (tensors on the CPU), or None where nothing was.

        Raises:
            ValueError: a damaged file, in one line.
        """
        if not self.path.is_file():
            return None
        try:
            with safetensors.safe_open(self.path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
                return tensors, json.loads(file.metadata()["meta"])
        except (safetensors.SafetensorError, TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{self.path} is damaged ({error}); delete it to start over") from None

    def save(self, tensors: Mapping[str, Tensor], meta: Mapping) -> None:
        """Replace what was saved before. Raises as :func:`write_bytes` does."""
        text = json.dumps(meta, default=_plain)
        write_bytes(self.path, safetensors.torch.save(_plain_tensors(tensors), {"meta": text}))

    def clear(self) -> None:
        """Forget: what was unfinished is finished."""
        self.path.unlink(missing_ok=True)


def sha256(path: PathLike) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(obj: object) -> str:
    """The first 12 hexadecimal digits of a hash of a JSON-able object in whatever order of keys: a cache's key."""
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Results:
    """The numbers of one notebook, each beside the paper's where it has one, in ``results/<notebook>.json``.

    A list of ``{"quantity", "value", "paper", "n", "seed", …}`` in the order of recording. It starts empty and holds no
    times or dates, so that two runs with one seed write the same bytes.
    """

    def __init__(self, path: PathLike):
        self.path = Path(path)
        self.records: list[dict] = []

    def record(
        self,
        quantity: str,
        value: float,
        *,
        paper: float | None = None,
        n: int | None = None,
        seed: int | None = None,
        **more,
    ) -> float:
        """Write one number down, in place of an earlier one of the same ``quantity``; returns it as a float.

        Args:
            quantity: what was measured, e.g. ``"test accuracy, ConvVAE + C-MAF"``.
            value: the measurement.
            paper: the paper's value; None where it has none.
            n: the number of samples behind the value.
            seed: the seed that gave it.
            more: whatever else a reader needs, JSON-able.

        Raises:
            ValueError: NaN or an infinite value.
            OSError: as :func:`write_bytes`.
        """
        value = float(value)
        if not math.isfinite(value):
            raise ValueError(f"'{quantity}' must be a finite number, got {value}")
        row = {"quantity": quantity, "value": value, "paper": paper, "n": n, "seed": seed, **more}
        names = [earlier["quantity"] for earlier in self.records]
        if quantity in names:
            self.records[names.index(quantity)] = row
        else:
            self.records.append(row)
        write_json(self.path, self.records)
        return value


class Manifest:
    """``manifest.json`` of a run's folder: where its numbers come from.

    Sections are flat mappings that notebooks and the runner add to, each from its own process: ``environment`` (commit,
    versions, device), ``data`` (checksums), ``notebooks`` (parameters, seconds), ``files`` (sha256), or any other.
    """

    KEPT = ("figures", "tables", "results", "models")
    """The folders whose files it vouches for."""

    def __init__(self, folder: PathLike):
        self.folder = Path(folder)
        self.path = self.folder / "manifest.json"

    def read(self) -> dict:
        """All sections; empty where there is no manifest yet. Raises ValueError on a damaged file."""
        return read_json(self.path) if self.path.is_file() else {}

    def note(self, section: str, values: Mapping) -> None:
        """Add ``values`` to a section, replacing those of the same name.

        Raises:
            OSError, ValueError, TypeError: as :func:`write_json`.
        """
        with self._alone():
            sections = self.read()
            sections.setdefault(section, {}).update(values)
            write_json(self.path, sections)

    def note_files(self) -> None:
        """Note the sha256 of every file under figures, tables, results and models, and drop those that are gone."""
        with self._alone():
            write_json(self.path, self.read() | {"files": self.files()})

    def files(self) -> dict[str, str]:
        """sha256 of every finished file under figures, tables, results and models, by its path within the folder."""
        return {path.relative_to(self.folder).as_posix(): sha256(path) for path in self.paths()}

    def paths(self) -> list[Path]:
        """Those files, sorted."""
        paths = (path for kept in self.KEPT for path in sorted((self.folder / kept).rglob("*")))
        return [path for path in paths if path.is_file() and not path.name.startswith(".")]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time between reading and replacing; the lock dies with its holder."""
        make_folder(self.folder)
        if fcntl is None:
            yield
            return
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


def environment() -> dict:
    """Commit, versions, device and processor of this process, for a manifest."""
    packages = (
        "torch",
        "torchvision",
        "nflows",
        "numpy",
        "scipy",
        "scikit-learn",
        "safetensors",
        "torchmetrics",
        "umap-learn",
        "flaml",
    )
    commit = _git("rev-parse", "HEAD")
    return {
        "commit": commit,
        "uncommitted changes": bool(_git("status", "--porcelain", "--", "fpnlib", "notebooks")) if commit else None,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": cores(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _unwritable(path: Path, error: OSError) -> OSError:
    return OSError(error.errno, f"cannot write {path} ({error.strerror}); expected a folder that can be written to")


def _weights(path: PathLike) -> Path:
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"weights are kept as .safetensors, got '{path.name}'; did you mean '{path.stem}.safetensors'?"
        )
    return path


def _plain_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Clones: safetensors refuses tensors that share memory.
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }


def _plain(obj: object) -> object:
    if hasattr(obj, "tolist"):
        return obj.tolist()
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    raise TypeError(f"JSON holds numbers, text, lists and mappings, got {type(obj).__name__}")
