"""Codecs between images in [0, 1] and the latents that a network works on, by the name a checkpoint stores.

Each has ``factor`` (image pixels per latent cell, along each axis), ``channels`` of a latent, a ``config`` dataclass,
the ``dtype`` it computes in, ``reach`` (how far its convolutions see, in cells), and

- ``encode(image, bands=None)``: (B, 3, H, W) in [0, 1] to a scaled latent (B, channels, H / factor, W / factor);
- ``decode(latent, bands=None)``: back to an image about [0, 1], not clamped;
- ``weights(mask)``: a mask (B, 1, H, W) of image pixels as one that broadcasts over latents;
- ``memory(height, width, bands=None)``: estimate of the bytes that either takes at its peak for an image of so many
  pixels, on the device of the weights and beside the image itself.

A new one is a file here and a line below.
"""

from .bands import Bands
from .frozen import FrozenVAE
from .pixel import PixelCodec
from .tiny_vae import TinyVAECodec, TinyVAECodecConfig
from .vae import VAECodec, VAECodecConfig

CODECS = {"PixelCodec": PixelCodec, "VAECodec": VAECodec, "TinyVAECodec": TinyVAECodec}

Codec = PixelCodec | VAECodec | TinyVAECodec

__all__ = [
    "CODECS",
    "Bands",
    "Codec",
    "FrozenVAE",
    "PixelCodec",
    "TinyVAECodec",
    "TinyVAECodecConfig",
    "VAECodec",
    "VAECodecConfig",
]
