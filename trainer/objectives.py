"""Training targets for the average velocity ``u(x_t, t, s)``: FlowMapSR's (arXiv 2601.16660, section 3), OFTSR's
(arXiv 2412.09465) and CTMSR's (arXiv 2503.20349).

Every target is a pure function ``(u, x_t, v, t, s) -> target``:

- ``u(x, t, s)``: the velocity that supervises, conditioning bound (an EMA of the network, or itself);
- ``x_t``: interpolant (B, C, H, W); ``v``: its velocity, same shape;
- ``t``, ``s``: times (B,), ``0 <= s <= t <= 1``.

The loss is the mean squared error of ``u(x_t, t, s)`` to it. None of them is differentiated through: call under
``torch.no_grad()`` (forward-mode derivatives work there) and take the gradient in an ordinary pass of its own.

Guidance needs no targets of its own. Flow matching and the jumps in ``USE_VELOCITY`` match a velocity: give them
:func:`guided_velocity` as ``v``. The other jumps (SSD, LSD, OFTSR's) do not look at ``v``: they pass on what flow
matching taught a ``u`` that has the positive prompt and the scale bound.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..flowmapsr_core.method.flow import Velocity, per_sample

Objective = Callable[..., Tensor]


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


def trajectory_target(u: Velocity, x_t: Tensor, v: Tensor, t: Tensor, s: Tensor, step: Tensor) -> Tensor:
    """Distillation along a trajectory (OFTSR, arXiv 2412.09465, with its midpoint steps; there t = 1).

    The jump to ``m = min(s + step, t)`` is prolonged to s by a midpoint step of the instantaneous velocity: the target
    is ``[(t - m) u(x_t, t, m) + (m - s) u(x_h, h, h)] / (t - s)``, with ``x_m = X(x_t; t -> m)``, ``h = (m + s) / 2``
    and ``x_h = x_m - (m - h) u(x_m, m, m)``. As the step tends to zero it moves u as LSD does, without a derivative.
    On the diagonal u gets one tensor as t and s: there a frozen teacher may answer for it.

    Args:
        step: (B,), what the target goes beyond a jump that u itself makes.
    """
    m = torch.minimum(s + step, t)
    h = (m + s) / 2
    jump = u(x_t, t, m)
    x_m = x_t - per_sample(t - m, x_t).to(x_t.dtype) * jump
    x_h = x_m - per_sample(m - h, x_t).to(x_t.dtype) * u(x_m, m, m)
    return _joined(jump, u(x_h, h, h), t, m, s)


def consistency_target(u: Velocity, x_t: Tensor, v: Tensor, t: Tensor, s: Tensor, step: Tensor) -> Tensor:
    """Consistency training (CTMSR, arXiv 2503.20349; there s = 0): to where u leads from the pair's path a step on.

    With ``r = max(t - step, s)`` the target is ``(x_t - X(x_r; r -> s)) / (t - s)``, which is
    ``[(t - r) v + (r - s) u(x_r, r, s)] / (t - s)``, with ``x_r = x_t - (t - r) v``. As the step tends to zero it
    moves u as ESD does. Every step of finite length costs spread: its targets are averaged over the pairs.

    Args:
        step: (B,), 1 / T where times lie on the grid n / T.
    """
    r = torch.maximum(t - step, s)
    x_r = x_t - per_sample(t - r, x_t).to(x_t.dtype) * v
    return _joined(v, u(x_r, r, s), t, r, s)


JUMPS: dict[str, Objective] = {
    "shortcut": shortcut_target,
    "lagrangian": lagrangian_target,
    "lagrangian-biased": biased_lagrangian_target,
    "eulerian": eulerian_target,
    "straight": straight_target,
    "trajectory": trajectory_target,
    "consistency": consistency_target,
}
USE_VELOCITY = frozenset({"lagrangian-biased", "eulerian", "straight", "consistency"})  # the jumps that look at v
LOOK_AHEAD = frozenset({"trajectory", "consistency"})  # those that take a step
DERIVE = frozenset({"lagrangian", "lagrangian-biased", "eulerian"})  # those that take forward derivatives


def guided_velocity(u_negative: Velocity, x_t: Tensor, v: Tensor, t: Tensor, w: Tensor) -> Tensor:
    """Positive-negative guidance of a velocity: ``v_w = w v + (1 - w) u(x_t, t, t | negative)``, w (B,).

    It extrapolates from the *data's* velocity: with the network's own positive prediction in its place, training
    feeds on itself and diverges.
    """
    w = per_sample(w, x_t)
    return w * v + (1 - w) * u_negative(x_t, t, t)


def anchored(u: Callable[..., Tensor], teacher: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``u`` with a frozen teacher's velocities on the diagonal: it answers where one tensor is both t and s."""
    return lambda x, t, s, *conditions: (teacher if s is t else u)(x, t, s, *conditions)


def _joined(first: Tensor, second: Tensor, t: Tensor, m: Tensor, s: Tensor) -> Tensor:
    """Average velocity from t down to s, of those from t to m and from m to s."""
    return torch.lerp(second, first, per_sample((t - m) / (t - s), first).to(first.dtype))


def _value_and_derivative(
    f: Callable[..., Tensor], point: tuple[Tensor, ...], direction: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """``f(point)`` and its derivative along a direction, in one pass; fused attention has no forward derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        return jvp(f, point, direction)[:2]
