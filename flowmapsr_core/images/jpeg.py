"""The loss of JPEG (ITU-T T.81) as a batched tensor operation: 8x8 DCT, quantisation, 4:2:0 chroma."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# T.81 annex K, tables K.1 (luminance) and K.2 (chrominance): the ones libjpeg scales by its quality setting
LUMINANCE = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
CHROMINANCE = """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99"""
# JFIF: RGB to full-range YCbCr (BT.601)
YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def jpeg(image: Tensor, quality: Tensor) -> Tensor:
    """What JPEG leaves of an image.

    Args:
        image: (B, 3, H, W) in [0, 1], any size.
        quality: (B,), libjpeg's 1 to 100.

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    height, width = image.shape[-2:]
    to_ycbcr = image.new_tensor(YCBCR)
    padded = F.pad(image, (0, -width % 16, 0, -height % 16), mode="replicate")
    # chroma rows sum to zero, so the level shift of RGB by 128 moves the luma alone
    ycbcr = torch.einsum("ij,bjhw->bihw", to_ycbcr, padded * 255 - 128)
    luma = _quantise(ycbcr[:, :1], _table(LUMINANCE, quality))
    chroma = _quantise(F.avg_pool2d(ycbcr[:, 1:], 2), _table(CHROMINANCE, quality))
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear")
    rgb = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(to_ycbcr), torch.cat([luma, chroma], dim=1))
    return ((rgb + 128) / 255)[..., :height, :width].clamp(0, 1)


def cosine_transform() -> Tensor:
    """The orthonormal cosine transform of a block's rows, (8, 8): a frequency a row (T.81, A.3.3)."""
    k = torch.arange(8.0)
    dct = torch.cos((2 * k + 1) * k[:, None] * math.pi / 16) / 2
    dct[0] /= math.sqrt(2)
    return dct


def _table(table: str, quality: Tensor) -> Tensor:
    """Quantisation steps (B, 1, 1, 8, 1, 8) for a quality, by libjpeg's formula."""
    base = torch.tensor([float(step) for step in table.split()], device=quality.device)
    percent = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)
    steps = ((base * percent[:, None] + 50) / 100).floor().clamp(1, 255)
    return steps.reshape(-1, 1, 1, 8, 1, 8)


def _quantise(plane: Tensor, steps: Tensor) -> Tensor:
    """Round the DCT coefficients of every 8x8 block to multiples of ``steps``."""
    batch, channels, height, width = plane.shape
    dct = cosine_transform().to(plane)
    blocks = plane.reshape(batch, channels, height // 8, 8, width // 8, 8)
    coefficients = torch.einsum("ui,bcyixj,vj->bcyuxv", dct, blocks, dct)
    coefficients = (coefficients / steps).round() * steps
    return torch.einsum("ui,bcyuxv,vj->bcyixj", dct, coefficients, dct).reshape(plane.shape)
