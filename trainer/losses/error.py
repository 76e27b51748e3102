"""The error of a velocity."""

import torch.nn.functional as F
from torch import Tensor

SIDE = 8  # of a neighbourhood, in cells


def squared_error(error: Tensor, grid: float = 0.0) -> Tensor:
    """Mean squares (B,) of errors (B, C, H, W), and ``grid`` times those of their means over 8 x 8 cells.

    A network that paints a cell's pixels as channels errs a little differently in each of them. What is the same in
    all cells of a neighbourhood is a grid of pixels, which an eye sees long before it weighs anything among the detail
    that no network can know. That detail differs from cell to cell, and its means vanish. They are multiplied by the
    number of cells, so that with ``grid = 1`` an error without any pattern counts twice.
    """
    plain = error.square().mean(dim=(1, 2, 3))
    if not grid:
        return plain
    side = min(SIDE, *error.shape[-2:])
    return plain + grid * side**2 * F.avg_pool2d(error, side).square().mean(dim=(1, 2, 3))
