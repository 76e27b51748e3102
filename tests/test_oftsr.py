"""OFTSR (arXiv 2412.09465): its dial and its distillation in closed form, on flows given an LR image.

With a start ``x1 = mean1 + std1 e`` the flow given LR is Gaussian: the exact student and teacher are known.
"""

from itertools import pairwise

import pytest
import torch
from flowmapsr.flowmapsr_core.method.flow import conditional_velocity, interpolant, sample
from flowmapsr.trainer.objectives import lagrangian_target, trajectory_target
from flowmapsr.trainer.tools.plane import PROBLEMS
from gaussian_flow import GaussianFlow, column

RATIOS = [3.25, 1.0, 0.25, 0.1]  # std1 / std0
STEP = 0.05  # the paper's


def flow_of(ratio):
    return GaussianFlow(mean0=0.3, std0=0.4, mean1=-0.2, std1=0.4 * ratio)


def times(value, n=16):
    return torch.full((n,), value, dtype=torch.float64)


@pytest.fixture
def noise(generator):
    return torch.randn(16, 1, 2, 3, generator=generator, dtype=torch.float64)


def differ(a, b):
    """Largest difference."""
    return (a - b).abs().max().item()


def dial(u, x1, s):
    """The student's picture, ``P(s) = x1 - u(x1, 1, s)``."""
    return x1 - u(x1, times(1.0), times(s))


def kept(flow, s):
    """Standard deviation k(s) of P(s)."""
    std = ((1 - s) ** 2 * flow.std0**2 + s**2 * flow.std1**2) ** 0.5
    return (std - s * flow.std1) / (1 - s)


@pytest.mark.parametrize("ratio", RATIOS)
def test_the_dial_goes_from_the_posterior_mean_to_a_sample(noise, ratio):
    flow = flow_of(ratio)
    x1 = flow.mean1 + flow.std1 * noise
    for s in (0.0, 0.1, 0.5, 0.75, 0.999):
        assert differ(dial(flow.u, x1, s), flow.mean0 + kept(flow, s) * noise) < 1e-12
    assert differ(dial(flow.u, x1, 0.0), flow.mean0 + flow.std0 * noise) < 1e-12
    assert differ(dial(flow.u, x1, 1.0), torch.full_like(x1, flow.mean0)) < 1e-12
    for s in (0.0, 0.25, 1.0):
        assert differ(dial(flow.u, x1, s), sample(flow.u, x1, 1, realism=1 - s)) < 1e-6  # its times are float32


@pytest.mark.parametrize("ratio", RATIOS)
def test_the_dial_has_an_inverse_and_is_a_blend_of_its_ends(noise, ratio):
    """For a share w of the spread ``s = (1 - w^2) / (1 - w^2 + 2 w std1 / std0)``: on Gaussians nothing but a blend."""
    flow = flow_of(ratio)
    x1 = flow.mean1 + flow.std1 * noise
    mean, sample = dial(flow.u, x1, 1.0), dial(flow.u, x1, 0.0)
    for w in (0.1, 0.5, 0.9):
        s = (1 - w**2) / (1 - w**2 + 2 * w * ratio)
        assert kept(flow, s) == pytest.approx(w * flow.std0, abs=1e-13)
        assert differ(dial(flow.u, x1, s), torch.lerp(mean, sample, w)) < 1e-12


def test_the_dial_costs_its_own_variance(generator):
    """Against the true HR image the squared error of P(s) is ``std0^2 + k(s)^2``: unbiased at every s."""
    flow, n = flow_of(1.0), 200_000
    h, e = torch.randn(2, n, 1, 1, 1, generator=generator, dtype=torch.float64)
    truth, x1 = flow.mean0 + flow.std0 * h, flow.mean1 + flow.std1 * e
    for s in (0.0, 0.5, 1.0):
        picture = x1 - flow.u(x1, times(1.0, n), times(s, n))
        spread = kept(flow, s) if s < 1 else 0.0
        assert (picture - truth).square().mean().item() == pytest.approx(flow.std0**2 + spread**2, rel=0.01)
        assert picture.std().item() == pytest.approx(spread, rel=0.01, abs=1e-12)


def target_of(u, x, t, s, step):
    return trajectory_target(u, x, torch.full_like(x, torch.nan), t, s, torch.full_like(t, step))


@pytest.mark.parametrize("ratio", RATIOS)
def test_the_exact_map_is_its_own_target_up_to_the_midpoint_rule(noise, ratio):
    """On Gaussians the target's error falls with the fourth power of the step."""
    flow = flow_of(ratio)
    x1, t, s = flow.mean1 + flow.std1 * noise, times(1.0), times(0.4)
    errors = [(target_of(flow.u, x1, t, s, step) - flow.u(x1, t, s)).abs().max().item() for step in (0.02, 0.01, 0.005)]
    assert errors[0] < 1e-5
    for longer, shorter in pairwise(errors):
        assert longer / shorter == pytest.approx(16, rel=0.1)


def test_any_time_may_be_the_first(noise):
    flow = flow_of(0.5)
    t, s = torch.rand(2, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64).sort(dim=0).values.flip(0)
    x = interpolant(noise, noise.flip(0), t)
    assert differ(target_of(flow.u, x, t, s, 1e-3), flow.u(x, t, s)) < 1e-8


def test_the_target_stays_between_the_times_and_asks_the_diagonal_by_one_tensor(noise):
    flow, calls = flow_of(1.0), []

    def u(x, t, s):
        calls.append((t, s))
        return flow.u(x, t, s)

    t, s = times(1.0), torch.linspace(0, 0.99, 16, dtype=torch.float64)
    target_of(u, noise, t, s, STEP)
    (first, m), *diagonal = calls
    assert first is t
    assert torch.equal(m, (s + STEP).clamp(max=1.0))
    assert [a is b for a, b in diagonal] == [True, True]
    assert torch.equal(diagonal[0][0], m)
    assert torch.allclose(diagonal[1][0], (m + s) / 2)


def solver(velocity, x1, steps):
    """States of a midpoint solver of ``dx/dt = velocity(x, t)`` from time 1 to 0, the first being x1."""
    x, d = x1, 1 / steps
    yield x
    for k in range(steps):
        t = 1 - k * d
        x = x - d * velocity(x - d / 2 * velocity(x, t), t - d / 2)
        yield x


def taught(velocity, x1, steps):
    """The student at s = 0 that equals its own target at all s = k / steps, each found from the one before."""
    u, n = torch.zeros_like(x1), len(x1)
    one = torch.ones(n, dtype=x1.dtype)
    for k in range(steps):
        student = lambda x, t, s, u=u: velocity(x, s[0].item()) if s is t else u  # noqa: E731
        u = target_of(student, x1, one, one * (1 - (k + 1) / steps), 1 / steps)
    return u


@pytest.mark.parametrize("ratio", RATIOS)
def test_a_student_ends_where_its_teachers_solver_does(noise, ratio):
    flow = flow_of(ratio)
    x1 = flow.mean1 + flow.std1 * noise
    *_, end = solver(lambda x, t: flow.velocity(x, times(t)), x1, 20)
    picture = x1 - taught(lambda x, t: flow.velocity(x, times(t)), x1, 20)
    assert (picture - end).abs().max() < 1e-13
    spread = (picture - flow.mean0).abs().sum() / (flow.std0 * noise.abs().sum())
    assert abs(spread - 1) < (2e-3 if ratio < 0.25 else 2e-4)  # an Euler step would lose a tenth of it


def test_a_student_of_the_three_gaussians_is_close_to_the_map(generator):
    problem = PROBLEMS["three Gaussians"]
    x1 = problem.pairs(500, generator)[1]
    expected = problem.map(x1).double()
    shape = (500, 1, 1, 2)
    student = taught(lambda x, t: problem.velocity(x.reshape(-1, 2), t).reshape(shape), x1.double().reshape(shape), 20)
    reached = x1.double() - student.reshape(-1, 2)
    assert (reached - expected).norm() / (x1 - expected).norm() < 0.005


def test_short_steps_move_a_wrong_student_as_the_lagrangian_does(noise):
    """``(target - u) (t - s) / step`` tends to LSD's ``target - u`` where the teacher answers for the diagonal."""
    flow = flow_of(0.7)

    def u(x, t, s):
        return flow.velocity(x, t) if s is t else torch.sin(2 * x + column(s)) * column(1 + s * t)

    x1, t, s = flow.mean1 + flow.std1 * noise, times(1.0), times(0.3)
    limit = lagrangian_target(u, x1, x1, t, s) - u(x1, t, s)
    assert limit.abs().max() > 0.1
    gaps = []
    for step in (1e-2, 1e-3, 1e-4):
        residual = (target_of(u, x1, t, s, step) - u(x1, t, s)) * column(t - s) / step
        gaps.append((residual - limit).abs().max().item())
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.1)
    assert gaps[1] / gaps[2] == pytest.approx(10, rel=0.1)


def test_the_noisy_start_is_a_flow_of_its_own(generator):
    """What the tests above take for granted: given LR, ``E[x1 - x0 | x_t]`` is the Gaussian flow's velocity."""
    flow, n = flow_of(2.0), 400_000
    h, e = torch.randn(2, n, 1, 1, 1, generator=generator, dtype=torch.float64)
    x0, x1, t = flow.mean0 + flow.std0 * h, flow.mean1 + flow.std1 * e, times(0.6, n)
    x_t, v = interpolant(x0, x1, t), conditional_velocity(x0, x1)
    centred = x_t - x_t.mean()
    slope = (centred * v).mean() / centred.square().mean()
    assert slope.item() == pytest.approx(flow.growth(column(t[:1])).item(), abs=0.01)
