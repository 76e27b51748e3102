"""Measures of libraries: what gives one of these takes a device, imports the library only then, and loads weights once.

SSIM, MS-SSIM, LPIPS and DISTS are torchmetrics', what judges a picture alone is pyiqa's.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .features import Classifier, FeatureDistance, load_classifier
from .measures import Measure, Sample

SSIM_RADIUS = 5  # of its window, in pixels
SMALLEST_MS_SSIM = 176  # pixels a side, as the coarsest of its five scales is to hold a window
SMALLEST_FEATURES = 16  # pixels a side
SMALLEST_NETWORK = 64  # pixels a side of what AlexNet and VGG see


def feature_distance(classifier: Classifier) -> Callable[[torch.device], Measure]:
    """Distance of a picture to HR by a classifier's features, see :class:`.features.FeatureDistance`."""

    def load(device: torch.device) -> Measure:
        distance = FeatureDistance(load_classifier(classifier)).to(device)

        def measure(sample: Sample) -> float | str:
            if min(sample.picture.shape[-2:]) < SMALLEST_FEATURES:
                return f"smaller than {SMALLEST_FEATURES} px"
            return distance(sample.picture.to(device), sample.reference.to(device)).item()

        return measure

    return load


def ssim(channels: Callable[[Tensor], Tensor]) -> Callable[[torch.device], Measure]:
    """SSIM (Wang et al. 2004) of what ``channels`` takes from an image, where the window lies in the image."""

    def load(device: torch.device) -> Measure:
        from torchmetrics.functional.image import structural_similarity_index_measure

        def similarity(picture: Tensor, hr: Tensor) -> Tensor:
            _, local = structural_similarity_index_measure(picture, hr, data_range=1.0, return_full_image=True)
            return local[..., SSIM_RADIUS:-SSIM_RADIUS, SSIM_RADIUS:-SSIM_RADIUS].mean()

        return _inner_measure(channels, 2 * SSIM_RADIUS + 1, similarity, device)

    return load


def ms_ssim(channels: Callable[[Tensor], Tensor]) -> Callable[[torch.device], Measure]:
    """Multi-scale SSIM (Wang, Simoncelli and Bovik 2003) of what ``channels`` takes from an image."""

    def load(device: torch.device) -> Measure:
        from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

        similarity = partial(multiscale_structural_similarity_index_measure, data_range=1.0)
        return _inner_measure(channels, SMALLEST_MS_SSIM, similarity, device)

    return load


def _inner_measure(
    channels: Callable[[Tensor], Tensor],
    smallest: int,
    similarity: Callable[[Tensor, Tensor], Tensor],
    device: torch.device,
) -> Measure:
    """A similarity of some channels, without the border, of pictures with so many pixels a side."""

    def measure(sample: Sample) -> float | str:
        picture, hr = (channels(x).to(device) for x in sample.inner())
        return similarity(picture, hr).item() if min(hr.shape[-2:]) >= smallest else f"smaller than {smallest} px"

    return measure


def lpips(device: torch.device) -> Measure:
    """LPIPS (arXiv 1801.03924) with AlexNet, as its authors use it to judge."""
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    network = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).to(device)

    def measure(sample: Sample) -> float | str:
        if min(sample.picture.shape[-2:]) < SMALLEST_NETWORK:
            return f"smaller than {SMALLEST_NETWORK} px"
        distance = network(sample.picture.to(device), sample.reference.to(device)).item()
        network.reset()
        return distance

    return measure


def dists(device: torch.device) -> Measure:
    """DISTS (arXiv 2004.07728): structure and texture, by VGG's features."""
    from torchmetrics.functional.image.dists import DISTSNetwork

    network = DISTSNetwork().to(device)

    def measure(sample: Sample) -> float | str:
        if min(sample.picture.shape[-2:]) < SMALLEST_NETWORK:
            return f"smaller than {SMALLEST_NETWORK} px"
        return network(sample.picture.to(device), sample.reference.to(device)).item()

    return measure


def quality(name: str) -> Callable[[torch.device], Measure]:
    """A judgement of the picture alone, by the name that pyiqa has for it."""

    def load(device: torch.device) -> Measure:
        from pyiqa import create_metric  # pyright: ignore[reportMissingImports]

        judge = create_metric(name, device=device)
        return lambda sample: judge(sample.picture.to(device)).item()

    return load


def rgb(image: Tensor) -> Tensor:
    """All channels (B, 3, H, W) of an image."""
    return image
