"""The flow between a high-resolution image (time 0) and its low-resolution counterpart (time 1).

Notation of arXiv 2601.16660: ``x0`` is the HR latent, ``x1`` the LR latent on the same grid, and
``0 <= s <= t <= 1``. A *velocity* is any callable ``u(x, t, s)`` with x of shape (B, C, H, W) and t, s of shape (B,);
its conditioning (prompt, guidance) is already bound. ``u(x, t, s)`` is the average velocity from t down to s and
``u(x, t, t)`` the instantaneous one.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import UserError

Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]

MAX_STEPS = 128  # the finest time grid that networks are trained on


def per_sample(time: Tensor, x: Tensor) -> Tensor:
    """Shape a time (B,) so that it broadcasts over x (B, C, H, W)."""
    return time.reshape(-1, *[1] * (x.dim() - 1))


def interpolant(x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    """Linear interpolant ``x_t = (1 - t) x0 + t x1``; x0, x1 (B, C, H, W), t (B,)."""
    return torch.lerp(x0, x1, per_sample(t, x0).to(x0.dtype))


def conditional_velocity(x0: Tensor, x1: Tensor) -> Tensor:
    """Time derivative of the interpolant between one pair, ``v = x1 - x0``."""
    return x1 - x0


def flow_map(u: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Jump from time t to time s in one evaluation, ``X(x; t -> s) = x - (t - s) u(x, t, s)``."""
    return x - per_sample(t - s, x).to(x.dtype) * u(x, t, s)


def check_steps(steps: int) -> None:
    """Raise :class:`UserError` unless ``steps`` is a power of two that the time grid holds."""
    if steps < 1 or steps > MAX_STEPS or steps & (steps - 1):
        raise UserError(f"steps is {steps}; use a power of two: 1, 2 or 4 (up to {MAX_STEPS})")


def check_realism(realism: float) -> None:
    """Raise :class:`UserError` unless ``realism`` is from 0 to 1."""
    if not 0 <= realism <= 1:
        raise UserError(f"realism is {realism:g}; use a value from 0 (closest to the source) to 1 (most detail)")


def sample(u: Velocity, x1: Tensor, steps: int, realism: float = 1.0) -> Tensor:
    """Carry an LR latent to time 0 in N flow-map jumps.

    The jumps go over the uniform grid ``t_k = 1 - realism k / N``; the result is ``x1 - mean_k u(x_k, t_k, t_(k+1))``.
    At realism 1 that is the state at time 0, a sample; at 0 the posterior mean ``x1 - u(x1, 1, 1)``. In between it is
    the chord from x1 through the state at ``1 - realism``, prolonged to time 0 (the dial of OFTSR, arXiv 2412.09465).

    Args:
        u: velocity with its conditioning bound. What it returns is overwritten, to spare the memory of a state.
        x1: LR latent (B, C, H, W), float; it is not modified.
        steps: number of network evaluations N, a power of two.
        realism: how far the jumps go, from 0 to 1.

    Returns:
        The HR latent, same shape as ``x1``.

    Raises:
        UserError: the number of steps or the realism is out of its range.
    """
    check_steps(steps)
    check_realism(realism)
    x = x1  # less the velocities so far: what the chord through the state reaches at time 0
    for k in range(steps):
        t, s = (x.new_full((x.shape[0],), 1 - realism * (i / steps), dtype=torch.float32) for i in (k, k + 1))
        state = torch.lerp(x1, x, realism) if k else x1
        x = u(state, t, s).mul_(-1 / steps).add_(x)
    return x
