"""Load what was made with the same key, else make it: the one cache behind every step of a study.

A :class:`Key` describes all that a thing depends on. Whatever is made is kept in one folder with
its description. It carries the digest of its key, so that what is made from it need not derive
that again.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from fpnlib.store.files import digest, library_digest, sealed, unsealed, write
from fpnlib.store.locks import alone
from fpnlib.store.tensors import Checkpoint, load_module, load_tensors, read_meta, save_tensors

TENSORS: dict[str, type] = {"key": str}
MODULE: dict[str, type] = {"key": str, "history": dict}
"""What stands beside tensors, and beside the weights of a module."""


@dataclass(frozen=True)
class Key:
    """What something depends on.

    Args:
        kind: what it is, with a version that is raised when one of its defaults changes.
        settings: the settings that differ from their defaults. A new setting that stays at its
            default therefore changes no key.
        parents: digests of the keys of the things that it is made from.
        data: checksum of the dataset; empty if only the parents depend on it.
    """

    kind: str
    settings: Mapping[str, object] = field(default_factory=dict)
    parents: tuple[str, ...] = ()
    data: str = ""

    @property
    def description(self) -> dict:
        """The key as JSON-able values."""
        return asdict(self) | {"settings": dict(self.settings), "parents": list(self.parents)}

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that stand for the key."""
        return digest(self.description)


class Cache:
    """The models, latents and scores in a folder.

    Args:
        folder: the folder.
        device: where modules are put.
        used: told the path of every file that is read or written.
        read_only: load only. A missing model raises FileNotFoundError, one with another key
            ValueError; latents and scores are made without being kept.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        used: Callable[[Path], None],
        read_only: bool = False,
    ):
        self.folder, self.device, self.used, self.read_only = folder, device, used, read_only

    def module(
        self,
        name: str,
        key: Key,
        module: nn.Module,
        train: Callable[[Checkpoint], Mapping],
        pretrained: Path | None = None,
    ) -> tuple[nn.Module, dict]:
        """Return a module with kept or pretrained weights, or else with those of ``train``.

        Matrices are kept in half precision and computed with as they were kept. The module's
        ``key_`` is the digest of its key.

        Args:
            name: its name in the folder.
            key: what it depends on.
            module: the untrained module; its ``config`` is kept beside the weights.
            train: trains the module on one thread; takes a checkpoint to resume from and returns
                what is to be kept beside the weights, JSON-able.
            pretrained: file of weights that serve if they fit the key, whatever their data.

        Returns:
            The module and what is kept beside its weights.
        """
        module = module.to(self.device)
        meta = None if pretrained is None else read_meta(pretrained, **MODULE)
        if pretrained is not None and meta is not None and _fits(meta, key, module):
            self._load(pretrained, module, meta)
            print(f"{name}: loaded, pretrained")
            return module, meta
        checkpoint = Checkpoint(self.folder / f".{name}-{key.digest}.safetensors")
        with self._kept(name, key, MODULE) as (path, kept):
            if kept is not None:
                self._load(path, module, kept)
                checkpoint.clear()  # of a process that was killed just before it did
                print(f"{name}: loaded{_remark(kept)}")
                return module, kept
            if self.read_only:
                raise _absent(name, path)
            with threads(1):  # the same bits whatever the number of cores
                trained = train(checkpoint)
            meta = _stamp(key) | {"config": module.config} | dict(trained)
            save_tensors(path, _halved(module.state_dict()), meta)
            self._load(path, module, meta)  # the same bits now as whenever it is loaded
            checkpoint.clear()  # not before what it led to is kept
            return module, meta

    def tensors(
        self, name: str, key: Key, make: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return the kept tensors, or those that ``make()`` returns; on the CPU."""
        with self._kept(name, key, TENSORS) as (path, meta):
            if meta is None:
                tensors = {part: tensor.cpu() for part, tensor in make().items()}
                if self.read_only:
                    return tensors
                save_tensors(path, tensors, _stamp(key))
            else:
                tensors, _ = load_tensors(path)
                print(f"{name}: loaded{_remark(meta)}")
            self.used(path)
            return tensors

    def values(self, name: str, key: Key, make: Callable[[], dict]) -> dict:
        """Return the kept JSON-able values, or those that ``make()`` returns."""
        path = self.folder / f"{name}.json"
        kept = unsealed(path, key=str, values=dict)
        if kept is not None and kept["key"] == key.digest:
            if _remark(kept):
                print(f"{name}: loaded{_remark(kept)}")
            self.used(path)
            return kept["values"]
        values = make()
        if not self.read_only:
            write(path, sealed(path, _stamp(key) | {"values": values}))
            self.used(path)
        return values

    def has(self, name: str) -> bool:
        """Whether something is kept under a name, with whatever key."""
        return (self.folder / f"{name}.json").exists()

    def _load(self, path: Path, module: nn.Module, meta: Mapping) -> None:
        load_module(path, module)
        module.key_ = meta["key"]
        self.used(path)

    @contextmanager
    def _kept(
        self, name: str, key: Key, fields: Mapping[str, type]
    ) -> Iterator[tuple[Path, dict | None]]:
        """Yield a path and the description of what is kept there; None if nothing of this key is.

        Another process that needs it waits.
        """
        path = self.folder / f"{name}.safetensors"
        with nullcontext() if self.read_only else alone(path.with_suffix("")):
            meta = read_meta(path, **fields)
            if meta is not None and meta["key"] != key.digest:
                meta = None
                if not self.read_only:
                    print(f"{name}: made with other settings or data; made anew")
            yield path, meta


def _remark(meta: Mapping) -> str:
    """Return what to say of something made by another version of the library; else nothing."""
    same = meta.get("library") == library_digest()
    return "" if same else ", made by another version of the library"


def _stamp(key: Key) -> dict:
    return {"key": key.digest, "made_from": key.description, "library": library_digest()}


def _halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Round floating matrices to half precision, if its range holds them."""
    halved = dict(tensors)
    for name, tensor in tensors.items():
        if tensor.ndim > 1 and tensor.is_floating_point() and tensor.half().isfinite().all():
            halved[name] = tensor.half()
    return halved


def _fits(meta: Mapping, key: Key, module: nn.Module) -> bool:
    """Whether pretrained weights have a key and an architecture, on whatever data."""
    if meta.get("config") != module.config:
        return False
    return {**meta.get("made_from", {}), "data": ""} == {**key.description, "data": ""}


def _absent(name: str, path: Path) -> Exception:
    """Return the error for a model that may not be trained."""
    if path.with_suffix(".json").is_file():
        said = f"the model '{name}' was not made with the run's own parameters and data"
        return ValueError(said)
    return FileNotFoundError(f"no model '{name}' is stored")


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use this many threads; then put its setting back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
