"""An nflows ``Flow`` that also goes from given noise to data, and gives the density under every context at once."""

import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.transforms import Transform
from torch import Tensor, nn

from fpnlib import checks
from fpnlib.flows.threads import alone

CHUNK = 8192  # rows that go through the flow together: bounds the memory of large batches
MANY = 64  # rows from which on it pays to sort them by class


class ConditionalFlow(Flow):
    """p(z | context) with a standard normal base; ``nflows.flows.Flow`` with its methods and state-dict keys.

    Args:
        transform: data → noise, given the embedded context.
        features: width D of the data.
        context_features: width C of the contexts.
        embedding_net: context → what ``transform`` takes; None: the context itself.
    """

    def __init__(
        self, transform: Transform, features: int, context_features: int, embedding_net: nn.Module | None = None
    ):
        super().__init__(transform, StandardNormal([features]), embedding_net)
        self.features = checks.positive("features", features)
        self.context_features = checks.positive("context_features", context_features)

    @torch.no_grad()
    def transform_from_noise(self, noise: Tensor, context: Tensor) -> Tensor:
        """T(noise | context) (n, D), the inverse of ``transform_to_noise``; no gradients.

        Args:
            noise: (n, D).
            context: (n, C).

        Raises:
            ValueError: another width, or another number of contexts than of rows.
        """
        self._check(noise, context, "noise")
        by_kind = getattr(self._transform, "inverse_by_kind", None)
        kind = _one_hot(context) if by_kind is not None and len(noise) >= MANY else None
        if kind is not None:
            contexts = self._embedding_net(torch.eye(self.context_features, dtype=context.dtype, device=context.device))
            if (data := by_kind(noise, contexts, kind)) is not None:
                return data
        pieces = zip(noise.split(CHUNK), context.split(CHUNK), strict=True)
        return torch.cat([self._transform.inverse(rows, self._embedding_net(given))[0] for rows, given in pieces])

    @torch.no_grad()
    def class_log_prob(self, inputs: Tensor, contexts: Tensor) -> Tensor:
        """log p(inputs[i] | contexts[k]) (n, K) in nats: every input (n, D) under every context (K, C); no gradients.

        Raises:
            ValueError: another width.
        """
        self._check(inputs, contexts, rows=False)
        every_kind = getattr(self._transform, "every_kind", None)
        if every_kind is not None and (found := every_kind(inputs, self._embedding_net(contexts))) is not None:
            squares, logabsdet = found
            return logabsdet - squares / 2 - self._distribution._log_z.to(squares.dtype)
        chunks = inputs.split(max(1, CHUNK // len(contexts)))
        return torch.cat([self._class_log_prob(rows, contexts) for rows in chunks])

    def _class_log_prob(self, inputs: Tensor, contexts: Tensor) -> Tensor:
        repeated, tiled = inputs.repeat_interleave(len(contexts), 0), contexts.repeat(len(inputs), 1)
        return super()._log_prob(repeated, tiled).view(len(inputs), len(contexts))

    def _log_prob(self, inputs: Tensor, context: Tensor) -> Tensor:
        self._check(inputs, context)
        return super()._log_prob(inputs, context)

    def transform_to_noise(self, inputs: Tensor, context: Tensor) -> Tensor:
        """T⁻¹(inputs | context) (n, D), of inputs (n, D) under contexts (n, C)."""
        self._check(inputs, context)
        return super().transform_to_noise(inputs, context)

    def sample(self, num_samples: int, context: Tensor, batch_size: int | None = None) -> Tensor:
        """Samples (K, num_samples, D) for contexts (K, C), of each context at most ``batch_size`` at a time.

        nflows joins such batches along the contexts, and fails where they do not divide the number of samples.
        """
        most = num_samples if batch_size is None else checks.positive("batch_size", batch_size)
        starts = range(0, checks.positive("num_samples", num_samples), most)
        return torch.cat([self._sample(min(most, num_samples - start), context) for start in starts], 1)

    def _sample(self, num_samples: int, context: Tensor) -> Tensor:
        self._check(None, context)
        weight = next(self.parameters())
        noise = torch.randn(len(context) * num_samples, self.features, dtype=weight.dtype, device=weight.device)
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters()):
            given = self._embedding_net(context).repeat_interleave(num_samples, 0)
            samples, _ = self._transform.inverse(noise, given)
        else:
            samples = self.transform_from_noise(noise, context.repeat_interleave(num_samples, 0))
        return samples.view(len(context), num_samples, self.features)

    def sample_and_log_prob(self, num_samples: int, context: Tensor) -> tuple[Tensor, Tensor]:
        """Samples (K, num_samples, D) for contexts (K, C) and their log densities (K, num_samples)."""
        self._check(None, context)
        return super().sample_and_log_prob(num_samples, context)

    def _check(self, inputs: Tensor | None, context: Tensor | None, name: str = "inputs", rows: bool = True) -> None:
        if context is None:
            raise ValueError(f"the flow is conditional: context must have shape (n, {self.context_features}), got None")
        for what, tensor, width in ((name, inputs, self.features), ("context", context, self.context_features)):
            if tensor is not None and (tensor.ndim != 2 or tensor.shape[1] != width):
                raise ValueError(f"{what} must have shape (n, {width}), got {tuple(tensor.shape)}")
        if rows and inputs is not None:
            checks.same_length(inputs, context, (name, "context"))


def _one_hot(context: Tensor) -> Tensor | None:
    """Which entry of each row is 1 where all others are 0, or None."""
    with alone():
        kind = context.argmax(1)
        is_one_hot = (context.count_nonzero(1) == 1).all() and (context.gather(1, kind[:, None]) == 1).all()
        return kind if is_one_hot else None
