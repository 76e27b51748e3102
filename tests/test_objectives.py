import pytest
import torch
from flowmapsr.flowmapsr_core.method.flow import flow_map
from flowmapsr.trainer.data.time_pairs import TimePairs
from flowmapsr.trainer.objectives import (
    JUMPS,
    USE_VELOCITY,
    biased_lagrangian_target,
    eulerian_target,
    flow_matching_target,
    guided_velocity,
    lagrangian_target,
    shortcut_target,
)
from gaussian_flow import STEPS, GaussianFlow, GuidedFlow, column
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

UNBIASED = [JUMPS[name] for name in ("shortcut", "lagrangian", "eulerian")]


@pytest.fixture
def case(generator):
    """Points of a Gaussian flow with random time pairs, float64."""
    flow = GaussianFlow()
    x = torch.randn(64, 1, 2, 3, generator=generator, dtype=torch.float64)
    times = torch.rand(64, 2, generator=generator, dtype=torch.float64)
    t, s = times.amax(dim=1), times.amin(dim=1)
    return flow, x, t, s


@pytest.fixture
def guided(generator):
    """A flow guided away from one with less detail in x0, w in [1, 3.5]."""
    w = 1 + 2.5 * torch.rand(64, generator=generator, dtype=torch.float64)
    return GuidedFlow(GaussianFlow(), GaussianFlow(std0=0.3), w)


def attention(x, t, s):
    """A velocity in which every row of pixels attends to all rows."""
    return scaled_dot_product_attention(x, torch.sin(x + column(t)), torch.cos(x * column(s + t)))


@pytest.mark.parametrize("objective", UNBIASED)
def test_the_exact_average_velocity_is_its_own_target(case, objective):
    flow, x, t, s = case
    target = objective(flow.u, x, flow.velocity(x, t), t, s)
    assert (target - flow.u(x, t, s)).abs().max() < 1e-10


@pytest.mark.parametrize("objective", UNBIASED)
def test_the_exact_guided_velocity_is_its_own_target(case, guided, objective):
    _, x, t, s = case
    v = guided_velocity(guided.negative.u, x, guided.positive.velocity(x, t), t, guided.w)
    target = objective(guided.u, x, v, t, s)
    assert (target - guided.u(x, t, s)).abs().max() < 1e-10
    assert (flow_matching_target(guided.u, x, v, t, t) - guided.u(x, t, t)).abs().max() < 1e-10
    assert (guided.u(x, t, s) - guided.positive.u(x, t, s)).abs().max() > 0.1


def test_biased_lagrangian_target_holds_for_euler_steps_only(case):
    flow, x, t, s = case
    v = flow.velocity(x, t)
    bias = biased_lagrangian_target(flow.u, x, v, t, s) - flow.u(x, t, s)
    assert torch.allclose(bias, v - flow.velocity(flow.map(x, t, s), s), atol=1e-10)
    assert bias.square().mean().sqrt() > 0.3
    assert torch.equal(biased_lagrangian_target(lambda x, t, s: flow.velocity(x, t), x, v, t, s), v)


def test_eulerian_target_averages_over_the_data(case, generator):
    flow, x, t, s = case
    v = flow.velocity(x, t)
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    pair = [eulerian_target(flow.u, x, v + sign * noise, t, s) for sign in (1, -1)]
    assert (sum(pair) / 2 - flow.u(x, t, s)).abs().max() < 1e-10


def test_flow_matching_target_is_the_velocity(case):
    flow, x, t, _ = case
    v = flow.velocity(x, t)
    assert torch.equal(flow_matching_target(flow.u, x, v, t, t), v)


@pytest.mark.parametrize("name", JUMPS)
def test_only_some_jumps_look_at_the_velocity(case, name):
    flow, x, t, s = case
    targets = [JUMPS[name](flow.u, x, v, t, s, **STEPS.get(name, {})) for v in (x, x + 1)]
    assert torch.equal(*targets) == (name not in USE_VELOCITY)


@pytest.mark.parametrize("u", [GaussianFlow().u, attention])
@torch.no_grad()
def test_jvp_targets_equal_central_differences(case, u):
    flow, x, t, s = case
    h = 1e-5
    jump, v = column(t - s), flow.velocity(x, t)
    u_s = (u(x, t, s + h) - u(x, t, s - h)) / (2 * h)
    expected = u(flow_map(u, x, t, s), s, s) + jump * u_s
    assert torch.allclose(lagrangian_target(u, x, v, t, s), expected, atol=1e-8)
    assert torch.allclose(biased_lagrangian_target(u, x, v, t, s), v + jump * u_s, atol=1e-8)
    u_t = (u(x + h * v, t + h, s) - u(x - h * v, t - h, s)) / (2 * h)
    assert torch.allclose(eulerian_target(u, x, v, t, s), v - jump * u_t, atol=1e-8)


@pytest.mark.parametrize("name", JUMPS)
def test_the_gradient_pass_keeps_fused_attention_and_checkpointing(case, name):
    _, x, t, s = case
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    fused = []

    def u(x, t, s):
        fused.append(torch.backends.cuda.flash_sdp_enabled())
        if not torch.is_grad_enabled():  # as networks do; torch below 2.12 cannot derive checkpointed ones
            return attention(scale * x, t, s)
        return checkpoint(attention, scale * x, t, s, use_reentrant=False)

    with torch.no_grad():
        target = JUMPS[name](u, x, x, t, s, **STEPS.get(name, {}))
    calls = {"shortcut": [True] * 2, "lagrangian": [False, True], "straight": []}
    calls |= {"trajectory": [True] * 3, "consistency": [True]}
    assert fused == calls.get(name, [False])
    (u(x, t, s) - target).square().mean().backward()
    assert fused[-1]
    assert scale.grad is not None
    assert scale.grad.abs() > 0


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
