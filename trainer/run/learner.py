"""What a stage trains: its modules, their optimisers, and the loss of a micro-batch, term by term."""

import math
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor

from ...flowmapsr_core.codecs import FrozenVAE
from ...flowmapsr_core.method.flow import per_sample
from ...flowmapsr_core.model import FlowMap, Model
from ..learning.ema import Ema
from ..losses.adversarial import (
    PatchDiscriminator,
    ScoreGap,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    last_jump,
)
from ..losses.error import squared_error
from ..losses.perceptual import Perceptual
from ..losses.projected import ProjectedDiscriminator
from ..losses.weighting import LossWeight
from ..losses.windows import decoded_windows
from ..recipe.recipe import Recipe, Stage
from .accelerator import is_sharded
from .batch import Batch, bind, make_target
from .state import Numbers

Figures = dict[str, Tensor]
GAP = "score gap"  # running mean: 0 where real and fake scores have met


class Learner:
    """Trains the network with one objective, its weights averaged.

    Attributes:
        model: the prepared flow map; its gradient is taken.
        codec: of its latents.
        ema: averaged weights, if there are any: they teach, and are validated and exported.
        copies: of the model, that change over a stage and have to be resumed, by name.
        guided: whether guidance is drawn for a teacher that has learned it.
        modules: everything with parameters that are trained, prepared.
        numbers: what a resumed run has to know besides weights and optimisers, by name.
    """

    guided = False

    def __init__(self, recipe: Recipe, stage: Stage, model: Model, accelerator: Accelerator) -> None:
        self.recipe, self.stage, self.accelerator = recipe, stage, accelerator
        settings = recipe.optimizer
        flow, self.codec = model.flow, model.codec
        if isinstance(self.codec, FrozenVAE):
            self.codec.to(accelerator.device)
        groups = [{"params": [p for p in flow.parameters() if p.requires_grad], "weight_decay": settings.weight_decay}]
        weighting = LossWeight() if recipe.loss.learned_weight else None
        if weighting:
            groups.append({"params": list(weighting.parameters()), "weight_decay": 0.0})
        self.lr = settings.lr if stage.kind != "adversarial" else recipe.adversarial.lr
        self.jumps = stage.kind != "flow-matching"
        self.ema = Ema(flow, settings.ema) if settings.ema else None
        self.config = model.config()
        if is_sharded(accelerator):
            flow.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]  FSDP takes no other
        if self.ema:
            self.ema.model.to(accelerator.device)
        self.model, self.optimizer = accelerator.prepare(flow, adamw(groups, self.lr, settings.betas))
        self.weighting = accelerator.prepare(weighting) if weighting else None
        self.perceptual = make_perceptual(recipe, accelerator)
        self.modules = [self.model] + ([self.weighting] if self.weighting else [])
        self.copies: dict[str, Ema] = {"average": self.ema} if self.ema else {}
        self.numbers: dict[str, Numbers] = {}

    @property
    def teacher(self) -> Callable[..., Tensor]:
        """What gives self-distillation its targets."""
        return self.ema.model if self.ema else self.model

    def result(self) -> FlowMap:
        """The flow map to validate and export; all processes call it.

        Of sharded weights the main process gets it, in host memory.
        """
        if not is_sharded(self.accelerator):
            return self.ema.model if self.ema else self.accelerator.unwrap_model(self.model)
        weights = self.accelerator.get_state_dict(self.model)
        with torch.device("meta"):
            whole = Model.from_config(self.config).flow.requires_grad_(False).eval()
        if self.accelerator.is_main_process:
            whole.load_state_dict(weights, assign=True)
        return whole

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, Figures]:
        """Loss of a micro-batch, and what it is made of, before the learned weight, so that they compare over a run."""
        draws, n, jump = batch.draws, len(batch.x_t), batch.draws.jump
        with self.accelerator.autocast():
            target = make_target(batch, self.teacher, self.recipe, self.stage)
        u = self.model(batch.x_t, draws.t, draws.s, batch.seen, draws.negative).float()
        settings = self.recipe.loss
        error = batch.weight * squared_error(self.picture(u - target), settings.grid, settings.even)
        figures = {"velocity": error[~jump].sum() / n}
        if self.jumps:
            figures["jump"] = error[jump].sum() / n
        loss = (self.weighting(error, draws.t, draws.s) if self.weighting else error).mean()
        if self.perceptual:
            # x_t - t u is an HR prediction where a jump ends at 0, or s = t
            ends = ~jump | (draws.s == 0)
            for name in self.perceptual.distances:
                figures[name] = u.sum() * 0
            if ends.any():
                part, x0 = draws.rows(ends), self.picture(batch.x_t - per_sample(draws.t, u) * u)
                distances = self.perceptual(x0[ends], batch.hr[ends], part.t, part.s, self.codec, part.place)
                figures |= {name: distance.sum() / n for name, distance in distances.items()}
            loss = loss + sum(figures[name] for name in self.perceptual.distances)
        return loss, figures

    def picture(self, state: Tensor) -> Tensor:
        """The latent (B, C, H, W) that a state, or its velocity, begins with."""
        return state[:, : self.codec.channels]

    def set_rate(self, factor: float) -> None:
        """Set the share of the learning rate. Before the gradient is taken: DeepSpeed steps as it takes it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * factor

    def update(self, step: int) -> float:
        """Optimiser step ``step`` of the stage; returns the norm of the gradient."""
        norm = self.clip(self.model)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema:
            self.ema.update(self.accelerator.unwrap_model(self.model), step)
        return norm

    def clip(self, module: torch.nn.Module) -> float:
        """Shorten the gradient if it is too long; returns its norm as it was, FloatingPointError if it has none."""
        norm = float(self.accelerator.clip_grad_norm_(module.parameters(), self.recipe.optimizer.clip) or 0.0)
        if self.accelerator.scaler is None and not math.isfinite(norm):  # a scaler skips such steps by itself
            raise FloatingPointError(f"the gradient is {norm}")
        return norm

    def observe(self, figures: dict[str, float]) -> dict[str, float]:
        """Take in a step's figures, averaged over the processes; returns those that are losses."""
        return figures

    def gauges(self) -> dict[str, float]:
        """What says how training stands, besides the losses."""
        return {}


class AdversarialLearner(Learner):
    """Trains a LoRA against a discriminator, by turns; the discriminator alone for the first ``warmup`` steps."""

    def __init__(self, recipe: Recipe, stage: Stage, model: Model, accelerator: Accelerator) -> None:
        from ..learning.adapter import add_lora  # peft takes seconds to import

        add_lora(model.flow, recipe.adversarial.rank, recipe.adversarial.alpha)
        super().__init__(recipe, stage, model, accelerator)
        self.projected = recipe.adversarial.discriminator == "projected"
        discriminator = ProjectedDiscriminator() if self.projected else PatchDiscriminator(model.codec.channels)
        critic = adamw(
            [{"params": [p for p in discriminator.parameters() if p.requires_grad]}], self.lr, recipe.optimizer.betas
        )
        self.discriminator, self.critic = accelerator.prepare(discriminator, critic)
        self.gap = ScoreGap()
        self.modules.append(self.discriminator)
        self.numbers[GAP] = self.gap

    def judges(self, step: int) -> bool:
        """Whether it is the discriminator's turn."""
        return step < self.recipe.adversarial.warmup or (step - self.recipe.adversarial.warmup) % 2 == 1

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, Figures]:
        return self.judge(batch) if self.judges(step) else self.mend(batch, step)

    def judge(self, batch: Batch) -> tuple[Tensor, Figures]:
        """The discriminator's turn."""
        settings = self.recipe.adversarial
        with torch.no_grad():
            real, fake = self.shown(batch)
        scores = self.discriminator(torch.cat([real, fake])).chunk(2)
        figures = {"discriminator": discriminator_loss(*scores)}
        for name, weight, x in (("r1", settings.r1, real), ("r2", settings.r2, fake)):
            if weight:
                figures[name] = weight * gradient_penalty(self.discriminator, x)
        loss = torch.stack(list(figures.values())).sum()
        return loss, {**figures, GAP: (scores[0] - scores[1]).mean()}

    def mend(self, batch: Batch, step: int) -> tuple[Tensor, Figures]:
        """The LoRA's turn."""
        # the discriminator's weights stay out of it, until update(): no process is to wait for their gradients
        discriminator = self.accelerator.unwrap_model(self.discriminator).requires_grad_(False)
        settings = self.recipe.adversarial
        real, fake = self.shown(batch)
        figures = {"adversarial": generator_loss(discriminator(fake), discriminator(real))}
        loss, mu = figures["adversarial"], settings.reconstruction
        if mu:
            reconstruction, more = super().loss(batch, step)
            loss, figures = loss + mu * reconstruction, figures | more
        return loss, figures

    def shown(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the discriminator sees, real and generated: latents, or windows of them as pictures."""
        rows, draws = batch.judged, batch.draws
        u = bind(self.model, batch.seen[rows], draws.negative[rows])
        fake = self.picture(last_jump(u, batch.x1[rows], self.recipe.adversarial.evaluations))
        real, place = batch.real[rows], draws.place[rows]
        if not self.projected:
            return real, fake
        return decoded_windows(real, self.codec, place), decoded_windows(fake, self.codec, place)

    def set_rate(self, factor: float) -> None:
        super().set_rate(factor)
        for group in self.critic.param_groups:
            group["lr"] = self.lr * factor

    def update(self, step: int) -> float:
        if not self.judges(step):
            norm = super().update(step)
            self.accelerator.unwrap_model(self.discriminator).requires_grad_(True)
            return norm
        norm = self.clip(self.discriminator)
        self.critic.step()
        self.critic.zero_grad()
        return norm

    def observe(self, figures: dict[str, float]) -> dict[str, float]:
        if GAP in figures:
            figures[GAP] = self.gap.update(figures[GAP])
        return {name: value for name, value in figures.items() if name != GAP}

    def gauges(self) -> dict[str, float]:
        return {GAP: round(self.gap.mean, 4)}


def make_perceptual(recipe: Recipe, accelerator: Accelerator) -> Perceptual | None:
    """The distances that the recipe gives a weight to, or None."""
    settings = recipe.loss
    wanted = settings.perceptual or settings.features
    return Perceptual(settings).to(accelerator.device) if wanted else None


def adamw(groups: list[dict], lr: float, betas: tuple[float, float]) -> torch.optim.AdamW:
    """AdamW as every stage uses it."""
    return torch.optim.AdamW(groups, lr, betas=betas, weight_decay=0.0, fused=True)
