"""A recurrent variational autoencoder of molecules, written as SELFIES (Krenn et al. 2020).

It is the character VAE of Gómez-Bombarelli et al. 2018 with SELFIES for SMILES, so that every
latent decodes to a valid molecule.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from fpnlib import checks

_WRITTEN = (
    "END [#Branch1] [#Branch2] [#C] [#N] [=Branch1] [=Branch2] [=C] [=N] [=O] [=Ring1] [=Ring2]"
    " [=S] [Br] [Branch1] [Branch2] [C] [Cl] [F] [H] [N] [NH1] [O] [P] [Ring1] [Ring2] [S]"
)
TOKENS = _WRITTEN.split()
"""The tokens that the model knows, those of MOSES' molecules; the first ends a molecule."""
END = 0
START = len(TOKENS)  # what the decoder is given before the first token
LENGTH = 52  # tokens that a molecule has at most, with at least one END
EMBEDDING = 64
KL_WEIGHT = 0.05  # of a nat of the KL divergence; a smaller one rebuilds more molecules exactly


class SelfiesVAE(nn.Module):
    """VAE (Kingma & Welling 2014) of token numbers (n, length), 0 … 26, which END fills up.

    Two GRUs read a molecule from its ends. A third writes it token by token, and sees the latent at
    each step.

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

    def __init__(self, latent_dim: int = 64, hidden: int = 512, encoder_hidden: int = 192):
        super().__init__()
        self.latent_dim = checks.positive("latent_dim", latent_dim)
        self.config = {"latent_dim": latent_dim, "hidden": hidden, "encoder_hidden": encoder_hidden}
        self.embedding = nn.Embedding(len(TOKENS) + 1, EMBEDDING)
        self.forwards = nn.GRU(EMBEDDING, encoder_hidden)
        self.backwards = nn.GRU(EMBEDDING, encoder_hidden)
        self.moments = nn.Linear(4 * encoder_hidden, 2 * latent_dim)
        self.start = nn.Linear(latent_dim, hidden)
        self.decoder = nn.GRU(EMBEDDING + latent_dim, hidden)
        self.logits = nn.Linear(hidden, len(TOKENS))

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
        """The tokens (n, 52), int64, of latents z (n, latent_dim), each the most probable.

        Raises:
            ValueError: latents of another width, or NaN or infinite ones.
        """
        z = checks.latents(z, self.latent_dim, keep=True).to(self.logits.weight)
        tokens = z.new_full((LENGTH, len(z)), END, dtype=torch.long)
        token, state = torch.full_like(tokens[:1], START), self._state(z)
        ended = torch.zeros_like(token, dtype=torch.bool)
        for place in range(LENGTH - 1):
            hidden, state = self.decoder(self._input(token, z), state)
            token = self.logits(hidden).argmax(2).masked_fill(ended, END)
            tokens[place], ended = token[0], ended | (token == END)
            if ended.all():
                break
        return tokens.T

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The negative ELBO with a light KL divergence, in nats per token, a scalar.

        Args:
            x: token numbers (n, length).
            y: labels, which are not used.
        """
        tokens, lengths = _trimmed(x)
        mean, log_variance = self._moments(tokens, lengths)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        before = pad(tokens[:-1], (0, 0, 1, 0), value=START)
        logits = self.logits(self.decoder(self._input(before, z), self._state(z))[0]).float()
        written = _places(tokens) <= lengths  # the tokens and the first END
        error = cross_entropy(logits[written], tokens[written], reduction="sum")
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
        return (error + KL_WEIGHT * divergence) / written.sum()

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

    def _moments(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x) for tokens (length, n)."""
        places = _places(tokens)
        inside = places < lengths
        reversed_places = (lengths - 1 - places).where(inside, places)
        features = []
        for read, order in ((self.forwards, places), (self.backwards, reversed_places)):
            states = read(self.embedding(tokens.gather(0, order.expand_as(tokens))))[0].float()
            last = (lengths - 1).clamp(min=0)[None, :, None].expand(1, -1, states.shape[2])
            features += [states.gather(0, last)[0], (states * inside[..., None]).sum(0) / LENGTH]
        mean, log_variance = self.moments(torch.cat(features, 1)).float().chunk(2, 1)
        return mean, log_variance

    def _state(self, z: Tensor) -> Tensor:
        return torch.tanh(self.start(z))[None]

    def _input(self, tokens: Tensor, z: Tensor) -> Tensor:
        """What the decoder sees: the token before, and the latent."""
        return torch.cat([self.embedding(tokens), z.expand(len(tokens), -1, -1)], 2)


def _trimmed(x: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens (length, n), int64, with one END behind the longest; and the lengths (n,)."""
    tokens = pad(x.long(), (0, 1), value=END)
    lengths = (tokens != END).cumprod(1).sum(1)
    return tokens[:, : int(lengths.max()) + 1].T, lengths


def _places(tokens: Tensor) -> Tensor:
    """The place (length, 1) of each token."""
    return torch.arange(len(tokens), device=tokens.device)[:, None]
