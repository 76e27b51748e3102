"""Learned weighting of the loss over the times (arXiv 2601.16660, section 3; as in EDM2, arXiv 2312.02696)."""

import torch
from torch import Tensor, nn

from ...flowmapsr_core.method.conditioning import fourier_embedding

EMBEDDING = 256  # of each time


class LossWeight(nn.Module):
    """``exp(-psi(t, s)) loss + psi(t, s)``, least where ``psi = log E[loss | t, s]``.

    There every pair of times weighs the same, whatever the level of its loss. psi starts at zero: the plain loss. Train
    it along with the network, without weight decay.
    """

    def __init__(self) -> None:
        super().__init__()
        last = nn.Linear(128, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(2 * EMBEDDING, 512), nn.SiLU(), nn.Linear(512, 128), nn.SiLU(), last)

    def forward(self, loss: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Weighted loss of every sample, float32; all (B,), ``0 <= s <= t <= 1``. It may be negative."""
        psi = self.psi(t, s)
        return torch.exp(-psi) * loss.float() + psi

    def psi(self, t: Tensor, s: Tensor) -> Tensor:
        """Logarithm of the expected loss, (B,) float32, under autocast too."""
        with torch.autocast(t.device.type, enabled=False):
            times = torch.cat([fourier_embedding(t, EMBEDDING), fourier_embedding(s, EMBEDDING)], dim=1)
            return self.layers(times).squeeze(1)
