"""``flowmapsr upscale``: photographs and clips enlarged, one or many."""

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import UserError, check
from ..files.checkpoint import load_model
from ..files.lora import merge_loras, pair_scales
from ..files.prompts import set_prompt
from ..files.sources import HUB
from ..images.alpha import fill_transparent
from ..images.color import check_color
from ..images.heat import heat_picture
from ..images.picture_files import Picture, check_fits, read_picture, write_picture
from ..images.planes import resize_plane
from ..images.record import Record, in_pixels, with_record
from ..images.resize import resize, resize_alpha
from ..method.looks import DEFAULT_LORA_SCALE, find_look
from ..model import Model
from ..upscaling.host import TorchHost, find_dtype
from ..upscaling.invention import map_invention, runs_of_map
from ..upscaling.meter import in_turn
from ..upscaling.pipeline import check_scale, check_seed, output_size, upscale
from ..upscaling.realism_mask import read_mask
from ..upscaling.remake import settings_record
from ..upscaling.settings import (
    as_trained,
    has_dial,
    learned,
    override,
    warn_of_factor,
    warn_of_one_picture,
    warn_of_unlearned,
)
from ..upscaling.soft import DEFAULT_SCALE, Detail, find_detail, shrink
from ..video.making import Enlarge
from .clips import run_clips
from .folder import Job, Make, Task, plan_jobs, run_jobs
from .share import Share


def run(options: Namespace) -> int:
    """Upscale files and folders; whatever is wrong with the options is said before the first image."""
    share = Share()
    jobs = plan_jobs(options.input, options.output, options.invention_map, clips=True)
    pictures, clips = ([job for job in jobs if job.is_clip is kind] for kind in (False, True))
    if clips and options.auto:
        raise UserError(f"{clips[0].source} is a clip; --auto is for images")
    check(bool(clips) or not _of_clips(options), f"{', '.join(_of_clips(options))}: for clips, and there is none")
    check(options.text_encoder is None or options.prompt is not None, "--text-encoder is for a --prompt; give one")
    options.overwrite |= len(jobs) == 1
    # before the model is loaded
    override(find_look(options.look), options.steps, options.guidance, options.realism)
    loras = pair_scales(options.lora, options.lora_scale, DEFAULT_LORA_SCALE)
    check_seed(options.seed)
    check_color(options.color or "none", options.color_strength)
    if options.scale is not None:
        check_scale(options.scale)
    mask = None if options.realism_mask is None else read_mask(options.realism_mask)

    @cache
    def load() -> tuple[Model, Record]:
        model = _load(options, loras, share.device(options.device))
        return model, _record(model, options, loras)

    def for_pictures() -> Make:
        model, record = load()
        return partial(_upscale, model, options, mask, record)

    def for_clips() -> tuple[Enlarge, Record]:
        model, record = load()
        return lambda frame, size: _paint(model, options, mask, frame, size), record

    def size_of(frame: tuple[int, int]) -> tuple[int, int]:
        return _wanted(options, torch.empty(1, 3, *frame, device="meta"))

    task = Task(for_pictures, "upscaled", "tile", "a smaller --scale or --tile")
    status = run_jobs(pictures, options, share, task) if pictures else 0
    return max(status, run_clips(clips, options, share, size_of, for_clips)) if clips else status


def _of_clips(options: Namespace) -> list[str]:
    """Options that are given and mean something for clips alone."""
    given = {
        "--start": options.start > 0, "--end": options.end is not None, "--every": options.every != 1,
        "--codec": options.codec is not None, "--quality": options.quality is not None,
    }  # fmt: skip
    return [name for name, there in given.items() if there]


def _load(options: Namespace, loras: Sequence[tuple[Path, float]], device: torch.device) -> Model:
    model = load_model(options.model, device, find_dtype(options.dtype, TorchHost(device)), vae=options.vae)
    look = find_look(options.look, model.looks)
    warn_of_unlearned(model, override(learned(model, look), options.steps, options.guidance))
    warn_of_one_picture(model, options.look, options.realism, options.realism_mask)
    if options.long_edge is None and options.size is None:
        warn_of_factor(model, options.scale or DEFAULT_SCALE)
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
    record = settings_record(
        model.info, options.model if options.model.startswith(HUB) else Path(options.model).name,
        settings if has_dial(model) else None,
        seed=options.seed, color=options.color or model.color, color_strength=options.color_strength, dtype=model.dtype,
        loras={path.name: scale * look.lora_scale for path, scale in loras if look.lora_scale},
    )  # fmt: skip
    if options.realism_mask is not None:
        record["realism_mask"] = options.realism_mask.name
    if options.vae is not None:
        record["vae"] = options.vae.name
    if options.wrap:
        record["wrap"] = options.wrap
    if options.prompt is not None:
        record["prompt"] = options.prompt
    return record


def _upscale(
    model: Model,
    options: Namespace,
    mask: Tensor | None,
    record: Record,
    job: Job,
    progress: Callable[[int, int], None],
) -> None:
    picture = read_picture(job.source)
    source = fill_transparent(picture.color, picture.alpha, options.wrap)
    hdr = picture.bits == 32
    check(not (hdr and options.auto), f"{job.source} holds light, whose detail --auto cannot find; leave it out")
    before, found = _size(source), find_detail(source) if options.auto else None
    size = _wanted(options, source, found)
    for file in job.made:
        check_fits(picture, size, file)
    record = record | {"source": job.source.name, "from": in_pixels(before)}
    if found is not None and not options.quiet:
        tqdm.write(f"{job.source.name}: {found.describe(size)}", file=sys.stderr)
    if found is not None and (shrunk := found.shrunk(size)) != before:
        source = shrink(source, shrunk, options.wrap)
        record["shrunk"] = in_pixels(shrunk)
        if mask is not None and _size(mask) == before:
            mask = resize(mask, shrunk, "bilinear", options.wrap)
    runs = 1 + (runs_of_map(model.method) if job.maps else 0)
    turns = in_turn(lambda done, total, preview: progress(done, total), runs)

    def make(**changes: Any) -> Tensor:
        return _paint(model, options, mask, source, size, progress=next(turns), hdr=hdr, **changes)

    color = make()
    record["to"] = in_pixels(size)
    if job.maps:
        shown = (color.clamp(0, 1), source.clamp(0, 1)) if hdr else (color, source)
        again = (lambda **changes: make(**changes).clamp(0, 1)) if hdr else make
        invented = map_invention(again, model.method, *shown, options.seed, options.wrap)
        record["invention"] = round(invented.mean().item(), 4)
        about = with_record({}, record)
        gray, heat = Picture(invented.expand_as(color), gray=True), Picture(heat_picture(shown[0], invented))
        for made, file in zip((gray, heat), job.maps, strict=True):
            write_picture(replace(made, metadata=about), file)
    if picture.gray:
        color = color.mean(dim=1, keepdim=True).expand_as(color)
    alpha = None if picture.alpha is None else resize_alpha(picture.alpha, color, options.wrap)
    metadata = with_record(picture.metadata, record)
    planes = {name: resize_plane(name, plane, color, options.wrap) for name, plane in picture.planes.items()}
    write_picture(replace(picture, color=color, alpha=alpha, metadata=metadata, planes=planes), job.target)


def _wanted(options: Namespace, image: Tensor, found: Detail | None = None) -> tuple[int, int]:
    """Size (height, width) of the result: the one asked for, else 4 times that of the detail, or the image's own."""
    height, width = before = _size(image)
    size = options.size
    if options.long_edge is not None:
        size = (round(height * options.long_edge / max(before)), round(width * options.long_edge / max(before)))
    elif found is not None and options.scale is None and size is None:
        down, along = (round(DEFAULT_SCALE * side) for side in found.detail)
        size = (max(down, height), max(along, width))
    return output_size(image, DEFAULT_SCALE if options.scale is None else options.scale, size)


def _paint(
    model: Model, options: Namespace, mask: Tensor | None, image: Tensor, size: tuple[int, int], **changes: Any
) -> Tensor:
    """An image enlarged by the options, or by others where there are ``changes``."""
    settings = {"realism": options.realism, "seed": options.seed, **changes}
    return upscale(
        model, image, steps=options.steps, guidance=options.guidance, look=options.look, realism_mask=mask, size=size,
        color=options.color, color_strength=options.color_strength, tile=options.tile, wrap=options.wrap, **settings,
    )  # fmt: skip


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]
