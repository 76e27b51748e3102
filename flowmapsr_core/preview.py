"""A small picture of the result while it is being made."""

import torch.nn.functional as F
from torch import Tensor

from .codecs import PixelCodec
from .flow import per_sample
from .tiling import Box

LONGEST_SIDE = 512


class Preview:
    """Canvas of latent cells, thinned out to at most 512 a side, on which finished tiles are pasted."""

    def __init__(self, codec: PixelCodec, latent: Tensor) -> None:
        self.codec = codec
        self.every = -(-max(latent.shape[-2:]) // LONGEST_SIDE)
        self.canvas = latent[..., :: self.every, :: self.every].clone()

    def on_tile(self, box: Box, x: Tensor, velocity: Tensor, t: Tensor) -> None:
        """Paste the HR image as this evaluation sees it, ``x - t u``."""
        first_y, first_x = (-start % self.every for start in box[:2])
        x, velocity = (a[..., first_y :: self.every, first_x :: self.every] for a in (x, velocity))
        top, left = (-(-start // self.every) for start in box[:2])
        height, width = x.shape[-2:]
        self.canvas[..., top : top + height, left : left + width] = x - per_sample(t, x) * velocity

    def image(self) -> Tensor:
        """(1, 3, h, w) in [0, 1], a pixel per cell of the canvas."""
        return F.avg_pool2d(self.codec.decode(self.canvas), self.codec.factor).clamp(0, 1)
