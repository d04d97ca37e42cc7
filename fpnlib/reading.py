"""Read labels back from latents (eq. 17): which are most probable, and how surely."""

import torch
from torch import Tensor

from fpnlib.conditions import Condition
from fpnlib.flows import ConditionalFlow
from fpnlib.latents import warn

SWEEPS = 10
NEAREST = 2 / 3  # of m rows, m to this power are near: the fewer, the nearer but the less varied
SURE = 0.95  # probability from which an unknown label that was read counts as known
ROWS = 1024  # latents that are read together: bounds the memory


class Reader:
    """Reads values from latents under p(z | y), with all values alike a priori (eq. 17).

    Args:
        flow: p(z | context), in eval mode.
        condition: of the flow.
        start: values (m, V) to begin a reading from; vectors are read among them.
    """

    def __init__(self, flow: ConditionalFlow, condition: Condition, start: Tensor):
        self.flow, self.condition, self.start = flow, condition, start

    def read(self, z: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Find the most probable values of latents.

        A column that may be unknown is read with the other unknown ones left out. Other columns are
        read one after the other, each given the others, until none changes: a coordinate ascent
        from the most probable row of ``start``.

        Args:
            z: standardised latents (n, D).
            known: values (n, V); NaN is to be read.

        Returns:
            Values (n, V), and for each column the probability of its value, or the deviation of a
            quantity's posterior (n, columns).
        """
        parts = zip(z.split(ROWS), known.split(ROWS))
        values, scores = zip(*(self._read(*part) for part in parts))
        return torch.cat(values), torch.cat(scores)

    def complete(self, z: Tensor, known: Tensor) -> Tensor:
        """Fill in the unknown classes and attributes that the flow reads with certainty.

        A flow that never sees all labels of a latent learns what each means while others are
        unknown, which is less than it means while they are known.

        Args:
            z: standardised latents (n, D).
            known: values (n, V); NaN is unknown.

        Returns:
            Values (n, V), or ``known`` itself if nothing unknown is certain.
        """
        columns = self.condition.columns
        chosen = [column.width == 1 and column.score == "probability" for column in columns]
        wanted = self.condition.entries(torch.tensor(chosen, device=known.device)) & known.isnan()
        rows = wanted.any(1)
        if not rows.any():
            return known
        values, scores = self.read(z[rows], known[rows])
        found = self.condition.entries(scores > SURE) & wanted[rows]
        if not found.any():
            return known
        completed = known.clone()
        completed[rows] = torch.where(found, values, known[rows])
        return completed

    def confidence(self, z: Tensor, asked: Tensor, judged: Tensor) -> Tensor:
        """How surely latents are read as asked (n,), in [0, 1]: the smallest of what is judged.

        Each column is read given the others. For classes and attributes the confidence is the
        posterior probability of the asked value, or of the candidate nearest to it. For quantities
        it is the two-sided tail probability of the asked value, which is 1 at the posterior's
        median.

        Args:
            z: standardised latents (n, D).
            asked: values (n, V); NaN is left out.
            judged: columns that count, bool (n, columns); they have candidates.
        """
        found = []
        for latents, values, said in zip(z.split(ROWS), asked.split(ROWS), judged.split(ROWS)):
            sure = latents.new_ones(len(latents))
            for number, (column, place) in enumerate(self.condition.places()):
                rows = said[:, number]
                if rows.any():
                    candidates = column.candidates().to(latents)
                    log_prob = self._log_prob(latents[rows], values[rows], place, candidates)
                    own = values[rows, place]
                    probability = _probability(log_prob, candidates[:, 0], own, column.score)
                    sure[rows] = torch.minimum(sure[rows], probability)
            found.append(sure)
        return torch.cat(found)

    def _read(self, z: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Values (n, V) and scores (n, columns) of a batch."""
        columns, start = self.condition.columns, self.start.to(z)
        free, maskable = known.isnan(), self.condition.maskable().to(z.device)
        ascending = free & ~maskable
        given = known  # what the other columns are read with
        if ascending.any() and len(columns) > 1:
            rows = start.masked_fill(maskable, torch.nan)
            best = self.flow.class_log_prob(z, self.condition.context(rows)).argmax(1)
            given = torch.where(ascending, start[best], known)
        values = given.clone()
        sure = [float(column.score == "probability") for column in columns]
        scores = z.new_tensor(sure).repeat(len(z), 1)
        for _ in range(SWEEPS):
            before = given
            for number, (column, place) in enumerate(self.condition.places()):
                rows = free[:, place].any(1)
                if rows.any():
                    found = column.candidates()
                    candidates = start[:, place].unique(dim=0) if found is None else found.to(z)
                    log_prob = self._log_prob(z[rows], given[rows], place, candidates)
                    best, scores[rows, number] = _summary(log_prob, candidates, column.score)
                    values[rows, place] = best
                    given = torch.where(ascending, values, given)
            if torch.equal(given.nan_to_num(), before.nan_to_num()):
                break
        return values, scores

    def _log_prob(self, z: Tensor, others: Tensor, place: slice, candidates: Tensor) -> Tensor:
        """log p(z | others, each candidate in its place) (n, candidates); overwrites ``others``."""
        others[:, place] = 0
        marked = others.nan_to_num(torch.inf)  # unknown is not 0
        if torch.equal(marked, marked[:1].expand_as(marked)):
            contexts = others[:1].repeat(len(candidates), 1)
            contexts[:, place] = candidates
            return self.flow.class_log_prob(z, self.condition.context(contexts))
        found = []
        for candidate in candidates:
            others[:, place] = candidate
            found.append(self.flow.log_prob(z, self.condition.context(others)))
        return torch.stack(found, 1)


def best_of(items: Tensor, scores: Tensor, candidates: int) -> Tensor:
    """Of every ``candidates`` items keep the one with the highest score.

    >>> best_of(torch.arange(4), torch.tensor([0.1, 0.3, 0.9, 0.2]), 2).tolist()
    [1, 2]
    """
    best = scores.view(-1, candidates).argmax(1, keepdim=True)
    return items.unflatten(0, (-1, candidates))[torch.arange(len(best)), best[:, 0].cpu()]


def fill_values(
    condition: Condition, asked: Tensor, seen: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Draw what requests leave unsaid from the labels of a training row.

    p(z | said) is a mixture of the densities under whole labels. A flow describes each of them
    better than their mixture, so each latent gets whole labels. The row is one of those with the
    classes and attributes that are said; if quantities are said, it is one of the nearest of these.
    What is said stays as it is. If no row matches, a warning says so, and nothing is drawn.

    Args:
        condition: of the values.
        asked: values (n, V); NaN is unsaid.
        seen: values (m, V) of training rows; NaN is unknown, and stays so.
        generator: of the draws; None: torch's global one.

    Returns:
        Values (n, V).
    """
    if not len(seen):
        return asked
    filled, unmatched = asked.clone(), 0
    partial = asked.isnan().any(1).nonzero()[:, 0]
    requests, owners = asked[partial].nan_to_num(torch.inf).unique(dim=0, return_inverse=True)
    for number, request in enumerate(requests):
        near = _nearest(condition, request, seen.to(asked))
        rows = partial[owners == number]
        if len(near):
            drawn = torch.randint(len(near), rows.shape, generator=generator, device=rows.device)
            filled[rows] = torch.where(request.isfinite(), request, seen.to(asked)[near[drawn]])
        else:
            unmatched += len(rows)
    if unmatched:
        samples = f"{unmatched:,} of {len(asked):,} samples"
        warn(f"no kept training labels have all that {samples} ask for")
    return filled


def _nearest(condition: Condition, request: Tensor, seen: Tensor) -> Tensor:
    """The rows of ``seen`` that are nearest to a request (V,), in which inf stands for unsaid."""
    distances = seen.new_zeros(len(seen))
    for column, place in condition.places():
        if request[place].isfinite().any():
            distances += column.distances(seen[:, place], request[place])
    matching = distances.isfinite()
    count = max(1, round(int(matching.sum()) ** NEAREST))
    return (matching & (distances <= distances.kthvalue(count).values)).nonzero()[:, 0]


def _summary(log_prob: Tensor, candidates: Tensor, score: str) -> tuple[Tensor, Tensor]:
    """The most probable candidate (n, width), and its probability or the posterior's deviation."""
    posterior, best = log_prob.softmax(1), log_prob.argmax(1)
    if score == "probability":
        return candidates[best], posterior.gather(1, best[:, None])[:, 0]
    grid = candidates[:, 0]
    mean = posterior @ grid
    deviation = (posterior * (grid - mean[:, None]).square()).sum(1).sqrt()
    inner = best.clamp(1, len(grid) - 2)[:, None]
    left, middle, right = (log_prob.gather(1, inner + side)[:, 0] for side in (-1, 0, 1))
    curvature = (left - 2 * middle + right).clamp(max=-1e-6)
    step = (0.5 * (left - right) / curvature).clamp(-1, 1)  # to the vertex of a parabola
    return (grid[inner[:, 0]] + step * (grid[1] - grid[0]))[:, None], deviation


def _probability(log_prob: Tensor, grid: Tensor, asked: Tensor, score: str) -> Tensor:
    """The probability (n,) of asked values (n, 1), or their two-sided tail probability."""
    posterior = log_prob.softmax(1)
    if score == "probability":
        nearest = (grid - asked).abs().argmin(1, keepdim=True)
        return posterior.gather(1, nearest)[:, 0]
    below, above = (posterior * (grid <= asked)).sum(1), (posterior * (grid >= asked)).sum(1)
    return (2 * torch.minimum(below, above)).clamp(max=1)
