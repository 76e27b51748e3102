"""What runs a recipe: precision, processes, gradient accumulation and trackers, all through ``accelerate``."""

from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
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
    parts, groups = recipe.optimizer.accumulate * accelerator.num_processes, recipe.degrade.groups
    if groups % parts:
        raise UserError(f"degrade.groups is {groups}; make it a multiple of processes x optimizer.accumulate ({parts})")
    return accelerator


def track_picture(accelerator: Accelerator, picture: Tensor, step: int) -> None:
    """Give a validation grid (3, H, W) in [0, 1] to every tracker that takes pictures."""
    image = picture.permute(1, 2, 0)[None].float().cpu().numpy()
    for tracker in accelerator.trackers:
        if hasattr(tracker, "log_images"):
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"validation": image}, step=step, **layout)
