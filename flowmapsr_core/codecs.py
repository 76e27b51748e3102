"""Codecs between images in [0, 1] and the latents that a network works on."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class PixelCodec:
    """Lossless codec: pixels in [-1, 1], ``factor`` x ``factor`` of them folded into the channels of one cell.

    Attributes:
        factor: image pixels per latent cell, along each axis.
    """

    factor: int = 2

    @property
    def channels(self) -> int:
        return 3 * self.factor**2

    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to (B, 3 factor^2, H / factor, W / factor); H and W multiples of factor."""
        return F.pixel_unshuffle(image * 2 - 1, self.factor)

    def decode(self, latent: Tensor) -> Tensor:
        """The inverse of :meth:`encode`; the result is not clamped."""
        return F.pixel_shuffle(latent, self.factor) * 0.5 + 0.5


CODECS = {"PixelCodec": PixelCodec}
