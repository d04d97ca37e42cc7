"""The numba path, from tensors to the kernel and back: float32 on the CPU, shared among threads."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from fpnlib.flows.engine.kernels import FEW, LOGS, MANY, STEP, run_few, run_many
from fpnlib.flows.engine.weights import Weights

WORK = 1 << 26  # multiply-adds below which a second thread costs more than it saves


class NumbaPath:
    """A flow of packed float32 weights on the CPU."""

    def __init__(self, weights: Weights):
        self.weights: Any = _arrays(weights)
        self.size = sum(tensor.numel() for tensor in weights)
        self.log_gain = weights.gain.log().sum()
        layers, features = weights.order.shape
        self.products = -(-layers * features // LOGS)

    def forward(self, data: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return (noise (n, D), log|det| (n,)) of data (n, D) under contexts (n, C)."""
        return self._run(self.weights, False, data, context)

    def inverse(self, noise: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return (data (n, D), log|det| (n,)) of noise (n, D) under contexts (n, C)."""
        data, log_det = self._run(self.weights, True, noise, context)
        return data, -log_det

    def forward_each(self, data: Tensor, contexts: Tensor) -> tuple[Tensor, Tensor]:
        """Return squared lengths of the noise and log|det|, (n, K) both, for data under K contexts.

        A context that all samples share is added to the biases, once for all of them.
        """
        w, given = self.weights, pad(contexts, (0, -contexts.shape[1] % STEP)).numpy()
        first = np.einsum("thc,kc->kth", w.first_context, given) + w.first_context_bias
        inner = np.einsum("thc,kc->kth", w.context, given) + w.inner_bias
        squares = data.new_empty(len(contexts), len(data))
        log_dets = torch.empty_like(squares)
        for k in range(len(contexts)):
            weights = w._replace(first_context_bias=first[k], inner_bias=inner[k])
            noise, log_dets[k] = self._run(weights, False, data, data[:, :0])
            np.einsum("nd,nd->n", noise.numpy(), noise.numpy(), out=squares[k].numpy())
        return squares.T, log_dets.T

    def _run(
        self, weights: Any, inverse: bool, values: Tensor, context: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the results, and log|det| of the map from data to noise."""
        n = len(values)
        results = values.new_empty(values.shape)
        scales = np.empty((n, self.products))
        arrays = [t.detach().contiguous().numpy() for t in (values, context, results)]
        threads = torch.get_num_threads() if n * self.size >= WORK else 1
        size = MANY * -(-n // (MANY * threads))
        run = run_few if n <= FEW else run_many
        starts = range(0, n, size)

        def run_part(start: int) -> None:
            rows = slice(start, start + size)
            run(weights, inverse, *(array[rows] for array in arrays), scales[rows])

        if len(starts) == 1:
            run_part(0)
        else:
            with ThreadPoolExecutor(len(starts)) as pool:
                list(pool.map(run_part, starts))
        with np.errstate(all="ignore"):  # in numpy, because torch's threads would wait busily
            log_det = np.log(scales).sum(1)
        return results, torch.from_numpy(log_det).to(values.dtype) + self.log_gain


def _arrays(weights: Weights) -> Weights:
    """Return NumPy arrays, with the columns and the stops padded to whole steps of a product."""
    fields = weights._asdict()
    for name in ("initial", "inner", "outer", "final", "first_context", "context"):
        fields[name] = pad(fields[name], (0, -fields[name].shape[-1] % STEP)).contiguous()
    for name in ("input_stops", "unit_stops", "output_stops"):
        fields[name] = -(-fields[name] // STEP) * STEP
    return Weights(**{name: tensor.numpy() for name, tensor in fields.items()})
