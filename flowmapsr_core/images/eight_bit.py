"""Images in the 256 steps of a picture file, as tensors and as Pillow has them."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def eight_bit(image: Tensor) -> Tensor:
    """An image of any shape, cut to [0, 1] and rounded as a file holds it."""
    return (image.clamp(0, 1) * 255).round() / 255


def to_pillow(image: Tensor) -> Image.Image:
    """An image (3, H, W) in [0, 1] as Pillow's."""
    pixels = (image.permute(1, 2, 0).float().cpu() * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.numpy())


def to_tensor(image: Image.Image) -> Tensor:
    """Pillow's image, in RGB, as (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
