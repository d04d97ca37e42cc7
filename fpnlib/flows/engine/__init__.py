"""Fast masked autoregressive flows: nflows' parameters and numbers in the work of one pass.

A layer of a masked autoregressive flow turns x into u with u_i = s_i x_i + m_i, where a network
computes s_i and m_i from x_1 … x_{i-1}. nflows inverts it by running the whole network D times, and
each run finds one more x_i. But the network is masked: each hidden unit has a degree d and sees,
directly or through other units, only x_1 … x_d. So:

1. A unit of degree d is final as soon as x_1 … x_d are known.
2. s_i and m_i need only units of degree below i.
3. Once x_i is found, only the units of degree i are computed, in every layer of the network, from
   units that are known already. Then s_{i+1} and m_{i+1} follow, then
   x_{i+1} = (u_{i+1} - m_{i+1}) / s_{i+1}.

Each unit is computed once. Nothing is approximated; only the order of sums differs.

``accelerate`` is the only entry. The engine knows torch, nflows and numba, and nothing else of this
library.

- On the CPU in float32, both directions run in a numba kernel (``kernels.py``), 64 samples abreast,
  or 16 in a small batch.
- On other devices and in float64 the inverse runs in plain torch (``torch_path.py``), and the
  forward direction in nflows' layers.
- Gradients come from plain torch (``training.py``). Those of the inverse, and of flows with batch
  norms, come from nflows' layers.

Weights are packed at the first call in eval mode. They are packed again after ``train()``, after
``load_state_dict``, and after changes in place that torch counts. torch does not count changes
through ``.data`` and by fused optimizers in eval mode: call ``flow.train()`` before them.
"""

from nflows.flows import Flow
from nflows.transforms import CompositeTransform

from fpnlib.flows.engine.transform import FastMAF
from fpnlib.flows.engine.weights import find_layers


def accelerate(flow: Flow) -> Flow:
    """Make an nflows flow faster, in place, if the engine knows its layers; return the flow.

    Parameters, state dict and results stay the same. A flow of other layers is returned as it is.

    Args:
        flow: a flow whose transform is a ``CompositeTransform`` of permutations, conditional
            ``MaskedAffineAutoregressiveTransform``s of one shape, and batch norms.

    >>> import torch
    >>> from nflows.distributions import StandardNormal
    >>> from nflows.transforms import MaskedAffineAutoregressiveTransform, ReversePermutation
    >>> layer = MaskedAffineAutoregressiveTransform(3, 8, context_features=2)
    >>> transform = CompositeTransform([ReversePermutation(3), layer])
    >>> flow = accelerate(Flow(transform, StandardNormal([3]))).eval()
    >>> flow.sample(5, torch.eye(2)).shape
    torch.Size([2, 5, 3])
    """
    transform = flow._transform
    if type(transform) is CompositeTransform and find_layers(transform._transforms) is not None:
        flow._transform = FastMAF(transform._transforms).train(transform.training)
    return flow
