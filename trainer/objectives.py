"""Training targets for the average velocity ``u(x_t, t, s)`` (arXiv 2601.16660, section 3).

Every target is a pure function ``(u, x_t, v, t, s) -> target``:

- ``u(x, t, s)``: the velocity that supervises, conditioning bound (an EMA of the network, or itself);
- ``x_t``: interpolant (B, C, H, W); ``v``: its velocity, same shape;
- ``t``, ``s``: times (B,), ``0 <= s <= t <= 1``.

The loss is the mean squared error of ``u(x_t, t, s)`` to it. None of them is differentiated through: call under
``torch.no_grad()`` (forward-mode derivatives work there) and take the gradient in an ordinary pass of its own.

Guidance needs no targets of its own. Flow matching and the jumps in ``USE_VELOCITY`` match a velocity: give them
:func:`guided_velocity` as ``v``. The other jumps (SSD, LSD) do not look at ``v``: they pass on what flow matching
taught a ``u`` that has the positive prompt and the scale bound.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..flowmapsr_core.method.flow import Velocity, per_sample

Objective = Callable[[Velocity, Tensor, Tensor, Tensor, Tensor], Tensor]


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
    jump = per_sample(t - s, x_t).to(x_t.dtype)
    u_ts, u_s = _value_and_derivative(lambda s: u(x_t, t, s), (s,), (torch.ones_like(s),))
    return u(x_t - jump * u_ts, s, s) + jump * u_s


def biased_lagrangian_target(u: Velocity, x_t: Tensor, v: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """LSD as the paper prints it, ``v + (t - s) d/ds u(x_t, t, s)``: biased, for the ablation only.

    The velocity belongs to where the jump lands, not to where it starts. The only bounded u that equals this target is
    ``u(x, t, s) = u(x, t, t)``, so every jump collapses to one Euler step.
    """
    u_s = _value_and_derivative(lambda s: u(x_t, t, s), (s,), (torch.ones_like(s),))[1]
    return v + per_sample(t - s, x_t).to(x_t.dtype) * u_s


def eulerian_target(u: Velocity, x_t: Tensor, v: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Eulerian self-distillation (ESD): ``v - (t - s) du/dt`` along ``(dx, dt, ds) = (v, 1, 0)``."""
    u_t = _value_and_derivative(lambda x, t: u(x, t, s), (x_t, t), (v, torch.ones_like(t)))[1]
    return v - per_sample(t - s, x_t).to(x_t.dtype) * u_t


def straight_target(u: Velocity, x_t: Tensor, v: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """A teacher's picture in any jump: the velocity of the pair, whatever s is.

    Where x0 is a function of the LR image (a teacher's picture of it, not the HR image) and x_t tells which pair it
    lies on, as it does where LR is seen too, the flow goes straight from x1 to x0 at one speed. Its average velocity
    is v over every interval, and one step suffices.
    """
    return v


JUMPS: dict[str, Objective] = {
    "shortcut": shortcut_target,
    "lagrangian": lagrangian_target,
    "lagrangian-biased": biased_lagrangian_target,
    "eulerian": eulerian_target,
    "straight": straight_target,
}
USE_VELOCITY = frozenset({"lagrangian-biased", "eulerian", "straight"})  # the jumps that look at v


def guided_velocity(u_negative: Velocity, x_t: Tensor, v: Tensor, t: Tensor, w: Tensor) -> Tensor:
    """Positive-negative guidance of a velocity: ``v_w = w v + (1 - w) u(x_t, t, t | negative)``, w (B,).

    It extrapolates from the *data's* velocity: with the network's own positive prediction in its place, training
    feeds on itself and diverges.
    """
    w = per_sample(w, x_t)
    return w * v + (1 - w) * u_negative(x_t, t, t)


def _value_and_derivative(
    f: Callable[..., Tensor], point: tuple[Tensor, ...], direction: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """``f(point)`` and its derivative along a direction, in one pass; fused attention has no forward derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        return jvp(f, point, direction)[:2]
