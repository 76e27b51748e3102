import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.images.degradation import PRESETS, blur, blur_kernel, degrade, lr_size, preset, to_hr_grid
from flowmapsr.flowmapsr_core.images.jpeg import jpeg
from flowmapsr.flowmapsr_core.images.metrics import high_frequency_energy, psnr_y
from flowmapsr.flowmapsr_core.images.resize import resize
from PIL import Image


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("factor", [1.0, 2.7, 8.0])
def test_sizes_ranges_and_determinism(photo, name, factor):
    batch = photo.repeat(3, 1, 1, 1)
    for seed in range(4):
        lr = degrade(batch, factor, preset(name), seeded(seed))
        assert lr.shape == (3, 3, *lr_size((90, 122), factor))
        assert lr.min() >= 0
        assert lr.max() <= 1
        assert torch.isfinite(lr).all()
        assert torch.equal(lr, degrade(batch, factor, preset(name), seeded(seed)))
        grid = to_hr_grid(lr, (90, 122), preset(name), seeded(seed))
        assert grid.shape == batch.shape
        assert grid.min() >= 0
        assert grid.max() <= 1
    if name != "bicubic":
        assert not torch.equal(lr, degrade(batch, factor, preset(name), seeded(99)))
        assert not torch.equal(lr[0], lr[1])  # drawn per image


def test_bicubic_preset_is_plain_bicubic(photo):
    lr = degrade(photo, 2, preset("bicubic"), seeded(0))
    assert torch.equal(lr, resize(photo, (45, 61)).clamp(0, 1))


def test_bicubic_is_pillows(photo):
    for size in ((45, 61), (33, 77), (180, 300)):
        ours = resize(photo, size)
        for channel in range(3):
            plane = Image.fromarray(photo[0, channel].numpy(), "F")
            theirs = np.asarray(plane.resize((size[1], size[0]), Image.Resampling.BICUBIC))
            assert np.abs(ours[0, channel].numpy() - theirs).max() < 1e-5


def test_faults_of_cameras_come_alone_too(photo):
    """Of 60 pictures some have none, and some are of noise without the blocks of JPEG."""
    clean = resize(photo, (30, 41)).clamp(0, 1)
    same = [replace(stage, blur=0, modes=("bicubic",)) for stage in preset("camera")]
    made = [degrade(photo, photo.shape[-1] / 41, tuple(same), seeded(seed)) for seed in range(60)]
    errors = torch.stack([(image - clean).square().mean().sqrt() for image in made if image.shape == clean.shape])
    assert len(errors) == 60
    assert 4 < (errors < 1e-6).sum() < 25
    assert (errors > 5 / 255).sum() > 15


def test_unknown_preset_is_an_error_that_lists_them():
    with pytest.raises(UserError, match="real-esrgan"):
        preset("blurry")


@pytest.mark.parametrize("quality", [30, 60, 95])
def test_jpeg_loses_what_libjpeg_loses(quality):
    y, x = torch.meshgrid(torch.linspace(0, 6, 64), torch.linspace(0, 6, 72), indexing="ij")
    image = torch.stack([x.sin() * y.cos(), (x + y).sin(), x.cos()])[None] * 0.4 + 0.5
    image += torch.randn(image.shape, generator=seeded(0)) * 0.03
    samples = (image.clamp(0, 1)[0].permute(1, 2, 0) * 255).round().byte().numpy()
    file = io.BytesIO()
    Image.fromarray(samples).save(file, "JPEG", quality=quality, subsampling=2)
    theirs = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None] / 255
    original = torch.from_numpy(samples).permute(2, 0, 1)[None] / 255
    ours = jpeg(original, torch.tensor([float(quality)]))
    assert (ours - theirs).abs().mean() < 0.35 * (original - theirs).abs().mean()
    assert abs(psnr_y(ours, original) - psnr_y(theirs, original)).item() < 0.3


def test_jpeg_takes_any_size_and_a_quality_per_image():
    image = torch.rand(2, 1, 13, 21, generator=seeded(0)).expand(-1, 3, -1, -1)
    both = jpeg(image, torch.tensor([10.0, 95.0]))
    assert both.shape == image.shape
    assert torch.allclose(both[:1], jpeg(image[:1], torch.tensor([10.0])), atol=1e-6)
    assert (both[0] - image[0]).abs().mean() > 2 * (both[1] - image[1]).abs().mean()


@pytest.mark.parametrize("family", ["gaussian", "anisotropic", "generalized", "plateau", "sinc"])
def test_blur_kernels_are_normalised_and_keep_flat_areas(family):
    kernel = blur_kernel(family, 1.3, 10, seeded(0))
    assert kernel.shape == (21, 21)
    assert torch.allclose(kernel.sum(), torch.tensor(1.0), atol=1e-5)
    assert torch.allclose(kernel, kernel.flip(0, 1), atol=1e-5)
    flat = torch.full((2, 3, 30, 30), 0.4)
    assert torch.allclose(blur(flat, torch.stack([kernel, kernel])), flat, atol=1e-5)


def test_noise_has_the_stated_strength():
    from flowmapsr.flowmapsr_core.images.degradation import Degradation

    flat = torch.full((400, 3, 16, 16), 0.5)
    stage = Degradation(blur=0, jpeg=0, gaussian=1, gaussian_sigma=(5, 5), gray=0.25, modes=("area",))
    noise = (degrade(flat, 1, (stage,), seeded(0)) - 0.5) * 255
    assert abs(noise.std().item() - 5) < 0.1
    gray = (noise - noise[:, :1]).abs().amax(dim=(1, 2, 3)) == 0
    assert 0.15 < gray.float().mean() < 0.35
    stage = Degradation(blur=0, jpeg=0, gaussian=0, poisson_scale=(1, 1), modes=("area",))
    noise = (degrade(flat, 1, (stage,), seeded(0)) - 0.5) * 255
    assert abs(noise.std().item() - (0.5 * 255) ** 0.5) < 0.2  # Poisson: variance equals the count


def test_metrics_have_their_closed_forms(photo):
    assert torch.allclose(psnr_y(photo, photo + 0.1), torch.tensor([-20 * np.log10(0.1 * 219 / 255)]), atol=1e-4)
    assert high_frequency_energy(torch.full((1, 3, 20, 20), 0.3)) < 1e-12
    stripes = torch.zeros(1, 3, 20, 20)
    stripes[..., ::2] = 1  # at the Nyquist frequency the binomial passes nothing
    assert abs(high_frequency_energy(stripes)[0].item() - (0.5 * 219 / 255) ** 2) < 0.02
