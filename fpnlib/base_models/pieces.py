"""Pieces of several tokens: byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909).

Tokens that often follow each other become one piece, again and again. A common ring of a molecule
is one piece, for example, and not eight tokens of which each can go wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

Merge = tuple[int, int]
END = 0  # fills up a row; it is part of no piece


def learn(x: Tensor, tokens: int, merges: int) -> list[Merge]:
    """Return the pairs to merge, the most frequent first.

    Args:
        x: rows of token numbers (n, length), which END fills up.
        tokens: how many different ones there are.
        merges: pairs to find; the k-th becomes piece number ``tokens + k``.

    >>> learn(torch.tensor([[1, 2, 1, 2, 2], [1, 2, 1, 2, 0]]), tokens=3, merges=2)
    [(1, 2), (3, 3)]
    """
    row, found = _flat(x), []
    for number in range(tokens, tokens + merges):
        inside = (row[:-1] != END) & (row[1:] != END)
        codes = (row[:-1] * (tokens + merges) + row[1:])[inside]
        pair = divmod(int(codes.bincount().argmax()), tokens + merges)
        found.append(pair)
        row = _merged(row, pair, number)
    return found


def merge(x: Tensor, merges: Sequence[Merge], tokens: int) -> Tensor:
    """Write rows of tokens (n, length) as rows of pieces (n, shorter), int64, END behind them.

    >>> merge(torch.tensor([[1, 2, 1, 2, 2], [2, 1, 0, 0, 0]]), [(1, 2)], tokens=3)
    tensor([[3, 3, 2, 0],
            [2, 1, 0, 0]])
    """
    row = _flat(x)
    for number, pair in enumerate(merges, tokens):
        row = _merged(row, pair, number)
    lengths = (row == END).nonzero()[:, 0].diff(prepend=row.new_tensor([-1]))
    return pad_sequence(list(row.split(lengths.tolist())), batch_first=True, padding_value=END)


def table(merges: Sequence[Merge], tokens: int) -> Tensor:
    """Return the tokens (tokens + merges, longest) of each piece, END behind them.

    >>> table([(1, 2)], tokens=3)
    tensor([[0, 0],
            [1, 0],
            [2, 0],
            [1, 2]])
    """
    pieces = [[token] for token in range(tokens)]
    for first, second in merges:
        pieces.append(pieces[first] + pieces[second])
    return pad_sequence(list(map(torch.tensor, pieces)), batch_first=True, padding_value=END)


def expand(pieces: Tensor, written: Tensor, length: int) -> Tensor:
    """Write rows of pieces (n, m) as rows of tokens (n, length); what does not fit is cut off.

    Args:
        pieces: piece numbers, END behind them.
        written: the tokens of each piece, from ``table``.
        length: of the rows.

    >>> expand(torch.tensor([[3, 3, 2, 0]]), table([(1, 2)], tokens=3), length=4)
    tensor([[1, 2, 1, 2]])
    """
    tokens = written[pieces].flatten(1)
    places = (tokens != END).cumsum(1) - 1
    kept = (tokens != END) & (places < length)
    rows = torch.arange(len(tokens), device=tokens.device)[:, None].expand_as(tokens)
    whole = tokens.new_full((len(tokens), length), END)
    whole[rows[kept], places[kept]] = tokens[kept]
    return whole


def _flat(x: Tensor) -> Tensor:
    """All rows behind each other, with one END behind each."""
    ended = pad(x.long(), (0, 1), value=END)
    before = (ended == END).cumsum(1) - (ended == END).long()
    return ended[before == 0]


def _merged(row: Tensor, pair: Merge, number: int) -> Tensor:
    """Replace each pair in a flat row by a piece, from the left."""
    starts = ((row[:-1] == pair[0]) & (row[1:] == pair[1])).nonzero()[:, 0]
    if pair[0] == pair[1] and len(starts):  # of three alike, the first two are a pair
        runs = (starts.diff(prepend=starts[:1] - 2) != 1).cumsum(0)
        first = starts[(runs.diff(prepend=runs[:1] - 1) != 0)][runs - 1]
        starts = starts[(starts - first) % 2 == 0]
    row = row.clone()
    row[starts] = number
    kept = torch.ones_like(row, dtype=torch.bool)
    kept[starts + 1] = False
    return row[kept]
