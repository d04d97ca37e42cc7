"""An nflows ``Flow`` that also maps noise to data and computes densities under every context."""

from collections.abc import Callable
from functools import partial

import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.transforms import Transform
from torch import Tensor, nn

from fpnlib import checks
from fpnlib.flows.engine import FastMAF, accelerate

BATCH = {"cpu": 8192, "cuda": 1 << 17}  # samples that go through a flow together: bounds the memory


class ConditionalFlow(Flow):  # type: ignore[misc]
    """p(z | context) with a standard normal base: an nflows ``Flow`` with its state-dict keys.

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
        accelerate(self)

    @torch.no_grad()
    def transform_from_noise(self, noise: Tensor, context: Tensor) -> Tensor:
        """Return T(noise | context) (n, D), without gradients; ``transform_to_noise`` undoes it.

        Args:
            noise: (n, D).
            context: (n, C).

        Raises:
            ValueError: another width, or another number of contexts than of samples.
        """
        self._check(noise, context, "noise")
        return self._in_batches(self._inverse, noise, context)

    def transform_to_noise(self, inputs: Tensor, context: Tensor) -> Tensor:
        """Return T⁻¹(inputs | context) (n, D) of inputs (n, D) under contexts (n, C)."""
        self._check(inputs, context)
        return self._in_batches(super().transform_to_noise, inputs, context)

    @torch.no_grad()
    def class_log_prob(self, inputs: Tensor, contexts: Tensor) -> Tensor:
        """Return log p(inputs[i] | contexts[k]) (n, K) in nats, without gradients.

        Args:
            inputs: (n, D).
            contexts: (K, C).

        Raises:
            ValueError: another width, or no contexts.

        >>> from fpnlib.flows import conditional_maf
        >>> flow = conditional_maf(features=2, context_features=3).eval()
        >>> flow.class_log_prob(torch.zeros(5, 2), torch.eye(3)).shape
        torch.Size([5, 3])
        """
        _check_width("inputs", inputs, self.features)
        _check_width("context", contexts, self.context_features)
        if not len(contexts):
            raise ValueError("class_log_prob needs one context or more, got none")
        # A quarter of a batch stays in the CPU's cache while all contexts pass over it.
        return self._in_batches(partial(self._class_log_prob, contexts=contexts), inputs, share=4)

    def sample(self, num_samples: int, context: Tensor, batch_size: int | None = None) -> Tensor:
        """Return samples (K, num_samples, D) for contexts (K, C).

        nflows joins batches along the contexts, and fails if their size does not divide the number
        of samples.

        Args:
            num_samples: samples for each context.
            context: (K, C).
            batch_size: samples of each context at a time; None: all.
        """
        most = num_samples if batch_size is None else checks.positive("batch_size", batch_size)
        starts = range(0, checks.positive("num_samples", num_samples), most)
        batches = [self._sample(min(most, num_samples - start), context) for start in starts]
        return torch.cat(batches, 1)

    def _log_prob(self, inputs: Tensor, context: Tensor) -> Tensor:
        self._check(inputs, context)
        return self._in_batches(super()._log_prob, inputs, context)

    def _class_log_prob(self, inputs: Tensor, contexts: Tensor) -> Tensor:
        if isinstance(self._transform, FastMAF):
            terms = self._transform.forward_each(inputs, self._embedding_net(contexts))
            if terms is not None:
                squares, log_det = terms
                return log_det - squares / 2 - self._distribution._log_z.to(squares.dtype)
        log_prob = partial(self._pair_log_prob, contexts=contexts)
        return self._in_batches(log_prob, inputs, share=len(contexts))

    def _pair_log_prob(self, inputs: Tensor, contexts: Tensor) -> Tensor:
        repeated = inputs.repeat_interleave(len(contexts), 0)
        log_prob = super()._log_prob(repeated, contexts.repeat(len(inputs), 1))
        return log_prob.view(len(inputs), len(contexts))

    def _inverse(self, noise: Tensor, context: Tensor) -> Tensor:
        return self._transform.inverse(noise, self._embedding_net(context))[0]

    def _sample(self, num_samples: int, context: Tensor) -> Tensor:
        weight = next(self.parameters())
        context = None if context is None else torch.as_tensor(context).to(weight)
        _check_width("context", context, self.context_features)
        contexts = context.repeat_interleave(num_samples, 0)
        shape = len(contexts), self.features
        noise = torch.randn(shape, dtype=weight.dtype, device=weight.device)
        return self._in_batches(self._inverse, noise, contexts).unflatten(0, (-1, num_samples))

    def _in_batches(
        self, function: Callable[..., Tensor], *tensors: Tensor, share: int = 1
    ) -> Tensor:
        """Call ``function`` on batches; on all at once if gradients or batch statistics are wanted.

        Each result is copied into place at once. In a list, small results between large buffers
        would let the memory grow with the number of batches.

        Args:
            function: tensors (m, …) → tensor (m, …).
            tensors: (n, …).
            share: how many samples one row stands for.
        """
        n = len(tensors[0])
        size = max(1, BATCH.get(tensors[0].device.type, BATCH["cpu"]) // share)
        if n <= size or self.training or self._wants_gradients(tensors[0]):
            return function(*tensors)
        first = function(*(tensor[:size] for tensor in tensors))
        result = first.new_empty(n, *first.shape[1:])
        result[:size] = first
        for start in range(size, n, size):
            part = slice(start, start + size)
            result[part] = function(*(tensor[part] for tensor in tensors))
        return result

    def _wants_gradients(self, inputs: Tensor) -> bool:
        if not torch.is_grad_enabled():
            return False
        return inputs.requires_grad or any(p.requires_grad for p in self.parameters())

    def _check(self, inputs: Tensor, context: Tensor, name: str = "inputs") -> None:
        """Raise ValueError unless widths and lengths are right."""
        _check_width(name, inputs, self.features)
        _check_width("context", context, self.context_features)
        checks.same_length(inputs, context, (name, "context"))


def _check_width(name: str, tensor: Tensor | None, width: int) -> None:
    shape = None if tensor is None else tuple(tensor.shape)
    if shape is None or len(shape) != 2 or shape[1] != width:
        raise ValueError(f"{name} must have shape (n, {width}), got {shape}")
