"""What an image file holds."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class ExrFile:
    """What else an OpenEXR file says, to be written into another one.

    Attributes:
        attributes: of its header, by name; windows as they were for the size that it had.
        types: how each channel is stored: float16, float32 or uint32.
        size: (height, width) of its pixels.
    """

    attributes: dict[str, Any]
    types: dict[str, np.dtype]
    size: tuple[int, int]


@dataclass
class Picture:
    """An image file's content.

    Attributes:
        color: (1, 3, H, W) float32 in [0, 1], upright. Of 32 bits sRGB's values too, which go on beyond [0, 1].
        alpha: (1, 1, H, W) float32 in [0, 1], or None.
        gray: the file had no colour.
        bits: 8 or 16 per sample, or 32: light in floating point, in the file of whatever precision.
        metadata: what Pillow's ``save`` takes: ICC profile, EXIF (orientation reset), resolution, XMP. To be written
            also ``text``, texts by keyword as ComfyUI's page finds them: in PNG, in the EXIF of WebP, and nowhere else.
        planes: further channels by name, (1, 1, H, W): float32, or int64 of whole numbers. Only OpenEXR has them, and
            keeps by the names of the colours what these have beyond what alpha covers.
        exr: what else the file said, if it was one of OpenEXR.
    """

    color: Tensor
    alpha: Tensor | None = None
    gray: bool = False
    bits: int = 8
    metadata: dict[str, Any] = field(default_factory=dict)
    planes: dict[str, Tensor] = field(default_factory=dict)
    exr: ExrFile | None = None
