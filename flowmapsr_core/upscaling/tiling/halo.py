"""Exact tiling for networks with a finite receptive field."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...method.flow import Velocity
from .grid import Box, TileCallback, crop, tile_starts


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

    def boxes(self, height: int, width: int) -> list[Box]:
        """(top, left, bottom, right) of every tile of a latent, rows first."""
        side_y, side_x = (self._side(length) for length in (height, width))
        return [
            (top, left, top + side_y, left + side_x)
            for top in tile_starts(height, side_y, self.stride)
            for left in tile_starts(width, side_x, self.stride)
        ]

    def reads(self, box: Box, height: int, width: int) -> Box:
        """The box that the network is given for a tile."""
        top, left, bottom, right = box
        halo = self.halo
        return max(top - halo, 0), max(left - halo, 0), min(bottom + halo, height), min(right + halo, width)

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
                read = self.reads(box, height, width)
                y, z = read[:2]
                inner = crop(u(crop(x, read), t, s), (box[0] - y, box[1] - z, box[2] - y, box[3] - z))
                crop(result, box).copy_(inner)
                if on_tile is not None:
                    on_tile(box, crop(x, box), inner, t)
            return result

        return tiled
