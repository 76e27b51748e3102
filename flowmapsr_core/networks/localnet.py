"""LocalNet: a small U-shaped convolutional network with a finite, declared receptive field.

Nothing in it looks further than its convolutions (normalisation is per pixel, over channels), so a tile that carries a
halo of :attr:`LocalNet.receptive_radius` gives exactly the untiled result.
"""

import itertools
import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .parts import Chain, Condition, zero

RESIDUAL_SCALE = 0.2
MEAN_RADIUS = 8  # latent cells; the mean that is taken off the input must span a few LR pixels at the largest factor


@dataclass(frozen=True)
class LocalNetConfig:
    """Shape of a :class:`LocalNet`.

    Attributes:
        unshuffle: pixel-unshuffle factor of the latents it works on; they have ``3 * unshuffle**2`` channels.
        widths: channels per level; each level halves the resolution of the one before.
        encoder_blocks: residual blocks per level on the way down; the last entry is the bottom.
        decoder_blocks: residual blocks per level on the way up, finest first; one entry fewer.
        head_width: channels of the full-resolution output stage.
        condition_dim: size of the conditioning vector.
        prompt_dim: size of a prompt embedding (a learned vector; this network reads no text).
        inputs: images stacked at its input; of two, the second is LR.
    """

    unshuffle: int = 2
    widths: tuple[int, ...] = (32, 80, 160)
    encoder_blocks: tuple[int, ...] = (0, 2, 3)
    decoder_blocks: tuple[int, ...] = (1, 3)
    head_width: int = 16
    condition_dim: int = 256
    prompt_dim: int = 64
    inputs: int = 1

    def __post_init__(self) -> None:
        for name in ("widths", "encoder_blocks", "decoder_blocks"):
            if not isinstance(getattr(self, name), (list, tuple)):
                raise ValueError(f"network.{name} must be a list of whole numbers, one a level")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not len(self.widths) == len(self.encoder_blocks) == len(self.decoder_blocks) + 1:
            raise ValueError("network.widths and encoder_blocks need one entry a level, decoder_blocks one fewer")
        sizes = (self.unshuffle, self.head_width, self.condition_dim, self.prompt_dim, self.inputs)
        if min(*self.widths, *sizes) < 1:
            raise ValueError("network: every width and size must be at least 1")


class Modulation(nn.Module):
    """Layer norm per pixel over channels, then scale and shift by the conditioning vector."""

    def __init__(self, width: int, condition_dim: int) -> None:
        super().__init__()
        self.width = width
        self.linear = nn.Linear(condition_dim, 2 * width)
        zero(self.linear)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.linear(condition)[:, None, None, :].chunk(2, dim=-1)
        # channels last: the norm runs over the contiguous axis
        h = F.layer_norm(x.permute(0, 2, 3, 1), (self.width,))
        return torch.addcmul(shift, h, 1 + scale).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Gated residual block: ``x + scale * conv(SiLU(gate(norm(x))) * conv(x))``.

    Normalised features decide what is done, features as they are give how much: a filter's answer stays in
    proportion to the contrast, which a norm in its path would hide. The scale keeps the product of all blocks'
    gains from running away early in training.
    """

    def __init__(self, width: int, condition_dim: int) -> None:
        super().__init__()
        self.modulation = Modulation(width, condition_dim)
        self.gate = nn.Conv2d(width, width, 1)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        zero(self.conv2)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        gate = F.silu(self.gate(self.modulation(x, condition)))
        return x + RESIDUAL_SCALE * self.conv2(gate * self.conv1(x))


class Level(Chain):
    """Blocks at one resolution."""

    def __init__(self, width: int, condition_dim: int, blocks: int) -> None:
        super().__init__(Block(width, condition_dim) for _ in range(blocks))


class LocalNet(nn.Module):
    """Average velocity ``u(x, t, s)`` as a function of an image neighbourhood only.

    It sees its input less the local mean (that of LR, if it sees LR), so adding a constant colour to the image changes
    nothing: without that, it learns what photographs happen to look like at each brightness, and draws dark lines on
    light walls far too dark.
    """

    Config = LocalNetConfig
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    storage_dtypes = (torch.float8_e4m3fn,)
    lora_targets = ("gate", "conv1", "conv2")  # layers that a LoRA changes unless told: all of every residual block

    def __init__(self, config: LocalNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or LocalNetConfig()
        widths, dim = config.widths, config.condition_dim
        self.channels = 3 * config.unshuffle**2
        self.condition = Condition(config.prompt_dim, dim)
        self.stem = nn.Conv2d(config.inputs * self.channels, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(
            Level(width, dim, n) for width, n in zip(widths, config.encoder_blocks, strict=True)
        )
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in itertools.pairwise(widths))
        self.up = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in itertools.pairwise(widths))
        self.decoder = nn.ModuleList(
            Level(width, dim, n) for width, n in zip(widths[:-1], config.decoder_blocks, strict=True)
        )
        width = config.head_width
        self.head_modulation = Modulation(widths[0], dim)
        self.head_gate = nn.Conv2d(widths[0], width, 1)
        self.head_features = nn.Conv2d(widths[0], width, 3, padding=1)
        self.head_value = nn.Conv2d(width + 3 * config.inputs, width, 3, padding=1)
        self.head_output = nn.Conv2d(width, 3, 3, padding=1)
        zero(self.head_output)  # u = 0 at the start: the upscaled image passes unchanged

    def checkpoint_activations(self) -> None:
        """Save memory in training at the price of time: see :class:`.parts.Chain`."""
        for level in (*self.encoder, *self.decoder):
            cast(Level, level).recompute = True

    @property
    def stride(self) -> int:
        """Latent cells that tile origins and sizes must be multiples of."""
        return 2 ** len(self.down)

    @property
    def receptive_radius(self) -> int:
        """How far, in latent cells, an output cell sees: a multiple of :attr:`stride`, exact for aligned tiles."""
        # two 3x3 at full resolution reach 2 pixels out, bilinear upsampling from there to a cell; then one 3x3
        radius = 1 - math.floor(-1.5 / self.config.unshuffle - 0.5)
        for level, blocks in enumerate(self.config.decoder_blocks):
            step = 2**level
            radius = -(-radius // step) * step + 2 * blocks * step
        for level, blocks in reversed([*enumerate(self.config.encoder_blocks)]):
            step = 2**level
            radius = -(-radius // step) * step + 2 * blocks * step
        radius += 1 + MEAN_RADIUS + 1  # stem, local mean, its interpolation
        return -(-radius // self.stride) * self.stride

    @property
    def floats_per_cell(self) -> int:
        """Numbers alive at the peak of an evaluation, per latent cell: the output stage or the finest level."""
        config = self.config
        head = config.unshuffle**2 * (5 * config.head_width + 3 + 3 * config.inputs) + config.widths[0]
        return config.inputs * self.channels + max(head, 6 * config.widths[0])

    def embed(self, t: Tensor, s: Tensor, prompt: Tensor, guidance: Tensor) -> Tensor:
        """The conditioning vector (B, condition_dim), constant over an image: see :meth:`.parts.Condition.embed`."""
        return self.condition.embed(t, s, prompt, guidance)

    def evaluate(self, x: Tensor, condition: Tensor) -> Tensor:
        """Predict the average velocity.

        Args:
            x: latents (N, inputs * 3 unshuffle^2, H, W), H and W multiples of :attr:`stride`.
            condition: from :meth:`embed`, (N, D), or (1, D) for all of them.

        Returns:
            u, (N, 3 unshuffle^2, H, W), of the dtype of ``x``.
        """
        mean = self._local_mean(x[:, -self.channels :])
        x = (x - mean.repeat(1, self.config.inputs, 1, 1)).contiguous(memory_format=torch.channels_last)
        h = self.stem(x)
        skips = []
        for level, blocks in enumerate(self.encoder):
            if level:
                skips.append(h)
                h = self.down[level - 1](h)
            h = blocks(h, condition)
        for level in reversed(range(len(self.decoder))):
            h = F.interpolate(self.up[level](h), scale_factor=2, mode="nearest") + skips.pop()
            h = self.decoder[level](h, condition)
        return self._head(h, x, condition)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, prompt: Tensor, guidance: Tensor) -> Tensor:
        """:meth:`evaluate` under the condition that :meth:`embed` gives."""
        return self.evaluate(x, self.embed(t, s, prompt, guidance))

    def _local_mean(self, x: Tensor) -> Tensor:
        """Mean colour around each pixel (at edges, of the cells there are)."""
        factor = self.config.unshuffle
        mean = x.float().unflatten(1, (3, factor**2)).mean(dim=2)
        size = 2 * MEAN_RADIUS + 1
        for kernel, padding in (((size, 1), (MEAN_RADIUS, 0)), ((1, size), (0, MEAN_RADIUS))):
            mean = F.avg_pool2d(mean, kernel, stride=1, padding=padding, count_include_pad=False)
        # smooth: one mean for all pixels of a cell would make steps between cells, which show as a weave
        return F.pixel_unshuffle(F.interpolate(mean, scale_factor=factor, mode="bilinear"), factor).to(x.dtype)

    def _head(self, h: Tensor, x: Tensor, condition: Tensor) -> Tensor:
        """Output stage at full resolution.

        A pixel shuffle would give every pixel of a latent cell weights of its own, which shows as a grid. Here the
        features are upsampled bilinearly and all pixels share the convolutions; fine detail comes in with x itself.
        """
        factor = self.config.unshuffle
        gate = F.silu(self.head_gate(self.head_modulation(h, condition)))
        both = torch.cat([gate, self.head_features(h)], dim=1)
        gate, features = F.interpolate(both, scale_factor=factor, mode="bilinear").chunk(2, dim=1)
        images = F.pixel_shuffle(x, factor).to(features.dtype)
        full = torch.cat([images[:, :-3], features, images[:, -3:]], dim=1)  # LR last, as at the input
        value = self.head_value(full.contiguous(memory_format=torch.channels_last))
        return F.pixel_unshuffle(self.head_output(gate * value), factor)
