"""A one-step student of a frozen teacher (OFTSR, arXiv 2412.09465)."""

import copy
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator
from torch import Tensor

from ...flowmapsr_core.errors import check
from ...flowmapsr_core.files.checkpoint import load_model
from ...flowmapsr_core.method.looks import learned_guidance
from ...flowmapsr_core.model import FlowMap, Model
from ..objectives import anchored
from ..recipe.recipe import Recipe, Stage
from .learner import Learner


class DistillationLearner(Learner):
    """Trains jumps from t = 1 alone, along the trajectory that its teacher's velocities make of the student's states.

    The teacher is the model as the stage begins, or a checkpoint that the stage names. It does not change, so a resumed
    run has it from where it was.
    """

    def __init__(self, recipe: Recipe, stage: Stage, model: Model, accelerator: Accelerator) -> None:
        teacher, self.guided = teacher_of(stage, model)
        self.frozen = teacher.requires_grad_(False).eval().to(accelerator.device)
        super().__init__(recipe, stage, model, accelerator)

    @property
    def teacher(self) -> Callable[..., Tensor]:
        return anchored(super().teacher, self.frozen)


def teacher_of(stage: Stage, model: Model) -> tuple[FlowMap, bool]:
    """The flow map that teaches, and whether it has learned guidance.

    Raises :class:`UserError` if the checkpoint that the stage names cannot be used, or has other states than ``model``.
    """
    if not stage.teacher:
        return copy.deepcopy(model.flow), model.info["guided_before"]
    teacher = load_model(Path(stage.teacher).expanduser())
    same = teacher.codec.config == model.codec.config and teacher.method == model.method
    check(same, f"stages: the teacher {stage.teacher} has another codec or method than the model that it is to teach")
    return teacher.flow, learned_guidance(teacher.info.get("training")) is True
