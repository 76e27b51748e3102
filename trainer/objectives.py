"""Training targets for the average velocity ``u(x_t, t, s)`` (arXiv 2601.16660, section 3).

Every target is a pure function ``(u, x_t, v, t, s) -> target``:

- ``u(x, t, s)``: the velocity that supervises, conditioning bound (here an EMA of the network);
- ``x_t``: interpolant (B, C, H, W); ``v``: its velocity, conditional or guided, same shape;
- ``t``, ``s``: times (B,), ``0 <= s <= t <= 1``.

The loss is the mean squared error of ``u(x_t, t, s)`` to it. None of them is differentiated through: call under
``torch.no_grad()`` (forward-mode derivatives work there).
"""

import torch
from torch import Tensor
from torch.func import jvp

from ..flowmapsr_core.flow import Velocity, flow_map, per_sample


def flow_matching_target(u: Velocity, x_t: Tensor, v: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Flow matching: the velocity itself, with s = t."""
    return v


def shortcut_target(u: Velocity, x_t: Tensor, v: Tensor, t: Tensor, s: Tensor, finest: float = 0.0) -> Tensor:
    """Shortcut self-distillation (SSD): two half jumps make a whole one.

    With ``m = (t + s) / 2`` the target is ``[u(x_t, t, m) + u(X(x_t; t -> m), m, s)] / 2``. Where the half jump is
    ``finest`` or shorter, both calls are made at s = t: flow matching trains those, and nothing trains shorter jumps.
    """
    m = (t + s) / 2
    base = t - m <= finest
    first = u(x_t, t, torch.where(base, t, m))
    x_m = x_t - per_sample(t - m, x_t).to(x_t.dtype) * first
    second = u(x_m, m, torch.where(base, m, s))
    return (first + second) / 2


def lagrangian_target(u: Velocity, x_t: Tensor, v: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Lagrangian self-distillation (LSD): ``u(X(x_t; t -> s), s, s) + (t - s) d/ds u(x_t, t, s)``."""
    u_s = jvp(lambda s: u(x_t, t, s), (s,), (torch.ones_like(s),))[1]
    return u(flow_map(u, x_t, t, s), s, s) + per_sample(t - s, x_t) * u_s


def eulerian_target(u: Velocity, x_t: Tensor, v: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Eulerian self-distillation (ESD): ``v - (t - s) du/dt`` along ``(dx, dt, ds) = (v, 1, 0)``."""
    u_t = jvp(lambda x, t: u(x, t, s), (x_t, t), (v, torch.ones_like(t)))[1]
    return v - per_sample(t - s, x_t) * u_t


def guided_velocity(u_negative: Velocity, x_t: Tensor, v: Tensor, t: Tensor, w: Tensor) -> Tensor:
    """Positive-negative guidance of a velocity: ``v_w = w v + (1 - w) u(x_t, t, t | negative)``, w (B,).

    It extrapolates from the *data's* velocity: with the network's own positive prediction in its place, training
    feeds on itself and diverges.
    """
    w = per_sample(w, x_t)
    return w * v + (1 - w) * u_negative(x_t, t, t)
