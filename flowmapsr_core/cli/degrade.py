"""``flowmapsr degrade``: low-resolution pictures whose originals are known, one or many."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from ..errors import UserError, check
from ..images import degradation
from ..images.alpha import fill_transparent
from ..images.picture_files import read_picture, write_picture
from ..images.resize import resize_alpha
from ..upscaling.pipeline import check_seed
from .folder import Job, Task, plan_jobs, run_jobs
from .share import Share


def run(options: Namespace) -> int:
    """Shrink and spoil files and folders; whatever is wrong with the options is said before the first image."""
    share = Share()
    jobs = plan_jobs(options.input, options.output)
    options.overwrite |= len(jobs) == 1
    if not 1 <= options.scale <= 64:
        raise UserError(f"the scale is {options.scale:g}; use a factor from 1 to 64")
    check_seed(options.seed)
    return run_jobs(
        jobs, options, share, Task(lambda: partial(_degrade, options), "degraded", "image", "a smaller image")
    )


def _degrade(options: Namespace, job: Job, progress: Callable[[int, int], None]) -> None:
    """One image; each begins with the seed, so that it does not matter which others there are."""
    picture = read_picture(job.source)
    check(picture.bits < 32, f"{job.source} has 32 bits per sample, and pictures are spoiled with 8; save it as PNG")
    stages = degradation.preset(options.preset)
    generator = torch.Generator().manual_seed(options.seed)
    visible = fill_transparent(picture.color, picture.alpha)
    lr = degradation.degrade(visible, options.scale, stages, generator)
    alpha = None if picture.alpha is None else resize_alpha(picture.alpha, lr)
    write_picture(replace(picture, color=lr, alpha=alpha), job.target)
    progress(1, 1)
