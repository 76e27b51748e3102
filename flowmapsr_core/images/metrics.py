"""Full-reference measures on images (B, 3, H, W) in [0, 1]; one value per image, (B,)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .color import gaussian_blur, rgb_to_lab

# BT.601 luma in studio range, as MATLAB's rgb2ycbcr gives it: what the literature's Y-channel PSNR is measured on
_LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)


def luma(image: Tensor) -> Tensor:
    """Y channel (B, 1, H, W) in [16, 235] / 255."""
    weights = image.new_tensor(_LUMA).reshape(1, 3, 1, 1)
    return (image * weights).sum(dim=1, keepdim=True) + 16 / 255


def psnr_y(image: Tensor, reference: Tensor, border: int = 0) -> Tensor:
    """Peak signal-to-noise ratio of the Y channel in dB, ``border`` pixels left out on every side; on the CPU."""
    image, reference = (x.cpu().double() for x in (image, reference))  # some GPUs know no float64
    if border:
        image, reference = (x[..., border:-border, border:-border] for x in (image, reference))
    error = (luma(image) - luma(reference)).square().mean(dim=(1, 2, 3))
    return -10 * torch.log10(error)


def high_frequency_energy(image: Tensor) -> Tensor:
    """Mean square of the luma's finest detail: what a 5x5 binomial low-pass takes away (about the upper half band)."""
    y = luma(image)
    row = y.new_tensor([1, 4, 6, 4, 1]) / 16
    low = F.conv2d(F.pad(y, (2, 2, 2, 2), mode="replicate"), (row[:, None] * row)[None, None])
    return (y - low).square().mean(dim=(1, 2, 3))


def color_difference(image: Tensor, reference: Tensor, sigma: float = 8.0) -> Tensor:
    """Mean CIEDE2000 after a Gaussian low-pass of ``sigma`` pixels: wrong colours count, missing detail does not."""
    return ciede2000(*(rgb_to_lab(gaussian_blur(x, sigma)) for x in (image, reference))).mean(dim=(1, 2))


def ciede2000(lab: Tensor, reference: Tensor) -> Tensor:
    """CIEDE2000 of CIELAB images (B, 3, H, W), for each pixel: (B, H, W); 1 is about what an eye can tell.

    Sharma, Wu and Dalal, "The CIEDE2000 Color-Difference Formula" (2005), weights 1. Their cases for gray are not
    needed: a hue that is not defined is multiplied by zero.
    """
    (l1, a1, b1), (l2, a2, b2) = lab.unbind(1), reference.unbind(1)
    stretch = 1.5 - 0.5 * _saturation((torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2)
    a1, a2 = a1 * stretch, a2 * stretch
    chroma1, chroma2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    hue1, hue2 = torch.atan2(b1, a1), torch.atan2(b2, a2)
    turn = hue2 - hue1
    turn = turn - math.tau * torch.round(turn / math.tau)  # the shorter way round
    lightness, chroma = (l1 + l2) / 2 - 50, (chroma1 + chroma2) / 2
    hue = torch.rad2deg(hue1 + turn / 2) % 360

    weight = 1 - 0.17 * _cos(hue - 30) + 0.24 * _cos(2 * hue) + 0.32 * _cos(3 * hue + 6) - 0.20 * _cos(4 * hue - 63)
    d_l = (l2 - l1) / (1 + 0.015 * lightness.square() / (20 + lightness.square()).sqrt())
    d_c = (chroma2 - chroma1) / (1 + 0.045 * chroma)
    d_h = 2 * (chroma1 * chroma2).sqrt() * torch.sin(turn / 2) / (1 + 0.015 * chroma * weight)
    rotation = torch.deg2rad(60 * torch.exp(-((hue - 275) / 25).square()))  # blues turn
    cross = -2 * _saturation(chroma) * torch.sin(rotation) * d_c * d_h
    return (d_l.square() + d_c.square() + d_h.square() + cross).clamp_min(0).sqrt()


def _saturation(chroma: Tensor) -> Tensor:
    return (chroma**7 / (chroma**7 + 25**7)).sqrt()


def _cos(degrees: Tensor) -> Tensor:
    return torch.cos(torch.deg2rad(degrees))
