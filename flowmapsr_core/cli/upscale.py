"""``flowmapsr upscale``: photographs enlarged, one or many."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from ..files.checkpoint import load_model
from ..files.lora import merge_loras, pair_scales
from ..files.prompts import set_prompt
from ..images.alpha import fill_transparent
from ..images.color import check_color
from ..images.picture_files import check_fits, read_picture, write_picture
from ..images.resize import resize_alpha
from ..method.looks import DEFAULT_LORA_SCALE, find_look
from ..model import Model
from ..upscaling.host import TorchHost, find_dtype
from ..upscaling.pipeline import check_scale, check_seed, output_size, override, upscale, warn_of_guidance
from .folder import Job, Make, Task, plan_jobs, run_jobs
from .share import Share


def run(options: Namespace) -> int:
    """Upscale files and folders; whatever is wrong with the options is said before the first image."""
    share = Share()
    jobs = plan_jobs(options.input, options.output)
    # before the model is loaded
    override(find_look(options.look), options.steps, options.guidance, options.realism)
    loras = pair_scales(options.lora, options.lora_scale, DEFAULT_LORA_SCALE)
    check_seed(options.seed)
    check_color(options.color, options.color_strength)
    if options.long_edge is None and options.size is None:
        check_scale(options.scale)

    def prepare() -> Make:
        return partial(_upscale, _load(options, loras, share.device(options.device)), options)

    return run_jobs(jobs, options, share, Task(prepare, "upscaled", "tile", "a smaller --scale or --tile"))


def _load(options: Namespace, loras: Sequence[tuple[Path, float]], device: torch.device) -> Model:
    model = load_model(options.model, device, find_dtype(options.dtype, TorchHost(device)), vae=options.vae)
    if options.guidance is not None:
        warn_of_guidance(model, override(find_look(options.look), None, options.guidance))
    merge_loras(model, loras, find_look(options.look).lora_scale)
    if options.prompt is not None:
        set_prompt(model, options.prompt, options.text_encoder)
    if options.compile:
        # all tiles of an image have the same shape: on a GPU its kernels are recorded once and replayed as a CUDA graph
        mode = "reduce-overhead" if device.type == "cuda" else "default"
        model.network.evaluate = torch.compile(model.network.evaluate, mode=mode)
    return model


def _upscale(model: Model, options: Namespace, job: Job, progress: Callable[[int, int], None]) -> None:
    picture = read_picture(job.source)
    size = options.size
    if options.long_edge is not None:
        height, width = picture.color.shape[-2:]
        size = tuple(round(side * options.long_edge / max(height, width)) for side in (height, width))
    check_fits(picture, output_size(picture.color, options.scale, size), job.target)
    color = upscale(
        model, fill_transparent(picture.color, picture.alpha), options.scale, options.steps, options.guidance,
        look=options.look, realism=options.realism, seed=options.seed, size=size, color=options.color,
        color_strength=options.color_strength, tile=options.tile,
        progress=lambda done, total, preview: progress(done, total),
    )  # fmt: skip
    if picture.gray:
        color = color.mean(dim=1, keepdim=True).expand_as(color)
    alpha = None if picture.alpha is None else resize_alpha(picture.alpha, color)
    write_picture(replace(picture, color=color, alpha=alpha), job.target)
