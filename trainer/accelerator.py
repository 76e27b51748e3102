"""What runs a recipe: precision, processes, gradient accumulation and trackers, all through ``accelerate``."""

from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import DistributedType, ProjectConfiguration
from torch import Tensor

from ..flowmapsr_core.errors import UserError
from .recipe import Recipe


def start_accelerator(recipe: Recipe) -> Accelerator:
    """An accelerator as the recipe and ``accelerate launch`` want it, its tracker started.

    Raises :class:`UserError` if the tracker is unknown or not installed, or a batch does not split evenly.
    """
    folder, name = Path(recipe.output.folder), recipe.output.tracker
    try:
        accelerator = Accelerator(
            mixed_precision=recipe.precision,
            gradient_accumulation_steps=recipe.optimizer.accumulate,
            log_with=None if name == "none" else name,
            project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / "logs")),
        )
    except ValueError as error:
        raise UserError(f"the recipe cannot run here: {error}") from error
    if name != "none":
        if not accelerator.log_with:
            raise UserError(f"output.tracker: {name} is not installed; pip install {name}, or set it to none")
        accelerator.init_trackers(folder.name)
    _suit_sharding(accelerator, recipe)
    parts, groups = recipe.optimizer.accumulate * accelerator.num_processes, recipe.degrade.groups
    if groups % parts:
        raise UserError(f"degrade.groups is {groups}; make it a multiple of processes x optimizer.accumulate ({parts})")
    return accelerator


def _suit_sharding(accelerator: Accelerator, recipe: Recipe) -> None:
    """What FSDP and DeepSpeed want to know, or cannot do."""
    sharded = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    if sharded and recipe.optimizer.ema:
        raise UserError("optimizer.ema must be 0 with FSDP or DeepSpeed: each process holds only a part of the weights")
    plugin = accelerator.state.deepspeed_plugin if accelerator.distributed_type == DistributedType.DEEPSPEED else None
    if plugin:
        # DeepSpeed learns it from a data loader otherwise, and crops have no loader of accelerate's
        parts = recipe.optimizer.accumulate * accelerator.num_processes
        plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = recipe.data.budgets[0].batch // parts


def track_picture(accelerator: Accelerator, picture: Tensor, step: int) -> None:
    """Give a validation grid (3, H, W) in [0, 1] to every tracker that takes pictures."""
    image = picture.permute(1, 2, 0)[None].float().cpu().numpy()
    for tracker in accelerator.trackers:
        if hasattr(tracker, "log_images"):
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"validation": image}, step=step, **layout)
