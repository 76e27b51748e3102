"""CommunityNet: an upscaler of the community, as spandrel has loaded it, in the place of a network.

It sees LR on its own grid. A cell of ``scale`` x ``scale`` HR pixels stands for one pixel of LR, which is repeated in
it, and holds the pixels that the upscaler makes of that one: the chain cuts, counts and shows such cells as any others.

What nobody knows of an architecture is measured: how far a pixel of the picture sees, and the memory that takes.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .held import most_held

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor

# A cut through the test picture is not seen where it moves no pixel by more, 1/64 of an 8-bit step. There are harder
# pictures: a photograph of a road moved by 0.6 of a step where this one did by so little.
UNSEEN = 1 / 64 / 255
CUT_OFF = 25  # LR pixels, about; an odd number of strides, so that windows that tile the image move
FARTHEST = 128  # LR pixels; how far from the cut is looked
MARGIN = 8  # LR pixels that a reach is rounded up to
SIDE = 32  # LR pixels of a test picture
OCTAVES = 5  # of its detail
CONTRAST, SHADING = 0.15, 0.35

_reaches: WeakKeyDictionary[nn.Module, int | None] = WeakKeyDictionary()  # of weights that are wrapped again
_floats: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


@dataclass(frozen=True)
class CommunityNetConfig:
    """What the chain asks of a network's configuration; of itself, the upscaler knows best.

    Attributes:
        scale: HR pixels along a side of a cell.
        prompt_dim: no prompt is read.
        inputs: images stacked at the input.
    """

    scale: int
    prompt_dim: int = 0
    inputs: int = 1


class CommunityNet(nn.Module):
    """Average velocity ``u(x, t, s) = x - picture``, whatever the times: one evaluation gives the upscaler's picture.

    Args:
        upscaler: from RGB to RGB; its weights stay where they are.
    """

    storage_dtypes = ()
    lora_targets = ()

    def __init__(self, upscaler: "ImageModelDescriptor") -> None:
        super().__init__()
        self.config = CommunityNetConfig(upscaler.scale)
        self.upscaler, self.weights = upscaler, upscaler.model
        self.channels = 3 * upscaler.scale**2
        self.stride = upscaler.size_requirements.multiple_of
        # in bfloat16 a picture would have fewer levels than a file of 8 bits
        self.dtypes = (torch.float32, torch.float16) if upscaler.supports_half else (torch.float32,)

    @property
    def receptive_radius(self) -> int | None:
        """How far, in LR pixels, a cut is seen in the picture; None if it is seen everywhere.

        Measured on the device of the weights, once, when an image has to be cut. Attention in windows and means over
        the image see everywhere. Convolutions see a cut much less far than they could: Real-ESRGAN's x4plus has a
        radius of 351 by its layers and a reach of 88 here.
        """
        if self.weights not in _reaches:
            _reaches[self.weights] = self._measure_reach()
        return _reaches[self.weights]

    @property
    def floats_per_cell(self) -> int:
        """Numbers alive at the peak of an evaluation, per LR pixel, as measured on the device of the weights."""
        if self.weights not in _floats:
            held, pixels = most_held(self.try_out)
            _floats[self.weights] = -(-held // (self._weight.itemsize * pixels)) + 2 * self.channels
        return _floats[self.weights]

    def try_out(self) -> int:
        """Paint a small picture; returns how many LR pixels it has."""
        side = max(SIDE, self.upscaler.size_requirements.minimum, self.stride)
        self._paint(self._test_picture(side, side))
        return side**2

    def checkpoint_activations(self) -> None:
        """Nothing is trained here."""

    def embed(self, t: Tensor, s: Tensor, prompt: Tensor, guidance: Tensor) -> Tensor:
        """An empty conditioning vector (B, 0)."""
        return prompt

    def evaluate(self, x: Tensor, condition: Tensor) -> Tensor:
        """u, (N, 3 scale^2, H, W), of latents of LR repeated to the HR grid, of the same shape."""
        lr = (x[:, :: self.config.scale**2] + 1) / 2  # the first pixel of each cell
        # one after another: spandrel vouches for no more
        pictures = torch.cat([self._paint(single) for single in lr.split(1)])
        return x - F.pixel_unshuffle(2 * pictures - 1, self.config.scale)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, prompt: Tensor, guidance: Tensor) -> Tensor:
        """As :meth:`evaluate`."""
        return self.evaluate(x, prompt)

    def _paint(self, lr: Tensor) -> Tensor:
        """The upscaler's picture (1, 3, scale H, scale W) of (1, 3, H, W), both in [0, 1]; it fills odd sizes up."""
        return self.upscaler(lr.clamp(0, 1))

    @property
    def _weight(self) -> Tensor:
        return next(self.weights.parameters())

    def _test_picture(self, height: int, width: int) -> Tensor:
        """Noise (1, 3, height, width) with as much detail of every size, as photographs have it, darker to the right.

        A part of it has another mean than the whole, as parts of photographs have.
        """
        generator, picture = torch.Generator().manual_seed(0), torch.zeros(1, 3, height, width)
        for octave in range(OCTAVES):
            size = (-(-height >> octave), -(-width >> octave))
            noise = torch.randn(1, 3, *(max(side, 1) for side in size), generator=generator)
            picture += F.interpolate(noise, (height, width), mode="bilinear")
        shading = torch.linspace(0.5 + SHADING, 0.5 - SHADING, width)
        return (shading + CONTRAST * picture / OCTAVES**0.5).clamp(0, 1).to(self._weight)

    def _measure_reach(self) -> int | None:
        if self.upscaler.tiling.name != "SUPPORTED":
            return None
        precision, stride, scale = self._weight.dtype, self.stride, self.config.scale
        cut = (CUT_OFF // stride | 1) * stride
        height, width = (-(-side // stride) * stride for side in (SIDE, FARTHEST + SIDE))
        self.weights.float()  # of fewer bits, each has its own rounding error
        try:
            picture = self._test_picture(height, cut + width)
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # which rounds by the size of a tile
                whole, part = self._paint(picture), self._paint(picture[..., cut:])
        finally:
            self.weights.to(precision)
        moved = (whole[..., cut * scale :] - part).abs().amax(dim=(0, 1, 2)) > UNSEEN
        seen = moved.reshape(width, scale).any(dim=1).nonzero()
        reach = int(seen.max()) + 1 if len(seen) else 0
        multiple = MARGIN if MARGIN % stride == 0 else stride
        return None if reach > FARTHEST else -(-reach // multiple) * multiple
