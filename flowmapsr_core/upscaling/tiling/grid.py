"""Where the tiles of an image lie."""

import math
from collections.abc import Callable

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
