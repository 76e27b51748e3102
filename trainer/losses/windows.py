"""The part of every sample that is looked at as a picture."""

import torch
from torch import Tensor

from ...flowmapsr_core.codecs import Codec

LARGEST = 256  # side of a window in pixels, unless told: decoding takes memory


def windows(x: Tensor, place: Tensor, side: int, step: int = 1) -> Tensor:
    """A square of every sample.

    Args:
        x: (B, C, H, W).
        place: (B, 2) in [0, 1), where the squares are: 0 at the top or left, 1 at the other end.
        side: of the squares, a multiple of ``step``.
        step: of the grid that their corners are on.

    Returns:
        (B, C, side, side)
    """
    room = place.new_tensor([(length - side) // step + 1 for length in x.shape[-2:]])
    corners = (place * room).long() * step
    places = zip(x, corners.tolist(), strict=True)
    return torch.stack([sample[:, top : top + side, left : left + side] for sample, (top, left) in places])


def window_cells(latent: Tensor, codec: Codec, largest: int = LARGEST) -> int:
    """Side in cells of a window of at most ``largest`` pixels in latents (B, C, h, w)."""
    return min(largest // codec.factor, *latent.shape[-2:])


def decoded_windows(latent: Tensor, codec: Codec, place: Tensor, largest: int = LARGEST) -> Tensor:
    """Pictures (B, 3, side, side) of the windows of latents (B, C, h, w), about [0, 1]; only these are decoded.

    They are not clamped: that would cut the gradient where a prediction is furthest off.
    """
    return codec.decode(windows(latent, place, window_cells(latent, codec, largest)))
