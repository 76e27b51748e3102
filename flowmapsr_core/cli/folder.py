"""Upscaling of files and folders: what goes where, shared out over processes, with a progress bar."""

import logging
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from ..atomic import remove_partials
from ..errors import UserError
from ..files.checkpoint import load_model
from ..files.lora import merge_loras, pair_scales
from ..files.prompts import set_prompt
from ..images.alpha import fill_transparent
from ..images.color import check_color
from ..images.picture_files import READABLE, WRITABLE, check_fits, check_writable, read_picture, write_picture
from ..images.resize import resize_alpha
from ..method.looks import find_look
from ..model import Model
from ..upscaling.device import find_dtype
from ..upscaling.memory import is_out_of_memory
from ..upscaling.pipeline import check_scale, output_size, override, upscale
from .share import Share

log = logging.getLogger("flowmapsr")

ABANDONED = 3600.0  # seconds after which a half-written file is no process's any more


@dataclass(frozen=True)
class Job:
    """One image to upscale."""

    source: Path
    target: Path


def plan_jobs(inputs: list[Path], output: Path) -> list[Job]:
    """Pair every input image with its output file.

    One input file and an output with an image extension: that file. Anything else: ``output`` is a folder, files
    keep their names (a folder's files also their place in it), and formats that cannot be written become PNG. What lies
    in ``output`` is no input, where ``output`` lies in a folder of inputs: an earlier run has made it.

    Raises :class:`UserError` if nothing is to be done, two results would get the same name, or one an input's.
    """
    if len(inputs) == 1 and not inputs[0].is_dir() and output.suffix and not output.is_dir():
        check_writable(output)
        jobs = [Job(inputs[0], output)]
    else:
        if output.suffix.lower() in WRITABLE and not output.is_dir():
            raise UserError(f"{output} is one file for several images; give a folder")
        jobs, made = [], output.resolve()
        for source in inputs:
            root, files = source.parent, [source]
            if source.is_dir():
                root = source
                files = sorted(p for p in source.rglob("*") if p.is_file() and p.suffix.lower() in READABLE)
                if not files:
                    raise UserError(f"{source} holds no images ({', '.join(sorted(READABLE))})")
                if made.is_relative_to(source.resolve()):
                    files = [file for file in files if not file.resolve().is_relative_to(made)]
            jobs += [Job(file, output / _named(file.relative_to(root))) for file in files]
        check_writable(output / "image.png")
    if not jobs:
        raise UserError(f"all images lie in the output {output} itself; choose another output")
    sources = {job.source.resolve() for job in jobs}
    targets: dict[Path, Path] = {}
    for job in jobs:
        other = targets.setdefault(job.target, job.source)
        if other != job.source:
            raise UserError(f"{other} and {job.source} would both become {job.target}; upscale them separately")
        if job.target.resolve() in sources:
            raise UserError(f"{job.target} is an input itself; choose another output")
    return jobs


def run_jobs(jobs: list[Job], options: Namespace, share: Share) -> tuple[list[str], int]:
    """Upscale this process's share of the jobs with the command's options.

    Of several, those whose output is there are skipped: outputs are renamed into place, so one that is there is whole.

    Returns what went wrong with single images, a line each, and how many were skipped, in all processes. Raises
    :class:`UserError` for anything wrong with the options or the model.
    """
    settings = override(find_look(options.look), options.steps, options.guidance)
    loras = pair_scales(options.lora, options.lora_scale, settings.lora_scale)
    check_color(options.color, options.color_strength)
    if options.long_edge is None and options.size is None:
        check_scale(options.scale)
    mine = share.of(jobs)  # first, as all must see the same list
    for folder in {job.target.parent for job in mine}:
        remove_partials(folder, ABANDONED)
    todo = mine if len(jobs) == 1 or options.overwrite else [job for job in mine if not job.target.exists()]
    failures = _run(todo, options, loras, share) if todo else []
    return share.gather(failures), sum(share.gather([len(mine) - len(todo)]))


def _run(jobs: list[Job], options: Namespace, loras: Sequence[tuple[Path, float]], share: Share) -> list[str]:
    model = _load(options, loras, share.device(options.device))
    failures = []
    for number, job in enumerate(jobs, 1):
        title = job.source.name if len(jobs) == 1 else f"{number}/{len(jobs)} {job.source.name}"
        with tqdm(desc=title, unit="tile", disable=options.quiet or not share.is_main, leave=len(jobs) == 1) as bar:
            try:
                _upscale_file(model, job, options, bar)
            except Exception as error:  # whatever is odd about one image, the others are made
                if not isinstance(error, UserError):
                    log.info("%s", job.source, exc_info=True)
                failures.append(_in_one_line(error, job.source))
    return failures


def _in_one_line(error: Exception, source: Path) -> str:
    """What went wrong with an image, as text: the exception itself would hold on to its tensors."""
    if isinstance(error, UserError):
        return str(error) if str(source) in str(error) else f"{source}: {error}"
    if is_out_of_memory(error):
        return f"{source}: not enough memory; close other programs, or use a smaller --scale or --tile"
    from torch._dynamo.exc import TorchDynamoException  # half of torch's time to import

    if isinstance(error, TorchDynamoException):
        return f"{source}: --compile does not work here ({str(error).splitlines()[0]}); leave it out"
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{source} is too odd ({what}); --verbose says where. Save it anew with another program"


def _load(options: Namespace, loras: Sequence[tuple[Path, float]], device: torch.device) -> Model:
    model = load_model(options.model, device, find_dtype(options.dtype, device), vae=options.vae)
    merge_loras(model, loras)
    if options.prompt is not None:
        set_prompt(model, options.prompt, options.text_encoder)
    if options.compile:
        # every tile has the same shape: on a GPU its kernels are recorded once and replayed as a CUDA graph
        mode = "reduce-overhead" if device.type == "cuda" else "default"
        model.network.evaluate = torch.compile(model.network.evaluate, mode=mode)
    return model


def _upscale_file(model: Model, job: Job, options: Namespace, bar: tqdm) -> None:
    def progress(done: int, total: int, preview: object) -> None:
        bar.total = total
        bar.update(done - bar.n)

    picture = read_picture(job.source)
    size = options.size
    if options.long_edge is not None:
        height, width = picture.color.shape[-2:]
        size = tuple(round(side * options.long_edge / max(height, width)) for side in (height, width))
    check_fits(picture, output_size(picture.color, options.scale, size), job.target)
    color = upscale(
        model, fill_transparent(picture.color, picture.alpha), options.scale, options.steps, options.guidance,
        look=options.look, size=size, color=options.color, color_strength=options.color_strength, tile=options.tile,
        progress=progress,
    )  # fmt: skip
    if picture.gray:
        color = color.mean(dim=1, keepdim=True).expand_as(color)
    alpha = None if picture.alpha is None else resize_alpha(picture.alpha, color)
    write_picture(replace(picture, color=color, alpha=alpha), job.target)


def _named(path: Path) -> Path:
    return path if path.suffix.lower() in WRITABLE else path.with_name(path.name + ".png")
