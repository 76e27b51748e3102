"""Tiny VAEs (TAESD): convolutions without norms, which see a neighbourhood only."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .bands import Bands
from .frozen import FrozenVAE

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny


@dataclass(frozen=True)
class TinyVAECodecConfig:
    """Shape of an ``AutoencoderTiny`` and the scale of its latents; the defaults are those of TAESD for SDXL.

    Attributes:
        scaling_factor, shift_factor: a scaled latent is ``(latent - shift_factor) * scaling_factor``.
        latent_channels: channels of a latent.
        width: channels of every layer in between.
        encoder_blocks: residual blocks per level, finest first; each level halves the resolution of the one before.
        decoder_blocks: residual blocks per level, coarsest first.
    """

    scaling_factor: float = 1.0
    shift_factor: float = 0.0
    latent_channels: int = 4
    width: int = 64
    encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)

    def __post_init__(self) -> None:
        for name in ("encoder_blocks", "decoder_blocks"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.encoder_blocks) != len(self.decoder_blocks):
            raise ValueError("codec.encoder_blocks and decoder_blocks need an entry for each level")
        if not self.scaling_factor > 0:
            raise ValueError(f"codec.scaling_factor is {self.scaling_factor}; it must be above 0")


class TinyVAECodec(FrozenVAE):
    """Codec of an ``AutoencoderTiny``: small, fast, and less exact than the VAE that it imitates."""

    Config = TinyVAECodecConfig
    vae: "AutoencoderTiny"

    def __init__(self, config: TinyVAECodecConfig | None = None) -> None:
        from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

        self.config = config = config or TinyVAECodecConfig()
        levels = len(config.encoder_blocks)
        self.factor = 2 ** (levels - 1)
        super().__init__(
            AutoencoderTiny(
                encoder_block_out_channels=(config.width,) * levels,
                decoder_block_out_channels=(config.width,) * levels,
                num_encoder_blocks=config.encoder_blocks,
                num_decoder_blocks=config.decoder_blocks,
                latent_channels=config.latent_channels,
            )
        )

    def memory(self, height: int, width: int, bands: Bands | None = None) -> int:
        """Bytes at the peak, beside the image: a residual block's input, a convolution's input and output."""
        rows, parts = height, 0
        if bands is not None:
            rows = min(bands.rows + 2 * self.factor * max(self.encoder_radius, self.decoder_radius), height)
            parts = 0 if bands.offload else 3 * height * width  # of the image
        return (3 * self.config.width * rows * width + parts) * self.dtype.itemsize

    @property
    def encoder_radius(self) -> int:
        """How far beyond its own pixels a latent cell sees, in cells."""
        radius = 1
        for level, blocks in reversed([*enumerate(self.config.encoder_blocks)]):
            radius += 3 * blocks
            radius = 2 * radius + 1 if level else radius + 1
        return -(-radius // self.factor)

    @property
    def decoder_radius(self) -> int:
        """How far beyond its own latent cell a pixel sees, in cells."""
        radius = 0
        for level, blocks in enumerate(reversed(self.config.decoder_blocks)):
            radius = -(-(radius + 1) // 2) if level else radius + 1
            radius += 3 * blocks
        return radius + 1

    def _encode(self, image: Tensor, bands: Bands | None) -> Tensor:
        encode = partial(self.vae.encode, return_dict=False)
        if bands is None:
            return encode(image)[0]
        return self._in_bands(encode, image, bands, self.encoder_radius, rows_in=self.factor, rows_out=1)

    def _decode(self, latent: Tensor, bands: Bands | None) -> Tensor:
        decode = partial(self.vae.decode, return_dict=False)
        if bands is None:
            return decode(latent)[0]
        return self._in_bands(decode, latent, bands, self.decoder_radius, rows_in=1, rows_out=self.factor)

    @torch.no_grad()
    def _in_bands(
        self, code: Callable[[Tensor], Any], x: Tensor, bands: Bands, radius: int, rows_in: int, rows_out: int
    ) -> Tensor:
        """``code(x)[0]``, exactly, from bands of x with ``radius`` more cells above and below.

        ``rows_in`` and ``rows_out`` are a cell's rows in x and in the result.
        """
        cells, device = max(bands.rows // self.factor, 1), next(self.vae.parameters()).device
        tops = range(0, -(-x.shape[2] // rows_in), cells)
        parts = []
        for done, top in enumerate(tops, 1):
            first = max(top - radius, 0)
            result = code(x[:, :, first * rows_in : (top + cells + radius) * rows_in].to(device))[0]
            inner = result[:, :, (top - first) * rows_out : (top - first + cells) * rows_out]
            parts.append(inner.to(x.device, copy=True))  # without the rows around it
            if bands.progress is not None:
                bands.progress(done, len(tops))
        return torch.cat(parts, dim=2)
