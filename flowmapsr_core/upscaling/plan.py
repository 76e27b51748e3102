"""How an image is cut so that upscaling it fits the memory there is."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..codecs import Bands
from ..errors import UserError
from ..model import Model
from ..networks import flops
from .host import Host
from .meter import BAND_TICKS
from .tiling import Tiling, tiling_for

log = logging.getLogger("flowmapsr")

CPU_BUDGET = 2**28  # bytes; larger tiles are hardly faster on a CPU, and cancelling waits for a tile
BAND_BUDGET = 2**28  # bytes at work on a band; larger ones are no faster
SMALLEST_TILE = 64  # latent cells; of smaller tiles, most of the work is on what they share with others
LARGEST_BLEND = 128  # latent cells of a blended tile: the size that latent models are trained on
OVERLAP = 8  # a tile's side over what it shares with its neighbour, where tiles are blended
MOST_AT_ONCE = 8  # tiles a call
FEWEST_ROWS = 8  # of a band
HALOS = 6  # halos along a side of what a tile reads, where there is memory for it: of these, two are computed twice
CODED = 9  # floats per pixel beside the codec's memory: an image that is encoded, it padded, and that scaled
CORRECTED = 12  # floats per pixel: an image that grew 1.5 times, before and after its colours are corrected, and work


@dataclass(frozen=True)
class Plan:
    """Sizes in latent cells.

    Attributes:
        device: where the work is done.
        cells: height and width of the latent.
        tile: longest side of a tile; 0 for the whole latent at once.
        overlap: what neighbouring tiles share, where they are blended.
        batch: tiles in one call of the network.
        rows: height of a band of the codec, on every layer's own grid; 0 for the whole image at once.
        offload: whether the picture and the bands lie in host memory, and on the device only what is at work.
        picture: memory that the picture itself takes, whatever the tiles and bands, in bytes.
        peak: estimate of the memory that the device needs beside the weights, in bytes.
        free: memory that was free there, in bytes.
        wrap: which edges of the picture meet, see :mod:`..images.wrap`.
    """

    device: torch.device
    cells: tuple[int, int]
    tile: int = 0
    overlap: int = 0
    batch: int = 1
    rows: int = 0
    offload: bool = False
    picture: int = 0
    peak: int = 0
    free: int = 0
    wrap: str = ""

    @property
    def store(self) -> torch.device:
        """Where the picture lies."""
        return torch.device("cpu") if self.offload else self.device

    def bands(self, progress: Callable[[int, int], None] | None = None) -> Bands | None:
        """How the codec goes about the image; None: the whole of it at once."""
        return Bands(self.rows, self.offload, progress) if self.rows else None

    def tiling(self, model: Model) -> Tiling:
        """How a velocity is evaluated."""
        return tiling_for(model.network, self.tile, self.overlap, self.batch, self.wrap)

    def evaluations(self, model: Model, steps: int) -> int:
        """Tiles that are evaluated in all."""
        return steps * len(self.tiling(model).boxes(*self.cells))

    def smaller(self, model: Model) -> "Plan":
        """For what turned out not to fit: tiles of half the side, one at a time, and thin bands in host memory.

        Raises :class:`UserError` if nothing is left to halve.
        """
        side = min(self.tile or max(self.cells), max(self.cells))
        rows = max(self.rows // 2, FEWEST_ROWS) if model.codec.memory(*self.cells) else 0
        offload = self.device.type != "cpu"
        if side <= SMALLEST_TILE and (rows, offload) == (self.rows, self.offload):
            raise UserError(f"not enough memory, even with the smallest tiles; {self.advice()}")
        half = max(side // 2, SMALLEST_TILE)
        plan = replace(self, tile=half, overlap=_overlap(model, half), batch=1, rows=rows, offload=offload)
        return replace(plan, peak=_peak(plan, model))

    def advice(self) -> str:
        """What to do where this plan did not fit."""
        if self.offload or 2 * self.picture < self.peak:
            return "close other programs, or use a smaller tile or scale"
        gib = f"{self.picture / 2**30:.2g} GiB"
        return f"the picture itself takes about {gib}, whatever the tile; close other programs or use a smaller scale"


def make_plan(model: Model, size: tuple[int, int], host: Host, tile: int | None = None, wrap: str = "") -> Plan:
    """Plan for an output of ``size`` (height, width) on a device.

    Args:
        model: tells what an evaluation and a run of the codec take.
        size: output pixels.
        host: the machine that does the work. Half of its free memory is left to the picture itself and to other
            programs; a picture that needs more lies in host memory.
        tile: longest side of a tile in output pixels, 0 for none, None to choose.
        wrap: which edges meet.

    Raises:
        UserError: the tile is negative.
    """
    if tile is not None and tile < 0:
        raise UserError(f"the tile is {tile}; use a side in pixels, or 0 for no tiles")
    cells, codec = latent_cells(model, size), model.codec
    device, free = host.device, host.free_memory()
    half = free // 2
    budget = min(half, CPU_BUDGET) if device.type == "cpu" else half
    per_cell = model.network.floats_per_cell * model.dtype.itemsize
    affordable, most = budget / per_cell, half / per_cell
    side = _largest_tile(model, cells, affordable, most, wrap) if tile is None else -(-tile // codec.factor)
    blended = 0 < side < max(cells) and model.network.receptive_radius is None
    batch = min(max(int(budget / (per_cell * side**2)), 1), MOST_AT_ONCE) if blended else 1

    height, width = (length * codec.factor for length in cells)
    picture = max(_state(model, cells), 4 * CORRECTED * height * width)
    whole = codec.memory(height, width)
    bands = Bands(max(min(BAND_BUDGET, half) * height // (2 * whole), FEWEST_ROWS)) if whole else None
    offload = device.type != "cpu" and (picture > half or min(whole, codec.memory(height, width, bands)) > half)
    rows = bands.rows if bands and (whole > half or offload) else 0
    overlap = _overlap(model, side or (max(cells) if wrap else 0))
    plan = Plan(device, cells, side, overlap, batch, rows, offload, picture, free=free, wrap=wrap)
    return replace(plan, peak=_peak(plan, model))


def _state(model: Model, cells: tuple[int, int]) -> int:
    """Bytes of what sampling holds of the whole picture: noise, and the states x1, x_t, u and x_s."""
    latents = 4 * model.method.images + bool(model.method.noise)
    return 4 * math.prod(cells) * latents * model.codec.channels


def _peak(plan: Plan, model: Model) -> int:
    """Estimate of the memory that a plan needs on the device beside the weights, in bytes."""
    tiling, codec = plan.tiling(model), model.codec
    boxes = tiling.boxes(*plan.cells)
    top, left, bottom, right = tiling.reads(boxes[0], *plan.cells)  # as large as all others
    at_once = min(plan.batch, len(boxes)) * (bottom - top) * (right - left)
    tiles = at_once * model.network.floats_per_cell * model.dtype.itemsize
    height, width = (length * codec.factor for length in plan.cells)
    coding = codec.memory(height, width, plan.bands())
    if plan.offload:
        return max(tiles, coding)
    return max(plan.picture, _state(model, plan.cells) + tiles, 4 * CODED * height * width + coding)


def _overlap(model: Model, tile: int) -> int:
    return tile // OVERLAP if tile and model.network.receptive_radius is None else 0


def _largest_tile(model: Model, cells: tuple[int, int], affordable: float, most: float, wrap: str) -> int:
    """Side of the largest tile that is affordable, 0 if the whole latent is, and what is around it where edges meet.

    Both are in cells; up to ``most`` are afforded where the halo is wide.
    """
    if not wrap and math.prod(cells) <= affordable:
        return 0
    radius, stride = model.network.receptive_radius, model.network.stride
    beyond = _overlap(model, max(cells)) if radius is None else 2 * radius
    if math.prod(length + beyond * (axis in wrap) for axis, length in zip("yx", cells, strict=True)) <= affordable:
        return 0
    if radius is None:
        side = min(int(affordable**0.5), LARGEST_BLEND)
    else:
        side = int(max(affordable, min((HALOS * radius) ** 2, most)) ** 0.5) - 2 * radius
    # with less than the halo on either side, most of the work would be on halos
    return max(side, SMALLEST_TILE, radius or 0) // stride * stride


def ticks(plan: Plan, model: Model, steps: int, codings: int) -> int:
    """What a meter counts for an image: evaluations, and so many runs of the codec if it works in bands."""
    return plan.evaluations(model, steps) + (codings * BAND_TICKS if plan.rows else 0)


def in_memory(plan: Plan, model: Model, host: Host, attempt: Callable[[Plan], Tensor]) -> tuple[Tensor, Plan]:
    """What ``attempt`` makes by a plan, and that plan; where memory runs out, by a smaller one, tried once.

    Raises :class:`UserError` if it runs out again, with what helps.
    """
    try:
        return attempt(plan), plan
    except Exception as error:
        if not host.is_out_of_memory(error):
            raise
        plan = plan.smaller(model)
    # not up there, where the exception holds the tensors of the first attempt
    log.warning("out of memory; once more with less: %s", describe(plan, model))
    try:
        return attempt(plan), plan
    except Exception as error:
        if not host.is_out_of_memory(error):
            raise
    raise UserError(f"not enough memory; {plan.advice()}")


def latent_cells(model: Model, size: Sequence[int]) -> tuple[int, int]:
    """Height and width of the latent of an image of ``size`` (height, width): multiples of the network's stride."""
    align = model.codec.factor * model.network.stride
    height, width = (-(-side // align) * model.network.stride for side in size)
    return height, width


def sampling_flops(plan: Plan, model: Model, steps: int) -> int:
    """Floating-point operations of all evaluations, a multiply-add counted as two."""
    tiling = plan.tiling(model)
    boxes = tiling.boxes(*plan.cells)
    top, left, bottom, right = tiling.reads(boxes[0], *plan.cells)  # as large as all others
    return steps * len(boxes) * flops(model.network, bottom - top, right - left)


def describe(plan: Plan, model: Model, steps: int = 0) -> str:
    """The plan in words, in one line, and what ``steps`` of sampling cost; counting that takes memory itself."""
    height, width = plan.cells
    boxes = plan.tiling(model).boxes(height, width)
    tiles, side = len(boxes), max(max(bottom - top, right - left) for top, left, bottom, right in boxes)
    parts = [
        f"latent of {width}x{height} cells in {tiles} tiles of at most {side}" if tiles > 1 else
        f"latent of {width}x{height} cells, untiled",
        f"{plan.overlap} cells shared by neighbours, {plan.batch} at once" if tiles > 1 and plan.overlap else "",
        f"{plan.evaluations(model, steps)} evaluations, {sampling_flops(plan, model, steps) / 1e12:.3g} TFLOP"
        if steps else "",
        f"codec in bands of {plan.rows} rows" if plan.rows else "",
        f"about {plan.picture / 2**30:.2g} GiB for the picture itself{', in host memory' if plan.offload else ''}",
        f"about {plan.peak / 2**30:.2g} GiB in all beside the weights, {plan.free / 2**30:.3g} GiB free",
    ]  # fmt: skip
    return "; ".join(part for part in parts if part)
