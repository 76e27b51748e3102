import pytest
import torch
from flowmapsr.trainer.tools.plane import PROBLEMS, ROWS, errors, spread

GAUSSIANS = PROBLEMS["Gaussian pair"]
NAMES = ("shortcut", "lagrangian", "eulerian", "trajectory", "straight")


def test_the_integrated_map_is_the_closed_form(generator):
    _, x1 = GAUSSIANS.pairs(100, generator)
    expected = GAUSSIANS.means + GAUSSIANS.std0 / GAUSSIANS.std1 * (x1 - GAUSSIANS.mean1)
    assert torch.allclose(GAUSSIANS.map(x1), expected, atol=1e-5)


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_the_integrated_map_is_accurate_and_gives_the_data(generator, problem):
    x0, x1 = problem.pairs(20_000, generator)
    reached = problem.map(x1)
    assert torch.allclose(reached[:500], problem.map(x1[:500], steps=512), atol=1e-5)
    assert torch.allclose(reached.mean(dim=0), x0.mean(dim=0), atol=0.05)
    assert torch.allclose(reached.T.cov(), x0.T.cov(), atol=0.05)


@pytest.fixture(scope="module")
def euler():
    """Error of one Euler step."""
    return errors(GAUSSIANS, ROWS["flow-matching"](GAUSSIANS, steps=200))[0]


@pytest.mark.parametrize("name", NAMES)
def test_one_jump_of_self_distillation_beats_one_euler_step(euler, name):
    assert errors(GAUSSIANS, ROWS[name](GAUSSIANS, steps=200))[0] < euler / 3


def test_a_student_beats_one_euler_step_of_its_teacher(euler):
    assert errors(GAUSSIANS, ROWS["distillation"](GAUSSIANS, steps=400))[0] < euler / 3


def test_consistency_training_keeps_the_spread_of_the_closed_form():
    """On a grid of 4, the product of the correlations of neighbouring x_t; it has nothing of what the grid loses."""
    times, (std0, std1) = torch.linspace(0, 1, 5), (GAUSSIANS.std0, GAUSSIANS.std1)
    scaled = torch.stack([(1 - times)[:, None] * std0, times[:, None] * std1])  # of x_t, by what it is made of
    product, square = (scaled[:, 1:] * scaled[:, :-1]).sum(dim=0), scaled.square().sum(dim=0)
    kept = (product / (square[1:] * square[:-1]).sqrt()).prod(dim=0)
    found = spread(GAUSSIANS, ROWS["consistency-4"](GAUSSIANS, steps=400))
    assert torch.allclose(found, kept, atol=0.05)
    assert (kept < 0.75).all()
