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
        color: (1, 3, H, W) float32, upright, as sRGB codes it: in [0, 1], or with values beyond where ``bits`` is 32.
        alpha: (1, 1, H, W) float32 in [0, 1], or None.
        gray: the file had no colour.
        bits: 8 or 16 per sample, or 32: light in floating point, in the file of whatever precision.
        metadata: what Pillow's ``save`` takes: ICC profile, EXIF (orientation reset), resolution, XMP. Who writes a
            picture may add ``text``, texts by keyword, which PNG and the EXIF of WebP keep where ComfyUI's page looks.
        planes: further channels of an OpenEXR file by name, (1, 1, H, W): float32, or int64 of whole numbers. Under R,
            G and B is the light that is there where alpha covers nothing, as of fire.
        exr: what else the file said, if it was one of OpenEXR.
    """

    color: Tensor
    alpha: Tensor | None = None
    gray: bool = False
    bits: int = 8
    metadata: dict[str, Any] = field(default_factory=dict)
    planes: dict[str, Tensor] = field(default_factory=dict)
    exr: ExrFile | None = None
