"""The one fit loop: progress, early stopping on held-out data, the best weights kept, and taking up where it stopped."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from tqdm.auto import trange

from fpnlib import checks

Batch = tuple[Tensor, ...]

GAVE_UP = ("underflow in dt", "non-finite values in state", "max_num_steps exceeded")
"""How torchdiffeq's assertions begin. On its way back, where nobody puts them into other words, they come out bare."""


class CheckpointStore(Protocol):
    """Where a fit keeps its state between epochs; ``store.Checkpoint`` is one."""

    def load(self) -> tuple[dict[str, Tensor], dict] | None: ...
    def save(self, tensors: dict[str, Tensor], meta: dict) -> None: ...


@dataclass
class History:
    """What a fit saw: one dict an epoch with ``epoch``, ``train``, ``validation`` (mean losses) and ``learning_rate``."""

    epochs: list[dict] = field(default_factory=list)
    best_epoch: int = 0
    stopped_early: bool = False
    seconds: float = field(default=0.0, compare=False)
    """Wall time of the epochs, in all the sessions that they took."""

    @property
    def best_validation(self) -> float:
        """The smallest validation loss, that of the weights kept."""
        return min((epoch["validation"] for epoch in self.epochs), default=math.inf)


def fit(
    module: nn.Module,
    loss: Callable[..., Tensor],
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
    checkpoint: CheckpointStore | None = None,
    description: str = "fit",
) -> History:
    """Minimise the mean of ``loss`` over ``train`` with Adam; leave ``module`` in eval mode with its best weights.

    Each epoch is seeded by (seed, epoch) alone, so a fit that was stopped and taken up again gives the same weights, to
    the bit, as one that was not.

    Args:
        module: the parameters to train; those with ``requires_grad=False`` stay as they are.
        loss: ``loss(*batch)`` gives the scalar mean over a batch.
        train: tensors of equal length on the module's device, or a function of a generator that gives them anew for each epoch.
        validation: held-out tensors of the same kind: they choose the best epoch and are never trained on.
        one_cycle: warm up and anneal the rate (Smith 2018, arXiv:1803.09820) with ``learning_rate`` as its peak;
            otherwise constant.
        patience: stop after so many epochs without a better validation loss; None: never.
        weight_decay: decoupled, as in AdamW.
        clip_norm: bound on the gradient's norm; None: no bound.
        checkpoint: keeps the state after each epoch; whoever gave it clears it once the module is kept. None: nothing is kept.

    Raises:
        ValueError: no training or validation data, ``epochs`` or ``batch_size`` below 1, or a checkpoint of another module.
        FloatingPointError: the loss became NaN or infinite, or raised one itself (a solver that could not go on); the
            best weights so far are kept in ``module``.
    """
    checks.positive("epochs", epochs)
    checks.positive("batch_size", batch_size)
    draw = train if callable(train) else lambda generator: train
    device = next(module.parameters()).device
    n = len(draw(_generator(seed, 0, device))[0])
    if not n or not len(validation[0]):
        raise ValueError(
            f"fit needs data, got {n} training and {len(validation[0])} validation samples"
        )

    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = _AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
    schedule = None
    if one_cycle:
        steps = epochs * math.ceil(n / batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    history, best = History(), _copy(module)
    if checkpoint is not None and (state := checkpoint.load()) is not None:
        try:
            history, best = _restore(*state, module, optimizer, schedule, device)
        except (RuntimeError, ValueError, KeyError, TypeError):
            where = getattr(checkpoint, "path", "the checkpoint")
            raise ValueError(
                f"{where} is of another module or other settings; delete it to start over"
            ) from None

    helps = f"a smaller learning_rate than {learning_rate:g} or clip_norm helps"
    progress = trange(
        len(history.epochs), epochs, desc=description, unit="epoch", dynamic_ncols=True
    )
    for epoch in progress:
        if history.stopped_early:
            break
        started, total = time.perf_counter(), 0.0
        try:
            # The global generator (dropout, a loss that draws) is put back afterwards: the caller's own draws don't change.
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                generator = _generator(seed, epoch, device)
                torch.manual_seed(_mix(seed, epoch))
                tensors = draw(generator)
                order = torch.randperm(n, generator=generator, device=device)
                module.train()
                for rows in _batches(order, batch_size):
                    value = loss(*(tensor[rows] for tensor in tensors))
                    optimizer.zero_grad(set_to_none=True)
                    value.backward()
                    if clip_norm is not None:
                        nn.utils.clip_grad_norm_(parameters, clip_norm)
                    optimizer.step()
                    increment_version(
                        parameters
                    )  # fused optimizers don't, and who caches by version would not notice
                    if schedule is not None:
                        schedule.step()
                    total += value.detach() * len(rows)
                torch.manual_seed(
                    _mix(seed, -1)
                )  # the same draws for every epoch: their validation losses compare
                row = {
                    "train": float(total) / n,
                    "validation": evaluate(module, loss, validation, batch_size),
                }
            if not all(map(math.isfinite, row.values())):
                raise FloatingPointError(
                    "the loss is {train}, on validation {validation}; {}".format(helps, **row)
                )
        except (FloatingPointError, AssertionError) as error:
            if (said := _said(error, helps)) is None:
                raise
            module.load_state_dict(best)
            module.eval()
            said = f"{description}, epoch {epoch + 1}: {said}; the weights of epoch {history.best_epoch} are kept"
            raise FloatingPointError(said) from None
        if row["validation"] < history.best_validation:
            history.best_epoch, best = epoch + 1, _copy(module)
        history.epochs.append(
            {"epoch": epoch + 1, **row, "learning_rate": optimizer.param_groups[0]["lr"]}
        )
        history.stopped_early = patience is not None and epoch + 1 - history.best_epoch >= patience
        history.seconds += time.perf_counter() - started
        progress.set_postfix({key: f"{value:.4g}" for key, value in row.items()})
        if checkpoint is not None:
            checkpoint.save(*_state(history, best, module, optimizer, schedule))
    module.load_state_dict(best)
    module.eval()
    return history


class _AdamW(torch.optim.AdamW):
    """AdamW as it is inside torch's decorators: they import the compiler, for three seconds of each process that trains."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
    zero_grad, add_param_group, state_dict, load_state_dict = (
        inspect.unwrap(getattr(torch.optim.AdamW, name))
        for name in ("zero_grad", "add_param_group", "state_dict", "load_state_dict")
    )


def batch_size_for(n: int, most: int = 512) -> int:
    """A batch size for ``n`` samples: ``most``, or less where an epoch would have fewer than twenty steps, but 32 at least."""
    return min(most, max(32, n // 20))


@torch.no_grad()
def evaluate(
    module: nn.Module, loss: Callable[..., Tensor], tensors: Batch, batch_size: int
) -> float:
    """Mean of ``loss`` over ``tensors`` in eval mode; the module's mode is put back."""
    was_training = module.training
    module.eval()
    total = sum(
        float(loss(*batch)) * len(batch[0])
        for batch in zip(*(tensor.split(batch_size) for tensor in tensors))
    )
    module.train(was_training)
    return total / len(tensors[0])


def _batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """Rows of each batch; a last one of a single row joins the one before it, for batch norm can't do with one."""
    batches = list(order.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _said(error: FloatingPointError | AssertionError, helps: str) -> str | None:
    """What went wrong and what to change, in one line; None for an assertion that is not torchdiffeq's."""
    said = " ".join(str(error).split())
    if isinstance(error, FloatingPointError):
        return said
    if not said.startswith(GAVE_UP):
        return None
    return f"the solver gave up ({said.partition(':')[0]}); {helps}, or a larger tolerance, or method='rk4'"


def _mix(seed: int, epoch: int) -> int:
    return (seed * 1_000_003 + epoch) % 2**63


def _generator(seed: int, epoch: int, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(_mix(seed, epoch))


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.detach().clone() for key, tensor in module.state_dict().items()}


def _state(
    history: History, best: dict[str, Tensor], module, optimizer, schedule
) -> tuple[dict[str, Tensor], dict]:
    """Everything that the next epoch depends on, as flat tensors and JSON-able values."""
    tensors = {f"module.{key}": value for key, value in module.state_dict().items()}
    tensors |= {f"best.{key}": value for key, value in best.items()}
    state = optimizer.state_dict()
    for index, moments in state["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in moments.items()}
    meta = {"history": asdict(history), "param_groups": state["param_groups"]}
    return tensors, meta | {"schedule": schedule.state_dict() if schedule is not None else None}


def _restore(
    tensors, meta, module, optimizer, schedule, device
) -> tuple[History, dict[str, Tensor]]:
    def under(prefix: str) -> dict[str, Tensor]:
        return {
            key.removeprefix(prefix): value
            for key, value in tensors.items()
            if key.startswith(prefix)
        }

    module.load_state_dict(under("module."))
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in under("optimizer.").items():
        index, name = key.split(".")
        moments.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": moments, "param_groups": meta["param_groups"]})
    for (
        parameter,
        kept,
    ) in (
        optimizer.state.items()
    ):  # a fused step takes it that all lie in memory as the parameter does
        kept.update(
            {
                key: torch.empty_like(parameter).copy_(value)
                for key, value in kept.items()
                if key != "step"
            }
        )
    if schedule is not None:
        schedule.load_state_dict(meta["schedule"])
    return History(**meta["history"]), {
        key: value.to(device) for key, value in under("best.").items()
    }
