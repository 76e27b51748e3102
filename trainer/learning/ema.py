"""Exponential moving average of the weights: the teacher of self-distillation, and what is exported."""

import copy
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ...flowmapsr_core.model import FlowMap


class Ema:
    """A copy of a model whose weights follow it with a decay that rises to ``decay`` over the first steps."""

    def __init__(self, model: FlowMap, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, model: FlowMap, step: int) -> None:
        """Move towards ``model`` after optimiser step ``step`` (from 0)."""
        decay = min(self.decay, (step + 1) / (step + 10))
        for averaged, current in zip(self.model.parameters(), model.parameters(), strict=True):
            if current.requires_grad:  # the others do not change
                averaged.lerp_(current, 1 - decay)

    def save(self, path: Path) -> None:
        """Write the averaged weights as a safetensors file."""
        save_file({name: weight.contiguous() for name, weight in self.model.state_dict().items()}, path)

    def load(self, path: Path) -> None:
        """Take what :meth:`save` wrote. Raises ``SafetensorError`` or ``RuntimeError`` if it does not fit."""
        self.model.load_state_dict(load_file(path))
