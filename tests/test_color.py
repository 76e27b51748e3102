import pytest
import torch
from flowmapsr.flowmapsr_core.color import METHODS, gaussian_blur, match_color
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.metrics import high_frequency_energy
from flowmapsr.flowmapsr_core.resize import resize


@pytest.fixture
def pair(photo):
    """An HR image and its LR source."""
    return photo, resize(photo, (30, 41)).clamp(0, 1)


@pytest.mark.parametrize("method", METHODS)
def test_a_faithful_result_stays_as_it_is(pair, method):
    hr, lr = pair
    assert (match_color(hr, lr, method) - hr).abs().mean() < 0.012


@pytest.mark.parametrize("method", [name for name in METHODS if name != "none"])
def test_a_colour_cast_is_removed_without_losing_detail(pair, method):
    hr, lr = pair
    cast = hr * 0.8 + torch.tensor([0.1, 0.0, 0.05]).reshape(1, 3, 1, 1)
    fixed = match_color(cast, lr, method)
    shift, before = (gaussian_blur(image - hr, 8).abs().mean() for image in (fixed, cast))
    assert shift < 0.25 * before
    assert high_frequency_energy(fixed) > 0.97 * high_frequency_energy(cast)


def test_local_drift_is_removed_by_the_local_methods(pair):
    hr, lr = pair
    drift = 0.15 * torch.linspace(-1, 1, hr.shape[-1]).expand_as(hr)
    for method, left in (("lr-residual", 0.1), ("wavelet", 0.35), ("adain", 2)):
        error = gaussian_blur(match_color(hr + drift, lr, method) - hr, 8).abs().mean()
        assert error < left * drift.abs().mean(), method


def test_strength_blends(pair):
    hr, lr = pair
    cast = hr + 0.1
    assert match_color(cast, lr, strength=0) is cast
    full, half = match_color(cast, lr), match_color(cast, lr, strength=0.5)
    assert torch.allclose(half, (full + cast) / 2, atol=1e-6)


def test_what_cannot_be_done_is_said(pair):
    with pytest.raises(UserError, match="lr-residual"):
        match_color(*pair, method="lab2")
    with pytest.raises(UserError, match="from 0"):
        match_color(*pair, strength=1.5)


def test_gaussian_blur_has_its_width():
    impulse = torch.zeros(1, 1, 41, 41)
    impulse[..., 20, 20] = 1
    blurred = gaussian_blur(impulse, 3)[0, 0]
    axis = torch.arange(41) - 20.0
    assert torch.allclose(blurred.sum(), torch.tensor(1.0), atol=1e-5)
    assert abs((blurred.sum(0) * axis.square()).sum().sqrt().item() - 3) < 0.1
