"""A convolution of LR pixels as one of their bicubic enlargement, which is all that a flow map sees.

Enlarging is linear, and along an axis three neighbouring cells of HR pixels depend on few LR pixels: by a factor of 3
or more they tell what those are. So there is a left inverse, and no photograph has to be seen to find it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...images.resize import resize

KERNEL = 3  # cells that a convolution sees along an axis
ROW = 256  # LR pixels; borders are as frequent as in a picture of this size
MEAN, DEVIATION, CORRELATION = 0.5, 0.25, 0.95  # of pixels in photographs, the last between neighbours
NOISE = 3e-4  # deviation of what bfloat16 rounds off


def left_inverse(factor: int, pixels: int) -> Tensor:
    """What gives LR pixels back of what three neighbouring cells of their enlargement hold, along an axis.

    The least-squares estimate ``L = E[y x^T] (E[x x^T] + noise^2)^-1`` for x, the HR pixels of three cells, and y, the
    LR pixels beneath them, anywhere in a row of pixels that are as alike as those of photographs. Beyond the ends of a
    row both are 0.

    Args:
        factor: of the enlargement.
        pixels: LR pixels of a cell, along an axis; it has ``factor * pixels`` HR pixels.

    Returns:
        (3 pixels, 3 factor pixels), float64.
    """
    lr = torch.eye(ROW, dtype=torch.float64)  # for every pixel, a row of pixels in which it is 1
    hr = resize(lr[:, None, None], (1, ROW * factor))[:, 0, 0]
    y, x = (F.pad(rows, (n, n)).unfold(1, KERNEL * n, n) for rows, n in ((lr, pixels), (hr, pixels * factor)))
    distance = (torch.arange(ROW) - torch.arange(ROW)[:, None]).abs()
    moment = MEAN**2 + DEVIATION**2 * CORRELATION ** distance.double()
    seen = torch.einsum("ij,jcb->icb", moment, x)
    cross, auto = (torch.einsum("ica,icb->ab", rows, seen) / x.shape[1] for rows in (y, x))
    return torch.linalg.solve(auto + NOISE**2 * torch.eye(len(auto)), cross.T).T


def on_enlargement(weight: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Weights and bias by which a convolution gives of enlarged pixels in [-1, 1] what it gives of LR pixels in [0, 1].

    Args:
        weight: (out, 3 pixels^2, 3, 3), of LR pixels that are unshuffled by ``pixels``.
        factor: of the enlargement; its pixels are unshuffled by ``factor * pixels``.

    Returns:
        (out, 3 (factor pixels)^2, 3, 3), and (out,) to be added to the bias; float64.
    """
    out, pixels = len(weight), round((weight.shape[1] / 3) ** 0.5)
    cell, inverse = factor * pixels, left_inverse(factor, pixels)
    grid = weight.double().reshape(out, 3, pixels, pixels, KERNEL, KERNEL).permute(0, 1, 4, 2, 5, 3)
    rows = grid.reshape(out, 3, KERNEL * pixels, KERNEL * pixels)
    fine = torch.einsum("ocyx,ya,xb->ocab", rows, inverse, inverse) / 2
    fine = fine.reshape(out, 3, KERNEL, cell, KERNEL, cell).permute(0, 1, 3, 5, 2, 4)
    return fine.reshape(out, 3 * cell**2, KERNEL, KERNEL), fine.sum(dim=(1, 2, 3, 4, 5))
