"""Full-reference measures on images (B, 3, H, W) in [0, 1]; one value per image, (B,)."""

import torch
import torch.nn.functional as F
from torch import Tensor

# BT.601 luma in studio range, as MATLAB's rgb2ycbcr gives it: what the literature's Y-channel PSNR is measured on
_LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)


def luma(image: Tensor) -> Tensor:
    """Y channel (B, 1, H, W) in [16, 235] / 255."""
    weights = image.new_tensor(_LUMA).reshape(1, 3, 1, 1)
    return (image * weights).sum(dim=1, keepdim=True) + 16 / 255


def psnr_y(image: Tensor, reference: Tensor, border: int = 0) -> Tensor:
    """Peak signal-to-noise ratio of the Y channel in dB, ``border`` pixels left out on every side."""
    if border:
        image, reference = (x[..., border:-border, border:-border] for x in (image, reference))
    error = (luma(image.double()) - luma(reference.double())).square().mean(dim=(1, 2, 3))
    return -10 * torch.log10(error)


def high_frequency_energy(image: Tensor) -> Tensor:
    """Mean square of the luma's finest detail: what a 5x5 binomial low-pass takes away (about the upper half band)."""
    y = luma(image)
    row = y.new_tensor([1, 4, 6, 4, 1]) / 16
    low = F.conv2d(F.pad(y, (2, 2, 2, 2), mode="replicate"), (row[:, None] * row)[None, None])
    return (y - low).square().mean(dim=(1, 2, 3))
