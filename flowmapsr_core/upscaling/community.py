"""Upscalers of the community at work: pictures of any size from a network that knows one factor."""

import math
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError, check
from ..files.upscaler_file import check_upscaler, load_upscaler
from ..images.eight_bit import eight_bit
from ..images.resize import resize
from .host import TorchHost


class CommunityUpscaler:
    """A frozen upscaler on a device, computing in bfloat16 where that does so natively.

    Raises :class:`UserError` if the file holds no super-resolution model from RGB to RGB.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        model = load_upscaler(path)
        if model is None:
            raise UserError(f"spandrel knows no upscaler like {path}")
        kind, enlarges = model.architecture.name, model.purpose == "SR" and model.scale > 1
        check(enlarges, f"{path} holds a {kind} that does not enlarge photographs; give one that does")
        self.model, self.device = check_upscaler(path, model.float().to(device)), device
        self.model.model.requires_grad_(False).eval()
        supported = (torch.bfloat16, torch.float32) if model.supports_bfloat16 else (torch.float32,)
        self.bf16 = TorchHost(device).compute_dtype(supported) is torch.bfloat16

    def __call__(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        """Pictures (B, 3, *size) of LR images (B, 3, h, w), both in [0, 1], in the 256 steps of a picture file.

        One after another: a picture is the same whatever else is in a batch, and spandrel vouches for no more.
        """
        return torch.cat([self._picture(image, size) for image in lr.split(1)])

    def _picture(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        picture = self._enlarge(image)
        while picture.shape[-2] < size[0] or picture.shape[-1] < size[1]:
            # Again, from no more pixels than make twice the size: from all of them the result is as sharp, at up to
            # four times the work.
            enough = (math.ceil(2 * length / self.model.scale) for length in size)
            height, width = (min(pair) for pair in zip(enough, picture.shape[-2:], strict=True))
            picture = self._enlarge(resize(picture, (height, width)).clamp(0, 1))
        return eight_bit(resize(picture, size))

    def _enlarge(self, image: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self.model(image).float()
