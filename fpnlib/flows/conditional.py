"""An nflows ``Flow`` that also goes from given noise to data, and gives the density under every context at once."""

import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.transforms import Transform
from torch import Tensor, nn

from fpnlib import checks

CHUNK = 8192  # rows that go through the flow together: bounds the memory of large batches


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
        pieces = [
            self._transform.inverse(rows, self._embedding_net(given))[0]
            for rows, given in zip(noise.split(CHUNK), context.split(CHUNK), strict=True)
        ]
        return torch.cat(pieces)

    @torch.no_grad()
    def class_log_prob(self, inputs: Tensor, contexts: Tensor) -> Tensor:
        """log p(inputs[i] | contexts[k]) (n, K) in nats: every input (n, D) under every context (K, C); no gradients.

        Raises:
            ValueError: another width.
        """
        self._check(inputs, contexts, rows=False)
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

    def _sample(self, num_samples: int, context: Tensor) -> Tensor:
        self._check(None, context)
        return super()._sample(num_samples, context)

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
