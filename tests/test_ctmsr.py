"""CTMSR (arXiv 2503.20349) in closed form: what consistency training and trajectory matching learn, given an LR image.

With ``x0 ~ N(m, v)`` and the noisy LR end ``y + sigma eps`` the flow is Gaussian. Training on the grid n / T then ends
at ``f_n(x) = m + a_n (x - M_t)`` with ``a_n = a_{n-1} C_{r,t} / S_t^2``: a share of the spread is lost at every step.
"""

import math

import numpy as np
import pytest
import torch
from flowmapsr.flowmapsr_core.method.flow import conditional_velocity, flow_map, interpolant
from flowmapsr.trainer.losses.consistency import NEAREST, charbonnier, nearness, trajectory_gap
from flowmapsr.trainer.objectives import consistency_target, eulerian_target
from gaussian_flow import GaussianFlow, column

SPREADS = [0.1, 0.5, 1.0, 2.0]  # sqrt(v) / sigma


def flow_of(spread):
    return GaussianFlow(mean0=0.3, std0=0.6 * spread, mean1=-0.2, std1=0.6)


def times(value, n=16):
    return torch.full((n,), value, dtype=torch.float64)


@pytest.fixture
def noise(generator):
    return torch.randn(16, 1, 2, 3, generator=generator, dtype=torch.float64)


def covariance(flow, r, t):
    """C_{r,t} of x_r and x_t of one pair; of x_t alone it is S_t^2."""
    return (1 - r) * (1 - t) * flow.std0**2 + r * t * flow.std1**2


def slopes(flow, grid):
    """a_0 ... a_T."""
    a = [1.0]
    for n in range(1, grid + 1):
        r, t = (n - 1) / grid, n / grid
        a.append(a[-1] * covariance(flow, r, t) / covariance(flow, t, t))
    return a


def trained(flow, grid, a=None):
    """The velocity whose map from n / T to 0 is f_n, as training on the grid leaves it (or with other slopes)."""
    slope = torch.tensor(a or slopes(flow, grid), dtype=torch.float64)

    def u(x, t, s):
        end = flow.mean0 + column(slope[(t * grid).round().long()]) * (x - flow.mean(column(t)))
        return (x - end) / column(t).clamp(min=1e-9)  # at t = 0 the map stays where it is

    return u


def differ(a, b):
    """Largest difference."""
    return (a - b).abs().max().item()


def target_of(u, x, v, t, s, step):
    return consistency_target(u, x, v, t, s, torch.full_like(t, step))


@pytest.mark.parametrize("spread", SPREADS)
def test_the_exact_map_is_constant_along_the_flow_and_ends_in_a_sample(noise, spread):
    flow = flow_of(spread)
    x1 = flow.mean1 + flow.std1 * noise
    end = flow.mean0 + flow.std0 * noise
    assert differ(flow_map(flow.u, x1, times(1.0), times(0.0)), end) < 1e-13
    for t in (1.0, 0.7, 0.2):
        x_t = flow.map(x1, times(1.0), times(t))
        exact = flow.mean0 + flow.std0 / math.sqrt(covariance(flow, t, t)) * (x_t - flow.mean(t))
        assert differ(exact, end) < 1e-13
        assert differ(flow_map(flow.u, x_t, times(t), times(0.0)), exact) < 1e-13
        u = flow.u(x_t, times(t), times(0.0))
        assert differ(x_t - t * u, end) < 1e-13


@pytest.mark.parametrize("spread", SPREADS)
def test_the_noisy_end_makes_the_forward_process(noise, spread):
    """``x0 + t (y - x0) + sigma t eps`` is the interpolant, its mean velocity the regression of v on x_t."""
    flow, t = flow_of(spread), torch.linspace(0, 1, 16, dtype=torch.float64)
    x0, time = noise.flip(0), column(t)
    end = flow.mean1 + flow.std1 * noise
    assert differ(interpolant(x0, end, t), x0 + time * (flow.mean1 - x0) + flow.std1 * time * noise) < 1e-13
    slope = (time * flow.std1**2 - (1 - time) * flow.std0**2) / covariance(flow, time, time)
    velocity = flow.mean1 - flow.mean0 + slope * (x0 - flow.mean(time))
    assert differ(flow.velocity(x0, t), velocity) < 1e-13


@pytest.mark.parametrize("step", [0.5, 0.1, 1e-3])
@pytest.mark.parametrize("end", [0.0, 0.3])
def test_the_exact_map_is_its_own_target_along_the_true_chord(noise, step, end):
    flow, x = flow_of(0.5), noise
    t, s = torch.linspace(end + 0.05, 1, 16, dtype=torch.float64), times(end)
    chord = flow.u(x, t, torch.maximum(t - step, s))
    assert (target_of(flow.u, x, chord, t, s, step) - flow.u(x, t, s)).abs().max() < 1e-12


def test_at_the_first_time_of_the_grid_the_target_is_the_pair_itself(noise):
    flow, t, s = flow_of(0.5), times(1 / 3), times(0.0)
    x0, x1 = noise, noise.flip(0)
    x_t, v = interpolant(x0, x1, t), conditional_velocity(x0, x1)
    for step in (1 / 3, 0.7):
        target = target_of(flow.u, x_t, v, t, s, step)
        assert torch.equal(target, v)
        assert differ(x_t - target / 3, x0) < 1e-13


def test_short_steps_move_a_wrong_map_as_the_eulerian_does(noise):
    """``(target - u) (t - s) / step`` tends to ESD's ``target - u``, by the length of the step."""
    flow, t, s = flow_of(0.7), times(0.8), times(0.2)

    def u(x, t, s):
        return torch.sin(2 * x + column(t)) * column(1 + s * t)

    x, v = noise, flow.velocity(noise, t)
    limit = eulerian_target(u, x, v, t, s) - u(x, t, s)
    assert limit.abs().max() > 0.1
    gaps = []
    for step in (1e-2, 1e-3, 1e-4):
        residual = (target_of(u, x, v, t, s, step) - u(x, t, s)) * column(t - s) / step
        gaps.append((residual - limit).abs().max().item())
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.1)
    assert gaps[1] / gaps[2] == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("grid", [2, 3, 4, 16])
def test_training_on_a_grid_ends_where_the_mean_target_is_the_map_itself(noise, spread, grid):
    """The mean over the pairs of one x_t: every target is linear in v, whose mean is the flow's velocity."""
    flow = flow_of(spread)
    for n in range(1, grid + 1):
        t = times(n / grid)
        x = flow.mean(column(t)) + noise
        u = trained(flow, grid)
        mean = target_of(u, x, flow.velocity(x, t), t, times(0.0), 1 / grid)
        assert differ(mean, u(x, t, times(0.0))) < 1e-12
        other = trained(flow, grid, [1.0, *(1.1 * a for a in slopes(flow, grid)[1:])])
        shifted = target_of(other, x, flow.velocity(x, t), t, times(0.0), 1 / grid) - other(x, t, times(0.0))
        assert n > 1 or shifted.abs().max() > 0.01


@pytest.mark.parametrize("spread", SPREADS)
def test_one_step_keeps_the_product_of_the_correlations_of_neighbours(spread):
    flow, kept = flow_of(spread), []
    for grid in (2, 3, 4, 8, 16, 128):
        share = slopes(flow, grid)[-1] * flow.std1 / flow.std0
        correlations = [
            covariance(flow, r, t) / math.sqrt(covariance(flow, r, r) * covariance(flow, t, t))
            for r, t in ((n / grid, (n + 1) / grid) for n in range(grid))
        ]
        assert share == pytest.approx(math.prod(correlations), abs=1e-13)
        inverse = flow_of(1 / spread)  # only the ratio counts, and its inverse is the same
        assert share == pytest.approx(slopes(inverse, grid)[-1] * inverse.std1 / inverse.std0, abs=1e-13)
        kept.append(share)
    assert kept == sorted(kept)
    assert kept[1] < 0.65  # the paper's three steps are close to the posterior mean in a pixel metric
    assert kept[-1] > 0.96


@pytest.mark.parametrize("loss", [lambda d: d.square(), charbonnier], ids=["squares", "Charbonnier"])
def test_the_best_slope_on_samples_is_the_closed_forms(generator, loss):
    """Of 200 000 pairs on a grid of 3, where the loss's own gradient changes its sign."""
    flow, grid, n = flow_of(0.5), 3, 200_000
    x0, eps = torch.randn(2, n, 1, 1, 1, generator=generator, dtype=torch.float64)
    x0, x1 = flow.mean0 + flow.std0 * x0, flow.mean1 + flow.std1 * eps
    a = [1.0]
    for k in range(1, grid + 1):
        t, zero = times(k / grid, n), times(0.0, n)
        x_t, v = interpolant(x0, x1, t), conditional_velocity(x0, x1)
        before = trained(flow, grid, [*a, *[0.0] * (grid + 1 - len(a))])
        target = x_t - column(t) * target_of(before, x_t, v, t, zero, 1 / grid)

        def slope(b, x_t=x_t, t=t, target=target):
            b = torch.tensor(b, dtype=torch.float64, requires_grad=True)
            loss(flow.mean0 + b * (x_t - flow.mean(column(t))) - target).mean().backward()
            return b.grad.item()

        low, high = 0.0, 2.0
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (middle, high) if slope(middle) < 0 else (low, middle)
        a.append((low + high) / 2)
    assert a == pytest.approx(slopes(flow, grid), abs=5e-3)


def frozen_pair(flow, noise):
    """Prediction, HR and a fresh end, of one LR image."""
    x0 = flow.mean0 + flow.std0 * noise
    return x0 + 0.1 * noise.flip(0).sin(), x0, flow.mean1 + flow.std1 * noise.roll(1, 0)


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("n", [1, 2])
def test_the_gap_is_the_error_on_a_smaller_scale_whatever_the_noise(noise, spread, n):
    """``Delta = a_n (1 - tau) (x^_0 - x0)`` at tau = n / T; with its weight it has one size for every sample."""
    flow, grid = flow_of(spread), 3
    u, tau = trained(flow, grid), times(n / grid)
    predicted, x0, end = frozen_pair(flow, noise)
    share = slopes(flow, grid)[n] * (1 - n / grid)
    delta = trajectory_gap(u, predicted, x0, end, tau)
    assert differ(delta, share * (predicted - x0)) < 1e-13
    assert differ(delta, trajectory_gap(u, predicted, x0, end + 1, tau)) < 1e-13
    size = (column(nearness(predicted, x0)) * delta).abs().mean(dim=(1, 2, 3))
    assert differ(size, torch.full_like(size, share)) < 1e-13


def test_the_weight_of_what_is_there_already_is_bounded(noise):
    assert torch.equal(nearness(noise, noise), times(1 / NEAREST))
    assert torch.allclose(nearness(noise + 0.1, noise), times(10.0))


def test_with_squares_the_gradient_is_the_gaps(noise):
    """That of the code, ``omega d(x^_0, sg(x^_0) - Delta)``, and the paper's, ``d(x^_0, sg(x^_0) - omega Delta)``."""
    flow, grid = flow_of(0.5), 3
    predicted, x0, end = frozen_pair(flow, noise)
    predicted.requires_grad_()
    with torch.no_grad():
        delta = trajectory_gap(trained(flow, grid), predicted, x0, end, times(1 / grid))
        omega = column(nearness(predicted, x0))
    share = slopes(flow, grid)[1] * (1 - 1 / grid)
    fixed = predicted.detach()
    for loss in (
        omega * (predicted - (fixed - delta)).square() / 2,
        (predicted - (fixed - omega * delta)).square() / 2,
    ):
        (gradient,) = torch.autograd.grad(loss.sum(), predicted)
        assert differ(gradient, omega * share * (predicted - x0)) < 1e-13


@pytest.mark.parametrize("q", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("n", [2, 3])
def test_with_squares_matching_takes_detail_away(n, q):
    """Both terms together settle at ``b = (a_{n-1} C_{r,t} + q (1 - t) v) / ((1 + q) S_t^2)``, by exact quadrature.

    q is omega's weight times ``a_n (1 - tau)``, held constant. The more of it, the closer to the posterior mean.
    """
    flow, grid = flow_of(0.16), 3
    nodes, weights = (torch.tensor(part) for part in np.polynomial.hermite_e.hermegauss(3))
    h, eps = (part.reshape(-1, 1, 1, 1) for part in torch.meshgrid(nodes, nodes, indexing="ij"))
    weight = torch.outer(weights, weights).reshape(-1, 1, 1, 1) / (2 * math.pi)
    x0, x1 = flow.mean0 + flow.std0 * h, flow.mean1 + flow.std1 * eps
    r, time = (n - 1) / grid, n / grid
    t, zero, tau = times(time, 9), times(0.0, 9), times(1 / grid, 9)
    x_t, v = interpolant(x0, x1, t), conditional_velocity(x0, x1)
    a, u = slopes(flow, grid), trained(flow, grid)
    target = x_t - column(t) * target_of(u, x_t, v, t, zero, 1 / grid)
    posterior = (1 - time) * flow.std0**2
    best = (a[n - 1] * covariance(flow, r, time) + q * posterior) / ((1 + q) * covariance(flow, time, time))
    b = torch.tensor(best, dtype=torch.float64, requires_grad=True)
    predicted = flow.mean0 + b * (x_t - flow.mean(column(t)))
    fixed, delta = predicted.detach(), trajectory_gap(u, predicted.detach(), x0, x1.flip(0), tau)
    weight_of_gap = q / (a[1] * (1 - 1 / grid))
    loss = (predicted - target).square() + weight_of_gap * (predicted - fixed + delta).square()
    (gradient,) = torch.autograd.grad((weight * loss).sum(), b)
    assert abs(gradient.item()) < 1e-13
    assert posterior / covariance(flow, time, time) < best < a[n]
