"""One notebook's part of a run: its settings, its files, and *load it if it is there and fits, else make it*.

What a step makes is kept in ``<out>/models`` under a key: a digest of all that it depends on (the data's checksum, its
settings, the seed, and the keys of the steps before it). A file whose key differs is made anew, and a line says so; one that
another version of the library made is loaded, and a line says that. Matrices are kept, and computed with, as half precision has
them: the files are half the size, and a flow is exactly invertible all the same.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import matplotlib.pyplot as plt
import pandas as pd
import torch
from joblib import Parallel, cpu_count, delayed, parallel_config
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm.auto import tqdm

from fpnlib import data, store
from fpnlib.conditions import Classes
from fpnlib.data import Dataset
from fpnlib.plugin import FlowPlugin
from fpnlib.store import PROJECT
from fpnlib.training import History, batch_size_for

PAPERS = ("mnist", "shapenet")  # the datasets of the paper's numbers
T = TypeVar("T")


class Run:
    """One notebook's part of a run: its settings, its device, and where its figures, tables and results go.

    Args:
        notebook: name of the notebook, e.g. "04_conditional_generation"; its files carry it.
        out: the run's folder; relative paths count from the project's root.
        dataset: a name in ``data.DATASETS``, e.g. "mnist"; None for a notebook without data.
        data_dir: folder of the datasets; empty: $FPN_DATA, else ``data`` in the project.
        seed: of everything random.
        settings: of the steps below, by the names that they take from the notebook's parameters (``base_epochs``, …).
    """

    downloads = True
    """Whether data that is missing is fetched, where that is possible."""

    def __init__(
        self,
        notebook: str,
        *,
        out: str,
        seed: int = 0,
        dataset: str | None = None,
        data_dir: str = "",
        **settings: Any,
    ):
        self.arguments = (
            dict(notebook=notebook, out=out, seed=seed, dataset=dataset, data_dir=data_dir)
            | settings
        )
        self.notebook, self.seed, self.settings = notebook, seed, settings
        self.folder = PROJECT / out  # an absolute path stays as it is
        self.dataset_name, self.data_dir = dataset, data_dir
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.results = store.Results(self.folder / "results" / f"{notebook}.json")
        self.manifest = store.Manifest(self.folder)
        self.uses = store.Uses(self.folder, notebook)
        self._made: dict[Hashable, Any] = {}
        torch.manual_seed(seed)
        versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "nflows", "numpy"))
        print(
            f"Python {platform.python_version()}, {versions}; {self.device}, {torch.get_num_threads()} threads; seed {seed}"
        )
        print(f"Figures, tables and results go to {os.path.relpath(self.folder, PROJECT)}/")

    @cached_property
    def data(self) -> Dataset:
        """The dataset, its splits drawn by the run's seed."""
        loaded = data.load(
            self.dataset_name, root=self.data_dir or None, seed=self.seed, download=self.downloads
        )
        self.manifest.note("data", {loaded.name: loaded.checksum})
        self.uses.data(loaded.name, loaded.checksum)
        return loaded

    def on(self, dataset: str, **settings: Any) -> Run:
        """The same notebook's part of the run with another dataset and other settings; its numbers join those of this one."""
        other = type(self)(**self.arguments | {"dataset": dataset} | settings)
        other.results = self.results
        return other

    @property
    def classes(self) -> Classes:
        """The dataset's classes, as a plugin takes them."""
        return Classes(self.data.classes)

    def record(
        self, quantity: str, value: float, *, paper: float | None = None, **more: Any
    ) -> None:
        """Keep a number in ``results/<notebook>.json``, beside the paper's value where it has one, and print it.

        ``paper`` is left out as :meth:`papers` says.
        """
        paper = self.papers(paper)
        self.results.record(quantity, float(value), paper=paper, seed=self.seed, **more)
        self.uses.file(self.results.path)
        print(f"{quantity}: {value:.4f}" + (f"  (paper: {paper:.4f})" if paper is not None else ""))

    def papers(self, value: float | None) -> float | None:
        """A value of the paper's, which is of its own datasets: None on another."""
        return value if self.dataset_name in PAPERS else None

    def figure(self, figure: Figure, name: str) -> Figure:
        """Save a figure as ``figures/<notebook>_<name>.png`` and hand it back to be shown."""
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=figure.dpi)
        path = self.folder / "figures" / f"{self.notebook}_{name}.png"
        self.uses.file(store.write(path, png.getvalue()))
        plt.close(figure)  # or the notebook would show it twice
        return figure

    def table(self, table: pd.DataFrame, name: str, digits: int = 4) -> pd.DataFrame:
        """Save a table as ``tables/<notebook>_<name>.csv`` and hand it back to be shown."""
        path = self.folder / "tables" / f"{self.notebook}_{name}.csv"
        self.uses.file(store.write(path, table.to_csv(index=False)))
        return table.style.format(precision=digits, na_rep="–").hide(axis="index")

    def training(self, settings: dict, **more: Any) -> dict:
        """``settings`` of ``training.fit`` for this dataset, with smaller batches where it is small."""
        return (
            settings
            | {"batch_size": batch_size_for(len(self.data.train), settings["batch_size"])}
            | more
        )

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make()`` gives, made when it is first asked for: steps share models and latents, and none changes them."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def load_or_make(
        self, name: str, module: nn.Module, key: dict, make: Callable[[Any], History]
    ) -> tuple[nn.Module, str]:
        """``module`` with the weights kept under ``name`` where their key fits, else those that ``make(checkpoint)`` gives it.

        Returns the module, in eval mode on the run's device, and the key's digest. Its ``history_`` is the fit's history.
        Asked again, this run gives the very module that it gave before.
        """
        digest = store.digest(key)
        kept = self.once(
            (name, digest), lambda: self._module(name, module.to(self.device), key, digest, make)
        )
        return kept.eval(), digest

    def load_or_make_tensors(
        self, name: str, key: dict, make: Callable[[], dict[str, Tensor]]
    ) -> tuple[dict[str, Tensor], str]:
        """The tensors kept under ``name`` where their key fits, else those that ``make()`` gives; on the CPU.

        Returns them and the key's digest.
        """
        digest = store.digest(key)
        return self.once((name, digest), lambda: self._tensors(name, digest, make)), digest

    def _module(
        self, name: str, module: nn.Module, key: dict, digest: str, make: Callable
    ) -> nn.Module:
        path = self._path(name)
        checkpoint = store.Checkpoint(path.with_name(f".{name}-{digest}.safetensors"))
        with store.alone(path.with_suffix("")):  # whoever else needs it waits, and loads it
            if not self._load(name, module, digest):
                self._make(name, module, key, digest, lambda: make(checkpoint))
            checkpoint.clear()  # not before what it led to is kept
        self.uses.file(path)
        return module

    def _load(self, name: str, module: nn.Module, digest: str) -> bool:
        """Load the weights kept under ``name``; False where there are none, or they were made with another key."""
        if (meta := described(self._path(name))) is None:
            return False
        if meta["key"] != digest:
            print(f"{name}: made with other settings or data; made anew")
            return False
        load(self._path(name), module)
        print(f"{name}: loaded{made_by(meta)}")
        return True

    def _make(
        self, name: str, module: nn.Module, key: dict, digest: str, make: Callable[[], History]
    ) -> None:
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(1)  # the same bits whatever the number of cores; see side_by_side
            history = asdict(make())
        finally:
            torch.set_num_threads(threads)
        seconds = history.pop("seconds")  # of this machine, on this day: the manifest's
        meta = {
            "key": digest,
            "made_from": key,
            "library": store.library_digest(),
            "history": history,
        }
        store.save_module(self._path(name), module, meta, half=True)
        load(self._path(name), module)  # the same bits now as whenever it is loaded
        self.manifest.note("seconds", {name: round(seconds, 1)})

    def _tensors(
        self, name: str, digest: str, make: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        path = self._path(name)
        with store.alone(path.with_suffix("")):
            self.uses.file(path)
            if (kept := self._kept_tensors(name, digest)) is not None:
                return kept
            tensors = {part: tensor.cpu() for part, tensor in make().items()}
            store.save_tensors(path, tensors, {"key": digest})
            return tensors

    def _kept_tensors(self, name: str, digest: str) -> dict[str, Tensor] | None:
        """The tensors kept under ``name``; None where there are none, or they were made with another key."""
        meta = store.read_meta(path := self._path(name), key=str)
        if meta is None or meta["key"] != digest:
            return None
        return store.load_tensors(path)[0]

    def _path(self, name: str) -> Path:
        return self.folder / "models" / f"{name}.safetensors"

    def seconds(self, name: str) -> float | None:
        """Wall time of the epochs that made ``name``, in all the sessions that they took; None where it is not known."""
        return self.manifest.read().get("seconds", {}).get(name)

    def weights_sha256(self, name: str) -> str:
        """Checksum of the weights kept under ``name``."""
        return store.sha256(self._path(name))

    def setting(self, name: str) -> Any:
        """A setting of this run by name. Raises ValueError where the notebook did not give it."""
        if name not in self.settings:
            raise ValueError(f"this step needs the setting '{name}'; pass {name}=… to Run")
        return self.settings[name]


def kept_config(plugin: FlowPlugin) -> dict:
    """``plugin.config`` as the kept weights' keys have it, in which the condition is called "attributes"."""
    config = dict(plugin.config)
    return {"attributes": config.pop("condition")} | config


def described(path: Path) -> dict | None:
    """What is said of a module kept by :meth:`Run.load_or_make`, at least ``key`` and ``history``; None where none is kept.

    Raises:
        ValueError: damaged, in one line.
    """
    return store.read_meta(path, key=str, history=dict)


def made_by(meta: dict) -> str:
    """What is to be said of something kept whose ``meta`` names another version of the library than this one."""
    return (
        ""
        if meta.get("library") == store.library_digest()
        else ", made by another version of the library"
    )


def load(path: Path, module: nn.Module) -> None:
    """Load a module kept by :meth:`Run.load_or_make`, and its ``history_``. Raises as ``store.load_module`` does."""
    meta = store.load_module(path, module)
    module.history_ = store.rebuilt(path.with_suffix(".json"), History, meta["history"])


def side_by_side(run: Run, steps: dict[str, tuple]) -> None:
    """Make what is missing among ``steps``, a process for each core and one thread in each: twice as fast on two cores.

    The steps called afterwards load it. On a GPU, and where at most one is missing, nothing is made here: they make it.

    Args:
        steps: name under ``models`` → (step, positional arguments…, {keyword arguments}), e.g.
            ``{"ConvVAE": (base_model, "ConvVAE", {})}``.
    """
    missing = [
        step
        for name, step in steps.items()
        if not (run.folder / "models" / f"{name}.json").exists()
    ]
    if len(missing) < 2 or cpu_count() < 2 or run.device.type != "cpu":
        return
    workers = dict(n_jobs=min(len(missing), cpu_count()), inner_max_num_threads=1)
    with parallel_config("loky", **workers, initializer=_end_with, initargs=(os.getpid(),)):
        made = Parallel(return_as="generator_unordered")(
            delayed(_make)(run.arguments, *step) for step in missing
        )
        for _ in tqdm(made, total=len(missing), desc="side by side", unit="model"):
            pass


def _make(arguments: dict, step: Callable, *positional_and_keywords: Any) -> None:
    *positional, keywords = positional_and_keywords
    with contextlib.redirect_stdout(
        io.StringIO()
    ):  # what is printed belongs in the notebook, which loads it next
        step(Run(**arguments), *positional, **keywords)


def _end_with(parent: int) -> None:
    """Let this process end when its parent is gone: it would go on for hours, holding what the next run waits for."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
