"""CTMSRNet: the one-step network of CTMSR (arXiv 2503.20349), for the weights that its authors publish.

Rebuilt from what their public code computes (github.com/LabShuHangGU/CTMSR, ``edm_unet_arch.py`` with the configuration
of ``ctmsr_train.yml``): the U-shaped residual network "DDPM++" in the form of EDM (arXiv 2206.00364), each of whose
levels attends within windows, at the resolution of the LR image. It upscales by 4 and knows no other factor.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..images.resize import shrink_back
from ..method.conditioning import fourier_embedding
from .windows import WindowLayer

FACTOR = 4  # HR pixels per latent cell, which is a pixel of LR
CELL = 3 * FACTOR**2  # channels of a latent
TIME_GROWTH = 4  # of the first width, in the layers that see the time
SKIP_SCALE = math.sqrt(0.5)  # keeps the variance of a sum of two
GROUP_WIDTH, MOST_GROUPS = 4, 32
FINEST, COARSEST = 1.0, 1e-4  # angular frequencies of the time's embedding


@dataclass(frozen=True)
class CTMSRNetConfig:
    """Shape of a :class:`CTMSRNet`; the defaults are the published model's.

    Attributes:
        widths: channels per level; each level halves the resolution of the one before.
        blocks: residual blocks per level on the way down; one more on the way up.
        attention_width: channels that all levels attend in.
        heads: attention heads.
        window: side of the windows within which a level attends, in its own cells.
        inputs: images stacked at its input, always 2: the state and LR.
    """

    widths: tuple[int, ...] = (192, 384, 384, 384)
    blocks: int = 4
    attention_width: int = 192
    heads: int = 6
    window: int = 8
    inputs: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.widths, (list, tuple)) or not self.widths:
            raise ValueError("network.widths must be a list of whole numbers, one a level")
        object.__setattr__(self, "widths", tuple(self.widths))
        sizes = (*self.widths, self.blocks, self.attention_width, self.heads, self.window)
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise ValueError("network: every width and size must be a whole number of at least 1")
        if any(width % groups_of(width) for width in self.widths) or self.widths[0] % 2:
            raise ValueError("network.widths must be even and split into groups of 4 channels, or into 32 groups")
        if self.attention_width % 32 or self.attention_width % self.heads:
            raise ValueError("network.attention_width must be a multiple of 32 and of the heads")
        if self.inputs != 2:
            raise ValueError("network.inputs must be 2: a CTMSRNet sees the state and LR")

    @property
    def prompt_dim(self) -> int:
        """Size of the conditioning vector of the time, to which a prompt is added; the published model has none."""
        return TIME_GROWTH * self.widths[0]


def groups_of(width: int) -> int:
    """Groups that a residual block normalises in."""
    return max(min(MOST_GROUPS, width // GROUP_WIDTH), 1)


class Block(nn.Module):
    """Residual block, with a change of resolution before its first convolution and window attention behind it.

    Attributes:
        recompute: keep only the input for the backward pass, and compute the rest again there.
    """

    def __init__(
        self, inner: int, outer: int, config: CTMSRNetConfig, attends: bool = True, resample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.norm0 = nn.GroupNorm(groups_of(inner), inner, eps=1e-6)
        self.resample = resample or nn.Identity()
        self.conv0 = nn.Conv2d(inner, outer, 3, padding=1)
        self.affine = nn.Linear(config.prompt_dim, outer)
        self.norm1 = nn.GroupNorm(groups_of(outer), outer, eps=1e-6)
        self.conv1 = nn.Conv2d(outer, outer, 3, padding=1)
        self.skip = nn.Conv2d(inner, outer, 1) if resample or inner != outer else nn.Identity()
        sizes = (config.attention_width, config.heads, config.window)
        self.attention = WindowLayer(outer, *sizes) if attends else None
        self.recompute = False

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(self._forward, x, condition, use_reentrant=False))
        return self._forward(x, condition)

    def _forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.conv0(self.resample(F.silu(self.norm0(x)))) + self.affine(condition)[:, :, None, None]
        h = self.conv1(F.silu(self.norm1(h)))
        x = (h + self.skip(self.resample(x))) * SKIP_SCALE
        return x if self.attention is None else self.attention(x) * SKIP_SCALE


class CTMSRNet(nn.Module):
    """The output N of method ``ctmsr`` for a state and LR, as a function of the whole input.

    Their network gives the HR picture F, and their result is ``c_skip x + c_out F`` (equation 9), ours
    ``y + c_skip (x - y) - c_out N``. As ``1 - c_skip = c_out^2``, the two are the same for ``N = c_out y - F``.
    """

    Config = CTMSRNetConfig
    lora_targets = ("qkv", "out")  # the projections of every attention
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    storage_dtypes = (torch.float8_e4m3fn,)
    receptive_radius = None  # group norms see everything
    stride = 1  # sizes that the windows do not divide are continued by reflection
    channels = CELL

    def __init__(self, config: CTMSRNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CTMSRNetConfig()
        widths = config.widths
        first, dim = widths[0], config.prompt_dim
        self.time = nn.Sequential(nn.Linear(first, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())
        self.stem = nn.Conv2d(CELL + 3, first, 3, padding=1)
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()  # of both, the finest level comes first
        skips, width = [first], first
        for level, outer in enumerate(widths):
            parts = nn.ModuleDict()
            if level:
                parts["down"] = Block(width, width, config, attends=False, resample=nn.AvgPool2d(2))
                skips.append(width)
            for index in range(config.blocks):
                parts[f"block{index}"] = Block(width, outer, config)
                skips.append(width := outer)
            self.encoder.append(parts)
        for level, outer in reversed([*enumerate(widths)]):
            parts = nn.ModuleDict()
            if level == len(widths) - 1:
                parts["in0"] = Block(width, width, config)
                parts["in1"] = Block(width, width, config, attends=False)
            else:
                parts["up"] = Block(width, width, config, attends=False, resample=nn.Upsample(scale_factor=2))
            for index in range(config.blocks + 1):
                parts[f"block{index}"] = Block(width + skips.pop(), outer, config, attends=index == config.blocks)
                width = outer
            self.decoder.insert(0, parts)
        self.head_norm = nn.GroupNorm(groups_of(first), first, eps=1e-6)
        self.head = nn.Conv2d(first, first, 3, padding=1)
        self.up1, self.up2 = (nn.Conv2d(first, first, 3, padding=1) for _ in range(2))
        self.last = nn.Conv2d(first, 3, 3, padding=1)

    def checkpoint_activations(self) -> None:
        """Save memory in training at the price of time: see :class:`Block`."""
        for module in self.modules():
            if isinstance(module, Block):
                module.recompute = True

    @property
    def floats_per_cell(self) -> int:
        """Numbers alive at the peak of an evaluation, per latent cell: in the last stage, on the grid of HR pixels."""
        pixels = FACTOR**2
        return 2 * CELL + 3 + (pixels // 4 + 2 * pixels) * self.config.widths[0]

    def embed(self, t: Tensor, s: Tensor, prompt: Tensor, guidance: Tensor) -> Tensor:
        """The conditioning vector, constant over an image: of the time, and last the ``c_out`` of equation 9.

        Args:
            t: times (B,), float32, ``0 <= t <= 1``; the noise of the published model is 1, so sigma is t.
            s, guidance: not seen; the network was trained for s = 0 and without guidance.
            prompt: (B, prompt_dim), in the dtype of the evaluation; a learned vector, 0 in a converted model.

        Returns:
            (B, prompt_dim + 1) in the prompt's dtype; logarithm, sines and cosines are taken in float32.
        """
        sigma = t.float()
        waves = fourier_embedding((sigma + 0.002).log() / 4, self.config.widths[0], FINEST, COARSEST)
        cosines, sines = waves.to(prompt.dtype).chunk(2, dim=1)
        q = sigma / 0.1
        c_out = (q / (q.square() + 0.5**2).sqrt()).to(prompt.dtype)
        return torch.cat([self.time(torch.cat([sines, cosines], dim=1)) + prompt, c_out[:, None]], dim=1)

    def evaluate(self, x: Tensor, condition: Tensor) -> Tensor:
        """Predict the output N of method ``ctmsr``.

        Args:
            x: the state x_t and LR on the HR grid, stacked to (N, 96, H, W); any size.
            condition: from :meth:`embed`, (N, D), or (1, D) for all of them.

        Returns:
            N, (N, 48, H, W), of the dtype of ``x``.
        """
        time, c_out = condition[:, :-1], condition[:, -1:, None, None]
        state, y = x.chunk(2, dim=1)
        lr = shrink_back(F.pixel_shuffle(y, FACTOR), FACTOR).to(x.dtype)
        height, width = x.shape[-2:]
        rows, columns = (self._continued(side, x.device) for side in (height, width))
        h = torch.cat([state, lr], dim=1)[:, :, rows[:, None], columns]
        h = self._levels(self.stem(h.contiguous(memory_format=torch.channels_last)), time)
        h = self.head(F.silu(self.head_norm(h)))
        for up in (self.up1, self.up2):
            h = F.leaky_relu(up(F.interpolate(h, scale_factor=2)), 0.2, inplace=True)
        picture = F.pixel_unshuffle(self.last(h), FACTOR)[..., :height, :width]
        return c_out * y - picture

    def forward(self, x: Tensor, t: Tensor, s: Tensor, prompt: Tensor, guidance: Tensor) -> Tensor:
        """:meth:`evaluate` under the condition that :meth:`embed` gives."""
        return self.evaluate(x, self.embed(t, s, prompt, guidance))

    def _levels(self, h: Tensor, condition: Tensor) -> Tensor:
        """Down to the coarsest level and up again."""
        skips = [h]
        for parts in self.encoder:
            for block in cast(nn.ModuleDict, parts).values():
                h = block(h, condition)
                skips.append(h)
        for parts in reversed(self.decoder):
            for name, block in cast(nn.ModuleDict, parts).items():
                if name.startswith("block"):
                    h = torch.cat([h, skips.pop()], dim=1)
                h = block(h, condition)
        return h

    def _continued(self, length: int, device: torch.device) -> Tensor:
        """Cells (n,) that a side of ``length`` is made of once it is a multiple of what the windows need.

        Beyond its end it goes back and forth over itself, as torch's padding "reflect" does.
        """
        multiple = self.config.window * 2 ** (len(self.config.widths) - 1)
        period = max(2 * (length - 1), 1)
        cells = torch.arange(-(-length // multiple) * multiple, device=device) % period
        return torch.minimum(cells, period - cells)
