"""PointFlow's decoder: a conditional continuous flow over points (Grathwohl et al. 2019).

From points to noise: batch norm, field, batch norm, … Sampling goes the other way and solves for
the points alone, while the original also computes the density and drops it.

The field's divergence (Yang et al. 2019, section 4) is pushed forward beside the points. With J the
field's Jacobian, one more pass through the layers gives J v, without a graph. A random v gives
Hutchinson's estimate vᵀ J v; the three unit vectors give the trace.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint

from fpnlib import checks

DIMENSIONS = 3
START_TIME = 0.5  # PointFlow's T before training
GAIN = 3.0  # of the first weights, because the gates halve what passes
MOST_STEPS = 1000  # of an adaptive solve; a trained field takes tens
METHODS = ("dopri5", "bosh3", "adaptive_heun", "rk4", "midpoint", "euler")
ADAPTIVE = METHODS[:3]

# What a layer's gate and bias take from z, and their weights for the time.
_Context = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Solver:
    """How the field is integrated.

    Args:
        method: of torchdiffeq. dopri5, bosh3 and adaptive_heun choose their steps; rk4 (the 3/8
            rule), midpoint and euler take ``steps`` equal ones.
        tolerance: absolute and relative error of a step; 1e-5 in PointFlow.
        steps: of the methods that do not choose them.
    """

    method: str = "dopri5"
    tolerance: float = 1e-5
    steps: int = 16

    def __post_init__(self) -> None:
        checks.known("solver", self.method, METHODS)
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance must lie between 0 and 1, got {self.tolerance}")
        checks.positive("steps", self.steps)

    def __call__(
        self,
        field: Callable[[Tensor, Tensor], Tensor],
        state: Tensor,
        start: float,
        end: float,
        parameters: Sequence[Tensor] = (),
    ) -> Tensor:
        """Integrate the field; the error of each cloud is bounded, whatever the batch.

        Args:
            field: (s, state) → the state's derivative.
            state: (n, points, …) at ``start``.
            start: first s.
            end: last s.
            parameters: what the field depends on. With them, an adaptive solve is differentiated by
                the adjoint method, in memory that does not grow with its steps.

        Returns:
            The state (n, points, …) at ``end``.

        Raises:
            FloatingPointError: the steps of an adaptive solve shrank to zero, their number passed
                ``MOST_STEPS``, or NaN turned up.
        """
        times = torch.tensor([start, end], dtype=state.dtype, device=state.device)
        settings: dict[str, Any] = {"method": self.method}
        settings["rtol"] = settings["atol"] = self.tolerance
        if self.method not in ADAPTIVE:
            grid = torch.linspace(start, end, self.steps + 1, dtype=times.dtype).to(times.device)
            settings["options"] = {"grid_constructor": lambda *_: grid}
            return odeint(field, state, times, **settings)[-1]
        settings["options"] = {"norm": _worst_cloud, "max_num_steps": MOST_STEPS}
        solve = odeint
        if parameters and torch.is_grad_enabled():
            backwards = {"norm": "seminorm", "max_num_steps": MOST_STEPS}
            adjoint = {"adjoint_params": tuple(parameters), "adjoint_options": backwards}
            solve = partial(odeint_adjoint, **adjoint)
        try:
            return solve(field, state, times, **settings)[-1]
        except AssertionError as error:  # torchdiffeq's kind of error
            reason = f"{self.method} can't hold the tolerance {self.tolerance:g} ({error})"
            remedy = "a smaller learning_rate, a larger tolerance, or method='rk4' helps"
            raise FloatingPointError(f"{reason}; {remedy}") from None


class _MovingBatchNorm(nn.Module):
    """Batch norm by running statistics, in training too.

    So it has an exact inverse and density. ``weight`` holds logarithms of scales. In training, the
    statistics of each coordinate move a tenth of the way to the batch's. (The original's reshape
    mixes the coordinates there.)
    """

    eps, decay = 1e-4, 0.1
    running_mean: Tensor
    running_var: Tensor
    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(DIMENSIONS))
        self.bias = nn.Parameter(torch.zeros(DIMENSIONS))
        self.register_buffer("running_mean", torch.zeros(DIMENSIONS))
        self.register_buffer("running_var", torch.ones(DIMENSIONS))
        self.register_buffer("step", torch.zeros(1))

    @property
    def log_scale(self) -> Tensor:
        """Log of each coordinate's factor (3,); the sum is the log-determinant."""
        return self.weight - 0.5 * (self.running_var + self.eps).log()

    def forward(self, x: Tensor) -> Tensor:
        """Normalised points (n, points, 3); in training, the statistics move afterwards."""
        y = (x - self.running_mean) * self.log_scale.exp() + self.bias
        if self.training:
            with torch.no_grad():
                var, mean = torch.var_mean(x.detach().float().reshape(-1, DIMENSIONS), 0)
                # New tensors, because y's graph keeps the old ones.
                self.running_mean = self.running_mean.lerp(mean.to(self.running_mean), self.decay)
                self.running_var = self.running_var.lerp(var.to(self.running_var), self.decay)
                self.step += 1
        return y

    def inverse(self, y: Tensor) -> Tensor:
        """Points (n, points, 3) of normalised ones."""
        return (y - self.bias) * (-self.log_scale).exp() + self.running_mean


class _ConcatSquash(nn.Module):
    """(W x + b) · sigmoid(gate(t, z)) + bias(t, z): time and latent scale and shift each unit."""

    def __init__(self, inputs: int, outputs: int, latent_dim: int):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.gate = nn.Linear(1 + latent_dim, outputs)
        self.bias = nn.Linear(1 + latent_dim, outputs, bias=False)

    def context(self, z: Tensor) -> _Context:
        """Everything that depends on z (n, latent_dim), computed once for a whole solve."""
        gate_t, gate_z = self.gate.weight.split([1, z.shape[1]], 1)
        bias_t, bias_z = self.bias.weight.split([1, z.shape[1]], 1)
        return z @ gate_z.T + self.gate.bias, gate_t[:, 0], z @ bias_z.T, bias_t[:, 0]


class _Field(nn.Module):
    """dx/ds = T · f(x, sT, z), with s from 0 (the shape) to 1 (the noise) and a learned end time T.

    Args:
        hidden: widths of the hidden layers.
        latent_dim: width of z.
    """

    def __init__(self, hidden: Sequence[int], latent_dim: int):
        super().__init__()
        widths = (DIMENSIONS, *hidden, DIMENSIONS)
        layers = [_ConcatSquash(*pair, latent_dim) for pair in zip(widths, widths[1:])]
        with torch.no_grad():
            for layer in layers[:-1]:
                layer.linear.weight.mul_(GAIN)
        self.layers: Any = nn.ModuleList(layers)
        self.sqrt_end_time = nn.Parameter(torch.tensor(START_TIME).sqrt())

    @property
    def end_time(self) -> Tensor:
        """T > 0, a scalar."""
        return self.sqrt_end_time**2

    def context(self, z: Tensor, ndim: int = 3) -> list[_Context]:
        """The layers' contexts of z (n, latent_dim), for points (n, …, 3) of so many dimensions."""
        shape = (-1, *(1,) * (ndim - 2))
        contexts = []
        for layer in self.layers:
            gate, gate_t, bias, bias_t = layer.context(z)
            contexts.append((gate.unflatten(0, shape), gate_t, bias.unflatten(0, shape), bias_t))
        return contexts

    def velocity(self, s: Tensor, x: Tensor, context: list[_Context]) -> Tensor:
        """dx/ds, of the shape of x (n, …, 3); s is a scalar or broadcasts against x."""
        return self._push(s, x, None, context)[0]

    def with_divergence(
        self, s: Tensor, x: Tensor, probe: Tensor | None, context: list[_Context]
    ) -> tuple[Tensor, Tensor]:
        """dx/ds (n, points, 3) and its divergence (n, points, 1).

        Args:
            s: scalar.
            x: points (n, points, 3).
            probe: like x, for Hutchinson's estimate; None: the exact divergence.
            context: of the latents.
        """
        if probe is not None:
            dx, pushed = self._push(s, x, probe[None], context)
            return dx, (probe * pushed[0]).sum(-1, keepdim=True)
        unit = torch.eye(DIMENSIONS, dtype=x.dtype, device=x.device)
        dx, pushed = self._push(s, x, unit[:, None, None].expand(-1, *x.shape), context)
        return dx, torch.einsum("i...i->...", pushed).unsqueeze(-1)

    def _push(
        self, s: Tensor, x: Tensor, tangents: Tensor | None, contexts: list[_Context]
    ) -> tuple[Tensor, Tensor]:
        """dx/ds, and the Jacobian's products with ``tangents`` (k, n, points, 3); None: of none."""
        time, last = s * self.end_time, len(self.layers) - 1
        graph = torch.is_grad_enabled()
        pushed = x.new_zeros(0, *x.shape) if tangents is None else tangents
        for depth, (layer, context) in enumerate(zip(self.layers, contexts)):
            gate = torch.sigmoid(context[0] + time * context[1])
            bias = context[2] + time * context[3]
            linear = layer.linear(x)
            x = torch.addcmul(bias, linear, gate, out=None if graph else linear)
            if tangents is not None:
                pushed = pushed @ layer.linear.weight.T * gate
            if depth < last:
                x = torch.tanh(x) if graph else x.tanh_()  # in place: half the memory's traffic
                if tangents is not None:
                    pushed = pushed * (1 - x * x)
        return self.end_time * x, self.end_time * pushed


class PointCNF(nn.Module):
    """The flow from a cloud's points to standard normal noise, given the cloud's latent z.

    Args:
        latent_dim: width of z.
        hidden: widths of each field's hidden layers.
        num_blocks: fields, each between two batch norms.
    """

    def __init__(self, latent_dim: int, hidden: Sequence[int], num_blocks: int = 1):
        super().__init__()
        self.norms: Any = nn.ModuleList(_MovingBatchNorm() for _ in range(num_blocks + 1))
        self.fields: Any = nn.ModuleList(_Field(hidden, latent_dim) for _ in range(num_blocks))

    def forward(
        self, x: Tensor, z: Tensor, solver: Solver, probe: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Noise (n, points, 3) of points, and log|det ∂noise/∂x| (n, points).

        Args:
            x: points (n, points, 3).
            z: latents (n, latent_dim).
            solver: of the fields.
            probe: like x, random, for Hutchinson's unbiased estimate of the trace; None: the exact
                trace, in twice the work.
        """
        log_det = self.norms[0].log_scale.sum().expand(*x.shape[:-1], 1)
        x = self.norms[0](x)
        for field, norm in zip(self.fields, self.norms[1:]):
            context = field.context(z)
            change = partial(_change, field, probe, context)
            start = torch.cat([x, log_det], -1)
            state = solver(change, start, 0.0, 1.0, _differentiable(field, context))
            x, log_det = state.split([DIMENSIONS, 1], -1)
            log_det = log_det + norm.log_scale.sum()  # before its statistics move
            x = norm(x)
        return x, log_det.squeeze(-1)

    def log_prob(self, x: Tensor, z: Tensor, solver: Solver, probe: Tensor | None = None) -> Tensor:
        """log p(x | z) (n, points) in nats; arguments as for :meth:`forward`."""
        u, log_det = self(x, z, solver, probe)
        return log_det - 0.5 * (u.square() + math.log(2 * math.pi)).sum(-1)

    def inverse(self, u: Tensor, z: Tensor, solver: Solver) -> Tensor:
        """Points (n, points, 3) of noise u (n, points, 3) under z (n, latent_dim)."""
        for field, norm in zip(reversed(self.fields), reversed(self.norms[1:])):
            velocity = partial(field.velocity, context=field.context(z))
            u = solver(velocity, norm.inverse(u), 1.0, 0.0)
        return self.norms[0].inverse(u)


def _change(
    field: _Field, probe: Tensor | None, context: list[_Context], s: Tensor, state: Tensor
) -> Tensor:
    """The derivative of points and log-density (n, points, 4)."""
    return torch.cat(field.with_divergence(s, state[..., :DIMENSIONS], probe, context), -1)


def _worst_cloud(error: Tensor) -> Tensor:
    """The largest of the clouds' root mean squares: each is solved as finely as alone."""
    return error.flatten(1).square().mean(1).amax().sqrt()


def _differentiable(field: _Field, context: list[_Context]) -> list[Tensor]:
    """The tensors that the solution depends on and that need gradients."""
    tensors: list[Tensor] = [field.sqrt_end_time]
    for layer, of_layer in zip(field.layers, context):
        tensors += [*layer.linear.parameters(), *of_layer]
    return [tensor for tensor in tensors if tensor.requires_grad]
