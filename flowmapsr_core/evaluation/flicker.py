"""Flicker of a clip whose motion is known: what changes from frame to frame once that motion is taken out.

A motion is a (2, 3) float64 matrix that leads from places of one picture to places of another: ``motion @ (y, x, 1)``,
both in pixels from the picture's middle.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..images.color import gaussian_blur
from ..images.metrics import luma

ORDER = 5  # of the splines that pictures are moved by: their error is far below a step of 8 bits
DETAIL = 4.0  # pixels: what a Gaussian of this sigma takes away counts as detail


@dataclass(frozen=True)
class Flicker:
    """Of a clip, in steps of 8 bits.

    Attributes:
        change: root mean square of what changes in the luma from each frame to the next.
        detail: that of the luma's detail, finer than :data:`DETAIL`, in the mean of the frames.
    """

    change: float
    detail: float


def affine(down: float = 0.0, along: float = 0.0, zoom: float = 1.0, degrees: float = 0.0) -> Tensor:
    """The motion that scales by ``zoom``, turns by ``degrees`` from y towards x, and then shifts, in pixels."""
    cos, sin = (zoom * f(math.radians(degrees)) for f in (math.cos, math.sin))
    return torch.tensor([[cos, -sin, down], [sin, cos, along]], dtype=torch.float64)


def inverse(motion: Tensor) -> Tensor:
    """The motion back."""
    turn = torch.linalg.inv(motion[:, :2])
    return torch.cat([turn, -turn @ motion[:, 2:]], dim=1)


def view(picture: Tensor, motion: Tensor, size: tuple[int, int]) -> Tensor:
    """What is seen of a picture where a motion leads, by quintic splines (Unser, "Splines", 1999).

    Args:
        picture: (C, H, W).
        motion: from places of the result to those of the picture.
        size: (height, width) of the result.

    Returns:
        (C, *size) float64. Beyond its edges the picture is mirrored.
    """
    from scipy.ndimage import affine_transform

    turn, shift = motion[:, :2].numpy(), motion[:, 2].numpy()
    middle, own = ((np.array(sides) - 1) / 2 for sides in (size, picture.shape[-2:]))
    offset = (own + shift - turn @ middle).tolist()
    channels = [
        affine_transform(channel, turn, offset, size, order=ORDER, mode="mirror")  # pyright: ignore[reportArgumentType]
        for channel in picture.double().cpu().numpy()
    ]
    return torch.from_numpy(np.stack(channels))


def flicker(frames: Tensor, motions: Tensor, border: int) -> Flicker:
    """Flicker of a clip, over the pixels that all frames see.

    It is the warping error of Lai et al., "Learning Blind Video Temporal Consistency" (2018), as a root mean square of
    the luma, with the true motion in place of an estimate.

    Args:
        frames: (K, 3, H, W) in [0, 1].
        motions: (K, 2, 3), from the places of each frame to those of a common picture.
        border: pixels at each frame's edge that are left out.
    """
    size = (frames.shape[-2], frames.shape[-1])
    still = torch.stack([
        view(y, inverse(motion), size) for y, motion in zip(luma(frames.double()), motions, strict=True)
    ])  # fmt: skip
    seen = torch.stack([_inside(inverse(motion), size, border) for motion in motions]).all(dim=0)
    mean = still.mean(dim=0, keepdim=True)
    detail = mean - gaussian_blur(mean, DETAIL)
    return Flicker(*(_rms(255 * part[..., seen]) for part in (still.diff(dim=0), detail)))


def _inside(motion: Tensor, size: tuple[int, int], border: int) -> Tensor:
    """Of which pixels of a picture a motion leads into another of the same size, (H, W) bool."""
    limits = (torch.tensor(size, dtype=torch.float64) - 1) / 2
    y, x = (torch.arange(side, dtype=torch.float64) - limit for side, limit in zip(size, limits, strict=True))
    places = torch.stack([*torch.meshgrid(y, x, indexing="ij"), torch.ones(size, dtype=torch.float64)])
    led = torch.einsum("ij,jhw->ihw", motion, places)
    return (led.abs() <= (limits - border).reshape(2, 1, 1) + 1e-6).all(dim=0)


def _rms(values: Tensor) -> float:
    return values.square().mean().sqrt().item()
