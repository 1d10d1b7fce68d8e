"""Weights of limited norm, which keep a feedback loop contractive."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onward.core.errors import ConfigError
from onward.weights.operator import Operator, noise, unit

FIRST_ITERATIONS = 10
"""Of the power iteration, before the first pass."""


class Spectral(nn.Module):
    """A learned spectral norm of at most R (Xiao et al. 2021): W -> clamp(g, -R, R) W / sigma(W).

    sigma(W) = <u, A(W) v>, with A the ``operator``, u and v its leading singular pair, constants to the gradient. The
    learned scalar g starts at the norm of ``weight``; beyond R its gradient is 0, and only weight decay brings it back.
    u and v are buffers: every reading of the weight *in training mode* moves them by one power iteration, evaluation
    leaves them alone. The norm is at most R as far as they have converged: sigma is a lower bound. A reading costs one
    product with a single input, in training three. The start is always the same and draws no random numbers.
    torch's `spectral_norm` has neither gain nor clamp, and knows no operator but the reshaped matrix.
    Raises `ConfigError` for a weight that maps everything to 0.
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor, operator: Operator, to: float = 1.0):
        super().__init__()
        require_elements(weight)
        self.operator, self.limit = operator, _positive(to)
        weight = weight.detach()
        v = unit(noise(operator.domain(weight), weight))
        self.register_buffer("v", v)
        self.register_buffer("u", unit(operator.apply(weight, v)))
        for _ in range(FIRST_ITERATIONS):
            self._refresh(weight)
        sigma = self._sigma(weight)
        if not sigma > 0:
            raise ConfigError(
                f"weights of shape {list(weight.shape)} have a spectral norm of {sigma:g}, which cannot be scaled; "
                "expected more than 0: initialise them with other numbers"
            )
        self.gain = nn.Parameter(sigma.clone())

    def forward(self, weight: Tensor) -> Tensor:
        """The effective weight."""
        if self.training:
            self._refresh(weight.detach())
        return weight * (self.gain.clamp(-self.limit, self.limit) / self._sigma(weight))

    def extra_repr(self) -> str:
        """The limit."""
        return f"limit={self.limit:g}"

    @torch.no_grad()
    def _refresh(self, weight: Tensor) -> None:
        self.v.copy_(unit(self.operator.adjoint(weight, self.u)))
        self.u.copy_(unit(self.operator.apply(weight, self.v)))

    def _sigma(self, weight: Tensor) -> Tensor:
        u, v = self.u.clone(), self.v.clone()  # a later pass moves the buffers; autograd may still need these
        return (u * self.operator.apply(weight, v)).sum()


class Frobenius(nn.Module):
    """A Frobenius norm of at most R (Xiao et al. 2022): W -> W min(phi, R) / phi, phi = ||W||_F.

    phi is computed exactly, and is a constant to the gradient. Since ||W||_2 <= ||W||_F, the spectral norm of the
    reshaped matrix keeps to R as well. Costs one pass over the weight.
    """

    def __init__(self, to: float = 2.0):
        super().__init__()
        self.limit = _positive(to)

    def forward(self, weight: Tensor) -> Tensor:
        """The effective weight."""
        return shrink(weight, torch.linalg.vector_norm(weight), self.limit)

    def extra_repr(self) -> str:
        """The limit."""
        return f"limit={self.limit:g}"


def shrink(weight: Tensor, norm: Tensor, to: float) -> Tensor:
    """``weight`` scaled to the norm ``to`` where its ``norm``, a constant to the gradient, is larger."""
    return weight * (to / norm.detach()).clamp(max=1)


def probed_norm(weight: Tensor, probes: Tensor) -> Tensor:
    """The authors' estimate of the Frobenius norm, sqrt(mean_k ||v_k^T W||^2), of ``probes`` v ``[K, len(W)]``.

    W is the matrix of dimension 0 against the rest. For v ~ N(0, 1), the mean of its square is ||W||_F^2. O(K |W|).

    >>> float(probed_norm(torch.eye(2), torch.tensor([[3.0, 4.0]])))
    5.0
    """
    return (probes @ weight.flatten(1)).square().sum(1).mean().sqrt()


def require_elements(weight: Tensor) -> None:
    """Raises `ConfigError` for a weight without elements."""
    if not weight.numel():
        raise ConfigError(f"weights of shape {list(weight.shape)} hold no number, so they have no norm to restrict")


def _positive(to: float) -> float:
    if not to > 0:
        raise ConfigError(f"a norm of at most {to} was asked for; expected a number above 0")
    return to
