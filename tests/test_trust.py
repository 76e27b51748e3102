"""How far an LR image can be trusted, with the weights that are shipped."""

from pathlib import Path

import pytest
import torch
from flowmapsr.flowmapsr_core.images.color import residual_bands
from flowmapsr.flowmapsr_core.images.jpeg import jpeg
from flowmapsr.flowmapsr_core.images.picture_files import read_picture
from flowmapsr.flowmapsr_core.images.resize import resize
from flowmapsr.flowmapsr_core.images.trust import Trust, load_trust, trusted_shares

CPU = torch.device("cpu")
JETTY = Path(__file__).parent / "data" / "jetty.png"


@pytest.fixture(scope="module")
def hr():
    """A photograph (1, 3, H, W) of whole multiples of 4 pixels."""
    picture = read_picture(JETTY).color
    return picture[..., : picture.shape[-2] // 4 * 4, : picture.shape[-1] // 4 * 4]


@pytest.fixture(scope="module")
def lr(hr):
    return resize(hr, (hr.shape[-2] // 4, hr.shape[-1] // 4)).clamp(0, 1)


def shares(lr):
    """Of the finest band (h, w), where the result is the LR image, enlarged by bicubic."""
    enlarged = resize(lr, (4 * lr.shape[-2], 4 * lr.shape[-1]))
    return load_trust(CPU)(lr, residual_bands(enlarged, lr)[1])[0, -1]


def test_the_cleaner_an_lr_image_the_more_it_is_trusted(lr, generator):
    noise = torch.randn(lr.shape, generator=generator) / 255
    made = [lr, lr + 4 * noise, lr + 12 * noise], [lr, jpeg(lr, torch.tensor([80.0])), jpeg(lr, torch.tensor([30.0]))]
    for images in made:
        found = [shares(image).mean() for image in images]
        assert found == sorted(found, reverse=True)
        assert found[0] > 0.6 > 0.3 > found[-1]


def test_a_share_belongs_to_a_place(lr, generator):
    """Noise in the left half alone."""
    half, middle = lr.clone(), lr.shape[-1] // 2
    half[..., :middle] += 12 / 255 * torch.randn(half[..., :middle].shape, generator=generator)
    found = shares(half)
    assert found[:, : middle - 8].mean() < found[:, middle + 8 :].mean() - 0.2


def test_noise_that_is_seen_in_a_part_tells_of_all(lr, generator):
    noisy, middle = lr.clone(), lr.shape[-1] // 2
    noisy[..., :middle] += 12 / 255 * torch.randn(noisy[..., :middle].shape, generator=generator)
    both = torch.cat([lr, noisy])
    enlarged = resize(both, (4 * lr.shape[-2], 4 * lr.shape[-1]))
    clean, doubted = trusted_shares(both, residual_bands(enlarged, both)[1])[:, -1]
    assert doubted.max() < 0.1 < 0.5 < clean.mean()


def test_what_is_certain_is_added_whole(hr, lr):
    coarser = trusted_shares(lr, residual_bands(hr + 0.01, lr)[1])[:, 0]
    assert coarser.median() > 0.85


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (17, 22)])
@pytest.mark.parametrize("wrap", ["", "x", "xy"])
def test_any_size_gets_shares_from_0_to_1(generator, size, wrap):
    lr, *bands = torch.rand(3, 2, 3, *size, generator=generator)
    found = Trust(bands=2)(lr, bands, wrap)
    assert found.shape == (2, 2, *size)
    assert found.min() >= 0
    assert found.max() <= 1
