"""Measures of libraries: what gives one of these takes a device, imports the library only then, and loads weights once.

SSIM, MS-SSIM, LPIPS and DISTS are torchmetrics', what judges a picture alone is pyiqa's.
"""

from collections.abc import Callable

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

        def measure(sample: Sample) -> float | str:
            picture, hr = (channels(x).to(device) for x in sample.inner())
            if min(hr.shape[-2:]) <= 2 * SSIM_RADIUS:
                return f"smaller than {2 * SSIM_RADIUS + 1} px"
            _, local = structural_similarity_index_measure(picture, hr, data_range=1.0, return_full_image=True)
            return local[..., SSIM_RADIUS:-SSIM_RADIUS, SSIM_RADIUS:-SSIM_RADIUS].mean().item()

        return measure

    return load


def ms_ssim(channels: Callable[[Tensor], Tensor]) -> Callable[[torch.device], Measure]:
    """Multi-scale SSIM (Wang, Simoncelli and Bovik 2003) of what ``channels`` takes from an image."""

    def load(device: torch.device) -> Measure:
        from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

        def measure(sample: Sample) -> float | str:
            picture, hr = (channels(x).to(device) for x in sample.inner())
            if min(hr.shape[-2:]) < SMALLEST_MS_SSIM:
                return f"smaller than {SMALLEST_MS_SSIM} px"
            return multiscale_structural_similarity_index_measure(picture, hr, data_range=1.0).item()

        return measure

    return load


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
