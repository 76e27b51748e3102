"""Recipes: what a training run does. Every section is a dataclass that checks itself, beside the code that it
is for."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...flowmapsr_core.errors import UserError, check
from ...flowmapsr_core.method.methods import METHODS
from ...flowmapsr_core.model import Model
from ...flowmapsr_core.upscaling.host import DTYPES
from ..data.crops import Data
from ..data.pairs import Degrade
from ..data.teacher import Teacher
from ..data.time_pairs import TimePairs
from ..learning.schedule import Optimizer
from ..losses.adversarial import Adversarial
from ..losses.consistency import Consistency
from ..losses.perceptual import Loss
from ..objectives import JUMPS

STAGES = {  # kinds, and the method whose models they train
    "flow-matching": "flow-map",
    "self-distillation": "flow-map",
    "guided": "flow-map",
    "distillation": "flow-map",
    "adversarial": "flow-map",
    "consistency": "ctmsr",
    "trajectory-matching": "ctmsr",
}
CONSISTENT = ("consistency", "trajectory-matching")
OWN_OBJECTIVE = {"distillation": "trajectory", **dict.fromkeys(CONSISTENT, "consistency")}  # of kinds with no choice
GUIDANCE = ("input", "hidden", "fixed")
MODEL = ("network", "codec", "method", "looks")  # sections


@dataclass(frozen=True)
class Guidance:
    """Positive-negative guidance of the guided stage.

    Attributes:
        mode: "input": w is drawn and the network sees it; "hidden": drawn and not seen, as in the paper; "fixed":
            always the highest.
        scale: range of w.
        none: share of samples at w = 1.
        negative: share of samples with the negative prompt and a milder target.
    """

    mode: str = "input"
    scale: tuple[float, float] = (1.0, 3.5)
    none: float = 0.0
    negative: float = 0.1

    def __post_init__(self) -> None:
        check(self.mode in GUIDANCE, f"guidance.mode: {self.mode!r} is none of {', '.join(GUIDANCE)}")
        check(1 <= self.scale[0] <= self.scale[1], "guidance.scale must be [low, high] with 1 <= low <= high")
        check(0 <= self.none <= 1 and 0 <= self.negative < 1, "guidance.none and guidance.negative are shares")


@dataclass(frozen=True)
class Stage:
    """One part of a run.

    Attributes:
        kind: one of STAGES.
        steps: optimiser steps it lasts.
        objective: of its jumps, one of JUMPS; empty for "shortcut", or the kind's own if it has no choice.
        keep: share of the weights it starts from in its result, as in WiSE-FT (arXiv 2109.01903): what fine-tuning
            gains on the training distribution stays, much of what it forgets about other images comes back.
        teacher: of a distillation, the checkpoint that teaches; empty for the one that the stage starts from.
    """

    kind: str
    steps: int
    objective: str = ""
    keep: float = 0.0
    teacher: str = ""

    def __post_init__(self) -> None:
        check(self.kind in STAGES, f"stages: kind {self.kind!r} is none of {', '.join(STAGES)}")
        check(self.steps > 0, "stages: steps must be above 0")
        own = OWN_OBJECTIVE.get(self.kind)
        object.__setattr__(self, "objective", self.objective or own or "shortcut")
        choice = (own,) if own else [name for name in JUMPS if name != "consistency"]
        wrong = f"stages: {self.kind} cannot have the objective {self.objective!r}"
        check(self.objective in choice, f"{wrong}; it has {', '.join(choice)}")
        check(not self.teacher or self.kind == "distillation", f"stages: {self.kind} has no teacher")
        check(0 <= self.keep < 1, "stages: keep is a share, at least 0 and below 1")
        check(not self.keep or self.kind != "adversarial", "stages: keep is not for a LoRA, which has a scale for that")

    @property
    def straight(self) -> bool:
        """Whether its jumps go straight to a teacher's pictures."""
        return self.objective == "straight" and self.kind != "flow-matching"


@dataclass(frozen=True)
class Prompts:
    """``text_encoder``: folder of the CLIP text encoder that embeds both prompts; empty for learned embeddings."""

    text_encoder: str = ""


@dataclass(frozen=True)
class Output:
    """What a run leaves.

    Attributes:
        folder: where checkpoints, log and pictures go.
        every: steps between them.
        tracker: "tensorboard", "wandb" or another that accelerate knows; "none" for the log file alone.
        dtype: precision of the weights in the exported checkpoint.
        title, author, license: into its metadata; empty author and license for those of ``start_from``.
    """

    folder: str = "runs/flowmapsr"
    every: int = 1000
    tracker: str = "tensorboard"
    dtype: str = "float32"
    title: str = "FlowMapSR"
    author: str = ""
    license: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", str(Path(self.folder).expanduser()))
        check(self.every > 0, "output.every must be above 0")
        check(self.dtype in DTYPES, f"output.dtype: {self.dtype!r} is none of {', '.join(DTYPES)}")


@dataclass(frozen=True)
class Recipe:
    """A training run.

    Attributes:
        stages: what is trained, in order.
        seed: of the weights, the crops and everything drawn about them.
        precision: accelerate's mixed precision, "no", "bf16" or "fp16".
        start_from: checkpoint whose weights the first stage starts from.
        model: sections ``network``, ``codec``, ``method`` and ``looks`` as a checkpoint's configuration has them; those
            left out are as in ``start_from``.
    """

    stages: tuple[Stage, ...]
    seed: int = 0
    precision: str = "no"
    start_from: str = ""
    model: dict[str, Any] = field(default_factory=dict)
    data: Data = field(default_factory=Data)
    degrade: Degrade = field(default_factory=Degrade)
    teacher: Teacher = field(default_factory=Teacher)
    times: TimePairs = field(default_factory=TimePairs)
    guidance: Guidance = field(default_factory=Guidance)
    loss: Loss = field(default_factory=Loss)
    adversarial: Adversarial = field(default_factory=Adversarial)
    consistency: Consistency = field(default_factory=Consistency)
    prompts: Prompts = field(default_factory=Prompts)
    optimizer: Optimizer = field(default_factory=Optimizer)
    output: Output = field(default_factory=Output)

    def __post_init__(self) -> None:
        check(bool(self.stages), "a recipe needs at least one [[stages]]")
        kinds = [stage.kind for stage in self.stages]
        check("adversarial" not in kinds[:-1], "stages: adversarial must be the last; it trains a LoRA on the rest")
        if kinds[0] == "adversarial":
            check(bool(self.start_from), "start_from must name the checkpoint that the LoRA is trained on")
        start = bool(self.start_from) or not self.stages[0].keep
        check(start, "stages: keep is the first stage's only with start_from; fresh weights are not worth keeping")
        check(bool(self.model or self.start_from), "a recipe needs a [model] section or start_from")
        check(self.seed >= 0, "seed must be 0 or more")
        jumping = sorted({"self-distillation", "distillation"}.intersection(kinds))
        check(not jumping or self.times.jumps > 0, f"stages: {', '.join(jumping)} needs times.jumps above 0")
        taught = kinds[0] != "distillation" or bool(self.start_from or self.stages[0].teacher)
        check(taught, "stages: distillation needs a teacher: its key teacher, start_from, or a stage before it")
        self._check_consistency(kinds)
        straight = any(stage.straight for stage in self.stages)
        check(bool(self.teacher.upscaler) or not straight, 'stages: objective "straight" needs a [teacher]')
        used = self.teacher.of == "all" or (straight and self.times.jumps > 0)
        check(used, 'teacher.of is "jumps": give a stage objective = "straight", and times.jumps above 0')
        for budget in self.data.budgets:
            even = budget.batch % self.degrade.groups == 0
            check(even, f"data.budgets.batch ({budget.batch}) must be a multiple of degrade.groups")
        unknown = sorted(self.model.keys() - set(MODEL))
        check(not unknown, f"unknown key model.{', '.join(unknown)}; model has {', '.join(MODEL)}")
        if not self.start_from:
            with torch.device("meta"):
                self.configured({})
        check(self.precision in ("no", "bf16", "fp16"), 'precision must be "no", "bf16" or "fp16"')

    def _check_consistency(self, kinds: list[str]) -> None:
        """See that the losses of CTMSR's stages are there, and no other."""
        trained, pictures = not set(kinds).isdisjoint(CONSISTENT), self.loss.perceptual > 0 or self.loss.features > 0
        some = pictures or self.consistency.charbonnier > 0
        check(not trained or some, "consistency training has no loss; set consistency.charbonnier above 0")
        plain = not self.loss.learned_weight
        check(not trained or plain, "loss.learned_weight weighs velocities, and consistency training has none")
        matched = pictures or "trajectory-matching" not in kinds
        check(matched, "stages: trajectory-matching needs a distance of pictures; set loss.perceptual or loss.features")

    def configured(self, start: dict[str, Any], info: dict[str, Any] | None = None) -> Model:
        """The model to train, on torch's current device, of ``start``'s configuration where the recipe leaves one out.

        Raises :class:`UserError` naming what is wrong with it.
        """
        try:
            model = Model.from_config({**start, **self.model}, info)
        except (ValueError, TypeError) as error:
            raise UserError(f"model: {error}") from error
        for kind in (stage.kind for stage in self.stages):
            own = METHODS[STAGES[kind]]
            wrong = f'stages: {kind} trains models of the method "{STAGES[kind]}", and this one is of another'
            check(isinstance(model.method, own), f"{wrong}; change the stages, or model.method")
        return model

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def first_step(self, index: int) -> int:
        """Step, counted over the whole run, at which stage ``index`` begins."""
        return sum(stage.steps for stage in self.stages[:index])

    def is_taught(self, index: int) -> bool:
        """Whether the teacher gives targets in stage ``index``."""
        return bool(self.teacher.upscaler) and (self.teacher.of == "all" or self.stages[index].straight)

    def pair_steps(self, index: int) -> list[int]:
        """For each step of stage ``index``, the step whose pairs it draws: itself, or one of ``teacher.steps``."""
        first = self.first_step(index)
        repeat = self.teacher.steps if self.is_taught(index) else 0
        return [step % repeat if repeat else step for step in range(first, first + self.stages[index].steps)]

    def taught_steps(self) -> list[int]:
        """The steps whose pairs get the teacher's pictures, each once, in order."""
        taught = filter(self.is_taught, range(len(self.stages)))
        return sorted({step for index in taught for step in self.pair_steps(index)})

    @property
    def flow_steps(self) -> int:
        """Steps of the stages that train the network itself: all but the adversarial one."""
        return sum(stage.steps for stage in self.stages if stage.kind != "adversarial")
