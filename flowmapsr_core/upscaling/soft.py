"""Soft pictures, with more pixels than detail: they are made as small as their detail is, and upscaled from there."""

import math

from torch import Tensor

from ..images.detail import surplus
from .pipeline import MAX_SCALE

DEFAULT_SCALE = 4.0


def detail_size(images: Tensor) -> tuple[int, int]:
    """Size (height, width) that holds the detail of images (B, 3, H, W), as much as the sharpest one has."""
    factor = min(surplus(image) for image in images.float().split(1))
    return round(images.shape[-2] / factor), round(images.shape[-1] / factor)


def shrunk_size(before: tuple[int, int], detail: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """To what images with so much detail are shrunk, from ``before``, to become ``size``: no less than 1/8 of that."""
    least = max(wanted / MAX_SCALE / side for side, wanted in zip(detail, size, strict=True))
    if least <= 1:
        return detail
    height, width = (min(math.ceil(least * side), most) for side, most in zip(detail, before, strict=True))
    return height, width


def describe(before: tuple[int, int], detail: tuple[int, int], shrunk: tuple[int, int], size: tuple[int, int]) -> str:
    """What was found and done, in words; sizes are (height, width)."""
    factor = f"x{math.sqrt(math.prod(size) / math.prod(shrunk)):.3g}"
    if detail == before:
        return f"{in_pixels(before)} pixels full of detail; {factor} to {in_pixels(size)}"
    found = f"{in_pixels(before)} pixels with the detail of {in_pixels(detail)}"
    if shrunk == before:
        return f"{found}; not shrunk, as no more than x{MAX_SCALE} can be made of it; {factor} to {in_pixels(size)}"
    to = "that" if shrunk == detail else in_pixels(shrunk)
    return f"{found}; shrunk to {to} first, {factor} to {in_pixels(size)}"


def in_pixels(size: tuple[int, int]) -> str:
    """A size (height, width) as people write it."""
    return f"{size[1]}x{size[0]}"
