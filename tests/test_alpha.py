"""Transparent pictures: what is not visible does not show, after resampling either."""

import pytest
import torch
from flowmapsr.flowmapsr_core.cli.command import main
from flowmapsr.flowmapsr_core.images.alpha import fill_transparent
from flowmapsr.flowmapsr_core.images.picture_files import Picture, read_picture, write_picture
from flowmapsr.flowmapsr_core.images.resize import resize


@pytest.fixture
def disc():
    """Colour and alpha of an antialiased white disc, on black that is transparent."""
    y, x = torch.meshgrid(torch.arange(61.0), torch.arange(48.0), indexing="ij")
    alpha = (15.5 - ((y - 30) ** 2 + (x - 22) ** 2).sqrt()).clamp(0, 1)[None, None]
    return (alpha > 0).float().expand(-1, 3, -1, -1), alpha


def test_what_is_visible_keeps_its_colour_and_the_rest_takes_it_on(disc):
    color, alpha = disc
    assert fill_transparent(color, alpha).allclose(torch.ones_like(color))
    two = torch.rand(1, 3, 61, 48)
    two[:, :, :, :24], shown = torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1), torch.zeros(1, 1, 61, 48)
    shown[:, :, :, :3] = 0.25
    filled = fill_transparent(two, shown)
    assert torch.equal(filled[:, :, :, :3], two[:, :, :, :3])
    assert filled.allclose(two[:, :, :, :1].expand_as(two))


def test_images_without_such_pixels_stay_bit_for_bit():
    color = torch.rand(2, 3, 9, 14)
    assert fill_transparent(color, None) is color
    assert fill_transparent(color, torch.full((2, 1, 9, 14), 0.01)) is color
    alpha = torch.zeros(2, 1, 9, 14)
    assert torch.equal(fill_transparent(color, alpha), color)
    alpha[1, :, :4] = 1
    mixed = fill_transparent(color, alpha)  # one of the batch is transparent throughout
    assert torch.equal(mixed[0], color[0])
    assert torch.equal(mixed[1, :, :4], color[1, :, :4])
    assert not torch.equal(mixed[1], color[1])


@pytest.mark.parametrize("look", ["faithful", "balanced"])
def test_a_cut_out_has_no_dark_fringe(tmp_path, disc, look):
    write_picture(Picture(*disc), tmp_path / "in.png")
    arguments = ["--output", str(tmp_path / "out.png"), "--look", look, "--scale", "3", "--quiet"]
    assert main(["upscale", str(tmp_path / "in.png"), *arguments]) == 0
    result = read_picture(tmp_path / "out.png")
    over_white = result.color * result.alpha + 1 - result.alpha
    assert over_white.min() > 0.97


def test_a_degraded_cut_out_has_no_dark_fringe(tmp_path, disc):
    write_picture(Picture(*disc), tmp_path / "in.png")
    arguments = ["--output", str(tmp_path / "out.png"), "--scale", "2", "--preset", "bicubic"]
    assert main(["degrade", str(tmp_path / "in.png"), *arguments]) == 0
    assert read_picture(tmp_path / "out.png").color.min() > 0.99


def test_filling_reaches_as_far_as_the_kernel(disc):
    color, alpha = disc
    assert resize(fill_transparent(color, alpha), (244, 192)).min() > 0.99
