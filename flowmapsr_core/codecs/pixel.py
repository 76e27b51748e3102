"""Pixels themselves as latents."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .bands import Bands


@dataclass(frozen=True)
class PixelCodec:
    """Lossless codec: pixels in [-1, 1], ``factor`` x ``factor`` of them folded into the channels of one cell.

    Attributes:
        factor: image pixels per latent cell, along each axis.
    """

    factor: int = 2

    dtype = torch.float32
    reach = 0

    @property
    def channels(self) -> int:
        return 3 * self.factor**2

    @property
    def config(self) -> "PixelCodec":
        """It has no weights: it is its own configuration."""
        return self

    def encode(self, image: Tensor, bands: Bands | None = None) -> Tensor:
        """(B, 3, H, W) in [0, 1] to (B, 3 factor^2, H / factor, W / factor); H and W multiples of factor."""
        return _copied(F.pixel_unshuffle, image, self.factor).mul_(2).sub_(1)

    def decode(self, latent: Tensor, bands: Bands | None = None) -> Tensor:
        """The inverse of :meth:`encode`; the result is not clamped."""
        return _copied(F.pixel_shuffle, latent, self.factor).mul_(0.5).add_(0.5)

    def weights(self, mask: Tensor) -> Tensor:
        """A mask (B, 1, H, W) of image pixels as one of latents: for each of their numbers, that of its pixel."""
        return F.pixel_unshuffle(mask.expand(-1, 3, -1, -1), self.factor)

    def memory(self, height: int, width: int, bands: Bands | None = None) -> int:
        """Nothing beside the image itself."""
        return 0


def _copied(move: Callable[[Tensor, int], Tensor], x: Tensor, factor: int) -> Tensor:
    """Pixels moved into a tensor of their own, which may be changed in place: a large picture has no room for more."""
    moved = move(x, factor)
    return moved.clone() if factor == 1 else moved
