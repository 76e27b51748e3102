"""Recipes: what a training run does. Every section is a dataclass that checks itself."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...flowmapsr_core.errors import UserError
from ...flowmapsr_core.images.degradation import PRESETS
from ...flowmapsr_core.model import FlowMap
from ...flowmapsr_core.upscaling.device import DTYPES
from ..data.time_pairs import TimePairs
from ..losses.perceptual import BACKBONES
from ..objectives import JUMPS

STAGES = ("flow-matching", "self-distillation", "guided", "adversarial")
GUIDANCE = ("input", "hidden", "fixed")


def check(holds: bool, message: str) -> None:
    """Raise :class:`UserError` unless a value is as it should be."""
    if not holds:
        raise UserError(message)


@dataclass(frozen=True)
class Budget:
    """Crops of about ``side**2`` pixels, ``batch`` of them an optimiser step over all processes."""

    side: int = 128
    batch: int = 12

    def __post_init__(self) -> None:
        check(self.side >= 32, "data.budgets.side must be at least 32 pixels")
        check(self.batch >= 1, "data.budgets.batch must be at least 1")


@dataclass(frozen=True)
class Data:
    """Where HR crops come from.

    Attributes:
        photos: folder of training photographs, searched to its depth; ``.tar`` shards (webdataset) are read too.
        validation: folder of held-out photographs; empty for no validation.
        budgets: pixels of a crop and crops of a step; each step takes one of them.
        aspect: most elongated crop, longer side by shorter; 1 for squares only.
        zoom: range of how many source pixels a crop's pixel spans; see PhotoCrops.
        tone: largest loss of contrast of a crop, 0 for none and no negatives; see PhotoCrops.
        workers: processes that decode; 0 for the training process itself.
    """

    photos: str = ""
    validation: str = ""
    budgets: tuple[Budget, ...] = (Budget(),)
    aspect: float = 1.0
    zoom: tuple[float, float] = (1.0, 3.0)
    tone: float = 0.0
    workers: int = 0

    def __post_init__(self) -> None:
        check(bool(self.budgets), "data.budgets needs at least one [[data.budgets]]")
        check(1 <= self.aspect <= 4, "data.aspect must be 1 to 4")
        check(0.5 <= self.zoom[0] <= self.zoom[1], "data.zoom must be [low, high] with 0.5 <= low <= high")
        check(0 <= self.tone < 1, "data.tone must be at least 0 and below 1")
        check(self.workers >= 0, "data.workers must be 0 or more")


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
class Loss:
    """What is around the objective.

    Attributes:
        learned_weight: weigh samples by the learned exp(-psi(t, s)).
        perceptual: weight lambda0 of LPIPS, 0 for none.
        backbone: of LPIPS.
        pretrained: False for random LPIPS weights, which need no download and serve for trying things out.
    """

    learned_weight: bool = False
    perceptual: float = 0.0
    backbone: str = "vgg"
    pretrained: bool = True

    def __post_init__(self) -> None:
        check(self.perceptual >= 0, "loss.perceptual must be 0 or more")
        check(self.backbone in BACKBONES, f"loss.backbone: {self.backbone!r} is none of {', '.join(BACKBONES)}")


@dataclass(frozen=True)
class Adversarial:
    """Adversarial fine-tuning of a LoRA.

    Attributes:
        rank, alpha: of the LoRA.
        lr: of the LoRA and of the discriminator.
        warmup: steps that train the discriminator alone.
        reconstruction: weight mu of the guided stage's loss beside the adversarial one.
        r1, r2: weights of the gradient penalties on real and generated latents, 0 for none.
    """

    rank: int = 64
    alpha: float = 64.0
    lr: float = 1e-5
    warmup: int = 200
    reconstruction: float = 1.0
    r1: float = 0.0
    r2: float = 0.0

    def __post_init__(self) -> None:
        check(self.rank >= 1, "adversarial.rank must be at least 1")
        check(self.alpha > 0 and self.lr > 0, "adversarial.alpha and adversarial.lr must be above 0")
        check(self.warmup >= 0, "adversarial.warmup must be 0 or more")
        check(min(self.reconstruction, self.r1, self.r2) >= 0, "adversarial's weights must be 0 or more")


@dataclass(frozen=True)
class Optimizer:
    """AdamW.

    Attributes:
        warmup: steps over which the rate rises at the start of every stage.
        decay: the rate falls to zero on a cosine over this last share of the steps before adversarial fine-tuning.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights, which teach and are exported; 0 for the weights themselves.
        accumulate: parts that a batch is split into on each process, to save memory.
        checkpoint_activations: compute activations again in the backward pass, to save memory.
    """

    lr: float = 4e-4
    weight_decay: float = 0.0
    clip: float = 1.0
    warmup: int = 200
    decay: float = 0.3
    ema: float = 0.999
    accumulate: int = 1
    checkpoint_activations: bool = False

    def __post_init__(self) -> None:
        check(self.lr > 0 and self.clip > 0, "optimizer.lr and optimizer.clip must be above 0")
        check(self.weight_decay >= 0 and self.warmup >= 0, "optimizer.weight_decay and warmup must be 0 or more")
        check(0 <= self.decay <= 1 and 0 <= self.ema < 1, "optimizer.decay and optimizer.ema are shares")
        check(self.accumulate >= 1, "optimizer.accumulate must be at least 1")


@dataclass(frozen=True)
class Stage:
    """One part of a run.

    Attributes:
        kind: one of STAGES.
        steps: optimiser steps it lasts.
        objective: of its jumps, one of JUMPS.
        keep: share of the weights it starts from in its result, as in WiSE-FT (arXiv 2109.01903): what fine-tuning
            gains on the training distribution stays, much of what it forgets about other images comes back.
    """

    kind: str
    steps: int
    objective: str = "shortcut"
    keep: float = 0.0

    def __post_init__(self) -> None:
        check(self.kind in STAGES, f"stages: kind {self.kind!r} is none of {', '.join(STAGES)}")
        check(self.steps > 0, "stages: steps must be above 0")
        check(self.objective in JUMPS, f"stages: objective {self.objective!r} is none of {', '.join(JUMPS)}")
        check(0 <= self.keep < 1, "stages: keep is a share, at least 0 and below 1")
        check(not self.keep or self.kind != "adversarial", "stages: keep is not for a LoRA, which has a scale for that")


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
        title, author, license: into its metadata.
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
        model: sections ``network`` and ``codec`` as a checkpoint's configuration has them; empty for those of
            ``start_from``.
    """

    stages: tuple[Stage, ...]
    seed: int = 0
    precision: str = "no"
    start_from: str = ""
    model: dict[str, Any] = field(default_factory=dict)
    data: Data = field(default_factory=Data)
    degrade: Degrade = field(default_factory=Degrade)
    times: TimePairs = field(default_factory=TimePairs)
    guidance: Guidance = field(default_factory=Guidance)
    loss: Loss = field(default_factory=Loss)
    adversarial: Adversarial = field(default_factory=Adversarial)
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
        check("self-distillation" not in kinds or self.times.jumps > 0, "times.jumps must be above 0 for such a stage")
        for budget in self.data.budgets:
            even = budget.batch % self.degrade.groups == 0
            check(even, f"data.budgets.batch ({budget.batch}) must be a multiple of degrade.groups")
        if self.model:
            try:
                with torch.device("meta"):
                    FlowMap.from_config(self.model)
            except (ValueError, TypeError) as error:
                raise UserError(f"model: {error}") from error
        check(self.precision in ("no", "bf16", "fp16"), 'precision must be "no", "bf16" or "fp16"')

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def first_step(self, index: int) -> int:
        """Step, counted over the whole run, at which stage ``index`` begins."""
        return sum(stage.steps for stage in self.stages[:index])

    @property
    def flow_steps(self) -> int:
        """Steps of the stages that train the network itself: all but the adversarial one."""
        return sum(stage.steps for stage in self.stages if stage.kind != "adversarial")
