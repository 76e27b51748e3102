"""The part of every sample that is looked at as a picture.

Its corner is at any pixel, not on the grid of the latents' cells. A classifier looks at pictures with strides, so that
it sees some pixels less than others. These should not always be the same ones of a cell, for a network that paints
whole cells could learn it.
"""

import torch
from torch import Tensor

from ...flowmapsr_core.codecs import Codec

LARGEST = 256  # side of a window in pixels, unless told: decoding takes memory


def windows(x: Tensor, place: Tensor, side: int) -> Tensor:
    """Squares (B, C, side, side) of images (B, C, H, W), at pixels that ``place`` stands for.

    Args:
        place: (B, 2) in [0, 1): 0 at the top or left, nearly 1 at the other end.
    """
    return _crop(x, _corners(x, place, side), side)


def decoded_windows(latent: Tensor, codec: Codec, place: Tensor, largest: int = LARGEST) -> Tensor:
    """Pictures (B, 3, side, side), about [0, 1], of latents (B, C, h, w); only the cells in sight are decoded.

    The side is at most ``largest`` pixels, and leaves a cell of room for the corner to lie anywhere in. Pictures are
    not clamped: that would cut the gradient where a prediction is furthest off.
    """
    cells = min(latent.shape[-2:])
    seen = max(1, min(largest // codec.factor, cells - 1))
    corners = _corners(latent, place, seen, codec.factor)
    decoded = min(seen + 1, cells)
    first = torch.minimum(corners // codec.factor, corners.new_tensor(latent.shape[-2:]) - decoded)
    return _crop(codec.decode(_crop(latent, first, decoded)), corners - first * codec.factor, seen * codec.factor)


def _corners(x: Tensor, place: Tensor, side: int, factor: int = 1) -> Tensor:
    """Top left pixels (B, 2) of windows of so many cells, or pixels, of images whose cells are ``factor`` wide."""
    room = place.new_tensor([(length - side) * factor + 1 for length in x.shape[-2:]])
    return (place * room).long()


def _crop(x: Tensor, corners: Tensor, side: int) -> Tensor:
    places = zip(x, corners.tolist(), strict=True)
    return torch.stack([sample[:, top : top + side, left : left + side] for sample, (top, left) in places])
