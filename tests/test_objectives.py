import pytest
import torch
from flowmapsr.flowmapsr_core.flow import flow_map
from flowmapsr.trainer.objectives import (
    eulerian_target,
    flow_matching_target,
    guided_velocity,
    lagrangian_target,
    shortcut_target,
)
from flowmapsr.trainer.time_pairs import TimePairs
from gaussian_flow import GaussianFlow


@pytest.fixture
def case(generator):
    """Points of a Gaussian flow with random time pairs, float64."""
    flow = GaussianFlow()
    x = torch.randn(64, 1, 2, 3, generator=generator, dtype=torch.float64)
    times = torch.rand(64, 2, generator=generator, dtype=torch.float64)
    t, s = times.amax(dim=1), times.amin(dim=1)
    return flow, x, t, s


@pytest.mark.parametrize("objective", [shortcut_target, lagrangian_target, eulerian_target])
def test_the_exact_average_velocity_is_its_own_target(case, objective):
    flow, x, t, s = case
    target = objective(flow.u, x, flow.velocity(x, t), t, s)
    assert (target - flow.u(x, t, s)).abs().max() < 1e-10


def test_flow_matching_target_is_the_velocity(case):
    flow, x, t, _ = case
    v = flow.velocity(x, t)
    assert torch.equal(flow_matching_target(flow.u, x, v, t, t), v)


def test_jvp_targets_equal_central_differences(case):
    flow, x, t, s = case
    h = 1e-5

    def column(time):
        return time.reshape(-1, 1, 1, 1)

    v = flow.velocity(x, t)
    u_s = (flow.u(x, t, s + h) - flow.u(x, t, s - h)) / (2 * h)
    x_s = flow_map(flow.u, x, t, s)
    expected = flow.u(x_s, s, s) + column(t - s) * u_s
    assert torch.allclose(lagrangian_target(flow.u, x, v, t, s), expected, atol=1e-6)
    u_t = (flow.u(x + h * v, t + h, s) - flow.u(x - h * v, t - h, s)) / (2 * h)
    assert torch.allclose(eulerian_target(flow.u, x, v, t, s), v - column(t - s) * u_t, atol=1e-6)


def test_finest_half_jumps_use_instantaneous_velocities(case):
    flow, x, _, _ = case
    calls = []

    def u(x, t, s):
        calls.append((t.clone(), s.clone()))
        return flow.u(x, t, s)

    t = torch.full((64,), 0.5, dtype=torch.float64)
    t[::2] = 1.0
    s = torch.where(t == 1.0, 0.0, 0.25).double()
    shortcut_target(u, x, x, t, s, finest=1 / 8)
    (t1, s1), (t2, s2) = calls
    assert torch.equal(s1[1::2], t1[1::2])
    assert torch.equal(s2[1::2], t2[1::2])
    assert torch.equal(s1[::2], torch.full((32,), 0.5, dtype=torch.float64))
    assert torch.equal(s2[::2], torch.zeros(32, dtype=torch.float64))


def test_guidance_extrapolates_from_the_negative_velocity(case):
    flow, x, t, _ = case
    v, ones = flow.velocity(x, t), torch.ones_like(t)
    assert torch.equal(guided_velocity(flow.u, x, v, t, ones), v)
    shifted = guided_velocity(lambda x, t, s: v - 1, x, v, t, 3 * ones)
    assert torch.allclose(shifted, v + 2)


def test_time_pairs_lie_on_their_grids(generator):
    pairs = TimePairs(levels=3, start=0.5)
    t, s = pairs.flow_matching(4000, generator)
    assert torch.equal(t, s)
    assert set(t.tolist()) == {k / 8 for k in range(1, 9)}
    assert 0.5 < (t == 1).float().mean() < 0.62
    t, s = pairs.shortcut(4000, generator)
    lengths = (t - s).tolist()
    assert set(lengths) == {1.0, 0.5, 0.25}
    assert torch.equal((t / (t - s)).round(), t / (t - s))
    assert s.min() >= 0
    assert t.max() == 1


def test_coarse_pairs_can_be_favoured(generator):
    t, s = TimePairs(levels=2, coarse=3.0).shortcut(8000, generator)
    assert abs(((t - s) == 1).float().mean() - 0.75) < 0.03
    assert TimePairs().shortcut(0, generator)[0].shape == (0,)
