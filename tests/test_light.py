"""Light brighter than white: the curve, and what keeps its amounts."""

import pytest
import torch
from flowmapsr.flowmapsr_core import upscale
from flowmapsr.flowmapsr_core.images.light import (
    KNEE,
    PEAK,
    WHITE,
    display_of,
    keep_light,
    light_of,
    paint_light,
    squeeze,
    stretch,
)
from flowmapsr.flowmapsr_core.images.resize import resize


def test_the_curve_has_an_inverse_and_grows_without_a_step_in_its_slope():
    values = torch.cat([torch.linspace(0, 2, 4001), torch.logspace(0.31, 2.0969, 4000)]).double()
    squeezed = squeeze(values)
    assert torch.allclose(stretch(squeezed), values, rtol=1e-12, atol=0)
    assert (squeezed.diff() > 0).all()
    assert squeezed[0] == 0
    assert 0.999 < squeeze(torch.tensor(PEAK)) < 1
    assert torch.allclose(squeezed[:2001], WHITE * values[:2001], rtol=1e-15)  # what a screen shows is a straight line
    near = torch.tensor([1 - 1e-6, 1, 1 + 1e-6, 1 + KNEE, 1 + KNEE + 1e-6]).double()
    slopes = squeeze(near).diff() / near.diff()
    assert torch.allclose(slopes[[0, 1, 3]], torch.tensor([1, 1, 0.5]).double() * WHITE, rtol=1e-4)


def test_half_floats_go_through_both_curves_and_come_back():
    light = torch.arange(0x7C00, dtype=torch.int16).view(torch.float16)  # every one from 0 to 65504
    again = light_of(stretch(squeeze(display_of(light.float()))))
    assert torch.equal(again.half(), light)


def test_srgb_goes_on_below_black_and_beyond_white():
    light = torch.tensor([-2.0, -0.001, 0, 0.0031308, 0.2140411, 1, 1000]).double()
    expected = torch.tensor([-25.84, -0.01292, 0, 0.04045, 0.5, 1, 18.7058]).double()
    assert torch.allclose(display_of(light), expected, atol=1e-4)
    assert torch.allclose(light_of(display_of(light)), light, rtol=1e-6)


@pytest.fixture
def lights():
    """Light (1, 3, 24, 40): a gradient, black, and a few highlights to 50 000."""
    light = torch.linspace(0.001, 2, 40).expand(1, 3, 24, 40).clone()
    light[..., :4, :] = 0
    light[..., 8:16, 4:12], light[..., 8:16, 20:28], light[..., 20, 33], light[:, 1, 2, 2] = 1000, 10, 300, 50_000
    return light


def test_at_its_own_size_a_result_is_the_source_whatever_was_painted(lights):
    spoiled = (lights * torch.rand(lights.shape)).flip(3)
    assert torch.allclose(keep_light(spoiled, lights), lights, rtol=1e-5, atol=1e-9)
    image = display_of(lights)
    image[..., :2, :3], image[..., 5, 5] = -0.3, PEAK + 100  # what the curve does not hold
    again = paint_light(lambda squeezed: (squeezed.flip(2) + 0.1).clamp(0, 1), image)
    assert torch.allclose(again, image, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("wrap", ["", "xy"])
def test_a_larger_result_has_the_light_of_its_source_everywhere(lights, wrap):
    blurred = light_of(stretch(resize(squeeze(display_of(lights)), (96, 160)).clamp(0, 1)))
    assert blurred[..., 32:64, 16:48].amax() > 5000  # beside 1000, a little overshoot in squeezed values
    kept = keep_light(blurred, lights, wrap)
    assert kept.min() >= 0
    assert kept[..., 32:64, 16:48].amax() < 2000
    before, after = (resize(light, (24, 40), "area") for light in (blurred, kept))
    assert (after - lights).abs().mean() < 0.2 * (before - lights).abs().mean()
    for (down, along), light in {(11, 8): 1000, (11, 24): 10}.items():
        assert after[0, :, down, along].tolist() == pytest.approx([light] * 3, rel=1e-3)
    small = (slice(None), slice(19, 22), slice(32, 35))  # a highlight of one pixel, and those around it
    assert before[0][small].sum() < 0.5 * lights[0][small].sum()
    assert after[0][small].sum() > 0.7 * lights[0][small].sum()


def test_upscaling_light_rolls_with_it(small_model):
    light = display_of(torch.rand(1, 3, 8, 12).pow(4) * 500)
    options = {"scale": 4.0, "hdr": True, "wrap": "xy", "color": "none"}
    first, rolled = (upscale(small_model, image, **options) for image in (light, light.roll((2, 4), (2, 3))))
    assert torch.allclose(light_of(first).roll((8, 16), (2, 3)), light_of(rolled), rtol=1e-3, atol=1e-3)


def test_ordinary_images_are_those_they_were(small_model, photo):
    plain = upscale(small_model, photo[..., :16, :16], scale=2)
    assert torch.equal(plain, upscale(small_model, photo[..., :16, :16], scale=2, hdr=False))
    assert plain.min() >= 0
    assert plain.max() <= 1
    beyond = upscale(small_model, photo[..., :16, :16] + 1, scale=2, hdr=True)
    assert beyond.mean().item() == pytest.approx(photo[..., :16, :16].mean().item() + 1, abs=0.05)
