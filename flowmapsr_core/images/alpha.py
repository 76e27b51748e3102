"""Colour where there is none: under fully transparent pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .resize import resize


def fill_transparent(color: Tensor, alpha: Tensor | None, wrap: str = "") -> Tensor:
    """Give fully transparent pixels the colour of what is beside them, so that resampling has nothing else to mix in.

    Files mostly have black there, which would otherwise bleed into the edges of what is visible. An image that is
    opaque, or transparent throughout, stays as it is.

    Args:
        color: (B, 3, H, W).
        alpha: (B, 1, H, W) in [0, 1], or None for an opaque image.
        wrap: which edges meet, see :mod:`.wrap`.
    """
    if alpha is None or alpha.min() > 0:
        return color
    visible = alpha > 0
    keep = visible | ~visible.amax(dim=(1, 2, 3), keepdim=True)
    return torch.where(keep, color, _spread(color * alpha, alpha, wrap))


def _spread(weighted: Tensor, alpha: Tensor, wrap: str) -> Tensor:
    """Colour x alpha over alpha where that is not 0, and elsewhere as far as need be from coarser and coarser means."""
    size = alpha.shape[-2:]
    filled = weighted / alpha.clamp(min=torch.finfo(alpha.dtype).tiny)
    if max(size) == 1:
        return filled
    weighted, coarse = (F.avg_pool2d(plane, 2, ceil_mode=True) for plane in (weighted, alpha))
    coarse = _spread(weighted, coarse, wrap)
    return torch.where(alpha > 0, filled, resize(coarse, (size[0], size[1]), "bilinear", wrap))
