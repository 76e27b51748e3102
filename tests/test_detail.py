"""How much detail a picture has: known spectra, and a photograph spoiled by known amounts."""

import io
from pathlib import Path

import pytest
import torch
from flowmapsr.flowmapsr_core.images import detail
from flowmapsr.flowmapsr_core.images.color import gaussian_blur
from flowmapsr.flowmapsr_core.images.eight_bit import eight_bit, to_pillow, to_tensor
from flowmapsr.flowmapsr_core.images.picture_files import read_picture
from flowmapsr.flowmapsr_core.images.resize import resize
from PIL import Image

JETTY = Path(__file__).parent / "data" / "jetty.png"


@pytest.fixture(scope="module")
def sharp():
    return read_picture(JETTY).color


def surplus(image):
    return detail.surplus(image).factor


def jpeg(image, quality):
    """An image as a JPEG file keeps it."""
    file = io.BytesIO()
    to_pillow(image[0]).save(file, "JPEG", quality=quality)
    return to_tensor(Image.open(file))[None]


def enlarged(image, factor, mode):
    size = [round(factor * side) for side in image.shape[-2:]]
    return eight_bit(resize(image, (size[0], size[1]), mode))


def noisy(image, step):
    return eight_bit(image + step / 255 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("factor", [1.5, 2, 3.1])
@pytest.mark.parametrize(("slope", "floor"), [(1.2, 1e-4), (2.0, 1e-3), (2.8, 1e-2)])
def test_a_line_with_a_cut_off_has_its_factor(slope, floor, factor):
    frequency = torch.arange(1, 64) / 128
    cut = 1 / (1 + (2 * frequency * factor / detail.CUT) ** detail.ORDER)
    found, gain = detail._fit((10 * (frequency**-slope * (cut + floor)).log10()).double())
    assert found == pytest.approx(factor, rel=0.06)
    assert gain > detail.GAIN


@pytest.mark.parametrize("slope", [1.2, 2.0, 2.8])
def test_a_line_alone_has_none(slope):
    frequency = torch.arange(1, 64, dtype=torch.float64) / 128
    for noise in (0, 1e-3, 1):
        _, gain = detail._fit(10 * (frequency**-slope + noise).log10())
        assert gain < detail.GAIN / 2


def test_a_sharp_photograph_stays_sharp_whatever_a_file_adds(sharp):
    half = sharp.clone()
    half[..., :220, :] = gaussian_blur(sharp, 3)[..., :220, :]  # what is out of focus is no soft picture
    for image in (sharp, noisy(sharp, 6), jpeg(sharp, 50), jpeg(sharp, 10), half, sharp[..., 200:, 300:]):
        assert surplus(image) == 1


@pytest.mark.parametrize(("mode", "factor"), [("bicubic", 2), ("bilinear", 2.5), ("bicubic", 3)])
def test_an_enlarged_photograph_has_the_detail_that_it_had(sharp, mode, factor):
    soft = enlarged(sharp, factor, mode)
    assert surplus(soft) == pytest.approx(factor, rel=0.25)
    assert surplus(jpeg(soft, 75)) == pytest.approx(factor, rel=0.25)
    assert detail.surplus(soft).safe == pytest.approx(surplus(soft) / detail.MARGIN)


@pytest.mark.parametrize("factor", [1.5, 2, 3, 4])
def test_repeated_pixels_are_counted(sharp, factor):
    found = detail.surplus(enlarged(sharp, factor, "nearest"))
    assert found.factor == found.safe == pytest.approx(factor, rel=0.01)


def test_more_blur_is_less_detail(sharp):
    found = [surplus(eight_bit(gaussian_blur(sharp, sigma))) for sigma in (1.0, 2.0, 3.0)]
    assert found == sorted(set(found))
    assert found[0] > 1.5
    assert found[-1] < 8.01


def test_pictures_that_say_nothing_stay_as_they_are():
    for image in (torch.full((1, 3, 300, 200), 0.4), torch.rand(1, 3, 20, 900), torch.rand(1, 3, 4, 4)):
        assert surplus(image) == 1
