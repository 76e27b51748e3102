"""The error of a velocity."""

import torch.nn.functional as F
from torch import Tensor

SIDE = 8  # of a neighbourhood, in cells
USUAL, LEAST = 8 / 127.5, 0.5 / 127.5  # errors of 8 and half a step of 8 bits, for latents that are pixels in [-1, 1]


def squared_error(error: Tensor, grid: float = 0.0, even: float = 0.0) -> Tensor:
    """Mean squares (B,) of errors (B, C, H, W), and ``grid`` times those of their means over 8 x 8 cells.

    A network that paints a cell's pixels as channels errs a little differently in each of them. What is the same in
    all cells of a neighbourhood is a grid of pixels, which an eye sees long before it weighs anything among the detail
    that no network can know. That detail differs from cell to cell, and its means vanish. They are multiplied by the
    number of cells, so that with ``grid = 1`` an error without any pattern counts twice.

    The squares of foliage are a thousand times those of a wall, and leave the wall to chance, where an eye sees it. So
    each neighbourhood is weighed by the power ``-even`` of its own mean square, taken for a constant: at 0 squares
    count alike, at 1 neighbourhoods do, whose logarithm, which is PSNR, is then what counts.
    """
    side = min(SIDE, *error.shape[-2:])
    if even:
        hardness = F.avg_pool2d(error.detach().square().mean(dim=1, keepdim=True), side, ceil_mode=True)
        weight = ((hardness + LEAST**2) / USUAL**2) ** -even
        error = error * F.interpolate(weight.sqrt(), scale_factor=side)[..., : error.shape[-2], : error.shape[-1]]
    loss = error.square().mean(dim=(1, 2, 3))
    if grid:
        loss = loss + grid * side**2 * F.avg_pool2d(error, side).square().mean(dim=(1, 2, 3))
    return loss
