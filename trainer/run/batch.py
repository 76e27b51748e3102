"""One training batch: pairs, times, guidance, and the target that the network's output is compared with."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Generator, Tensor

from ...flowmapsr_core.method.flow import Velocity, conditional_velocity, interpolant, per_sample
from ...flowmapsr_core.model import Model
from ..data.pairs import Small, make_pairs
from ..objectives import JUMPS, LOOK_AHEAD, USE_VELOCITY, flow_matching_target, guided_velocity
from ..recipe.recipe import CONSISTENT, Recipe, Stage

GUIDED = ("guided", "adversarial")  # stages whose velocities are guided
# The teacher's pictures (n, 3, H, W) of each group's LR images, those that a mask (B,) picks, at a size (H, W).
Teach = Callable[[list[Small], Tensor, tuple[int, int]], Tensor]


@dataclass
class Draws:
    """What is drawn for each sample of a step: t, s, w (B,) float32, negative, jump (B,) bool, place (B, 2), noise (B,)
    int64, step (B,) float32.

    Jumps have s < t, the rest (flow matching) s = t. ``w`` is the guidance of the target, ``place`` in [0, 1) where
    the perceptual loss looks, ``noise`` the seed of that at the LR end, ``step`` how far an objective looks ahead.
    """

    t: Tensor
    s: Tensor
    w: Tensor
    negative: Tensor
    jump: Tensor
    place: Tensor
    noise: Tensor
    step: Tensor

    def rows(self, rows: slice | Tensor, device: torch.device | None = None) -> "Draws":
        """Some of the samples, on a device."""
        parts = (getattr(self, field.name)[rows] for field in dataclasses.fields(Draws))
        return Draws(*(part.to(device or part.device) for part in parts))


def draw(recipe: Recipe, stage: Stage, batch: int, generator: Generator, done: int = 0, guided: bool = False) -> Draws:
    """Draw a whole step's samples, after ``done`` steps of the stage; ``guided``: its teacher has learned guidance."""
    negative, w = torch.zeros(batch, dtype=torch.bool), torch.ones(batch)
    if stage.kind in GUIDED:
        negative = torch.rand(batch, generator=generator) < recipe.guidance.negative
    if stage.kind in GUIDED or guided:
        low, high = recipe.guidance.scale
        low = high if recipe.guidance.mode == "fixed" else low
        w = low + (high - low) * torch.rand(batch, generator=generator)
        w[(torch.rand(batch, generator=generator) < recipe.guidance.none) | negative] = 1.0
    jump = (recipe.times.jump_rows(batch) & (stage.kind != "flow-matching")) | (stage.kind in CONSISTENT)
    t, s = recipe.times.flow_matching(batch, generator, zero=stage.objective == "lagrangian")
    if stage.kind == "distillation":
        t = s = torch.ones(batch)
    pairs, step = _jumps(recipe, stage, done)
    jump_t, jump_s = pairs(batch, generator)
    place = torch.rand(batch, 2, generator=generator)
    noise = torch.randint(2**62, (batch,), generator=generator)
    steps = torch.full((batch,), step)
    return Draws(torch.where(jump, jump_t, t), torch.where(jump, jump_s, s), w, negative, jump, place, noise, steps)


def _jumps(recipe: Recipe, stage: Stage, done: int) -> tuple[Callable[[int, Generator], tuple[Tensor, Tensor]], float]:
    """What draws the times (t, s) of a stage's jumps, and how far its objective looks ahead."""
    times = recipe.times
    if stage.kind in CONSISTENT:
        intervals = times.intervals_at(done / stage.steps if stage.kind == "consistency" else 1.0)
        return partial(times.to_zero, intervals=intervals), 1 / intervals
    if stage.kind == "distillation":
        return times.from_start, times.solver_step
    return times.shortcut if stage.objective == "shortcut" else times.intervals, times.solver_step


@dataclass
class Batch:
    """States of a micro-batch, which begin with latents (B, C, H, W), and what was drawn for it.

    Attributes:
        x0, x1: the HR and the LR end of the pairs; a negative sample's x0 is its milder degradation, a taught one's the
            teacher's picture, or what :meth:`Teacher.share_of_hr` makes of it.
        x_t, v: interpolant at t and its velocity.
        hr: image (B, 3, H, W) in [0, 1] that pictures of predictions are compared with: a photograph, or what x0 is of
            a negative one; a taught one's is the teacher's picture if ``teacher.distances`` says so.
        real: latent of the photograph, or of what a negative one has, which is x0 of samples without a teacher; of a
            taught one the teacher's picture if ``teacher.judged`` says so.
        judged: whether a discriminator sees the sample (B,) bool.
        weight: of the sample's loss (B,).
        seen: the guidance scale that the network is told (B,).
    """

    draws: Draws
    x0: Tensor
    x1: Tensor
    x_t: Tensor
    v: Tensor
    hr: Tensor
    real: Tensor
    judged: Tensor
    weight: Tensor
    seen: Tensor


def make_batch(
    hr: Tensor, draws: Draws, recipe: Recipe, model: Model, generators: list[Generator], teach: Teach | None = None
) -> Batch:
    """Degrade HR crops (B, 3, H, W) in [0, 1], a group of them for each generator, and place them in time."""
    hr, lr, weight, small = make_pairs(hr, recipe.degrade, draws.negative, generators)
    lr, real = model.codec.encode(lr), model.codec.encode(hr)
    taught, x0 = ~draws.negative & (draws.jump | (recipe.teacher.of == "all")), real
    judged = torch.ones_like(taught)
    if teach is not None and taught.any():
        pictures = teach(small, taught, (hr.shape[-2], hr.shape[-1]))
        share = recipe.teacher.share_of_hr(draws.s[taught])
        x0 = real.clone()
        painted = model.codec.encode(pictures)
        x0[taught] = torch.lerp(painted, real[taught], per_sample(share, real))
        if recipe.teacher.distances == "picture":
            hr = hr.clone()
            hr[taught] = pictures.to(hr)
        if recipe.teacher.judged == "picture":
            real, judged = real.clone(), taught
            real[taught] = painted
    x0, x1 = model.method.ends(x0, lr, noise_like(lr, draws.noise) if model.method.noise else None)
    seen = draws.w if recipe.guidance.mode == "input" else torch.ones_like(draws.w)
    x_t, v = interpolant(x0, x1, draws.t), conditional_velocity(x0, x1)
    return Batch(draws, x0, x1, x_t, v, hr, real, judged, weight, seen)


def noise_like(latents: Tensor, seeds: Tensor) -> Tensor:
    """Noise of the latents' shape, each sample's from its own seed: pairs that come again meet another."""
    generators = (Generator().manual_seed(seed) for seed in seeds.tolist())
    return torch.stack([torch.randn(latents.shape[1:], generator=own) for own in generators]).to(latents.device)


@torch.no_grad()
def make_target(batch: Batch, teacher, recipe: Recipe, stage: Stage) -> Tensor:
    """What ``u(x_t, t, s)`` should be, as ``x_t``: self-distillation for jumps, velocities for the rest.

    The velocities are the pairs', guided where the stage is, or in a distillation the teacher's.
    """
    draws, jump = batch.draws, batch.draws.jump
    v = batch.v.clone()
    if stage.kind in GUIDED:
        rows = _some((draws.w != 1) & (~jump | (stage.objective in USE_VELOCITY)))
        part = draws.rows(rows)
        u_negative = bind(teacher, torch.ones_like(part.w), torch.ones_like(part.negative))
        v[rows] = guided_velocity(u_negative, batch.x_t[rows], v[rows], part.t, part.w)
    if stage.kind == "distillation":
        rows = _some(~jump)
        part = draws.rows(rows)
        v[rows] = bind(teacher, batch.seen[rows], part.negative)(batch.x_t[rows], part.t, part.t)
    u = bind(teacher, batch.seen, draws.negative)
    target = flow_matching_target(u, batch.x_t, v, draws.t, draws.s)
    if stage.kind != "flow-matching":
        rows = _some(jump)
        part = draws.rows(rows)
        u = bind(teacher, batch.seen[rows], part.negative)
        options = {"step": part.step} if stage.objective in LOOK_AHEAD else {}
        options |= {"finest": recipe.times.finest} if stage.objective == "shortcut" else {}
        jumps = JUMPS[stage.objective](u, batch.x_t[rows], v[rows], part.t, part.s, **options)
        target[jump] = jumps[jump[rows]]
    return target


def _some(rows: Tensor) -> Tensor:
    """These rows (B,) bool, or the first if there are none: a teacher spread over processes must be called by all."""
    return rows if rows.any() else torch.arange(len(rows), device=rows.device) == 0


def bind(model, w: Tensor, negative: Tensor) -> Velocity:
    """The model with its conditioning bound, float32 out."""
    return lambda x, t, s: model(x, t, s, w, negative).float()


def pair_generators(recipe: Recipe, step: int, groups: range) -> list[Generator]:
    """What the pairs of some groups of a step are drawn from."""
    return [generator_of(recipe.seed, step, 1 + group) for group in groups]


def generator_of(*key: int) -> Generator:
    """Randomness of one thing (seed, step, ...), so that a resumed run draws what an uninterrupted one would."""
    entropy = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(entropy[0]))
