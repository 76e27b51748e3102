"""Parts that several networks are made of."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..method.conditioning import fourier_embedding

FOURIER_DIM = 64


def zero(layer: nn.Conv2d | nn.Linear) -> None:
    """Start a layer at zero output."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class Condition(nn.Sequential):
    """Makes the conditioning vector of a network that reads no text: its prompts are learned vectors."""

    def __init__(self, prompt_dim: int, dim: int) -> None:
        super().__init__(nn.Linear(3 * FOURIER_DIM + prompt_dim, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())

    def embed(self, t: Tensor, s: Tensor, prompt: Tensor, guidance: Tensor) -> Tensor:
        """The conditioning vector, constant over an image.

        Args:
            t, s: times (B,), float32, ``0 <= s <= t <= 1``.
            prompt: prompt embedding (B, prompt_dim), in the dtype of the evaluation.
            guidance: guidance scale (B,), 1 for none.

        Returns:
            (B, dim) in the prompt's dtype; sines and cosines are taken in float32.
        """
        scalars = torch.cat([fourier_embedding(value, FOURIER_DIM) for value in (t, s, guidance)], dim=1)
        return self(torch.cat([scalars.to(prompt.dtype), prompt], dim=1))


class ScaleShift(nn.Module):
    """Scale and shift of every channel by the conditioning vector; a fresh one changes nothing."""

    def __init__(self, width: int, condition_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(condition_dim, 2 * width)
        zero(self.linear)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.linear(condition)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, x, 1 + scale)


class Chain(nn.ModuleList):
    """Layers of features and the conditioning vector, one after another.

    Attributes:
        recompute: keep only the layers' inputs for the backward pass, and compute the rest again there.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__(layers)
        self.recompute = False

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        for layer in self:
            if self.recompute and torch.is_grad_enabled():
                h = cast(Tensor, checkpoint(layer, h, condition, use_reentrant=False))
            else:
                h = layer(h, condition)
        return h
