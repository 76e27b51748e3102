"""What runs a recipe: precision, processes, gradient accumulation and trackers, all through ``accelerate``."""

from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import DistributedType, GradientAccumulationPlugin, ProjectConfiguration
from torch import Tensor

from ...flowmapsr_core.errors import UserError
from ..objectives import DERIVE
from ..recipe.recipe import Recipe
from .state import RECIPE

NOT_ALONE = ("adversarial", "distillation", "trajectory-matching")  # stages with a second network


def start_accelerator(recipe: Recipe) -> Accelerator:
    """An accelerator as the recipe and ``accelerate launch`` want it, its tracker started.

    Raises :class:`UserError` if the tracker is unknown, not installed or not set up, or a batch does not split evenly.
    """
    folder, name = Path(recipe.output.folder), recipe.output.tracker
    try:
        accelerator = Accelerator(
            mixed_precision=recipe.precision,
            # as a plugin: a launcher's own number of steps would win over a plain one
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=recipe.optimizer.accumulate),
            log_with=None if name == "none" else name,
            project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / "logs")),
        )
    except ValueError as error:
        raise UserError(f"the recipe cannot run here: {error}") from error
    parts, groups = recipe.optimizer.accumulate * accelerator.num_processes, recipe.degrade.groups
    if groups % parts:
        raise UserError(f"degrade.groups is {groups}; make it a multiple of processes x optimizer.accumulate ({parts})")
    _suit_sharding(accelerator, recipe, parts)
    if name != "none":
        if not accelerator.log_with:
            raise UserError(f"output.tracker: {name} is not installed; pip install {name}, or set it to none")
        # every stage, and a run that goes on, adds to the same W&B run; a folder begun anew to another
        begun = (folder / RECIPE).stat().st_mtime_ns
        wandb = {"name": folder.name, "id": str(begun), "resume": "allow", "dir": str(folder)}
        try:
            accelerator.init_trackers("flowmapsr", init_kwargs={"wandb": wandb})
        except Exception as error:  # every tracker has errors of its own
            raise UserError(f"output.tracker: {name} did not start ({error}); set it up, or set it to none") from error
    return accelerator


def _suit_sharding(accelerator: Accelerator, recipe: Recipe, parts: int) -> None:
    """What FSDP and DeepSpeed cannot do, and what DeepSpeed wants to know."""
    if not is_sharded(accelerator):
        return
    kinds = {stage.kind for stage in recipe.stages}
    if recipe.optimizer.ema or recipe.loss.learned_weight or not kinds.isdisjoint(NOT_ALONE):
        raise UserError(
            "FSDP and DeepSpeed spread one network over the processes and know no other: set optimizer.ema to 0 and "
            f"loss.learned_weight to false, and train the stages {', '.join(NOT_ALONE)} without them"
        )
    plugin = accelerator.state.deepspeed_plugin
    if not plugin:
        return
    if recipe.precision == "fp16":
        raise UserError('DeepSpeed clips a gradient that fp16 has scaled up; set precision to "bf16" or "no"')
    if plugin.zero_stage == 3 and any(stage.objective in DERIVE for stage in recipe.stages):
        raise UserError('ZeRO-3 takes no forward derivatives; set every objective to "shortcut", or use ZeRO-2')
    config = plugin.deepspeed_config
    # DeepSpeed learns it from a data loader otherwise, and crops have no loader of accelerate's
    config["train_micro_batch_size_per_gpu"] = recipe.data.budgets[0].batch // parts
    config["gradient_accumulation_steps"] = recipe.optimizer.accumulate
    config["gradient_clipping"] = recipe.optimizer.clip
    # its own bf16 would round the weights, which inputs of float32 do not fit and the next stage starts from
    config |= {"bf16": {"enabled": False}, "fp16": {"enabled": False}}
    config["torch_autocast"] = {"enabled": recipe.precision == "bf16", "dtype": "bfloat16"}
    config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True  # of any precision, to export them


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether each process holds only a part of the weights."""
    return accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


def track_picture(accelerator: Accelerator, picture: Tensor, step: int) -> None:
    """Give a validation grid (3, H, W) in [0, 1] to every tracker that takes pictures."""
    image = picture.permute(1, 2, 0)[None].float().cpu().numpy()
    for tracker in accelerator.trackers:
        if hasattr(tracker, "log_images"):
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"validation": image}, step=step, **layout)
