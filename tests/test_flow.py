import pytest
import torch
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.method.flow import conditional_velocity, flow_map, interpolant, sample
from gaussian_flow import GaussianFlow


@pytest.fixture
def pair(generator):
    return (torch.randn(3, 4, 6, 5, generator=generator, dtype=torch.float64) for _ in range(2))


def test_interpolant_ends_and_derivative(pair):
    x0, x1 = pair
    zero, one, t = torch.zeros(3), torch.ones(3), torch.full((3,), 0.25)
    assert torch.equal(interpolant(x0, x1, zero), x0)
    assert torch.allclose(interpolant(x0, x1, one), x1, atol=1e-15)
    slope = (interpolant(x0, x1, t + 0.5) - interpolant(x0, x1, t)) / 0.5
    assert torch.allclose(slope, conditional_velocity(x0, x1), atol=1e-14)


@pytest.mark.parametrize("steps", [1, 2, 4, 128])
def test_a_straight_flow_reaches_x0_exactly(pair, steps):
    x0, x1 = pair
    reached = sample(lambda x, t, s: x1 - x0, x1, steps)
    assert torch.allclose(reached, x0, atol=1e-13)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_any_number_of_exact_jumps_gives_the_same_point(generator, steps):
    flow = GaussianFlow()
    x1 = torch.randn(5, 1, 2, 2, generator=generator, dtype=torch.float64)
    end = flow.map(x1, torch.ones(5), torch.zeros(5))
    assert torch.allclose(sample(flow.u, x1, steps), end, atol=1e-12)


def test_jumps_compose(generator):
    flow = GaussianFlow()
    x = torch.randn(4, 1, 2, 2, generator=generator, dtype=torch.float64)
    t, m, s = (torch.full((4,), time, dtype=torch.float64) for time in (0.9, 0.4, 0.1))
    assert torch.allclose(flow_map(flow.u, flow_map(flow.u, x, t, m), m, s), flow_map(flow.u, x, t, s), atol=1e-13)


@pytest.mark.parametrize("steps", [1, 4])
def test_realism_0_is_the_posterior_mean(generator, steps):
    """x0 and x1 are independent here, so it is x0's mean whatever x1 is."""
    flow = GaussianFlow()
    x1 = torch.randn(5, 1, 2, 2, generator=generator, dtype=torch.float64)
    assert torch.allclose(sample(flow.u, x1, steps, realism=0.0), torch.full_like(x1, flow.mean0), atol=1e-14)


@pytest.mark.parametrize("steps", [1, 2, 8])
@pytest.mark.parametrize("realism", [0.25, 0.5, 1.0])
def test_realism_is_a_dial_between_mean_and_sample(generator, steps, realism):
    """OFTSR's: the chord through the state at s = 1 - realism ends at time 0 with spread (std_s - s std1) / (1 - s).

    An exact map gives it in any number of steps.
    """
    flow, s = GaussianFlow(), torch.tensor([1 - realism], dtype=torch.float64)
    e = torch.randn(5, 1, 2, 2, generator=generator, dtype=torch.float64)
    expected = flow.mean0 + (flow.std(s) - s * flow.std1) / (1 - s) * e
    assert torch.allclose(sample(flow.u, flow.mean1 + flow.std1 * e, steps, realism=realism), expected, atol=1e-7)


@pytest.mark.parametrize("realism", [-0.1, 1.5])
def test_realism_out_of_range_is_refused(realism):
    with pytest.raises(UserError, match="realism is"):
        sample(lambda x, t, s: x, torch.zeros(1, 1, 2, 2), 1, realism=realism)


def test_sample_leaves_its_input(pair):
    x0, x1 = pair
    before = x1.clone()
    sample(lambda x, t, s: x1 - x0, x1, 4)
    assert torch.equal(x1, before)


@pytest.mark.parametrize("steps", [0, 3, -2, 256])
def test_steps_that_are_no_power_of_two_are_refused(steps):
    with pytest.raises(UserError, match="power of two"):
        sample(lambda x, t, s: x, torch.zeros(1, 1, 2, 2), steps)
