"""Consistency training and distribution trajectory matching (CTMSR, arXiv 2503.20349)."""

import torch
from accelerate import Accelerator
from torch import Tensor

from ...flowmapsr_core.method.flow import per_sample
from ...flowmapsr_core.model import Model
from ..learning.ema import Ema
from ..losses.consistency import charbonnier, nearness, trajectory_gap
from ..recipe.recipe import Recipe, Stage
from .batch import Batch, bind, make_target, noise_like
from .learner import Figures, Learner

REFERENCE = "reference"


class ConsistencyLearner(Learner):
    """Trains the jump to time 0, its error being that of the picture where it ends.

    The targets come from the weights as they are: an average of them would bias what is learned (arXiv 2310.14189).
    """

    @property
    def teacher(self) -> torch.nn.Module:
        return self.model

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, Figures]:
        draws = batch.draws
        with self.accelerator.autocast():
            target = make_target(batch, self.teacher, self.recipe, self.stage)
        u = self.model(batch.x_t, draws.t, draws.s, batch.seen, draws.negative).float()
        predicted, target = (batch.x_t - per_sample(draws.t, velocity) * velocity for velocity in (u, target))
        figures = self.terms(batch, predicted, target)
        return torch.stack(list(figures.values())).sum(), figures

    def terms(self, batch: Batch, predicted: Tensor, target: Tensor) -> Figures:
        """What the loss is made of, from states at time 0: where the jump ends, and where it should."""
        predicted, target = self.picture(predicted), self.picture(target)
        error = batch.weight * charbonnier(predicted - target)
        figures = {"charbonnier": self.recipe.consistency.charbonnier * error.mean()}
        return figures | {name: distance.mean() for name, distance in self.distances(batch, predicted, target).items()}

    def distances(self, batch: Batch, predicted: Tensor, target: Tensor) -> Figures:
        """Weighted distances (B,) of the pictures of latents (B, C, H, W), by name."""
        if not self.perceptual:
            return {}
        with torch.no_grad():
            picture = self.codec.decode(target)
        zero = torch.zeros_like(batch.draws.t)
        return self.perceptual(predicted, picture, zero, zero, self.codec, batch.draws.place)


class TrajectoryLearner(ConsistencyLearner):
    """Consistency training with distribution trajectory matching beside it.

    Attributes:
        reference: the frozen copy theta', made anew every ``consistency.refresh`` steps; it is neither trained nor
            averaged, and plays both parts, of the real pictures and of the predicted ones.
    """

    def __init__(self, recipe: Recipe, stage: Stage, model: Model, accelerator: Accelerator) -> None:
        self.reference = Ema(model.flow, decay=0.0)
        self.reference.model.to(accelerator.device)
        self.method = model.method
        super().__init__(recipe, stage, model, accelerator)
        self.copies[REFERENCE] = self.reference

    def terms(self, batch: Batch, predicted: Tensor, target: Tensor) -> Figures:
        figures = super().terms(batch, predicted, target)
        ends, x0 = self.picture(predicted), self.picture(batch.x0)
        with torch.no_grad(), self.accelerator.autocast():
            gap = self.picture(self.gap(batch, predicted.detach()))
            weight = self.recipe.consistency.matching * nearness(ends, x0)
        for name, distance in self.distances(batch, ends, ends.detach() - gap).items():
            figures[f"{name} of trajectories"] = (weight * distance).mean()
        return figures

    def gap(self, batch: Batch, predicted: Tensor) -> Tensor:
        """How far apart the copy carries a predicted state and the pair's own, from the first time of the grid."""
        x0, lr = batch.x0.chunk(2, dim=1)
        fresh = noise_like(x0, batch.draws.noise + 1)  # seeds of noise that the prediction was not made of
        end = self.method.ends(x0, lr, fresh)[1]
        u = bind(self.reference.model, batch.seen, batch.draws.negative)
        return trajectory_gap(u, predicted, batch.x0, end, batch.draws.step)

    def update(self, step: int) -> float:
        norm = super().update(step)
        if (step + 1) % self.recipe.consistency.refresh == 0:
            self.reference.update(self.accelerator.unwrap_model(self.model), step)
        return norm
