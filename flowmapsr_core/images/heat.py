"""A map as colours over the picture that it is of."""

import torch
from torch import Tensor

from .metrics import luma

# from what is hardly there to what is everywhere: the colours of a map at 0, 1/4, 1/2, 3/4 and 1
RAMP = ((0.15, 0.25, 0.65), (0.15, 0.65, 0.60), (0.98, 0.85, 0.20), (0.93, 0.35, 0.10), (0.65, 0.00, 0.25))


def heat_picture(image: Tensor, heat: Tensor) -> Tensor:
    """A gray picture of the image, coloured by a map: the more of it, the hotter, and the less of the picture.

    Args:
        image: (B, 3, H, W) in [0, 1].
        heat: (B, 1, H, W) in [0, 1].

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    ramp = image.new_tensor(RAMP)
    place = heat * (len(RAMP) - 1)
    below = place.floor().clamp(max=len(RAMP) - 2)
    lower, upper = (ramp[(below + step).long().squeeze(1)].movedim(-1, 1) for step in (0, 1))
    colors = torch.lerp(lower, upper, place - below)
    gray = luma(image)
    return torch.lerp(gray.expand_as(image), colors * (0.4 + 0.6 * gray), (2 * heat).clamp(max=1))
