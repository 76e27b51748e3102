"""Between a clip's samples, mostly Y'CbCr, and RGB. Both are as the clip's transfer curve has them: PQ stays PQ."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .av import pyav

if TYPE_CHECKING:
    from av import VideoFrame

UNSPECIFIED = 2  # of primaries, curves and matrices, as ITU-T H.273 numbers them
RGB, BT709, BT601 = 0, 1, 6  # matrices
HIGH_DEFINITION = 720  # rows from which a clip without a matrix is taken for BT.709's, as players do
LIMITED, FULL = 1, 2  # ranges, as FFmpeg numbers them


@dataclass(frozen=True)
class Colors:
    """What a clip says of its colours, in the numbers of ITU-T H.273, and the range in FFmpeg's."""

    primaries: int = UNSPECIFIED
    curve: int = UNSPECIFIED
    matrix: int = UNSPECIFIED
    range: int = LIMITED

    def known(self, rows: int) -> tuple[int, int]:
        """Matrix and range to compute with, for a clip of so many rows."""
        if self.matrix in (UNSPECIFIED, RGB):
            return (BT709 if rows >= HIGH_DEFINITION else BT601), self.range or LIMITED
        return self.matrix, self.range or LIMITED


def to_picture(frame: "VideoFrame", colors: Colors, turns: int) -> Tensor:
    """A frame as (1, 3, H, W) float32 in [0, 1], turned by so many quarters anticlockwise."""
    matrix, levels = colors.known(frame.height)
    rgb = frame.reformat(
        format="rgb48le", src_colorspace=_sws(matrix), src_color_range=levels, dst_color_range=FULL, **_exact()
    )
    samples = torch.from_numpy(rgb.to_ndarray().astype(np.float32) / 65535)
    return torch.rot90(samples, turns).permute(2, 0, 1)[None].contiguous()


def to_frame(picture: Tensor, colors: Colors, pixel_format: str) -> "VideoFrame":
    """A picture (1, 3, H, W) in [0, 1] as a frame of FFmpeg's ``pixel_format``."""
    matrix, levels = colors.known(picture.shape[-2])
    samples = (picture[0].clamp(0, 1) * 65535).round().permute(1, 2, 0).cpu().numpy().astype(np.uint16)
    frame = pyav().VideoFrame.from_ndarray(np.ascontiguousarray(samples), format="rgb48le")
    return frame.reformat(
        format=pixel_format, dst_colorspace=_sws(matrix), src_color_range=FULL, dst_color_range=levels, **_exact()
    )


def _sws(matrix: int) -> int:
    """libswscale's number of a matrix: it has one for the two names of BT.601's."""
    return 5 if matrix == BT601 else matrix


def _exact() -> dict[str, int]:
    kinds = pyav().video.reformatter.Interpolation
    return {"interpolation": int(kinds.BICUBIC | kinds.ACCURATE_RND | kinds.FULL_CHR_H_INT | kinds.FULL_CHR_H_INP)}
