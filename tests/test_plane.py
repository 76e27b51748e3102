import pytest
import torch
from flowmapsr.trainer.tools.plane import PROBLEMS, errors, train

GAUSSIANS = PROBLEMS["Gaussian pair"]
NAMES = ("flow-matching", "shortcut", "lagrangian", "eulerian")


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


def test_one_jump_of_self_distillation_beats_one_euler_step():
    error = {name: errors(GAUSSIANS, train(GAUSSIANS, name, steps=200))[0] for name in NAMES}
    euler = error.pop("flow-matching")
    assert max(error.values()) < euler / 3, (error, euler)
