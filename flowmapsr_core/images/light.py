"""Light brighter than white: a reversible curve between it and what a network has learned on, and what undoes its harm.

Light is linear and unbounded, 1 for white. Everywhere else values are as a screen has them: through sRGB's curve, which
simply goes on beyond 1. Networks want these in [0, 1], so :func:`squeeze` leaves the displayed range a straight line,
only WHITE times as high, and presses all that is brighter into the room above. Nothing here knows of files.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .resize import resize
from .wrap import surround

WHITE = 0.8  # what squeezing makes of 1
KNEE = 0.03  # of screen values: so far above 1 the curve has half of its slope
PEAK = 125.0  # the screen value that is squeezed to 0.9998: light of 94 900, more than half floats hold
ROUNDS = 4  # after which light that a result has in the wrong place or amount is within a few percent
DARK = 1e-3  # light below which amounts are corrected by sums, rather than by factors


def light_of(display: Tensor) -> Tensor:
    """Linear light of sRGB's values, any shape: IEC 61966-2-1, whose ends go on below 0 and above 1."""
    line = display <= 0.04045
    return torch.where(line, display / 12.92, ((display.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)


def display_of(light: Tensor) -> Tensor:
    """Inverse of :func:`light_of`."""
    return torch.where(light <= 0.0031308, light * 12.92, 1.055 * light.clamp_min(0.0031308) ** (1 / 2.4) - 0.055)


def squeeze(display: Tensor) -> Tensor:
    """Values from 0 to PEAK, pressed into [0, 1]: ``W v`` up to white, ``W (1 + K ln(1 + (v - 1) / K))`` above it.

    W is WHITE and K is KNEE. Strictly increasing, and its slope has no step at white.
    """
    above = torch.log1p((display.clamp_min(1) - 1) / KNEE)
    return WHITE * (display.clamp_max(1) + KNEE * above)


def stretch(squeezed: Tensor) -> Tensor:
    """Inverse of :func:`squeeze`."""
    values = squeezed / WHITE
    return values.clamp_max(1) + KNEE * torch.expm1((values.clamp_min(1) - 1) / KNEE)


def paint_light(paint: Callable[[Tensor], Tensor], image: Tensor, wrap: str = "") -> Tensor:
    """Enlarge an image that has values beyond [0, 1] by what takes and gives [0, 1].

    What the curve does not hold, below 0 and above PEAK, is interpolated and added.

    Args:
        paint: from (1, 3, h, w) to (1, 3, H, W), at least as large.
        image: (1, 3, h, w), sRGB's values, also beyond [0, 1].
        wrap: which edges meet, see :mod:`.wrap`.

    Returns:
        (1, 3, H, W) of such values. Where H, W = h, w it is the image, whatever ``paint`` does.
    """
    inside = image.clamp(0, PEAK)
    result = stretch(paint(squeeze(inside)))
    image, inside = image.to(result.device), inside.to(result.device)
    for into, source in zip(result.split(1, dim=1), inside.split(1, dim=1), strict=True):  # spares memory
        into.copy_(display_of(keep_light(light_of(into), light_of(source), wrap)))
    beyond = image - inside
    if beyond.any():
        result += resize(beyond, (result.shape[-2], result.shape[-1]), "bilinear", wrap)
    return result


def keep_light(result: Tensor, source: Tensor, wrap: str = "") -> Tensor:
    """Give a result as much light as its source has at every place: their means over a source's pixel come together.

    A small error in a highlight's squeezed value is a large one in light, and halfway between dark and bright in such
    values is still dark, so that small highlights would all but go out. Two steps in turn: values stay above the least
    of the source's pixel and its eight neighbours and, where they are above white, below the most, so that what
    overshoots does not blow up; then they are multiplied by ``up(source / mean(result))``, the update of Richardson
    (1972) and Lucy (1974) with an interpolated ratio, which knows no negative light. The last step is of the second
    kind.

    Args:
        result: (B, C, H, W) of linear light, at least 0.
        source: (B, C, h, w), at least 0, no larger.
        wrap: which edges meet.

    Returns:
        (B, C, H, W). Where H, W = h, w it is the source, to float32's rounding.
    """
    size, small = (result.shape[-2:], source.shape[-2:])
    around = surround(source, 1, 1, wrap)
    most = resize(F.max_pool2d(around, 3, 1), (size[0], size[1]), "nearest").clamp_min(1)
    least = resize(-F.max_pool2d(-around, 3, 1), (size[0], size[1]), "nearest")
    for _ in range(ROUNDS):
        result = torch.minimum(torch.maximum(result, least), most)
        ratio = (source + DARK) / (resize(result, (small[0], small[1]), "area", wrap) + DARK)
        result = ((result + DARK) * resize(ratio, (size[0], size[1]), "bilinear", wrap) - DARK).clamp_min(0)
    return result
