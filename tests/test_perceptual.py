import sys
from urllib.error import URLError

import pytest
import torch
from flowmapsr.flowmapsr_core.codecs import PixelCodec
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.trainer.losses.perceptual import Loss, Perceptual
from flowmapsr.trainer.losses.windows import decoded_windows, windows

CODEC = PixelCodec(2)
LPIPS = Loss(perceptual=4.0, backbone="squeeze", pretrained=False)


@pytest.fixture
def perceptual():
    """Small windows, so that they have room to move."""
    torch.manual_seed(0)
    return Perceptual(LPIPS, largest=32)


def lpips(perceptual, latent, hr, t, place):
    return perceptual(latent, hr, t, torch.zeros(4), CODEC, place)["perceptual"]


@pytest.fixture
def hr(photo):
    """Four parts of the photo, (4, 3, 48, 64)."""
    return torch.cat([photo[..., y : y + 48, x : x + 64] for y in (0, 40) for x in (0, 50)])


def places(seed=0):
    return torch.rand(4, 2, generator=torch.Generator().manual_seed(seed))


def test_is_zero_for_equal_images(perceptual, hr):
    distance = lpips(perceptual, CODEC.encode(hr), hr, torch.zeros(4), places())
    assert distance.shape == (4,)
    assert distance.abs().max() < 1e-9


def test_grows_with_the_distortion(perceptual, hr, generator):
    noise = torch.randn(4, 12, 24, 32, generator=generator)
    latent, t = CODEC.encode(hr), torch.zeros(4)
    distances = [lpips(perceptual, latent + scale * noise, hr, t, places()) for scale in (0.02, 0.1, 0.5)]
    assert (distances[0] > 0).all()
    assert (distances[1] > distances[0]).all()
    assert (distances[2] > distances[1]).all()


def test_is_lpips_weighted_by_one_minus_t(perceptual, hr):
    perceptual.largest = 48
    hr = hr[..., :48]
    predicted = hr.flip(-1)
    corner = torch.zeros(4, 2)
    t = torch.tensor([0.0, 0.25, 0.5, 1.0])
    weighted = lpips(perceptual, CODEC.encode(predicted), hr, t, corner)
    shown = (2 * image[..., :46, :46] - 1 for image in (predicted, hr))  # a cell is left for the corner to lie in
    plain = perceptual.distances["perceptual"](*shown).flatten()
    assert torch.allclose(weighted, 4 * (1 - t) * plain)
    assert weighted[3] == 0
    assert plain.min() > 0


def test_only_the_cells_of_one_window_get_gradient(perceptual, hr):
    corners = []
    for seed in range(8):
        latent = CODEC.encode(hr.flip(-1)).requires_grad_()
        lpips(perceptual, latent, hr, torch.zeros(4), places(seed)).sum().backward()
        for touched in latent.grad.abs().sum(dim=1) > 0:
            rows, columns = touched.any(dim=1).nonzero().flatten(), touched.any(dim=0).nonzero().flatten()
            for cells in (rows, columns):
                assert len(cells) in (16, 17)  # 17 where the window begins within a cell
                assert cells[-1] - cells[0] == len(cells) - 1
            corners.append((int(rows[0]), int(columns[0])))
    assert len(set(corners)) > 20
    assert {row for row, _ in corners} >= {0, 8}  # 24 - 16 is the last place: both borders are reached


def test_windows_begin_at_any_pixel_of_a_cell_and_pictures_match(generator):
    codec, hr = PixelCodec(4), torch.rand(64, 3, 32, 40, generator=generator)
    at = torch.cartesian_prod(torch.arange(8), torch.arange(8))
    place = (at + 0.5) / torch.tensor([32 - 24 + 1, 40 - 24 + 1])
    pictures = decoded_windows(codec.encode(hr), codec, place, largest=24)
    assert torch.equal(pictures, codec.decode(codec.encode(windows(hr, place, 24))))
    for picture, image, (top, left) in zip(pictures, hr, at.tolist(), strict=True):
        assert torch.allclose(picture, image[:, top : top + 24, left : left + 24], atol=1e-6)


def test_gradient_reaches_predictions_outside_the_range(perceptual, hr):
    perceptual.largest = 64
    latent = (CODEC.encode(hr) * 0.2 + torch.tensor([-3.0, 3.0, -3.0, 3.0]).reshape(4, 1, 1, 1)).requires_grad_()
    lpips(perceptual, latent, hr, torch.zeros(4), places()).sum().backward()
    assert ((CODEC.decode(latent) < 0) | (CODEC.decode(latent) > 1)).all()
    assert latent.grad.isfinite().all()
    assert (latent.grad.abs().amax(dim=(1, 2, 3)) > 0).all()


def test_is_frozen_and_silent(capsys, recwarn):
    perceptual = Perceptual(LPIPS).train()
    assert not any(module.training for module in perceptual.modules())
    assert not any(parameter.requires_grad for parameter in perceptual.parameters())
    assert capsys.readouterr() == ("", "")
    assert not recwarn.list


def test_says_which_weights_are_missing(monkeypatch, tmp_path):
    def no_network(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    with pytest.raises(UserError, match=r"squeezenet1_1-b8a52dc0\.pth.*no network.*into .*checkpoints"):
        Perceptual(Loss(perceptual=1.0, backbone="squeeze"))


def test_says_how_to_install_lpips(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(UserError, match=r"pip install 'flowmapsr\[train\]'"):
        Perceptual(LPIPS)
