"""LocalNet: a small U-shaped convolutional network with a finite, declared receptive field.

Nothing in it looks further than its convolutions (normalisation is per pixel, over channels), so a tile that carries a
halo of :attr:`LocalNet.receptive_radius` gives exactly the untiled result.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..conditioning import fourier_embedding

FOURIER_DIM = 64


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
        output_scale: the velocity's typical size in latent units, so that the last layer works on unit variance.
    """

    unshuffle: int = 2
    widths: tuple[int, ...] = (32, 80, 160)
    encoder_blocks: tuple[int, ...] = (0, 2, 3)
    decoder_blocks: tuple[int, ...] = (1, 3)
    head_width: int = 16
    condition_dim: int = 256
    prompt_dim: int = 64
    output_scale: float = 0.1

    def __post_init__(self) -> None:
        for name in ("widths", "encoder_blocks", "decoder_blocks"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not len(self.widths) == len(self.encoder_blocks) == len(self.decoder_blocks) + 1:
            raise ValueError("widths and encoder_blocks need one entry a level, decoder_blocks one fewer")
        if min(*self.widths, self.unshuffle, self.head_width, self.condition_dim, self.prompt_dim) < 1:
            raise ValueError("every width and size must be at least 1")


class Block(nn.Module):
    """Residual block: per-pixel layer norm, modulation by the conditioning vector, two 3x3 convolutions."""

    def __init__(self, width: int, condition_dim: int) -> None:
        super().__init__()
        self.width = width
        self.modulation = nn.Linear(condition_dim, 2 * width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulation(condition)[:, None, None, :].chunk(2, dim=-1)
        # channels last: the norm runs over the contiguous axis
        h = F.layer_norm(x.permute(0, 2, 3, 1), (self.width,))
        h = torch.addcmul(shift, h, 1 + scale).permute(0, 3, 1, 2)
        return x + self.conv2(F.silu(self.conv1(h)))


class LocalNet(nn.Module):
    """Average velocity ``u(x, t, s)`` as a function of an image neighbourhood only."""

    Config = LocalNetConfig

    def __init__(self, config: LocalNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or LocalNetConfig()
        widths, dim = config.widths, config.condition_dim
        self.channels = 3 * config.unshuffle**2
        self.condition = nn.Sequential(
            nn.Linear(3 * FOURIER_DIM + config.prompt_dim, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU()
        )
        self.stem = nn.Conv2d(self.channels, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(
            nn.ModuleList(Block(width, dim) for _ in range(n))
            for width, n in zip(widths, config.encoder_blocks, strict=True)
        )
        self.down = nn.ModuleList(
            nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in zip(widths[:-1], widths[1:], strict=True)
        )
        self.up = nn.ModuleList(
            nn.Conv2d(coarse, fine, 1) for fine, coarse in zip(widths[:-1], widths[1:], strict=True)
        )
        self.decoder = nn.ModuleList(
            nn.ModuleList(Block(width, dim) for _ in range(n))
            for width, n in zip(widths[:-1], config.decoder_blocks, strict=True)
        )
        self.head_features = nn.Conv2d(widths[0], config.head_width, 3, padding=1)
        self.head_hidden = nn.Conv2d(config.head_width + 3, config.head_width, 3, padding=1)
        self.head_output = nn.Conv2d(config.head_width, 3, 3, padding=1)
        nn.init.zeros_(self.head_output.weight)  # u = 0 at the start: the upscaled image passes unchanged
        nn.init.zeros_(self.head_output.bias)

    @property
    def stride(self) -> int:
        """Latent cells that tile origins and sizes must be multiples of."""
        return 2 ** len(self.down)

    @property
    def receptive_radius(self) -> int:
        """How far, in latent cells, an output cell sees: a multiple of :attr:`stride`, exact for aligned tiles."""
        radius = 3  # 3x3 convolution and bilinear upsampling at the latent's resolution, two 3x3 at full resolution
        for level, blocks in enumerate(self.decoder):
            step = 2**level
            radius = -(-radius // step) * step + 2 * len(blocks) * step
        for level in reversed(range(len(self.encoder))):
            step = 2**level
            radius = -(-radius // step) * step + 2 * len(self.encoder[level]) * step
        radius += 1  # stem
        return -(-radius // self.stride) * self.stride

    @property
    def floats_per_cell(self) -> int:
        """Numbers alive at the peak of an evaluation, per latent cell: the output stage or the finest level."""
        config = self.config
        head = config.unshuffle**2 * (3 * config.head_width + 6) + config.widths[0]
        return self.channels + max(head, 6 * config.widths[0])

    def forward(self, x: Tensor, t: Tensor, s: Tensor, prompt: Tensor, guidance: Tensor) -> Tensor:
        """Predict the average velocity.

        Args:
            x: latent (B, 3 unshuffle^2, H, W), H and W multiples of :attr:`stride`.
            t, s: times (B,), float32, ``0 <= s <= t <= 1``.
            prompt: prompt embedding (B, prompt_dim).
            guidance: guidance scale (B,), 1 for none.

        Returns:
            u, same shape and dtype as ``x``.
        """
        scalars = torch.cat([fourier_embedding(value, FOURIER_DIM) for value in (t, s, guidance)], dim=1)
        condition = self.condition(torch.cat([scalars.to(x.dtype), prompt.to(x.dtype)], dim=1))
        x = x.contiguous(memory_format=torch.channels_last)
        h = self.stem(x)
        skips = []
        for level, blocks in enumerate(self.encoder):
            if level:
                skips.append(h)
                h = self.down[level - 1](h)
            for block in blocks:
                h = block(h, condition)
        for level in reversed(range(len(self.decoder))):
            h = F.interpolate(self.up[level](h), scale_factor=2, mode="nearest") + skips.pop()
            for block in self.decoder[level]:
                h = block(h, condition)
        return self._head(h, x)

    def _head(self, h: Tensor, x: Tensor) -> Tensor:
        """Output stage at full resolution.

        A pixel shuffle would give every pixel of a latent cell weights of its own, which shows as a grid. Here the
        features are upsampled bilinearly and all pixels share the convolutions; fine detail comes in with x itself.
        """
        factor = self.config.unshuffle
        features = F.interpolate(self.head_features(h), scale_factor=factor, mode="bilinear")
        full = torch.cat([features, F.pixel_shuffle(x, factor).to(features.dtype)], dim=1)
        full = F.silu(self.head_hidden(full.contiguous(memory_format=torch.channels_last)))
        return F.pixel_unshuffle(self.head_output(full) * self.config.output_scale, factor)
