"""RRDBNet: residual in residual dense blocks, the body of ESRGAN (arXiv 1809.00219) and of Real-ESRGAN (2107.10833).

With the weights of such an upscaler, which ``flowmapsr convert`` puts in, it paints that upscaler's picture.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .parts import Chain, ScaleShift, zero
from .upscaler import Upscaler, UpscalerConfig

DENSE = 3  # dense blocks of a residual block
CONVOLUTIONS = 5  # of a dense block
RESIDUAL_SCALE = 0.2
SLOPE = 0.2  # of the activations, below 0
# Cells that the head sees beyond its own. On the finest grid, two convolutions see 2 pixels beyond; a stage adds one
# and halves, ceil((2 + 1) / 2) = 2, however many there are.
HEAD_REACH = 2
STRIP = 16  # cells; height of what the head paints at a time


@dataclass(frozen=True)
class RRDBNetConfig(UpscalerConfig):
    """Shape of an :class:`RRDBNet`; the defaults are those of Real-ESRGAN's x4plus.

    Attributes:
        blocks: residual blocks.
        growth: channels that a convolution adds to what the next one of a dense block sees.
    """

    blocks: int = 23
    growth: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unshuffle & (self.unshuffle - 1):
            raise ValueError(f"network.unshuffle is {self.unshuffle}; the head doubles the resolution: use 2, 4 or 8")
        if self.blocks < 0 or self.growth < 1:
            raise ValueError("network.blocks must be 0 or more, growth at least 1")


class DenseBlock(nn.Module):
    """Convolutions that each see the block's input and all answers before their own; the last answer is added."""

    def __init__(self, width: int, growth: int, condition_dim: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(width + index * growth, growth if index + 1 < CONVOLUTIONS else width, 3, padding=1)
            for index in range(CONVOLUTIONS)
        )
        self.modulation = ScaleShift(width, condition_dim)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        *convs, last = self.convs
        seen = x
        for conv in convs:
            seen = torch.cat([seen, F.leaky_relu(conv(seen), SLOPE)], dim=1)
        return x + RESIDUAL_SCALE * self.modulation(last(seen), condition)


class Block(nn.Module):
    """Dense blocks, with a residual around them."""

    def __init__(self, width: int, growth: int, condition_dim: int) -> None:
        super().__init__()
        self.dense = Chain(DenseBlock(width, growth, condition_dim) for _ in range(DENSE))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return x + RESIDUAL_SCALE * self.dense(x, condition)


class Stage(nn.Module):
    """A convolution of the head, after enlarging by repetition."""

    def __init__(self, width: int, factor: int, condition_dim: int) -> None:
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.modulation = ScaleShift(width, condition_dim)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        h = F.interpolate(h, scale_factor=self.factor, mode="nearest") if self.factor > 1 else h
        return self.modulation(F.leaky_relu(self.conv(h), SLOPE), condition)


class RRDBNet(Upscaler):
    """The blocks work at the resolution of the cells; the head doubles it until it has that of the picture."""

    Config = RRDBNetConfig
    lora_targets = tuple(f"convs.{index}" for index in range(CONVOLUTIONS))  # of every dense block

    def __init__(self, config: RRDBNetConfig | None = None) -> None:
        config = config or RRDBNetConfig()
        super().__init__(config)
        self.config = config
        width, dim = config.width, config.condition_dim
        self.blocks = Chain(Block(width, config.growth, dim) for _ in range(config.blocks))
        self.trunk = nn.Conv2d(width, width, 3, padding=1)
        doublings = config.unshuffle.bit_length() - 1
        self.head = Chain(Stage(width, factor, dim) for factor in (*[2] * doublings, 1))
        self.output = nn.Conv2d(width, 3, 3, padding=1)
        zero(self.output)

    def checkpoint_activations(self) -> None:
        """Save memory in training at the price of time: see :class:`.parts.Chain`."""
        self.blocks.recompute = self.head.recompute = True

    @property
    def receptive_radius(self) -> int:
        """How far, in latent cells, an output cell sees: one further with every convolution before the head."""
        return 1 + DENSE * CONVOLUTIONS * self.config.blocks + 1 + HEAD_REACH

    @property
    def floats_per_cell(self) -> int:
        """Numbers alive at the peak of an evaluation, per latent cell: the images, and a dense block's.

        A strip of the head has more per cell, but in anything large it is thin.
        """
        config = self.config
        dense = 2 * config.width + 2 * (CONVOLUTIONS - 1) * config.growth
        return (2 * config.inputs + 1) * self.channels + dense + 3 * config.width

    def body(self, h: Tensor, condition: Tensor) -> Tensor:
        h = h + self.trunk(self.blocks(h, condition))
        if torch.is_grad_enabled():
            return self._paint(h, condition)
        height, strips = h.shape[2], []
        for top in range(0, height, STRIP):
            bottom = min(top + STRIP, height)
            above, below = max(top - HEAD_REACH, 0), min(bottom + HEAD_REACH, height)
            strips.append(self._paint(h[:, :, above:below], condition)[:, :, top - above : bottom - above])
        return torch.cat(strips, dim=2)

    def _paint(self, h: Tensor, condition: Tensor) -> Tensor:
        """What the head adds to the base picture of features (N, width, H, W)."""
        return F.pixel_unshuffle(self.output(self.head(h, condition)), self.config.unshuffle)
