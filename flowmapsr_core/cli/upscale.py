"""``flowmapsr upscale``: photographs enlarged, one or many."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from ..files.checkpoint import load_model
from ..files.lora import merge_loras, pair_scales
from ..files.prompts import set_prompt
from ..images.alpha import fill_transparent
from ..images.color import check_color
from ..images.heat import heat_picture
from ..images.picture_files import Picture, check_fits, read_picture, write_picture
from ..images.record import Record, with_record
from ..images.resize import resize_alpha
from ..method.looks import DEFAULT_LORA_SCALE, find_look
from ..model import Model
from ..upscaling.host import TorchHost, find_dtype
from ..upscaling.invention import map_invention, runs_of_map
from ..upscaling.meter import in_turn
from ..upscaling.pipeline import (
    as_trained,
    check_scale,
    check_seed,
    has_dial,
    learned,
    output_size,
    override,
    upscale,
    warn_of_factor,
    warn_of_one_picture,
    warn_of_unlearned,
)
from ..upscaling.realism_mask import read_mask
from .folder import Job, Make, Task, plan_jobs, run_jobs
from .share import Share

MODEL_KEYS = {"model": "title", "hash": "hash_sha256"}  # what a record calls them, and a model's metadata


def run(options: Namespace) -> int:
    """Upscale files and folders; whatever is wrong with the options is said before the first image."""
    share = Share()
    jobs = plan_jobs(options.input, options.output, options.invention_map)
    # before the model is loaded
    override(find_look(options.look), options.steps, options.guidance, options.realism)
    loras = pair_scales(options.lora, options.lora_scale, DEFAULT_LORA_SCALE)
    check_seed(options.seed)
    check_color(options.color or "none", options.color_strength)
    if options.long_edge is None and options.size is None:
        check_scale(options.scale)
    mask = None if options.realism_mask is None else read_mask(options.realism_mask)

    def prepare() -> Make:
        model = _load(options, loras, share.device(options.device))
        return partial(_upscale, model, options, mask, _record(model, options, loras))

    return run_jobs(jobs, options, share, Task(prepare, "upscaled", "tile", "a smaller --scale or --tile"))


def _load(options: Namespace, loras: Sequence[tuple[Path, float]], device: torch.device) -> Model:
    model = load_model(options.model, device, find_dtype(options.dtype, TorchHost(device)), vae=options.vae)
    look = find_look(options.look, model.looks)
    warn_of_unlearned(model, override(learned(model, look), options.steps, options.guidance))
    warn_of_one_picture(model, options.look, options.realism, options.realism_mask)
    if options.long_edge is None and options.size is None:
        warn_of_factor(model, options.scale)
    if options.invention_map is not None and not has_dial(model):
        raise UserError(f"{options.model} has no posterior mean to hold an invention map against; leave it out")
    merge_loras(model, loras, look.lora_scale)
    if options.prompt is not None:
        set_prompt(model, options.prompt, options.text_encoder)
    if options.compile:
        # all tiles of an image have the same shape: on a GPU its kernels are recorded once and replayed as a CUDA graph
        mode = "reduce-overhead" if device.type == "cuda" else "default"
        model.network.evaluate = torch.compile(model.network.evaluate, mode=mode)
    return model


def _record(model: Model, options: Namespace, loras: Sequence[tuple[Path, float]]) -> Record:
    """What all pictures of a run say of how they were made: which model, and the settings as they were followed."""
    look = find_look(options.look, model.looks)
    settings = as_trained(model, override(look, options.steps, options.guidance, options.realism))
    record: Record = {name: model.info[key] for name, key in MODEL_KEYS.items() if key in model.info}
    if has_dial(model):
        record |= {"steps": settings.steps, "guidance": settings.guidance, "realism": settings.realism}
    color = options.color or model.color
    record |= {"seed": options.seed, "color": color, "color_strength": options.color_strength}
    if options.realism_mask is not None:
        record["realism_mask"] = options.realism_mask.name
    if options.prompt is not None:
        record["prompt"] = options.prompt
    if look.lora_scale and loras:
        record["loras"] = {path.name: scale * look.lora_scale for path, scale in loras}
    return {**record, "dtype": str(model.dtype).removeprefix("torch.")}


def _upscale(
    model: Model,
    options: Namespace,
    mask: Tensor | None,
    record: Record,
    job: Job,
    progress: Callable[[int, int], None],
) -> None:
    picture = read_picture(job.source)
    size = options.size
    if options.long_edge is not None:
        height, width = picture.color.shape[-2:]
        size = tuple(round(side * options.long_edge / max(height, width)) for side in (height, width))
    size = output_size(picture.color, options.scale, size)
    for file in job.made:
        check_fits(picture, size, file)
    source = fill_transparent(picture.color, picture.alpha)
    runs = 1 + (runs_of_map(model.method) if job.maps else 0)
    turns = in_turn(lambda done, total, preview: progress(done, total), runs)

    def make(realism: float | None = options.realism, seed: int = options.seed) -> Tensor:
        return upscale(
            model, source, options.scale, options.steps, options.guidance, look=options.look, realism=realism,
            realism_mask=mask, seed=seed, size=size, color=options.color, color_strength=options.color_strength,
            tile=options.tile, progress=next(turns),
        )  # fmt: skip

    color = make()
    record = record | {"from": _in_pixels(source.shape), "to": _in_pixels(color.shape)}
    if job.maps:
        invented = map_invention(make, model.method, color, source, options.seed)
        record["invention"] = round(invented.mean().item(), 4)
        about = with_record({}, record)
        gray, heat = Picture(invented.expand_as(color), gray=True), Picture(heat_picture(color, invented))
        for made, file in zip((gray, heat), job.maps, strict=True):
            write_picture(replace(made, metadata=about), file)
    if picture.gray:
        color = color.mean(dim=1, keepdim=True).expand_as(color)
    alpha = None if picture.alpha is None else resize_alpha(picture.alpha, color)
    metadata = with_record(picture.metadata, record)
    write_picture(replace(picture, color=color, alpha=alpha, metadata=metadata), job.target)


def _in_pixels(shape: Sequence[int]) -> str:
    return f"{shape[-1]}x{shape[-2]}"
