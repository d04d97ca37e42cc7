"""A recurrent variational autoencoder of molecules, written as SELFIES (Krenn et al. 2020).

It is the character VAE of Gómez-Bombarelli et al. 2018 with SELFIES for SMILES, so that every
latent decodes to a valid molecule. It reads and writes pieces of several tokens.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from fpnlib import checks
from fpnlib.base_models import pieces

_WRITTEN = (
    "END [#Branch1] [#Branch2] [#C] [#N] [=Branch1] [=Branch2] [=C] [=N] [=O] [=Ring1] [=Ring2]"
    " [=S] [Br] [Branch1] [Branch2] [C] [Cl] [F] [H] [N] [NH1] [O] [P] [Ring1] [Ring2] [S]"
)
TOKENS = _WRITTEN.split()
"""The tokens that the model knows, those of MOSES' molecules; the first ends a molecule."""
END = pieces.END
_LINES = Path(__file__).with_name("selfies_merges.txt").read_text().splitlines()
MERGES: list[pieces.Merge] = [(int(first), int(second)) for first, second in map(str.split, _LINES)]
"""What ``pieces.learn`` finds in MOSES' training molecules; a token or a piece is a number."""
PIECES = len(TOKENS) + len(MERGES)
START = PIECES  # what the decoder is given before the first piece
LENGTH = 52  # tokens that a molecule has at most, with at least one END
EMBEDDING = 64
KL_WEIGHT = 0.5  # of a nat of the KL divergence; a smaller one rebuilds more molecules exactly
BEAM = 5  # ways to write a molecule that the decoder keeps in view
PIECE_WEIGHT, TOKEN_WEIGHT = 1.0, 1.5  # of the squared errors of their counts


class SelfiesVAE(nn.Module):
    """VAE (Kingma & Welling 2014) of token numbers (n, length), 0 … 26, which END fills up.

    A GRU reads a molecule from both ends. Another writes it piece by piece. The latent predicts
    linearly how often each piece occurs, and the writer sees at each step how many of each are
    left. So what a molecule is made of changes smoothly with the latent.

    Args:
        latent_dim: width of the latents.
        hidden: width of the decoder's state.
        encoder_hidden: width of each encoder's state.

    Attributes:
        config: the constructor's arguments, JSON-able.

    Examples:
        >>> model = SelfiesVAE(latent_dim=4, hidden=8, encoder_hidden=8).eval()
        >>> z = model.encode(torch.tensor([[16, 16, 22, 0], [16, 22, 0, 0]]))
        >>> z.shape, model.decode(z).shape
        (torch.Size([2, 4]), torch.Size([2, 52]))
    """

    written: Tensor
    contents: Tensor
    one_hot: Tensor

    def __init__(self, latent_dim: int = 64, hidden: int = 512, encoder_hidden: int = 192):
        super().__init__()
        self.config = {"latent_dim": latent_dim, "hidden": hidden, "encoder_hidden": encoder_hidden}
        for name, count in self.config.items():
            checks.positive(name, count)
        self.latent_dim = latent_dim
        self.embedding = nn.Embedding(PIECES + 1, EMBEDDING)
        self.encoder = nn.GRU(EMBEDDING, encoder_hidden, bidirectional=True)
        self.moments = nn.Linear(4 * encoder_hidden, 2 * latent_dim)
        self.start = nn.Linear(latent_dim, hidden)
        self.decoder = nn.GRU(EMBEDDING + latent_dim + PIECES, hidden)
        self.logits = nn.Linear(hidden, PIECES)
        self.counts = nn.Linear(latent_dim, PIECES)
        written, one_hot = pieces.table(MERGES, len(TOKENS)), torch.eye(PIECES)
        one_hot[END] = 0  # is not counted
        # How often each token is in each piece.
        contents = one_hot[written].sum(1)[:, : len(TOKENS)]
        self.register_buffer("written", written, persistent=False)
        self.register_buffer("one_hot", one_hot, persistent=False)
        self.register_buffer("contents", contents, persistent=False)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z | x), each (n, latent_dim).

        Args:
            x: token numbers (n, length).

        Raises:
            ValueError: more than 52 tokens, or numbers that are none of a token.
        """
        self.check_input(x)
        mean, log_variance = self._moments(*_trimmed(x))
        return mean, torch.exp(0.5 * log_variance)

    def encode(self, x: Tensor) -> Tensor:
        """The posterior means (n, latent_dim). Raises as :meth:`posterior` does."""
        return self.posterior(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """The tokens (n, 52), int64, of latents z (n, latent_dim), found by a beam search.

        Raises:
            ValueError: latents of another width, or NaN or infinite ones.
        """
        z = checks.latents(z, self.latent_dim, keep=True).to(self.logits.weight)
        first = BEAM * torch.arange(len(z), device=z.device)[:, None]  # the row of its best beam
        log_prob = z.new_full((len(z), BEAM), -torch.inf)
        log_prob[:, 0] = 0  # the beams of a molecule start alike
        z = z.repeat_interleave(BEAM, 0)
        state, left = self._state(z), self.counts(z)[None]
        piece = torch.full_like(left[..., 0], START, dtype=torch.long)
        found = piece.new_empty(len(z), 0)
        for _ in range(LENGTH - 1):
            hidden, state = self.decoder(self._input(piece, z, left), state)
            next_log_prob = self.logits(hidden)[0].log_softmax(1)
            ended = piece[0] == END
            next_log_prob[ended] = -torch.inf
            next_log_prob[ended, END] = 0
            together = log_prob.view(-1, 1) + next_log_prob
            log_prob, best = together.view(-1, BEAM * PIECES).topk(BEAM, 1)
            rows = (first + best // PIECES).flatten()
            piece = (best % PIECES).view(1, -1)
            found = torch.cat([found[rows], piece.T], 1)
            state, left = state[:, rows], left[:, rows] - self.one_hot[piece]
            if (piece == END).all():
                break
        return pad(pieces.expand(found[first[:, 0]], self.written, LENGTH - 1), (0, 1), value=END)

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The negative ELBO with a lighter KL term, and the error of counts, in nats per piece.

        Args:
            x: token numbers (n, length).
            y: labels, which are not used.
        """
        found, lengths = _trimmed(x)
        mean, log_variance = self._moments(found, lengths)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        before = pad(found[:-1], (0, 0, 1, 0), value=START)
        one_hot, counts = self.one_hot[found], self.counts(z).float()
        left = counts - pad(one_hot[:-1].cumsum(0), (0, 0, 0, 0, 1, 0))
        logits = self.logits(self.decoder(self._input(before, z, left), self._state(z))[0]).float()
        written = torch.arange(len(found), device=z.device)[:, None] <= lengths  # and the first END
        error = cross_entropy(logits[written], found[written], reduction="sum")
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
        missed = counts - one_hot.sum(0)
        miscounted = PIECE_WEIGHT * missed.square().sum()
        miscounted += TOKEN_WEIGHT * (missed @ self.contents).square().sum()
        return (error + KL_WEIGHT * divergence + miscounted) / written.sum()

    def check_input(self, x: Tensor, *labels: Tensor) -> None:
        """Raise as :meth:`posterior` does for tokens that the loss cannot take."""
        numbers = checks.array(x, ("n", "length"))
        if not 1 <= numbers.shape[1] <= LENGTH:
            raise ValueError(f"molecules must have 1 to {LENGTH} tokens, got {numbers.shape[1]}")
        whole = bool((numbers == numbers.round()).all())
        low, high = numbers.min().item(), numbers.max().item()
        if not whole or low < 0 or high >= len(TOKENS):
            raise ValueError(
                f"tokens must be whole numbers from 0 to {len(TOKENS) - 1}, got {low:g} to {high:g}"
            )

    def _moments(self, found: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x) for pieces (length, n)."""
        ends = lengths.clamp(min=1).cpu()
        read = pack_padded_sequence(self.embedding(found), ends, enforce_sorted=False)
        states, last = self.encoder(read)
        everything = pad_packed_sequence(states)[0].float().sum(0) / LENGTH
        features = [*last.float(), everything]
        mean, log_variance = self.moments(torch.cat(features, 1)).float().chunk(2, 1)
        return mean, log_variance

    def _state(self, z: Tensor) -> Tensor:
        return torch.tanh(self.start(z))[None]

    def _input(self, before: Tensor, z: Tensor, left: Tensor) -> Tensor:
        """What the writer sees: the piece before, the latent, and the pieces that are left."""
        return torch.cat([self.embedding(before), z.expand(len(before), -1, -1), left], 2)


def _trimmed(x: Tensor) -> tuple[Tensor, Tensor]:
    """Pieces (length, n), int64, with one END behind the longest; and the lengths (n,)."""
    ended = x.masked_fill((x == END).cumsum(1) > 0, END)
    found = pad(pieces.merge(ended, MERGES, len(TOKENS)), (0, 1), value=END)
    lengths = (found != END).sum(1)
    return found[:, : int(lengths.max()) + 1].T, lengths
