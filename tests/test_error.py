import math

import pytest
import torch
from flowmapsr.flowmapsr_core.codecs import PixelCodec
from flowmapsr.trainer.losses.error import SIDE, squared_error


def test_without_a_weight_it_is_the_mean_of_squares(generator):
    error = torch.randn(3, 12, 24, 16, generator=generator)
    assert torch.equal(squared_error(error), error.square().mean(dim=(1, 2, 3)))


def test_detail_counts_twice_and_a_grid_by_all_the_cells_it_is_in(generator):
    detail = torch.randn(1, 48, 256, 256, generator=generator, dtype=torch.float64)
    assert math.isclose(squared_error(detail, grid=1.0), 2 * squared_error(detail), rel_tol=0.02)
    grid = torch.randn(1, 48, 1, 1, generator=generator, dtype=torch.float64).expand(1, 48, 32, 32)
    assert math.isclose(squared_error(grid, grid=0.5), (1 + 0.5 * SIDE**2) * squared_error(grid), rel_tol=1e-12)


@pytest.mark.parametrize(("period", "share"), [(4, 1), (2, 1), (128 / 26, 0)])
def test_only_periods_that_every_cell_repeats_are_a_grid(period, share):
    """Waves over a picture of 32 cells, of a cell's length, of half of it, and a fifth longer."""
    wave = torch.cos(2 * math.pi * torch.arange(128, dtype=torch.float64) / period)
    error = PixelCodec(4).encode(wave.expand(1, 3, 128, 128))
    error = error - error.mean()
    found = (squared_error(error, grid=1.0) / squared_error(error) - 1) / SIDE**2
    assert math.isclose(found, share, abs_tol=0.1)


def test_latents_smaller_than_a_neighbourhood_are_one():
    error = torch.full((2, 4, 3, 5), 0.5)
    assert torch.allclose(squared_error(error, grid=1.0), torch.full((2,), 0.25 + 9 * 0.25))


def test_at_full_evenness_a_wall_pulls_as_hard_as_foliage(generator):
    """Gradients of two neighbourhoods, of which one errs a hundred times as far."""
    error = torch.randn(1, 12, SIDE, 2 * SIDE, generator=generator, dtype=torch.float64)
    error[..., :SIDE] *= 100
    error.requires_grad_()

    def pulls(even):
        (gradient,) = torch.autograd.grad(squared_error(error, even=even).sum(), error)
        along = (gradient * error).detach()
        return along[..., :SIDE].sum() / along[..., SIDE:].sum()

    assert math.isclose(pulls(0.0), 10_000, rel_tol=0.1)
    assert math.isclose(pulls(0.5), 100, rel_tol=0.1)
    assert math.isclose(pulls(1.0), 1, rel_tol=0.1)


def test_an_error_of_the_usual_size_weighs_the_same_however_even():
    error = torch.full((2, 4, 20, 12), 8 / 127.5)
    for even in (0.0, 0.5, 1.0):
        assert torch.allclose(squared_error(error, grid=0.5, even=even), squared_error(error, grid=0.5), rtol=0.01)
