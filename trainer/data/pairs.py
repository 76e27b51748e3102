"""Training pairs: an HR crop and its degraded counterpart on the same grid."""

import math
from dataclasses import replace

import torch
from torch import Generator, Tensor

from ...flowmapsr_core.images.degradation import Degradation, degrade, preset, to_hr_grid
from ..recipe.recipe import Degrade


def make_pairs(
    hr: Tensor, recipe: Degrade, negative: Tensor, generators: list[Generator]
) -> tuple[Tensor, Tensor, Tensor]:
    """Degrade HR crops.

    Args:
        hr: (B, 3, H, W) in [0, 1]; it splits evenly into groups, one for each generator.
        recipe: presets and factors; each group gets one draw.
        negative: (B,) bool; the target of these samples is a milder degradation, by a factor from 1 to the LR's own.
        generators: CPU generators.

    Returns:
        (target, lr, weight): target and lr (B, 3, H, W) in [0, 1], lr resized to the HR grid; weight (B,) of the
        sample's loss, ``(factor / 4) ** -balance``.
    """
    targets, lrs, weights = [], [], []
    parts = zip(hr.chunk(len(generators)), negative.chunk(len(generators)), generators, strict=True)
    for part, milder, generator in parts:
        stages = _draw_preset(recipe, generator)
        factor = _log_uniform(*recipe.factor, generator)
        lrs.append(_round_trip(part, factor, stages, generator))
        mild = _round_trip(part, _log_uniform(1.0, factor, generator), stages, generator) if milder.any() else part
        targets.append(torch.where(milder[:, None, None, None], mild, part))
        weights.append(torch.full((len(part),), (factor / 4) ** -recipe.balance, device=hr.device))
    return torch.cat(targets), torch.cat(lrs), torch.cat(weights)


def _round_trip(hr: Tensor, factor: float, stages: tuple[Degradation, ...], generator: Generator) -> Tensor:
    lr = degrade(hr, factor, stages, generator)
    return to_hr_grid(lr, (hr.shape[-2], hr.shape[-1]), stages, generator)


def _draw_preset(recipe: Degrade, generator: Generator) -> tuple[Degradation, ...]:
    names = list(recipe.presets)
    index = torch.multinomial(torch.tensor(list(recipe.presets.values())), 1, generator=generator)
    stages = preset(names[int(index)])
    if recipe.upscale == "bicubic":
        stages = (*stages[:-1], replace(stages[-1], upscale_modes=("bicubic",), grid_blur=0.0))
    return stages


def _log_uniform(low: float, high: float, generator: Generator) -> float:
    return math.exp(math.log(low) + math.log(high / low) * torch.rand(1, generator=generator).item())
