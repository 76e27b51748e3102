"""Resampling of images (B, C, H, W)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .wrap import surround, without

ON_CPU = ("mps",)  # devices that lack some of it: with torch 2.5 and 2.6, Apple's GPUs have no antialiasing
RESIZE_MODES = ("nearest", "area", "bilinear", "bicubic")
REACH = 3  # pixels, of the larger ones: no kernel of these sees further


def resize(image: Tensor, size: tuple[int, int], mode: str = "bicubic", wrap: str = "") -> Tensor:
    """Resize to ``size`` = (height, width) with pixel centres aligned, antialiased when shrinking.

    ``bicubic`` is Keys' kernel with a = -0.5, the same as Pillow's and MATLAB's; it can overshoot the input's range.
    ``mode`` is one of :data:`RESIZE_MODES`; ``wrap`` says which edges meet, see :mod:`.wrap`.
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    if wrap:
        return _resize_round(image, size, mode, wrap)
    if image.device.type in ON_CPU:
        return resize(image.cpu(), size, mode).to(image.device)
    if mode == "nearest":
        return F.interpolate(image, size, mode="nearest-exact")
    if mode == "area":
        return F.interpolate(image, size, mode="area")
    return F.interpolate(image, size, mode=mode, antialias=True)


def _resize_round(image: Tensor, size: tuple[int, int], mode: str, wrap: str) -> Tensor:
    """:func:`resize` with as much of the opposite edge around the image as a kernel sees; the middle of that is kept.

    What is put around it becomes whole pixels too, so that all lie where they do without it: the period of the result
    is exactly its side, for any factor.
    """
    reaches = []
    for axis, side, wanted in zip("yx", image.shape[-2:], size, strict=True):
        step = side // math.gcd(side, wanted)
        reaches.append(math.ceil(REACH * max(1, side / wanted) / step) * step if axis in wrap else 0)
    around = surround(image, reaches[0], reaches[1], wrap)
    down, along = (reach * wanted // side for reach, wanted, side in zip(reaches, size, image.shape[-2:], strict=True))
    return without(resize(around, (size[0] + 2 * down, size[1] + 2 * along), mode), down, along)


def shrink_back(image: Tensor, factor: int) -> Tensor:
    """The small image whose bicubic enlargement by ``factor`` comes closest to an image, by least squares.

    :func:`resize` is linear, with a matrix E along each axis, and ``(E' E)^-1 E'`` is a left inverse of it: of an
    enlargement by that factor the result is the image that was enlarged, of any other image one that was shrunk.

    Args:
        image: (B, C, H, W), H and W multiples of ``factor``.

    Returns:
        (B, C, H / factor, W / factor) float32.
    """
    rows, columns = (_left_inverse(side // factor, factor).to(image.device) for side in image.shape[-2:])
    return rows @ image.float() @ columns.T


def _left_inverse(length: int, factor: int) -> Tensor:
    """Of the enlargement of ``length`` pixels along an axis, (length, factor * length)."""
    pixels = torch.eye(length, dtype=torch.float64, device="cpu")
    enlarge = resize(pixels[None, None], (factor * length, length))[0, 0]
    return torch.linalg.solve(enlarge.T @ enlarge, enlarge.T).float()


def resize_alpha(alpha: Tensor, like: Tensor, wrap: str = "") -> Tensor:
    """Resize an alpha channel (B, 1, H, W) in [0, 1] to an image's size.

    Rounded to 16 bits: opaque has to stay exactly 1, since programs that cut off would make it 254 of 255.
    """
    if alpha.shape[-2:] == like.shape[-2:]:
        return alpha
    resized = resize(alpha, (like.shape[-2], like.shape[-1]), wrap=wrap).clamp(0, 1)
    return (resized * 65535).round() / 65535
