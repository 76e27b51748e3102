"""Further channels of a picture: they go where its colours go, and no network sees them."""

import torch
from torch import Tensor

from .resize import resize

DEPTHS = {"Z", "ZBack"}


def resize_plane(name: str, plane: Tensor, like: Tensor, wrap: str = "") -> Tensor:
    """A channel (1, 1, h, w) of a picture at the size of an image (1, C, H, W), which the picture has been given.

    Mattes, colours and the like are interpolated, without overshoot. Nothing lies between two depths, two whole
    numbers, two identities (Cryptomatte) or a number and infinity: of these, the nearest is taken.
    """
    size = (like.shape[-2], like.shape[-1])
    mixes = plane.is_floating_point() and bool(plane.isfinite().all())
    if mixes and name.rpartition(".")[2] not in DEPTHS and "crypto" not in name.lower():
        return resize(plane, size, "bilinear", wrap)
    down, along = (
        ((torch.arange(wanted) + 0.5) * side / wanted).long()
        for wanted, side in zip(size, plane.shape[-2:], strict=True)
    )
    return plane[..., down[:, None], along]
