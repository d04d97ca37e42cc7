"""An nflows ``Flow`` that also goes from given noise to data, and gives the density under every context at once."""

from collections.abc import Callable
from functools import partial

import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.transforms import Transform
from torch import Tensor, nn

from fpnlib import checks
from fpnlib.flows.settings import check_rows
from fpnlib.flows.threads import in_turn

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
        self,
        transform: Transform,
        features: int,
        context_features: int,
        embedding_net: nn.Module | None = None,
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
        return self._in_chunks(self._inverse, noise, context)

    def _inverse(self, noise: Tensor, context: Tensor) -> Tensor:
        return self._transform.inverse(noise, self._embedding_net(context))[0]

    @torch.no_grad()
    def class_log_prob(self, inputs: Tensor, contexts: Tensor) -> Tensor:
        """log p(inputs[i] | contexts[k]) (n, K) in nats: every input (n, D) under every context (K, C); no gradients.

        Raises:
            ValueError: another width, or no contexts.
        """
        self._check(inputs, contexts, rows=False)
        if not len(contexts):
            raise ValueError("class_log_prob needs one context or more, got none")
        every_kind = getattr(self._transform, "every_kind", None)
        if (
            every_kind is not None
            and (found := every_kind(inputs, self._embedding_net(contexts))) is not None
        ):
            squares, logabsdet = found
            return logabsdet - squares / 2 - self._distribution._log_z.to(squares.dtype)
        return in_turn(
            partial(self._class_log_prob, contexts=contexts), max(1, CHUNK // len(contexts)), inputs
        )

    def _class_log_prob(self, inputs: Tensor, contexts: Tensor) -> Tensor:
        repeated, tiled = (
            inputs.repeat_interleave(len(contexts), 0),
            contexts.repeat(len(inputs), 1),
        )
        return super()._log_prob(repeated, tiled).view(len(inputs), len(contexts))

    def _log_prob(self, inputs: Tensor, context: Tensor) -> Tensor:
        self._check(inputs, context)
        return self._in_chunks(super()._log_prob, inputs, context)

    def transform_to_noise(self, inputs: Tensor, context: Tensor) -> Tensor:
        """T⁻¹(inputs | context) (n, D), of inputs (n, D) under contexts (n, C)."""
        self._check(inputs, context)
        return self._in_chunks(super().transform_to_noise, inputs, context)

    def _in_chunks(
        self, run: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, context: Tensor
    ) -> Tensor:
        """``run(inputs, context)``, in parts where no gradient is wanted and, as in eval mode, rows don't see each other."""
        if self.training or (
            torch.is_grad_enabled() and any(t.requires_grad for t in (inputs, *self.parameters()))
        ):
            return run(inputs, context)
        return in_turn(run, CHUNK, inputs, context)

    def sample(self, num_samples: int, context: Tensor, batch_size: int | None = None) -> Tensor:
        """Samples (K, num_samples, D) for contexts (K, C), of each context at most ``batch_size`` at a time.

        nflows joins such batches along the contexts, and fails where they do not divide the number of samples.
        """
        most = num_samples if batch_size is None else checks.positive("batch_size", batch_size)
        starts = range(0, checks.positive("num_samples", num_samples), most)
        return torch.cat(
            [self._sample(min(most, num_samples - start), context) for start in starts], 1
        )

    def _sample(self, num_samples: int, context: Tensor) -> Tensor:
        noise, context = self._noise(num_samples, context)
        if torch.is_grad_enabled() and any(
            parameter.requires_grad for parameter in self.parameters()
        ):
            given = self._embedding_net(context).repeat_interleave(num_samples, 0)
            samples, _ = self._transform.inverse(noise, given)
        else:
            samples = self.transform_from_noise(noise, context.repeat_interleave(num_samples, 0))
        return samples.view(len(context), num_samples, self.features)

    def sample_and_log_prob(self, num_samples: int, context: Tensor) -> tuple[Tensor, Tensor]:
        """Samples (K, num_samples, D) for contexts (K, C) and their log densities (K, num_samples)."""
        noise, context = self._noise(num_samples, context)
        given = self._embedding_net(context).repeat_interleave(num_samples, 0)
        samples, logabsdet = self._transform.inverse(noise, given)
        densities = self._distribution.log_prob(noise) - logabsdet
        return samples.view(len(context), num_samples, self.features), densities.view(
            len(context), num_samples
        )

    def _noise(self, num_samples: int, context: Tensor) -> tuple[Tensor, Tensor]:
        """Noise for ``num_samples`` of each context, and the contexts, which may be an array as for nflows, as tensors."""
        weight = next(self.parameters())
        context = None if context is None else torch.as_tensor(context).to(weight)
        self._check(None, context)
        rows = len(context) * checks.positive("num_samples", num_samples)
        return torch.randn(rows, self.features, dtype=weight.dtype, device=weight.device), context

    def _check(
        self, inputs: Tensor | None, context: Tensor | None, name: str = "inputs", rows: bool = True
    ) -> None:
        if context is None:
            raise ValueError(
                f"the flow is conditional: context must have shape (n, {self.context_features}), got None"
            )
        if inputs is not None:
            check_rows(name, inputs, self.features)
        check_rows("context", context, self.context_features)
        if rows and inputs is not None:
            checks.same_length(inputs, context, (name, "context"))
