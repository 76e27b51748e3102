"""Soft pictures, with more pixels than detail: they are made as small as their detail is, and upscaled from there."""

import math
from dataclasses import dataclass

from torch import Tensor

from ..images.detail import surplus
from ..images.record import in_pixels
from ..images.resize import resize
from .pipeline import MAX_SCALE

DEFAULT_SCALE = 4.0
ROUNDS = 5  # restore most of what shrinking softens, and little of the noise
Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Detail:
    """How much detail images have.

    Attributes:
        before: their size.
        detail: the size of sharp ones with as much.
        enough: the size to which they can be shrunk and lose none of it.
    """

    before: Size
    detail: Size
    enough: Size

    def shrunk(self, size: Size) -> Size:
        """To what they are shrunk ahead of upscaling to ``size``: no less than an eighth of it."""
        sides = zip(self.before, self.enough, size, strict=True)
        height, width = (min(max(enough, math.ceil(wanted / MAX_SCALE)), before) for before, enough, wanted in sides)
        return height, width

    def describe(self, size: Size) -> str:
        """What was found, and is done ahead of upscaling to ``size``, in words."""
        shrunk = self.shrunk(size)
        result = f"x{math.sqrt(math.prod(size) / math.prod(shrunk)):.3g} to {in_pixels(size)}"
        if self.detail == self.before:
            return f"{in_pixels(self.before)} pixels full of detail; {result}"
        found = f"{in_pixels(self.before)} pixels with the detail of {in_pixels(self.detail)}"
        if shrunk == self.before:
            return f"{found}; not shrunk, as x{MAX_SCALE} is the most that can be made of it; {result}"
        return f"{found}; shrunk to {'that' if shrunk == self.detail else in_pixels(shrunk)} first, {result}"


def find_detail(images: Tensor) -> Detail:
    """The detail of images (B, 3, H, W) in [0, 1], which is that of the sharpest one."""
    found = min((surplus(image) for image in images.float().split(1)), key=lambda each: each.factor)
    before = (images.shape[-2], images.shape[-1])
    detail, enough = ((round(before[0] / by), round(before[1] / by)) for by in (found.factor, found.safe))
    return Detail(before, detail, enough)


def shrink(images: Tensor, size: Size, wrap: str = "") -> Tensor:
    """Images (B, 3, H, W) in [0, 1] made smaller, so that enlarged by ``bicubic`` they come close to what they were.

    They were enlarged by some such kernel, so this undoes it, where to shrink alone would blur them once more. In each
    round what is lacking is shrunk and added (iterative back-projection). ``wrap`` says which edges meet.
    """
    before = (images.shape[-2], images.shape[-1])
    small = resize(images, size, wrap=wrap)
    for _ in range(ROUNDS):
        small = small + resize(images - resize(small, before, wrap=wrap), size, wrap=wrap)
    return small.clamp(0, 1)
