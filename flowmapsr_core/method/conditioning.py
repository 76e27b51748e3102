"""Embeddings of the scalars a network is conditioned on: the times t and s, and the guidance scale w."""

import math

import torch
from torch import Tensor


def fourier_embedding(value: Tensor, dim: int, lowest: float = 0.5, highest: float = 64.0) -> Tensor:
    """Cosines and sines of a scalar at geometrically spaced angular frequencies.

    Args:
        value: (B,), a time in [0, 1] or a guidance scale of a few units.
        dim: size of the embedding, even.
        lowest, highest: angular frequencies in radians per unit. The highest still separates neighbours on the
            1/128 time grid; far above it, the derivative in time would swamp the jvp objectives.

    Returns:
        (B, dim), float32 (in bfloat16 the times themselves would be off).
    """
    exponents = torch.linspace(0, 1, dim // 2, device=value.device, dtype=torch.float32)
    frequencies = torch.exp(math.log(lowest) + exponents * math.log(highest / lowest))
    angles = value.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)
