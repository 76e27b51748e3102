"""Tiling by blending, for networks that see their whole input."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import UserError
from ...method.flow import Velocity
from .grid import Box, TileCallback, crop, tile_starts


@dataclass(frozen=True)
class BlendTiling:
    """Tiling for a network that sees its whole input: the velocities of overlapping tiles are blended.

    Every tile has the same size, and its weight is 1 but for raised-cosine ramps over what it shares with a neighbour;
    at the image's own border it stays 1. Blending the velocity, at every step, leaves one state: blending finished
    images would average details that different tiles have put in different places.

    Attributes:
        tile: side of a tile in latent cells, a multiple of ``stride``; 0 for one tile.
        overlap: cells that neighbours share at least, a multiple of ``stride`` from 0 to below ``tile``.
        stride: the network's stride.
        batch: tiles that are evaluated in one call.
    """

    tile: int
    overlap: int
    stride: int
    batch: int = 1

    def __post_init__(self) -> None:
        if self.tile and not 0 <= self.overlap < self.tile:
            raise UserError(f"the overlap is {self.overlap} latent cells, the tile {self.tile}; use a smaller overlap")

    def boxes(self, height: int, width: int) -> list[Box]:
        """(top, left, bottom, right) of every tile of a latent, rows first."""
        (tops, side_y), (lefts, side_x) = (self._starts(length) for length in (height, width))
        return [(top, left, top + side_y, left + side_x) for top in tops for left in lefts]

    def reads(self, box: Box, height: int, width: int) -> Box:
        """The box that the network is given for a tile: the tile."""
        return box

    def _starts(self, length: int) -> tuple[list[int], int]:
        """Where the tiles start along an axis, and their side."""
        side = min(self.tile or length, length)
        return tile_starts(length, side, self.stride, self.overlap), side

    def velocity(
        self, u: Velocity, on_tile: TileCallback | None = None, device: torch.device | None = None
    ) -> Velocity:
        """``u`` evaluated on ``batch`` tiles at a time and blended in float32, for x of one image (1, C, H, W).

        It is evaluated on ``device`` if that is not where x lies. ``u`` gets the tiles stacked to (n, C, h, w), and t
        and s as they are. ``on_tile(box, x, velocity, t)`` is called after each tile, with its part of x and its own
        velocity; raise from it to cancel.
        """

        def tiled(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            windows = (blend_windows(*self._starts(length)).to(x.device) for length in x.shape[-2:])
            times = t.to(device), s.to(device)
            tiles = list(zip(self.boxes(*x.shape[-2:]), itertools.product(*windows), strict=True))
            result = torch.zeros_like(x, dtype=torch.float32)
            for first in range(0, len(tiles), self.batch):
                part = tiles[first : first + self.batch]
                velocities = u(torch.cat([crop(x, box) for box, _ in part]).to(device), *times).to(x.device)
                for (box, (rows, columns)), velocity in zip(part, velocities.split(1), strict=True):
                    crop(result, box).addcmul_(rows[:, None] * columns, velocity.float())
                    if on_tile is not None:
                        on_tile(box, crop(x, box), velocity, t)
            return result.to(x.dtype)

        return tiled


def blend_windows(starts: list[int], tile: int) -> Tensor:
    """Weights (n, tile) of the tiles along one axis, in float32: over every cell they sum to 1.

    A weight is flat but for a raised cosine over what the tile shares with a neighbour. Where more than two tiles
    overlap, the products of the ramps are divided by their sum.
    """
    windows = torch.ones(len(starts), tile)
    for index, (start, following) in enumerate(itertools.pairwise(starts)):
        shared = start + tile - following
        ramp = torch.sin(torch.pi / 2 * (torch.arange(shared) + 0.5) / shared).square()
        windows[index, tile - shared :] *= ramp.flip(0)
        windows[index + 1, :shared] *= ramp
    total = torch.zeros(starts[-1] + tile)
    for start, window in zip(starts, windows, strict=True):
        total[start : start + tile] += window
    return windows / torch.stack([total[start : start + tile] for start in starts])
