"""The ``flowmapsr`` command: upscale, degrade, merge, convert, inspect.

Help and usage errors come at once: what takes a while to import, torch above all, is imported in the commands.
"""

import argparse
import io
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ..errors import UserError
from ..files.sources import BUILT_IN
from ..method.looks import LOOKS
from ..names import COLORS, DEGRADATIONS, DTYPES

if TYPE_CHECKING:
    from ..model import Model

log = logging.getLogger("flowmapsr")


class Parser(argparse.ArgumentParser):
    """Usage errors in one line, like all others."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"flowmapsr: error: {message}; see '{self.prog} --help'\n")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, or 2 with a one-line error."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # on Windows, in a pipe, it may know no Greek
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return options.command(options)
    except UserError as error:
        print(f"flowmapsr: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("flowmapsr: stopped", file=sys.stderr)
        return 130


def _upscale(options: argparse.Namespace) -> int:
    from .folder import plan_jobs, run_jobs
    from .share import Share

    logging.basicConfig(format="flowmapsr: %(message)s")
    log.setLevel(logging.INFO if options.verbose else logging.WARNING)
    share = Share()
    jobs = plan_jobs(options.input, options.output)
    failures, skipped = run_jobs(jobs, options, share)
    if share.is_main:
        for failure in failures:
            print(f"flowmapsr: error: {failure}", file=sys.stderr)
        if len(jobs) > 1 and not options.quiet:
            there = f", {skipped} were there already" if skipped else ""
            print(f"{len(jobs) - len(failures) - skipped} of {len(jobs)} images upscaled{there}", file=sys.stderr)
    return 2 if failures and share.is_main else 0  # a process that fails takes the others with it, unheard


def _degrade(options: argparse.Namespace) -> int:
    import torch

    from ..images import degradation
    from ..images.alpha import fill_transparent
    from ..images.picture_files import check_writable, read_picture, write_picture
    from ..images.resize import resize_alpha

    if not 1 <= options.scale <= 64:
        raise UserError(f"the scale is {options.scale:g}; use a factor from 1 to 64")
    check_writable(options.output)
    if not 0 <= options.seed < 2**64:
        raise UserError(f"the seed is {options.seed}; use a number from 0 to {2**64 - 1}")
    picture = read_picture(options.input)
    stages = degradation.preset(options.preset)
    generator = torch.Generator().manual_seed(options.seed)
    visible = fill_transparent(picture.color, picture.alpha)
    lr = degradation.degrade(visible, options.scale, stages, generator)
    alpha = None if picture.alpha is None else resize_alpha(picture.alpha, lr)
    write_picture(replace(picture, color=lr, alpha=alpha), options.output)
    return 0


def _merge(options: argparse.Namespace) -> int:
    from ..files.checkpoint import load_model
    from ..files.lora import merge_loras, pair_scales
    from ..files.origin import TOGETHER, combined, derived
    from ..files.safetensors_file import read_metadata

    _check_checkpoint_name(options.output)
    if not options.lora:
        raise UserError("there is nothing to merge; give at least one --lora")
    loras = pair_scales(options.lora, options.lora_scale, default=1.0)
    model = load_model(options.model, vae=options.vae)
    merge_loras(model, loras)
    described = [read_metadata(path)[0] for path, _ in loras]
    parts = [{key: metadata.get(f"modelspec.{key}", "") for key in TOGETHER} for metadata in described]
    model.info |= derived(model.info) | combined([model.info, *parts])
    model.info["merged_from"] = ", ".join(
        [Path(options.model).name, *(f"{path.name} x{scale:g}" for path, scale in loras)]
    )
    _save(model, options)
    return 0


def _convert(options: argparse.Namespace) -> int:
    from ..files.convert import convert, read_source, summary
    from ..upscaling.device import DTYPES as TORCH_DTYPES

    _check_checkpoint_name(options.output)
    source = read_source(options.source)
    model = convert(source, options.vae, options.bake_prompts, TORCH_DTYPES[options.dtype])
    if options.license:
        model.info["license"] = options.license
    else:
        log.warning(
            f"{options.output} will not say which licence it is under: give that of {options.source} with --license "
            f"(LBM's own models are under cc-by-nc-4.0, SDXL is under openrail++)"
        )
    _save(model, options)
    print(summary(source, model))
    return 0


def _check_checkpoint_name(path: Path) -> None:
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: a checkpoint is a .safetensors file; end the name so")


def _save(model: "Model", options: argparse.Namespace) -> None:
    from ..files.checkpoint import save_checkpoint
    from ..upscaling.device import DTYPES as TORCH_DTYPES

    try:
        save_checkpoint(model, options.output, TORCH_DTYPES[options.dtype])
    except OSError as error:
        raise UserError(f"{options.output} cannot be written: {error.strerror or error}; choose another") from error


def _inspect(options: argparse.Namespace) -> int:
    from ..files.checkpoint import describe

    description = describe(options.file)
    if options.json:
        print(json.dumps(description, indent=2))
        return 0
    for key, value in description.items():
        print(f"{key}: {json.dumps(value) if isinstance(value, (dict, list)) else value}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="flowmapsr", description="Upscale photographs 2x to 8x with flow maps.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_upscale(commands.add_parser("upscale", help="upscale images", description="Upscale images."))
    degrade = commands.add_parser(
        "degrade", help="make a low-resolution image", description="Shrink an image and spoil it as photographs are."
    )
    degrade.add_argument("input", type=Path, metavar="INPUT", help="image file")
    degrade.add_argument("--output", type=Path, required=True, metavar="PATH", help="image file to write")
    degrade.add_argument("--scale", type=float, required=True, metavar="F", help="shrink by this factor, 1 to 64")
    degrade.add_argument(
        "--preset", choices=DEGRADATIONS, default="flowmapsr", help="what happens to the image (%(default)s)"
    )
    degrade.add_argument("--seed", type=int, default=0, metavar="N", help="same seed, same result (%(default)s)")
    degrade.set_defaults(command=_degrade)
    merge = commands.add_parser(
        "merge", help="make a checkpoint of a model and LoRAs", description="Add LoRAs to a model's weights for good."
    )
    _add_model(merge, scale_default="1")
    merge.add_argument("--output", type=Path, required=True, metavar="FILE", help=".safetensors file to write")
    merge.add_argument("--dtype", choices=DTYPES, default="float32", help="precision of the weights (%(default)s)")
    merge.set_defaults(command=_merge)
    _add_convert(
        commands.add_parser(
            "convert", help="make a checkpoint of an LBM or SDXL model", description="Make a checkpoint to train from."
        )
    )
    inspect = commands.add_parser(
        "inspect", help="say what a checkpoint or LoRA is", description="Say what a checkpoint or LoRA is."
    )
    inspect.add_argument("file", type=Path, metavar="FILE", help=".safetensors file")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    inspect.set_defaults(command=_inspect)
    return parser


def _add_upscale(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("input", type=Path, nargs="+", metavar="INPUT", help="image files, or folders of them")
    add("--output", type=Path, required=True, metavar="PATH",
        help="image file (.png, .jpg, .webp, .tif), or a folder for several")  # fmt: skip
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--scale", type=float, default=4.0, metavar="F", help="factor, 1 to 8 (%(default)g)")
    size.add_argument("--long-edge", type=int, metavar="N", help="length of the longer side, in pixels")
    size.add_argument("--size", type=_size, metavar="WxH", help="exact size, e.g. 1920x1280")
    add("--look", choices=LOOKS, default="balanced",
        help="faithful: closest to the source; vivid: most detail (%(default)s)")  # fmt: skip
    add("--steps", type=int, metavar="N", help="network evaluations, 1, 2 or 4 (from the look)")
    add("--guidance", type=float, metavar="F", help="guidance scale, 1 (none) to 8 (from the look)")
    _add_model(parser, scale_default="from the look")
    add("--prompt", metavar="TEXT", help="what to go for, in place of the model's own; needs --text-encoder")
    add("--text-encoder", type=Path, metavar="FOLDER", help="CLIP text encoder, or an SDXL folder that has it")
    add("--color", choices=COLORS, default="lr-residual", metavar="METHOD",
        help=f"colour correction: {', '.join(COLORS)} (%(default)s)")  # fmt: skip
    add("--color-strength", type=float, default=1.0, metavar="F", help="0 (off) to 1 (%(default)g)")
    add("--tile", type=int, metavar="N", help="side of a tile in output pixels, 0 for none (from the free memory)")
    add("--device", default="auto", metavar="D", help="cpu, cuda, mps (a GPU if there is one)")
    add("--dtype", choices=["auto", *DTYPES], default="auto", help="precision of the network (%(default)s)")
    add("--compile", action="store_true", help="compile the network: minutes at first, then faster; for many images")
    add("--overwrite", action="store_true", help="of several images, also those whose output is there already")
    add("--quiet", action="store_true", help="no progress bar")
    add("--verbose", action="store_true", help="say how images are cut into tiles, and what memory it takes")
    parser.set_defaults(command=_upscale)


def _add_convert(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="LBM folder; SDXL in diffusers' layout or as one .safetensors file")
    add("--output", type=Path, required=True, metavar="FILE", help=".safetensors file to write")
    add("--vae", type=Path, metavar="PATH", help="VAE to put in (a .safetensors file, or a folder)")
    add("--bake-prompts", type=Path, metavar="FOLDER",
        help="CLIP text encoder for the prompts, or an SDXL folder that has it")  # fmt: skip
    add("--dtype", choices=DTYPES, default="bfloat16", help="precision of the weights (%(default)s)")
    add("--license", metavar="TEXT", help="licence of the source, to be kept in the file")
    parser.set_defaults(command=_convert)


def _add_model(parser: argparse.ArgumentParser, scale_default: str) -> None:
    add = parser.add_argument
    add("--model", default=BUILT_IN, metavar="MODEL", help="'built-in', a file, a folder, hub:OWNER/NAME (%(default)s)")
    add("--vae", type=Path, metavar="PATH", help="VAE of a latent model that has none: a .safetensors file or folder")
    add("--lora", type=Path, action="append", default=[], metavar="FILE", help="LoRA to apply; may be repeated")
    add("--lora-scale", type=float, action="append", default=[], metavar="F",
        help=f"its strength, -8 to 8; the first goes with the first LoRA ({scale_default})")  # fmt: skip


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write WIDTHxHEIGHT, e.g. 1920x1280")
    return int(height), int(width)
