"""Resampling of images (B, C, H, W)."""

import torch.nn.functional as F
from torch import Tensor

RESIZE_MODES = ("nearest", "area", "bilinear", "bicubic")


def resize(image: Tensor, size: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """Resize to ``size`` = (height, width) with pixel centres aligned, antialiased when shrinking.

    ``bicubic`` is Keys' kernel with a = -0.5, the same as Pillow's and MATLAB's; it can overshoot the input's range.
    ``mode`` is one of :data:`RESIZE_MODES`.
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    if mode == "nearest":
        return F.interpolate(image, size, mode="nearest-exact")
    if mode == "area":
        return F.interpolate(image, size, mode="area")
    return F.interpolate(image, size, mode=mode, antialias=True)
