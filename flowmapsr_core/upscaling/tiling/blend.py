"""Tiling by blending, for networks that see their whole input."""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import UserError
from ...method.flow import Velocity
from .grid import Box, TileCallback, around, crop, crop_around, is_inside, tile_starts


@dataclass(frozen=True)
class BlendTiling:
    """Tiling for a network that sees its whole input: the velocities of overlapping tiles are blended.

    Every tile has the same size, and its weight is 1 but for raised-cosine ramps over what it shares with a neighbour;
    at the image's own border it stays 1. Where opposite edges meet there is none: tiles go on at the other edge, and a
    single one is blended with itself. Blending the velocity, at every step, leaves one state: blending finished images
    would average details that different tiles have put in different places.

    Attributes:
        tile: side of a tile in latent cells, a multiple of ``stride``; 0 for one tile.
        overlap: cells that neighbours share at least, a multiple of ``stride`` from 0 to below ``tile``.
        stride: the network's stride.
        batch: tiles that are evaluated in one call.
        wrap: which edges meet, see :mod:`...images.wrap`.
    """

    tile: int
    overlap: int
    stride: int
    batch: int = 1
    wrap: str = ""

    def __post_init__(self) -> None:
        if self.tile and not 0 <= self.overlap < self.tile:
            raise UserError(f"the overlap is {self.overlap} latent cells, the tile {self.tile}; use a smaller overlap")

    def boxes(self, height: int, width: int) -> list[Box]:
        """(top, left, bottom, right) of every tile of a latent, rows first; where edges meet it may go beyond them."""
        (tops, side_y), (lefts, side_x) = self._starts(height, "y"), self._starts(width, "x")
        return [(top, left, top + side_y, left + side_x) for top in tops for left in lefts]

    def reads(self, box: Box, height: int, width: int) -> Box:
        """The box that the network is given for a tile: the tile."""
        return box

    def _starts(self, length: int, axis: str) -> tuple[list[int], int]:
        """Where the tiles start along an axis, and their side."""
        if axis in self.wrap:
            most = length + self.overlap  # of a tile that meets itself
            side = min(self.tile or most, most)
            count = math.ceil(length / (side - self.overlap))
            return [round(i * length / count / self.stride) * self.stride for i in range(count)], side
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
            windows = (
                blend_windows(*self._starts(length, axis), length if axis in self.wrap else None).to(x.device)
                for axis, length in zip("yx", x.shape[-2:], strict=True)
            )
            times = t.to(device), s.to(device)
            tiles = list(zip(self.boxes(*x.shape[-2:]), itertools.product(*windows), strict=True))
            result = torch.zeros_like(x, dtype=torch.float32)
            for first in range(0, len(tiles), self.batch):
                part = tiles[first : first + self.batch]
                velocities = u(torch.cat([crop_around(x, box) for box, _ in part]).to(device), *times).to(x.device)
                for (box, (rows, columns)), velocity in zip(part, velocities.split(1), strict=True):
                    _add(result, box, rows[:, None] * columns * velocity.float())
                    if on_tile is not None:
                        seen = (*box[:2], min(box[2], x.shape[-2]), min(box[3], x.shape[-1]))
                        here = (0, 0, seen[2] - seen[0], seen[3] - seen[1])
                        on_tile(seen, crop(x, seen), crop(velocity, here), t)
            return result.to(x.dtype)

        return tiled


def blend_windows(starts: list[int], tile: int, period: int | None = None) -> Tensor:
    """Weights (n, tile) of the tiles along one axis, in float32: over every cell they sum to 1.

    A weight is flat but for a raised cosine over what the tile shares with a neighbour. Where more than two tiles
    overlap, the products of the ramps are divided by their sum. With a ``period`` the ends meet after so many cells,
    and the first tile follows the last.
    """
    windows = torch.ones(len(starts), tile)
    following = starts[1:] if period is None else [*starts[1:], starts[0] + period]
    for index, (start, after) in enumerate(zip(starts, following, strict=False)):
        shared = start + tile - after
        ramp = torch.sin(torch.pi / 2 * (torch.arange(shared) + 0.5) / shared).square()
        windows[index, tile - shared :] *= ramp.flip(0)
        windows[(index + 1) % len(starts), :shared] *= ramp
    total = torch.zeros(period or starts[-1] + tile)
    places = [torch.arange(start, start + tile) % len(total) for start in starts]
    for place, window in zip(places, windows, strict=True):
        total.index_add_(0, place, window)
    return windows / torch.stack([total[place] for place in places])


def _add(result: Tensor, box: Box, part: Tensor) -> None:
    """Add a tile to (1, C, H, W) where it lies, in place; what leaves it comes in at the opposite edge."""
    if is_inside(result, box):
        crop(result, box).add_(part)
        return
    rows, columns = around(result, box)
    strip = part.new_zeros(*part.shape[:2], result.shape[-2], part.shape[-1]).index_add_(-2, rows, part)
    result.index_add_(-1, columns, strip)
