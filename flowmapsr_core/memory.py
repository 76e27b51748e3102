"""How much memory there is, and the tile that fits it."""

import os

import torch

from .model import FlowMap

CPU_BUDGET = 2**28  # bytes; larger tiles are hardly faster on a CPU, and cancelling waits for a tile
SMALLEST_TILE = 128


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated on a device now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    try:
        with open("/proc/meminfo") as meminfo:
            line = next(line for line in meminfo if line.startswith("MemAvailable"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        names = getattr(os, "sysconf_names", {})
        if "SC_PHYS_PAGES" in names:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        return 4 * 2**30


def default_tile(model: FlowMap, size: tuple[int, int], device: torch.device) -> int:
    """Side of the largest tile, in output pixels, whose evaluation fits; 0 if the whole image does.

    Half of the free memory is left to the image itself and to other programs.
    """
    budget = free_memory(device) // 2
    if device.type == "cpu":
        budget = min(budget, CPU_BUDGET)
    pixels = budget / (model.network.floats_per_cell / model.codec.factor**2 * model.dtype.itemsize)
    if size[0] * size[1] <= pixels:
        return 0
    align = model.network.stride * model.codec.factor
    side = int(pixels**0.5) - 2 * model.network.receptive_radius * model.codec.factor
    return max(side, SMALLEST_TILE) // align * align
