"""Between ComfyUI's images, (B, H, W, 3 or 4), and the core's, (B, 3, H, W)."""

from collections.abc import Iterator

import comfy.model_management as management
import torch
from torch import Tensor

from ...flowmapsr_core import UserError
from ...flowmapsr_core.images.resize import resize_alpha
from .host import ComfyHost

PIXEL_SIZE = "flowmapsr_size"  # in a LATENT: height and width of the image, which may end within the last cells


def split_alpha(image: Tensor) -> tuple[Tensor, Tensor | None]:
    """Colour (B, 3, H, W) of a ComfyUI image, and its alpha (B, 1, H, W) if it has one.

    They are where ComfyUI keeps what is between nodes, and so is what is made of them, picture by picture: a batch does
    not pile up on the device that computes.

    Raises :class:`UserError` if it has another number of channels.
    """
    channels = image.movedim(-1, 1).to(management.intermediate_device(), torch.float32)
    if channels.shape[1] not in (3, 4):
        raise UserError(f"the image has {channels.shape[1]} channel(s); connect one with 3 (RGB) or 4 (RGB and alpha)")
    return channels[:, :3], channels[:, 3:] if channels.shape[1] == 4 else None


def join_alpha(color: Tensor, alpha: Tensor | None = None, wrap: str = "") -> Tensor:
    """A ComfyUI image of colour (B, 3, H, W) and alpha, which is resized to it; see :func:`given_out`.

    ``wrap`` says which edges meet.
    """
    if alpha is not None:
        color = torch.cat([color, resize_alpha(alpha, color, wrap)], dim=1)
    return given_out(color.movedim(1, -1))


def given_out(result: Tensor) -> Tensor:
    """An image, a mask or a latent where ComfyUI keeps what is between nodes, and in its precision.

    The user's flags say which: ``--gpu-only``, and ``--fp16-intermediates`` in newer versions.
    """
    dtype = management.intermediate_dtype() if hasattr(management, "intermediate_dtype") else torch.float32
    return result.to(management.intermediate_device(), dtype)


def from_mask(mask: Tensor | None, image: Tensor) -> Tensor | None:
    """A ComfyUI mask, (B, H, W) or (H, W), as the core's (B, 1, H, W) for images (B, 3, H, W); None stays None.

    *Load Image* gives 64 x 64 black pixels for a picture of any size in which nothing is painted; inverted, white ones.
    """
    if mask is None:
        return None
    mask = mask.float().reshape(-1, 1, *mask.shape[-2:])
    unpainted = mask.shape == (1, 1, 64, 64) and bool((mask == mask[..., :1, :1]).all())
    return mask[..., :1, :1].expand(1, 1, *image.shape[-2:]) if unpainted else mask


def singles(images: Tensor) -> Iterator[Tensor]:
    """The images of a batch, (1, C, H, W): work needs memory for one, and a cancel is heard before each."""
    host = ComfyHost()
    for image in images.split(1):
        host.check_cancelled()
        yield image


def pairs(images: Tensor, references: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Each image with its reference; a single reference goes with all. :class:`UserError` if the numbers differ."""
    if len(references) not in (1, len(images)):
        raise UserError(
            f"the reference is a batch of {len(references)}, the image a batch of {len(images)}; "
            f"connect one reference, or one for each image"
        )
    return zip(singles(images), references.expand(len(images), -1, -1, -1).split(1), strict=True)
