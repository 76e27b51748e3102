"""Tiles of equal size, and a velocity evaluated tile by tile."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .flow import Velocity
from .networks import LocalNet

Box = tuple[int, int, int, int]
TileCallback = Callable[[Box, Tensor, Tensor, Tensor], None]


def tile_starts(length: int, tile: int, stride: int = 1) -> list[int]:
    """Where tiles of equal size start so that they cover ``[0, length)``.

    ``n = ceil(length / tile)`` tiles, start i at ``i (length - tile) / (n - 1)`` rounded to a multiple of ``stride``:
    neighbours may overlap, and no tile is smaller than the others. ``length`` and ``tile`` are multiples of ``stride``.
    """
    if tile >= length:
        return [0]
    n = math.ceil(length / tile)
    return [round(i * (length - tile) / (n - 1) / stride) * stride for i in range(n)]


@dataclass(frozen=True)
class HaloTiling:
    """Exact tiling for a network with a finite receptive field.

    Every tile is evaluated with ``halo`` more cells on each side (fewer at the image's own border, where the network
    pads as it does untiled), and only the tile itself is kept. That equals the untiled result, so nothing is blended.

    Attributes:
        tile: longest side of a tile in latent cells, a multiple of ``stride``; 0 for one tile.
        halo: at least the network's receptive radius, a multiple of ``stride``.
        stride: the network's stride.
    """

    tile: int
    halo: int
    stride: int

    @classmethod
    def for_network(cls, network: LocalNet, tile: int) -> "HaloTiling":
        """Tiling with the network's own halo and stride, ``tile`` rounded up to the stride."""
        return cls(-(-tile // network.stride) * network.stride, network.receptive_radius, network.stride)

    def boxes(self, height: int, width: int) -> list[Box]:
        """(top, left, bottom, right) of every tile of a latent, rows first."""
        side_y, side_x = (self._side(length) for length in (height, width))
        return [
            (top, left, top + side_y, left + side_x)
            for top in tile_starts(height, side_y, self.stride)
            for left in tile_starts(width, side_x, self.stride)
        ]

    def _side(self, length: int) -> int:
        """The smallest tile that covers ``length`` with as few tiles: what neighbours share is computed twice."""
        if not 0 < self.tile < length:
            return length
        return math.ceil(length / math.ceil(length / self.tile) / self.stride) * self.stride

    def velocity(self, u: Velocity, on_tile: TileCallback | None = None) -> Velocity:
        """``u`` evaluated tile by tile.

        ``on_tile(box, x, velocity, t)`` is called after each, with the tile's part of x and of the velocity; raise
        from it to cancel.
        """

        def tiled(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            height, width = x.shape[-2:]
            result = torch.empty_like(x)
            for box in self.boxes(height, width):
                top, left, bottom, right = box
                y, z = max(top - self.halo, 0), max(left - self.halo, 0)
                around = u(x[..., y : bottom + self.halo, z : right + self.halo], t, s)
                inner = around[..., top - y : bottom - y, left - z : right - z]
                result[..., top:bottom, left:right] = inner
                if on_tile is not None:
                    on_tile(box, x[..., top:bottom, left:right], inner, t)
            return result

        return tiled
