"""Exact tiling for networks with a finite receptive field."""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...method.flow import Velocity
from .grid import Box, TileCallback, crop, crop_around, tile_starts


@dataclass(frozen=True)
class HaloTiling:
    """Exact tiling for a network with a finite receptive field.

    The network is given parts of the image that overlap, and of each only what lies ``halo`` cells from its sides is
    kept, and what lies at the image's own border, where the network pads as it does untiled. That equals the untiled
    result, so nothing is blended. All parts have the same shape: a compiled network is compiled once for an image.
    Where opposite edges meet there is no border: the parts go on at the other edge, also if there is one tile only.

    Attributes:
        tile: longest side of what is kept inside an image, a multiple of ``stride``; 0 for one tile. At the image's
            border ``halo`` more are kept.
        halo: at least the network's receptive radius, a multiple of ``stride``.
        stride: the network's stride.
        wrap: which edges meet, see :mod:`...images.wrap`.
    """

    tile: int
    halo: int
    stride: int
    wrap: str = ""

    def boxes(self, height: int, width: int) -> list[Box]:
        """(top, left, bottom, right) of every tile of a latent, rows first; they do not overlap."""
        rows, columns = self._cuts(height, "y"), self._cuts(width, "x")
        return [
            (top, left, bottom, right)
            for top, bottom in itertools.pairwise(rows)
            for left, right in itertools.pairwise(columns)
        ]

    def reads(self, box: Box, height: int, width: int) -> Box:
        """The box that the network is given for a tile; where edges meet it may go on beyond them."""
        top, left = (
            start - self.halo if axis in self.wrap else max(start - self.halo, 0)
            for axis, start in zip("yx", box[:2], strict=True)
        )
        return top, left, top + self._side(height, "y"), left + self._side(width, "x")

    def _side(self, length: int, axis: str) -> int:
        """The smallest side of parts that cover ``length`` with as few: what two of them share is computed twice."""
        margins = 2 * self.halo
        if axis in self.wrap:
            count = math.ceil(length / (self.tile or length))
            return math.ceil(length / count / self.stride) * self.stride + margins
        if not 0 < self.tile < length:
            return length
        count = max(math.ceil((length - margins) / self.tile), 2)
        return min(math.ceil((length - margins) / count / self.stride) * self.stride + margins, length)

    def _cuts(self, length: int, axis: str) -> list[int]:
        """Where an axis is cut into tiles, both ends included."""
        if axis in self.wrap:
            return [*range(0, length, self._side(length, axis) - 2 * self.halo), length]
        _, *starts = tile_starts(length, self._side(length, axis), self.stride, 2 * self.halo)
        return [0, *(start + self.halo for start in starts), length]

    def velocity(
        self, u: Velocity, on_tile: TileCallback | None = None, device: torch.device | None = None
    ) -> Velocity:
        """``u`` evaluated tile by tile, on ``device`` if that is not where x lies.

        ``on_tile(box, x, velocity, t)`` is called after each, with the tile's part of x and of the velocity; raise
        from it to cancel.
        """

        def tiled(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            height, width = x.shape[-2:]
            times = t.to(device), s.to(device)
            result = torch.empty_like(x)
            for box in self.boxes(height, width):
                read = self.reads(box, height, width)
                y, z = read[:2]
                whole = u(crop_around(x, read).to(device), *times)
                inner = crop(whole, (box[0] - y, box[1] - z, box[2] - y, box[3] - z)).to(x.device)
                crop(result, box).copy_(inner)
                if on_tile is not None:
                    on_tile(box, crop(x, box), inner, t)
            return result

        return tiled
