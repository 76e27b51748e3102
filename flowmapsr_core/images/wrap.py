"""Images whose opposite edges meet: panoramas, and the tiles of a texture.

Where they do is said by ``wrap``, one of :data:`..names.WRAPS`: "x" where left and right meet, "y" where top and bottom
do, "xy" where both do, and "" where none do.
"""

import torch
from torch import Tensor

from ..errors import UserError
from ..names import WRAPS


def check_wrap(wrap: str) -> None:
    """Raise :class:`UserError` unless ``wrap`` is one of :data:`..names.WRAPS`, or empty."""
    if wrap and wrap not in WRAPS:
        raise UserError(f"an image cannot wrap around along {wrap!r}; choose one of {', '.join(WRAPS)}")


def surround(image: Tensor, down: int, along: int, wrap: str) -> Tensor:
    """An image (B, C, H, W) with ``down`` more rows above and below, and ``along`` more columns on either side.

    They are those of the opposite edge where the image wraps around, and elsewhere repeat the nearest one.
    """
    for dim, axis, reach in ((-2, "y", down), (-1, "x", along)):
        if reach:
            places = torch.arange(-reach, image.shape[dim] + reach, device=image.device)
            last = image.shape[dim] - 1
            image = image.index_select(dim, places % (last + 1) if axis in wrap else places.clamp(0, last))
    return image


def without(image: Tensor, down: int, along: int) -> Tensor:
    """The middle of what :func:`surround` has made; a view."""
    return image[..., down : image.shape[-2] - down, along : image.shape[-1] - along]
