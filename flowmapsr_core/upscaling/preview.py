"""A small picture of the result while it is being made."""

from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..codecs import Codec, PixelCodec
from ..method.flow import per_sample
from .tiling import Box

LONGEST_SIDE = 512


class Preview:
    """Canvas of latent cells, thinned out to at most 512 a side, on which finished tiles are pasted.

    A pixel codec's cells are decoded. A VAE would take longer for that than the network for its tile, so its cells are
    shown through the linear map to colours that suits this very picture best.

    Args:
        codec: of the latents.
        latent: of the LR image, (1, C, h, w).
        image: what was encoded, (1, 3, H, W) in [0, 1]; the latent may go on at the right and bottom.
    """

    def __init__(self, codec: Codec, latent: Tensor, image: Tensor) -> None:
        self.codec = codec
        self.every = -(-max(latent.shape[-2:]) // LONGEST_SIDE)
        self.canvas = latent[..., :: self.every, :: self.every].clone()
        if not isinstance(codec, PixelCodec):
            cells = F.avg_pool2d(image, codec.factor)[..., :: self.every, :: self.every]
            before = self.canvas[..., : cells.shape[2], : cells.shape[3]].clone()
            self.colors = cache(partial(fit_colors, before, cells))  # computed once somebody looks

    def on_tile(self, box: Box, x: Tensor, velocity: Tensor, t: Tensor) -> None:
        """Paste the HR image as this evaluation of a state sees it, ``x - t u``."""
        first_y, first_x = (-start % self.every for start in box[:2])
        channels = self.canvas.shape[1]
        x, velocity = (a[:, :channels, first_y :: self.every, first_x :: self.every] for a in (x, velocity))
        top, left = (-(-start // self.every) for start in box[:2])
        height, width = x.shape[-2:]
        self.canvas[..., top : top + height, left : left + width] = x - per_sample(t, x) * velocity

    def image(self) -> Tensor:
        """(1, 3, h, w) in [0, 1], a pixel per cell of the canvas."""
        if isinstance(self.codec, PixelCodec):
            return F.avg_pool2d(self.codec.decode(self.canvas), self.codec.factor).clamp(0, 1)
        return F.conv2d(self.canvas, *self.colors()).clamp(0, 1)


def fit_colors(latent: Tensor, colors: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (3, C, 1, 1) and bias (3,) of the linear map with the least square error, of latents (1, C, h, w) to
    colours (1, 3, h, w)."""
    x, y = (tensor[0].flatten(1).cpu().double() for tensor in (latent, colors))  # some GPUs know no float64
    x_mean, y_mean = x.mean(dim=1, keepdim=True), y.mean(dim=1, keepdim=True)
    x, y = x - x_mean, y - y_mean
    squares = x @ x.T
    # of a flat picture, any map is as good: the smallest
    ridge = 1e-9 * squares.diagonal().mean() + 1e-12
    weight = torch.linalg.solve(squares + ridge * torch.eye(len(x)), x @ y.T).T
    return weight[..., None, None].to(latent), (y_mean - weight @ x_mean)[:, 0].to(latent)
