"""Which latents a VAE makes: those of one shape differ in that, and no file says so; the latent of a picture does."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .vae import VAECodec

SIDE = 64  # pixels, a multiple of any factor
FAR = 0.25  # of the latent's norm: far above what rounding to 8 bits of mantissa does, far below another VAE


def probe_picture() -> Tensor:
    """The test picture (1, 3, 64, 64) in [0, 1]: two ramps and waves."""
    y, x = torch.meshgrid(*[torch.linspace(0, 1, SIDE)] * 2, indexing="ij")
    waves = (6 * math.pi * x).sin() * (10 * math.pi * y).sin()
    return torch.stack([x, y, 0.5 + 0.5 * waves])[None]


def probe(codec: "VAECodec") -> tuple[float, ...]:
    """What a codec makes of the test picture: its scaled latent, flat, to three decimals."""
    return tuple(round(value, 3) for value in codec.encode(probe_picture()).flatten().tolist())


def differ(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether two VAEs make different latents, by their answers to :func:`probe`; an empty one is not known."""
    if not one or not other:
        return False
    return len(one) != len(other) or math.dist(one, other) > FAR * math.hypot(*one)
