"""How surely a flow reads latents as they were asked for: section 3.4 checks section 3.3."""

import torch
from torch import Tensor

from fpnlib.conditions import Condition
from fpnlib.flows import ConditionalFlow
from fpnlib.latents import warn
from fpnlib.reading import ROWS, Reading


def reads(condition: Condition, confidence: float) -> bool:
    """Return whether latents are to be read.

    Raises:
        ValueError: a confidence below 0, or of 1 or more.
        TypeError: a condition with a vector, which has no probability.
    """
    if not 0 <= confidence < 1:
        raise ValueError(f"confidence must be 0 or more and below 1, got {confidence}")
    for column in condition.columns:
        if confidence and column.width > 1:
            raise TypeError(
                f"'{column.name}' is a vector, which cannot be read with a probability;"
                " leave confidence at 0"
            )
    return confidence > 0


def said_columns(condition: Condition, values: Tensor) -> Tensor:
    """Return which columns of values (n, V) are said, bool (n, columns)."""
    parts = values.split(condition.widths, 1)
    return torch.stack([~part.isnan().any(1) for part in parts], 1)


def confidence_in(
    flow: ConditionalFlow, condition: Condition, z: Tensor, asked: Tensor, said: Tensor
) -> Tensor:
    """How surely the flow reads latents as asked, in [0, 1]: the smallest over what is said (n,).

    Each column is read given the others, with all values alike a priori. For classes and attributes
    the confidence is the posterior probability of the asked value, or of the candidate nearest to
    it. For quantities it is the two-sided tail probability of the asked value, which is 1 at the
    posterior's median.

    Args:
        flow: p(z | context), in eval mode.
        condition: of the flow; columns with candidates.
        z: standardised latents (n, D).
        asked: values (n, V); NaN is left out.
        said: which columns are judged, bool (n, columns).
    """
    found = []
    for latents, values, judged in zip(z.split(ROWS), asked.split(ROWS), said.split(ROWS)):
        reading = Reading(flow, condition, latents, values, values[:0])
        sure, places = latents.new_ones(len(latents)), torch.arange(condition.width)
        for column, place, rows in zip(
            condition.columns, places.split(condition.widths), judged.unbind(1)
        ):
            if rows.any():
                candidates = column.candidates().to(latents)
                log_prob = reading.log_prob(rows, place, candidates)
                own = _probability(log_prob, candidates[:, 0], values[rows][:, place], column.score)
                sure[rows] = torch.minimum(sure[rows], own)
        found.append(sure)
    return torch.cat(found)


def report_unsure(count: int | Tensor, total: int, confidence: float) -> None:
    """Warn if some latents are not read as asked."""
    if count:
        warn(
            f"{int(count):,} of {total:,} latents are read as asked with less than the confidence"
            f" of {confidence:g}; ask for less of it"
        )


def _probability(log_prob: Tensor, grid: Tensor, asked: Tensor, score: str) -> Tensor:
    """The probability (n,) of asked values (n, 1), or their two-sided tail probability."""
    posterior = log_prob.softmax(1)
    if score == "probability":
        nearest = (grid - asked).abs().argmin(1, keepdim=True)
        return posterior.gather(1, nearest)[:, 0]
    below, above = (posterior * (grid <= asked)).sum(1), (posterior * (grid >= asked)).sum(1)
    return (2 * torch.minimum(below, above)).clamp(max=1)
