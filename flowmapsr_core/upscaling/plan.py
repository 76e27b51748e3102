"""How an image is cut so that upscaling it fits the memory there is."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..errors import UserError
from ..model import Model
from ..networks import flops
from .host import Host
from .meter import BAND_TICKS
from .tiling import Tiling, tiling_for

log = logging.getLogger("flowmapsr")

CPU_BUDGET = 2**28  # bytes; larger tiles are hardly faster on a CPU, and cancelling waits for a tile
BAND_BUDGET = 2**28  # bytes at work on a band; larger ones are no faster
SMALLEST_TILE = 64  # latent cells; what a network says of less is not worth having
LARGEST_BLEND = 128  # latent cells of a blended tile: the size that latent models are trained on
OVERLAP = 8  # a tile's side over what it shares with its neighbour, where tiles are blended
MOST_AT_ONCE = 8  # tiles a call
FEWEST_ROWS = 8  # of a band


@dataclass(frozen=True)
class Plan:
    """Sizes in latent cells.

    Attributes:
        cells: height and width of the latent.
        tile: longest side of a tile; 0 for the whole latent at once.
        overlap: what neighbouring tiles share, where they are blended.
        batch: tiles in one call of the network.
        rows: height of a band of the codec, on every layer's own grid; 0 for the whole image at once.
        offload: whether bands lie in host memory.
        peak: estimate of the memory it takes beside the weights, in bytes.
        free: memory that was free, in bytes.
    """

    cells: tuple[int, int]
    tile: int = 0
    overlap: int = 0
    batch: int = 1
    rows: int = 0
    offload: bool = False
    peak: int = 0
    free: int = 0

    def tiling(self, model: Model) -> Tiling:
        """How a velocity is evaluated."""
        return tiling_for(model.network, self.tile, self.overlap, self.batch)

    def evaluations(self, model: Model, steps: int) -> int:
        """Tiles that are evaluated in all."""
        return steps * len(self.tiling(model).boxes(*self.cells))

    def smaller(self, model: Model) -> "Plan":
        """For what turned out not to fit: tiles of half the side, one at a time, and thin bands in host memory.

        Raises :class:`UserError` if nothing is left to halve.
        """
        side = min(self.tile or max(self.cells), max(self.cells))
        if side <= SMALLEST_TILE and self.offload:
            raise UserError("out of memory, even with the smallest tiles; close other programs or use a smaller scale")
        half = max(side // 2, SMALLEST_TILE)
        rows = max(self.rows // 2, FEWEST_ROWS) if model.codec.floats_per_pixel else 0
        return replace(self, tile=half, overlap=_overlap(model, half), batch=1, rows=rows, offload=True)


def make_plan(model: Model, size: tuple[int, int], host: Host, tile: int | None = None) -> Plan:
    """Plan for an output of ``size`` (height, width) on a device.

    Args:
        model: tells what an evaluation and a run of the codec take.
        size: output pixels.
        host: the machine that does the work; half of its free memory is left to the image itself and to other programs.
        tile: longest side of a tile in output pixels, 0 for none, None to choose.

    Raises:
        UserError: the tile is negative.
    """
    if tile is not None and tile < 0:
        raise UserError(f"the tile is {tile}; use a side in pixels, or 0 for no tiles")
    cells = latent_cells(model, size)
    free = host.free_memory()
    budget = min(free // 2, CPU_BUDGET) if host.device.type == "cpu" else free // 2
    per_cell = model.network.floats_per_cell * model.dtype.itemsize
    side = -(-tile // model.codec.factor) if tile is not None else _largest_tile(model, cells, budget / per_cell)
    tiled = 0 < side < max(cells)
    blended = tiled and model.network.receptive_radius is None
    batch = min(max(int(budget / (per_cell * side**2)), 1), MOST_AT_ONCE) if blended else 1
    peak = per_cell * (batch * side**2 if tiled else math.prod(cells))
    plan = Plan(cells, side, _overlap(model, side), batch, peak=int(peak), free=free)
    return _with_bands(plan, model)


def _overlap(model: Model, tile: int) -> int:
    return tile // OVERLAP if model.network.receptive_radius is None else 0


def _largest_tile(model: Model, cells: tuple[int, int], affordable: float) -> int:
    """Side of the largest tile that is affordable, 0 if the whole latent is."""
    if math.prod(cells) <= affordable:
        return 0
    radius, stride = model.network.receptive_radius, model.network.stride
    side = min(int(affordable**0.5), LARGEST_BLEND) if radius is None else int(affordable**0.5) - 2 * radius
    return max(side, SMALLEST_TILE) // stride * stride


def _with_bands(plan: Plan, model: Model) -> Plan:
    """The plan with bands for the codec: none if the whole image fits, in host memory if the bands do not."""
    codec, budget = model.codec, plan.free // 2
    height, width = (side * codec.factor for side in plan.cells)
    per_float = codec.dtype.itemsize * height * width
    whole, held = codec.floats_per_pixel * per_float, codec.floats_per_pixel_in_bands * per_float
    if whole <= budget:
        return replace(plan, peak=max(plan.peak, whole))
    rows = max(BAND_BUDGET * height // whole, FEWEST_ROWS)
    offload = held > budget
    return replace(plan, rows=rows, offload=offload, peak=max(plan.peak, BAND_BUDGET + (0 if offload else held)))


def ticks(plan: Plan, model: Model, steps: int, runs: int) -> int:
    """What a meter counts for an image: evaluations, and ``runs`` of the codec if it works in bands."""
    return plan.evaluations(model, steps) + (runs * BAND_TICKS if plan.rows else 0)


def in_memory(
    plan: Plan, model: Model, host: Host, steps: int, attempt: Callable[[Plan], Tensor]
) -> tuple[Tensor, Plan]:
    """What ``attempt`` makes by a plan, and that plan; where memory runs out, by a smaller one, tried once."""
    try:
        return attempt(plan), plan
    except Exception as error:
        if not host.is_out_of_memory(error):
            raise
        plan = plan.smaller(model)
    # not up there, where the exception holds the tensors of the first attempt
    log.warning("out of memory; once more with less: %s", describe(plan, model, steps))
    return attempt(plan), plan


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


def describe(plan: Plan, model: Model, steps: int) -> str:
    """The plan in words, in one line."""
    height, width = plan.cells
    boxes = plan.tiling(model).boxes(height, width)
    tiles, side = len(boxes), max(max(bottom - top, right - left) for top, left, bottom, right in boxes)
    parts = [
        f"latent of {width}x{height} cells in {tiles} tiles of at most {side}" if tiles > 1 else
        f"latent of {width}x{height} cells, untiled",
        f"{plan.overlap} cells shared by neighbours, {plan.batch} at once" if tiles > 1 and plan.overlap else "",
        f"{plan.evaluations(model, steps)} evaluations, {sampling_flops(plan, model, steps) / 1e12:.3g} TFLOP",
        f"codec in bands of {plan.rows} rows{' in host memory' if plan.offload else ''}" if plan.rows else "",
        f"about {plan.peak / 2**30:.2g} GiB beside the weights, {plan.free / 2**30:.3g} GiB free",
    ]  # fmt: skip
    return "; ".join(part for part in parts if part)
