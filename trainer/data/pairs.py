"""Training pairs: an HR crop and its degraded counterpart on the same grid."""

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from ...flowmapsr_core.errors import check
from ...flowmapsr_core.images.degradation import PRESETS, Degradation, degrade, preset, to_hr_grid


@dataclass(frozen=True)
class Degrade:
    """How HR crops are degraded.

    Attributes:
        presets: weight of each preset.
        factor: range of the LR's factor, log-uniform.
        balance: samples weigh ``factor ** -balance`` in the loss. Their squared error grows about as
            ``factor ** 1.25``, so at 0 the large factors drown the small ones.
        groups: draws of preset and factor in a step; every batch must split evenly into them.
        upscale: how the LR image gets back to the HR grid, "preset" or "bicubic" (as in upscaling).
    """

    presets: dict[str, float] = field(default_factory=lambda: {"flowmapsr": 1.0})
    factor: tuple[float, float] = (1.5, 12.0)
    balance: float = 0.0
    groups: int = 4
    upscale: str = "preset"

    def __post_init__(self) -> None:
        check(bool(self.presets), "degrade.presets must name at least one preset")
        for name, weight in self.presets.items():
            check(name in PRESETS, f"degrade.presets: {name!r} is none of {', '.join(PRESETS)}")
            check(weight > 0, f"degrade.presets: the weight of {name} must be above 0")
        check(1 <= self.factor[0] <= self.factor[1], "degrade.factor must be [low, high] with 1 <= low <= high")
        check(self.groups >= 1, "degrade.groups must be at least 1")
        check(self.upscale in ("preset", "bicubic"), 'degrade.upscale must be "preset" or "bicubic"')


class Small(NamedTuple):
    """A group's LR images (B / groups, 3, h, w) in [0, 1] as they were, and the preset that made them."""

    preset: str
    images: Tensor


def make_pairs(
    hr: Tensor, recipe: Degrade, negative: Tensor, generators: list[Generator]
) -> tuple[Tensor, Tensor, Tensor, list[Small]]:
    """Degrade HR crops.

    Args:
        hr: (B, 3, H, W) in [0, 1]; it splits evenly into groups, one for each generator.
        recipe: presets and factors; each group gets one draw.
        negative: (B,) bool; the target of these samples is a milder degradation, by a factor from 1 to the LR's own.
        generators: CPU generators.

    Returns:
        (target, lr, weight, small): target and lr (B, 3, H, W) in [0, 1], lr resized to the HR grid; weight (B,) of the
        sample's loss, ``(factor / 4) ** -balance``; small, one for each group.
    """
    targets, lrs, weights, small = [], [], [], []
    parts = zip(hr.chunk(len(generators)), negative.chunk(len(generators)), generators, strict=True)
    for part, milder, generator in parts:
        name, stages = _draw_preset(recipe, generator)
        factor = _log_uniform(*recipe.factor, generator)
        small.append(Small(name, degrade(part, factor, stages, generator)))
        lrs.append(_on_hr_grid(small[-1].images, part, stages, generator))
        mild = part
        if milder.any():
            mild = degrade(part, _log_uniform(1.0, factor, generator), stages, generator)
            mild = _on_hr_grid(mild, part, stages, generator)
        targets.append(torch.where(milder[:, None, None, None], mild, part))
        weights.append(torch.full((len(part),), (factor / 4) ** -recipe.balance, device=hr.device))
    return torch.cat(targets), torch.cat(lrs), torch.cat(weights), small


def _on_hr_grid(lr: Tensor, hr: Tensor, stages: tuple[Degradation, ...], generator: Generator) -> Tensor:
    return to_hr_grid(lr, (hr.shape[-2], hr.shape[-1]), stages, generator)


def _draw_preset(recipe: Degrade, generator: Generator) -> tuple[str, tuple[Degradation, ...]]:
    names = list(recipe.presets)
    index = torch.multinomial(torch.tensor(list(recipe.presets.values())), 1, generator=generator)
    name = names[int(index)]
    stages = preset(name)
    if recipe.upscale == "bicubic":
        stages = (*stages[:-1], replace(stages[-1], upscale_modes=("bicubic",), grid_blur=0.0))
    return name, stages


def _log_uniform(low: float, high: float, generator: Generator) -> float:
    return math.exp(math.log(low) + math.log(high / low) * torch.rand(1, generator=generator).item())
