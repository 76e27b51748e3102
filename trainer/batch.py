"""One training batch: pairs, times, guidance, and the target that the network's output is compared with."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..flowmapsr_core.flow import Velocity, conditional_velocity, interpolant
from ..flowmapsr_core.model import FlowMap
from .objectives import flow_matching_target, guided_velocity, shortcut_target
from .pairs import make_pairs
from .recipe import Recipe, Stage


@dataclass
class Batch:
    """Inputs of one evaluation: x_t, v (B, C, H, W), t, s, w and loss weight (B,) float32, negative (B,) bool.

    The first ``jumps`` samples are jumps (s < t), the rest flow matching (s = t).
    """

    x_t: Tensor
    v: Tensor
    t: Tensor
    s: Tensor
    w: Tensor
    negative: Tensor
    weight: Tensor
    jumps: int

    def rows(self, rows: slice) -> "Batch":
        """Some of the samples."""
        parts = (getattr(self, name)[rows] for name in ("x_t", "v", "t", "s", "w", "negative", "weight"))
        return Batch(*parts, jumps=0)


def make_batch(hr: Tensor, recipe: Recipe, stage: Stage, codec, generator: Generator) -> Batch:
    """Draw everything random about a step; hr (B, 3, H, W) in [0, 1] decides the device."""
    n, device, guided = len(hr), hr.device, stage.kind == "guided"
    negative = torch.zeros(n, dtype=torch.bool)
    w = torch.ones(n)
    if guided:
        negative = torch.rand(n, generator=generator) < recipe.guidance.negative
        low, high = recipe.guidance.scale
        w = low + (high - low) * torch.rand(n, generator=generator)
        w[(torch.rand(n, generator=generator) < recipe.guidance.none) | negative] = 1.0
    jumps = 0 if stage.kind == "flow-matching" else round(n * recipe.times.jumps)
    pairs = recipe.times.shortcut(jumps, generator), recipe.times.flow_matching(n - jumps, generator)
    t, s = (torch.cat(times).to(device) for times in zip(*pairs, strict=True))
    target, lr, weight = make_pairs(hr, recipe.degrade, negative.to(device), generator)
    # neighbours share a degradation; shuffling them keeps the jumps from all getting the same ones
    order = torch.randperm(n, generator=generator).to(device)
    x0, x1 = codec.encode(target[order]), codec.encode(lr[order])
    w, negative = w.to(device)[order], negative.to(device)[order]
    return Batch(interpolant(x0, x1, t), conditional_velocity(x0, x1), t, s, w, negative, weight[order], jumps)


@torch.no_grad()
def make_target(batch: Batch, teacher: FlowMap, recipe: Recipe, stage: Stage) -> Tensor:
    """What ``u(x_t, t, s)`` should be, (B, C, H, W): shortcut targets for jumps, (guided) velocities for the rest."""
    target = torch.empty_like(batch.v)
    flow, jump = batch.rows(slice(batch.jumps, None)), batch.rows(slice(batch.jumps))
    v = flow.v
    if stage.kind == "guided" and bool((flow.w != 1).any()):
        u_negative = bind(teacher, torch.ones_like(flow.w), torch.ones_like(flow.negative))
        v = guided_velocity(u_negative, flow.x_t, v, flow.t, flow.w)
    u = bind(teacher, flow.w, flow.negative)
    target[batch.jumps :] = flow_matching_target(u, flow.x_t, v, flow.t, flow.s)
    if batch.jumps:
        u = bind(teacher, jump.w, jump.negative)
        target[: batch.jumps] = shortcut_target(u, jump.x_t, jump.v, jump.t, jump.s, recipe.times.finest)
    return target


def bind(model: FlowMap, w: Tensor, negative: Tensor) -> Velocity:
    """The model with its conditioning bound, float32 out."""
    return lambda x, t, s: model(x, t, s, w, negative).float()
