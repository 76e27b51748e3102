import sys

import pytest
import torch
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.images import color
from flowmapsr.flowmapsr_core.images.color import (
    METHODS,
    gaussian_blur,
    lab_to_rgb,
    lr_residual,
    match_color,
    rgb_to_lab,
)
from flowmapsr.flowmapsr_core.images.metrics import color_difference, high_frequency_energy
from flowmapsr.flowmapsr_core.images.resize import resize
from flowmapsr.flowmapsr_core.upscaling.plan import CORRECTED
from live_memory import LiveMemory

CORRECTIONS = [name for name in METHODS if name != "none"]


@pytest.fixture
def pair(photo):
    """An HR image and its LR source."""
    return photo, resize(photo, (30, 41)).clamp(0, 1)


@pytest.mark.parametrize("method", METHODS)
def test_a_faithful_result_stays_as_it_is(pair, method):
    hr, lr = pair
    assert (match_color(hr, lr, method) - hr).abs().mean() < 0.012


@pytest.mark.parametrize("method", CORRECTIONS)
def test_a_colour_cast_is_removed_without_losing_detail(pair, method):
    hr, lr = pair
    cast = hr * 0.8 + torch.tensor([0.1, 0.0, 0.05]).reshape(1, 3, 1, 1)
    fixed = match_color(cast, lr, method)
    assert color_difference(fixed, hr) < 0.25 * color_difference(cast, hr)
    assert high_frequency_energy(fixed) > 0.97 * high_frequency_energy(cast)


def test_local_drift_is_removed_by_the_local_methods(pair):
    hr, lr = pair
    drift = 0.15 * torch.linspace(-1, 1, hr.shape[-1]).expand_as(hr)
    limits = {"lr-residual": 0.1, "wavelet": 0.35, "transport-smooth": 0.35, "back-projection": 0.1, "adain": 2}
    for method, left in limits.items():
        error = gaussian_blur(match_color(hr + drift, lr, method) - hr, 8).abs().mean()
        assert error < left * drift.abs().mean(), method


@pytest.mark.parametrize("method", CORRECTIONS)
def test_images_of_a_batch_do_not_see_each_other(pair, method):
    hr, lr = pair
    together = match_color(torch.cat([hr + 0.1, hr * 0.7]), torch.cat([lr, lr.flip(-1)]), method)
    assert torch.allclose(together[1:], match_color(hr * 0.7, lr.flip(-1), method), atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_gray_wall_stays_one(method):
    wall, lr = torch.full((1, 3, 48, 64), 0.6), torch.full((1, 3, 12, 16), 0.5)
    expected = wall if method == "none" else torch.full_like(wall, 0.5)
    assert torch.allclose(match_color(wall, lr, method), expected, atol=1e-3)


@pytest.mark.parametrize(
    "channels", [[[0.8, 0, 0], [0, 1.1, 0], [0, 0, 0.9]], [[0.8, 0.1, 0], [0.1, 1.0, 0.05], [0, 0.05, 0.9]]]
)
def test_transport_undoes_a_symmetric_mixing_of_the_channels(photo, channels):
    mixed = torch.einsum("ij,bjhw->bihw", torch.tensor(channels), photo) + 0.05
    fixed = match_color(mixed, resize(photo, (30, 41)), "transport")
    assert (fixed - photo).abs().max() < 1e-3


def test_smooth_transport_brings_contrast_back_and_not_only_the_mean(pair):
    hr, lr = pair
    flat = 0.5 + 0.6 * (hr - 0.5)
    error = (match_color(flat, lr, "transport-smooth") - hr).square().mean()
    assert error < 0.3 * (lr_residual(flat, lr) - hr).square().mean()


def test_back_projection_shrinks_to_the_source(pair):
    hr, lr = pair
    fixed = match_color(0.8 * hr + 0.1, lr, "back-projection")
    assert (resize(fixed, (30, 41)) - lr).abs().max() < 0.5 / 255


@pytest.mark.parametrize("method", ["lr-residual", "wavelet", "adain", "lab", "back-projection"])
def test_cut_into_parts_for_less_memory_a_method_gives_the_same(pair, method, monkeypatch):
    hr, lr = pair
    whole = METHODS[method](hr * 0.8, lr)
    monkeypatch.setattr(color, "BAND", 7)
    assert torch.allclose(match_color(hr * 0.8, lr, method), whole, atol=1e-6)


@pytest.mark.parametrize("method", CORRECTIONS)
@pytest.mark.parametrize("strength", [1, 0.5])
def test_a_correction_takes_little_more_memory_than_both_its_ends(method, strength, monkeypatch):
    monkeypatch.setattr(color, "BAND", 32)
    monkeypatch.setattr(color, "SAMPLES", 1000)
    sr = torch.rand(1, 3, 512, 640)
    for factor in (1.5, 4):
        lr = torch.rand(1, 3, int(512 / factor), int(640 / factor))
        with LiveMemory() as live:
            match_color(sr, lr, method, strength)
        assert live.peak < 1.25 * 4 * (CORRECTED - 3) * 512 * 640  # sr itself was there


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


@pytest.mark.parametrize("method", ["transport", "transport-smooth"])
def test_without_pot_the_message_says_how_to_install_it(pair, method, monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(UserError, match="pip install POT"):
        match_color(*pair, method=method)


@pytest.mark.parametrize("method", [name for name in METHODS if not name.startswith("transport")])
def test_other_methods_do_without_pot(pair, method, monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    match_color(*pair, method=method)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((1, 1, 1), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
        ((0.5, 0.5, 0.5), (53.39, 0, 0)),
    ],
)
def test_lab_of_known_colours(rgb, lab):
    measured = rgb_to_lab(torch.tensor(rgb, dtype=torch.float32).reshape(1, 3, 1, 1)).flatten()
    assert torch.allclose(measured, torch.tensor(lab, dtype=torch.float32), atol=0.03)


def test_lab_has_an_inverse_beyond_the_gamut(photo):
    wide = 1.4 * photo - 0.2
    assert torch.allclose(lab_to_rgb(rgb_to_lab(wide)), wide, atol=1e-4)


def test_gaussian_blur_has_its_width():
    impulse = torch.zeros(1, 1, 41, 41)
    impulse[..., 20, 20] = 1
    blurred = gaussian_blur(impulse, 3)[0, 0]
    axis = torch.arange(41) - 20.0
    assert torch.allclose(blurred.sum(), torch.tensor(1.0), atol=1e-5)
    assert abs((blurred.sum(0) * axis.square()).sum().sqrt().item() - 3) < 0.1
