"""Colour correction: give the upscaled image the low frequencies of its LR source.

Each method takes the upscaled image ``sr`` (B, 3, H, W) and its source ``lr`` (B, 3, h, w), both in [0, 1], and
returns a corrected ``sr``, not clamped. Always over the whole image, never per tile.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import UserError
from .resize import resize

RESIDUAL_SIGMA = 3.0  # LR pixels; wide enough that noise and JPEG blocks of the source stay out


def lr_residual(sr: Tensor, lr: Tensor) -> Tensor:
    """Add back what the low-pass of the LR image has and that of the downscaled result lost.

    ``sr + up(G_sigma(lr - down(sr)))``: local, paired and free of halos, because it acts on a residual.
    """
    residual = gaussian_blur(lr - resize(sr, _size(lr), "bicubic"), RESIDUAL_SIGMA)
    return sr + resize(residual, _size(sr), "bilinear")


def wavelet(sr: Tensor, lr: Tensor) -> Tensor:
    """Low band of the LR image, high bands of the result: StableSR's wavelet fix, its five a trous levels."""
    return sr + _low_band(resize(lr, _size(sr)) - sr)


def adain(sr: Tensor, lr: Tensor) -> Tensor:
    """Mean and standard deviation of each channel taken from the LR image (adaptive instance normalisation)."""
    dims = (2, 3)
    mean_sr, mean_lr = sr.mean(dims, keepdim=True), lr.mean(dims, keepdim=True)
    # the LR image's spread is compared with the result's at the same resolution: detail is not contrast
    std_sr = resize(sr, _size(lr)).std(dims, keepdim=True)
    return (sr - mean_sr) * (lr.std(dims, keepdim=True) / std_sr.clamp_min(1e-5)) + mean_lr


def none(sr: Tensor, lr: Tensor) -> Tensor:
    """The result as the network gave it."""
    return sr


METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "lr-residual": lr_residual,
    "wavelet": wavelet,
    "adain": adain,
    "none": none,
}


def match_color(sr: Tensor, lr: Tensor, method: str = "lr-residual", strength: float = 1.0) -> Tensor:
    """Correct ``sr`` towards ``lr`` by a method of :data:`METHODS`; ``strength`` 0 leaves it, 1 is the full correction.

    Raises :class:`UserError` for an unknown method or a strength outside 0 to 1.
    """
    check_color(method, strength)
    if strength == 0 or method == "none":
        return sr
    corrected = METHODS[method](sr, lr)
    return corrected if strength == 1 else torch.lerp(sr, corrected, strength)


def check_color(method: str, strength: float) -> None:
    """Raise :class:`UserError` for an unknown method or a strength outside 0 to 1."""
    if method not in METHODS:
        raise UserError(f"there is no colour method {method!r}; choose one of {', '.join(METHODS)}")
    if not 0 <= strength <= 1:
        raise UserError(f"colour strength is {strength:g}; use a value from 0 (off) to 1 (full)")


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian blur of (B, C, H, W), edges replicated, kernel cut at 3 sigma."""
    radius = math.ceil(3 * sigma)
    axis = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (axis / sigma).square())
    return _separable(image, kernel / kernel.sum(), dilation=1)


def _low_band(image: Tensor, levels: int = 5) -> Tensor:
    kernel = image.new_tensor([0.25, 0.5, 0.25])
    for level in range(levels):
        image = _separable(image, kernel, dilation=2**level)
    return image


def _separable(image: Tensor, kernel: Tensor, dilation: int) -> Tensor:
    channels, reach = image.shape[1], dilation * (len(kernel) // 2)
    for shape, pad in (((1, 1, -1, 1), (0, 0, reach, reach)), ((1, 1, 1, -1), (reach, reach, 0, 0))):
        weight = kernel.reshape(shape).expand(channels, -1, -1, -1)
        image = F.conv2d(F.pad(image, pad, mode="replicate"), weight, groups=channels, dilation=dilation)
    return image


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]
