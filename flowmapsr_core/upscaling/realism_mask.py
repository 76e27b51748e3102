"""Where to be faithful: a mask blends what the realism dial gives with the posterior mean.

White takes the dial's value, black 0, and gray what lies between: a plain blend of the two latents, pixel by pixel. In
the plane of mean square error and Wasserstein distance no unbiased estimate between its two ends passes below their
blend, the dial's included (:func:`..method.flow.sample`). It costs one more evaluation, has no seams, and tiles as its
ends do. The guidance scale is no field either: a network is told one value for a whole image, and to modulate it pixel
by pixel would cost more than that evaluation.
"""

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..codecs import Codec
from ..errors import UserError
from ..images.light import light_of
from ..images.picture_files import read_picture
from ..images.resize import resize
from ..method.looks import Look
from ..method.methods import Method


def read_mask(path: Path) -> Tensor:
    """A mask (1, 1, H, W) in [0, 1] from an image file: its brightness, and black where it is transparent.

    Raises :class:`UserError` if there is no image.
    """
    picture = read_picture(path)
    values = light_of(picture.color).clamp(0, 1) if picture.bits == 32 else picture.color  # as the file has them
    brightness = values.mean(dim=1, keepdim=True)
    return brightness if picture.alpha is None else brightness * picture.alpha


def check_mask(mask: Tensor | None, images: Tensor, size: tuple[int, int] | None = None) -> None:
    """Raise :class:`UserError` unless a mask (1 or B, 1, h, w) fits images (B, 3, H, W).

    It has their size or that of their output, ``size`` = (height, width). None: they have been enlarged already, and
    the mask may have the size that they had before.
    """
    if mask is None:
        return
    now = (images.shape[-2], images.shape[-1])
    if mask.dim() != 4 or mask.shape[1] != 1:
        raise UserError(f"the realism mask has shape {tuple(mask.shape)}; give (batch, 1, height, width)")
    found = (mask.shape[-2], mask.shape[-1])
    if found not in (now, size) and (size is not None or not _was_enlarged(found, now)):
        other = "a smaller one of that shape" if size is None else f"one of the output's {_pixels(size)}"
        raise UserError(
            f"the realism mask is {_pixels(found)} pixels; give one of the image's {_pixels(now)}, or {other}"
        )
    if len(mask) not in (1, len(images)):
        raise UserError(
            f"there are {len(mask)} realism masks for {len(images)} images; give one for all, or one for each"
        )


def runs_for(method: Method, settings: Look, mask: Tensor | None) -> list[Look]:
    """The settings whose results are blended by the mask of one image: of its white, and of its black.

    Only one of them where the other has no part.
    """
    if mask is None or mask.min() >= 1:
        return [settings]
    faithful = method.settings(replace(settings, realism=0.0))
    return [faithful] if mask.max() <= 0 or settings.realism == 0 else [faithful, settings]


def blend(latents: list[Tensor], mask: Tensor | None, size: tuple[int, int], codec: Codec, wrap: str = "") -> Tensor:
    """What :func:`runs_for` an image of ``size`` (H, W) have made, latents (1, C, h, w), as one by its mask."""
    if len(latents) == 1 or mask is None:
        return latents[0]
    black, white = latents
    mask = resize(mask.to(black).clamp(0, 1), size, "bilinear", wrap)
    height, width = (cells * codec.factor for cells in black.shape[-2:])
    padded = F.pad(mask, (0, width - size[1], 0, height - size[0]), mode="replicate")
    return torch.lerp(black, white, codec.weights(padded))


def _was_enlarged(source: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether there is a factor of 1 or more by which both sides were multiplied, and rounded."""
    least = max((side - 0.5) / before for side, before in zip(size, source, strict=True))
    most = min((side + 0.5) / before for side, before in zip(size, source, strict=True))
    return max(least, 1) <= most


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"
