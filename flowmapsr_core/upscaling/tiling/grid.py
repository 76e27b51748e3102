"""Where the tiles of an image lie."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Box = tuple[int, int, int, int]
TileCallback = Callable[[Box, Tensor, Tensor, Tensor], None]


def tile_starts(length: int, tile: int, stride: int = 1, overlap: int = 0) -> list[int]:
    """Where tiles of equal size start so that they cover ``[0, length)`` and neighbours share at least ``overlap``.

    ``n = ceil((length - overlap) / (tile - overlap))`` tiles, start i at ``i (length - tile) / (n - 1)`` rounded to a
    multiple of ``stride``: no tile is smaller than the others, and what neighbours share is as even as can be.
    ``length``, ``tile`` and ``overlap`` are multiples of ``stride``, and ``overlap < tile``.
    """
    if tile >= length:
        return [0]
    n = math.ceil((length - overlap) / (tile - overlap))
    return [round(i * (length - tile) / (n - 1) / stride) * stride for i in range(n)]


def crop(x: Tensor, box: Box) -> Tensor:
    """The part of (B, C, H, W) that is in a box; a view."""
    top, left, bottom, right = box
    return x[..., top:bottom, left:right]


def crop_around(x: Tensor, box: Box) -> Tensor:
    """As :func:`crop`, of a box that goes on at the opposite edge where it leaves x."""
    if is_inside(x, box):
        return crop(x, box)
    for dim, places in zip((-2, -1), around(x, box), strict=True):
        x = x.index_select(dim, places)
    return x


def around(x: Tensor, box: Box) -> tuple[Tensor, Tensor]:
    """Rows and columns of (B, C, H, W) that are in a box which goes on at the opposite edge where it leaves x."""
    top, left, bottom, right = box
    rows, columns = (torch.arange(*span, device=x.device) for span in ((top, bottom), (left, right)))
    return rows % x.shape[-2], columns % x.shape[-1]


def is_inside(x: Tensor, box: Box) -> bool:
    """Whether a box lies within (B, C, H, W)."""
    return min(box[:2]) >= 0 and box[2] <= x.shape[-2] and box[3] <= x.shape[-1]
