"""The one fit loop: progress, early stopping, the best weights kept, checkpoints.

>>> net, x = nn.Linear(2, 1), torch.ones(40, 2)
>>> def loss(x):
...     return (net(x) - 3).square().mean()
>>> history = fit(net, loss, (x,), (x,), epochs=9, batch_size=8, learning_rate=0.1)
>>> history.best_validation < history.epochs[0]["validation"]
True
"""

import inspect
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.optim.lr_scheduler import OneCycleLR
from tqdm.auto import trange

from fpnlib import checks
from fpnlib.store.cache import threads
from fpnlib.store.tensors import Checkpoint

Batch = tuple[Tensor, ...]
Loss = Callable[..., Tensor]

# A step of fewer multiplications takes under 0.1 s on one thread. A second saves little then, and
# makes it 5 to 29 times as long if another process holds its core: each operation waits for it.
ONE_THREAD_WORK = 1e9
# How torchdiffeq's assertions begin.
SOLVER_ERRORS = ("underflow in dt", "non-finite values in state", "max_num_steps exceeded")


@dataclass
class History:
    """What a fit saw.

    Attributes:
        epochs: a dict for each epoch with ``epoch``, ``train``, ``validation`` (mean losses) and
            ``learning_rate``.
        best_epoch: the epoch whose weights were kept, from 1; 0: the initial weights.
        stopped_early: whether ``patience`` ended the fit.
        seconds: wall time of the epochs, over all sessions.
        gaussian: of a plugin, the validation loss of Gaussians, which the flow should beat.
    """

    epochs: list[dict] = field(default_factory=list)
    best_epoch: int = 0
    stopped_early: bool = False
    seconds: float = field(default=0.0, compare=False)
    gaussian: float | None = field(default=None, compare=False)

    @property
    def best_validation(self) -> float:
        """The smallest validation loss, that of the weights kept."""
        return min((epoch["validation"] for epoch in self.epochs), default=math.inf)


@torch.inference_mode(mode=False)
@torch.enable_grad()
@torch.autocast("cpu", enabled=False, cache_enabled=False)  # a loss's own autocast would keep
@torch.autocast("cuda", enabled=False, cache_enabled=False)  # the first step's weights in its cache
def fit(
    module: nn.Module,
    loss: Loss,
    train: Batch | Callable[[torch.Generator], Batch],
    validation: Batch,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    one_cycle: bool = True,
    patience: int | None = None,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    seed: int = 0,
    checkpoint: Checkpoint | None = None,
    description: str = "fit",
    progress: bool = True,
) -> History:
    """Minimise the mean of ``loss`` with AdamW; leave the best weights, in eval mode.

    Each epoch depends on (seed, epoch) alone, so a resumed fit gives the same weights, to the bit.
    Small trainings on the CPU use one thread. The caller's no_grad or autocast does not matter.

    Args:
        module: parameters with ``requires_grad=False`` stay as they are. Its method
            ``check_input``, if any, sees all data once, because losses check nothing.
        loss: ``loss(*batch)`` is the scalar mean over a batch.
        train: tensors of one length on the module's device, or a function that draws them from a
            generator for each epoch.
        validation: tensors that choose the best epoch.
        epochs: passes over the data.
        batch_size: samples a step.
        learning_rate: constant, or the peak of a one-cycle schedule.
        one_cycle: warm up to ``learning_rate`` and anneal it (Smith 2018, arXiv:1803.09820).
        patience: epochs without a better validation loss before the fit stops; None: never.
        weight_decay: decoupled, as in AdamW.
        clip_norm: bound on the gradient's norm; None: no bound.
        seed: of all draws.
        checkpoint: keeps the state after each epoch; the caller clears it.
        description: of the progress bar and the errors.
        progress: whether to show the bar.

    Raises:
        ValueError: no data, ``epochs`` or ``batch_size`` below 1, or another module's checkpoint.
        FloatingPointError: the loss is not finite, or a solver failed; the best weights are kept.
    """
    epochs = checks.positive("epochs", epochs)
    batch_size = checks.positive("batch_size", batch_size)
    draw = train if callable(train) else lambda generator: _tensors(train)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = _AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
    settings = batch_size, optimizer, clip_norm, checks.whole("seed", seed), description
    trainer = _Trainer(module, loss, draw, validation, *settings)
    if one_cycle:
        trainer.schedule = OneCycleLR(optimizer, learning_rate, epochs * trainer.steps)
    if checkpoint is not None:
        trainer.resume(checkpoint)
    with threads(1) if trainer.small else nullcontext():
        trainer.run(epochs, patience, checkpoint, progress)
    return trainer.history


def batch_size_for(n: int, most: int = 512) -> int:
    """A batch size: ``most``, or less for twenty steps an epoch of n samples, but at least 32."""
    return min(most, max(32, n // 20))


class _AdamW(torch.optim.AdamW):
    """AdamW without torch's decorators, which import its compiler: a second or more per process."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)


@dataclass
class _Trainer:
    """A fit's parts, and its state between epochs."""

    module: nn.Module
    loss: Loss
    draw: Callable[[torch.Generator], Batch]
    validation: Batch
    batch_size: int
    optimizer: torch.optim.Optimizer
    clip_norm: float | None
    seed: int
    description: str
    schedule: OneCycleLR | None = None
    history: History = field(default_factory=History)

    def __post_init__(self) -> None:
        self.parameters = self.optimizer.param_groups[0]["params"]
        self.device = next(self.module.parameters()).device
        self.best = deepcopy(self.module.state_dict())
        self.validation = _tensors(self.validation)
        first = self.draw(self.generator(0))
        self.n, held_out = len(first[0]), len(self.validation[0])
        if not self.n or not held_out:
            given = f"{self.n} training and {held_out} validation samples"
            raise ValueError(f"fit needs data, got {given}")
        check_input = getattr(self.module, "check_input", lambda *batch: None)
        check_input(*first)
        check_input(*self.validation)
        sample = first[0][0]
        vectors = max(1, sample.numel() // first[0].shape[-1])  # of a sample: a cloud's points
        weights = sum(map(torch.numel, self.parameters))
        work = weights * vectors * min(self.batch_size, self.n)
        self.small = self.device.type == "cpu" and work < ONE_THREAD_WORK
        self.steps = math.ceil(self.n / self.batch_size)  # of an epoch

    def run(
        self, epochs: int, patience: int | None, checkpoint: Checkpoint | None, progress: bool
    ) -> None:
        """Train for the epochs that are left, and load the best weights."""
        history = self.history
        look = {"desc": self.description, "unit": "epoch", "dynamic_ncols": True}
        bar = trange(len(history.epochs), epochs, disable=not progress, **look)
        for epoch in bar:
            if history.stopped_early:
                break
            started = time.perf_counter()
            losses = self.try_epoch(epoch)
            if losses["validation"] < history.best_validation:
                history.best_epoch, self.best = epoch + 1, deepcopy(self.module.state_dict())
            learning_rate = self.optimizer.param_groups[0]["lr"]
            history.epochs.append({"epoch": epoch + 1, **losses, "learning_rate": learning_rate})
            stale = epoch + 1 - history.best_epoch
            history.stopped_early = patience is not None and stale >= patience
            history.seconds += time.perf_counter() - started
            bar.set_postfix_str("train={train:.4g}, validation={validation:.4g}".format(**losses))
            if checkpoint is not None:
                checkpoint.save(*self.state())
        self.load_best()

    def try_epoch(self, epoch: int) -> dict[str, float]:
        """Losses of one epoch; FloatingPointError if they are not finite or a solver fails."""
        rate = self.optimizer.defaults["lr"]
        remedy = f"a smaller learning_rate than {rate:g} or clip_norm helps"
        try:
            losses = self.epoch(epoch)
            if all(map(math.isfinite, losses.values())):
                return losses
            reason = "the loss is {train}, on validation {validation}".format(**losses)
        except FloatingPointError as error:
            reason = str(error)
        except AssertionError as error:
            reason = str(error).partition(":")[0]
            if not reason.startswith(SOLVER_ERRORS):
                raise
            reason = f"the solver gave up ({reason})"
            remedy += ", or a larger tolerance, or method='rk4'"
        self.load_best()
        kept = f"the weights of epoch {self.history.best_epoch} are kept"
        where = f"{self.description}, epoch {epoch + 1}"
        raise FloatingPointError(f"{where}: {reason}; {remedy}; {kept}")

    def epoch(self, epoch: int) -> dict[str, float]:
        """Train on every sample once and evaluate; the mean losses ``train`` and ``validation``.

        The global generator, which dropout and some losses draw from, is put back.
        """
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            generator = self.generator(epoch)
            self.seed_globally(epoch)
            tensors = self.draw(generator)
            order = torch.randperm(self.n, generator=generator, device=self.device)
            self.module.train()
            total = torch.zeros((), device=self.device)
            for rows in _batches(order, self.batch_size):
                batch = [tensor[rows] for tensor in tensors]
                total = total + self.step(batch) * len(rows)
            self.seed_globally(-1)  # the same draws in every epoch's validation
            return {"train": float(total) / self.n, "validation": self.validate()}

    @torch.no_grad()
    def validate(self) -> float:
        """Mean loss of the validation samples, in eval mode."""
        self.module.eval()
        total = 0.0
        for batch in zip(*(tensor.split(self.batch_size) for tensor in self.validation)):
            total += float(self.loss(*batch)) * len(batch[0])
        return total / len(self.validation[0])

    def step(self, batch: list[Tensor]) -> Tensor:
        """Move the weights along one batch's gradient; the loss before, a scalar."""
        value = self.loss(*batch)
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimizer.step()
        increment_version(self.parameters)  # fused optimizers don't, and caches look at versions
        if self.schedule is not None:
            self.schedule.step()
        return value.detach()

    def load_best(self) -> None:
        """Load the best weights and set eval mode."""
        self.module.load_state_dict(self.best)
        self.module.eval()

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """Everything that the next epoch depends on, as flat tensors and JSON-able values."""
        optimizer = self.optimizer.state_dict()
        parts = {"module": self.module.state_dict(), "best": self.best}
        parts |= {f"optimizer.{number}": part for number, part in optimizer["state"].items()}
        tensors = {}
        for name, part in parts.items():
            for key, value in part.items():
                tensors[f"{name}.{key}"] = value
        meta = {"history": asdict(self.history), "param_groups": optimizer["param_groups"]}
        meta["schedule"] = None if self.schedule is None else self.schedule.state_dict()
        return tensors, meta

    def resume(self, checkpoint: Checkpoint) -> None:
        """Take up the state that was saved last, if any."""
        state = checkpoint.load()
        try:
            if state is not None:
                self.restore(*state)
        except (RuntimeError, ValueError, KeyError, TypeError):
            said = "is of another module or other settings; delete it to start over"
            raise ValueError(f"{checkpoint.path} {said}") from None

    def restore(self, tensors: dict[str, Tensor], meta: dict) -> None:
        """Load what :meth:`state` gave."""
        self.history = History(**meta["history"])
        self.module.load_state_dict(_under("module.", tensors))
        self.best = _under("best.", tensors)
        moments = {}
        for number in range(len(self.parameters)):
            moments[number] = _under(f"optimizer.{number}.", tensors)
        state = {"state": moments, "param_groups": meta["param_groups"]}
        self.optimizer.load_state_dict(state)
        for parameter, kept in self.optimizer.state.items():
            for name in kept.keys() - {"step"}:  # a fused step wants the parameter's memory layout
                kept[name] = torch.empty_like(parameter).copy_(kept[name])
        if self.schedule is not None:
            self.schedule.load_state_dict(meta["schedule"])

    def seed_globally(self, epoch: int) -> None:
        """Seed what dropout and some losses draw from."""
        seed = _mix(self.seed, epoch)
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # torch.manual_seed also notes the call stack
        else:
            torch.manual_seed(seed)

    def generator(self, epoch: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(_mix(self.seed, epoch))


def _batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """Rows of each batch. A last row joins the batch before it, because batch norm needs two."""
    batches = list(order.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _tensors(batch: Batch) -> Batch:
    """Tensors without a graph, because no gradient goes beyond the data."""
    return tuple(torch.as_tensor(part).detach() for part in batch)


def _mix(seed: int, epoch: int) -> int:
    return (seed * 1_000_003 + epoch) % 2**63


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, without it."""
    return {key[len(prefix) :]: tensors[key] for key in tensors if key.startswith(prefix)}
