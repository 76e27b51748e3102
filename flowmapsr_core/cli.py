"""The ``flowmapsr`` command: upscale, degrade, merge, inspect."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import torch

from . import color, degradation, looks
from .checkpoint import BUILT_IN, describe, load_model, save_checkpoint
from .device import DTYPES
from .errors import UserError
from .image_io import check_writable, read_picture, write_picture
from .lora import merge_loras, pair_scales
from .resize import resize_alpha
from .upscale_files import plan_jobs, run_jobs


class Parser(argparse.ArgumentParser):
    """Usage errors in one line, like all others."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"flowmapsr: error: {message}; see '{self.prog} --help'\n")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, or 2 with a one-line error."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except UserError as error:
        print(f"flowmapsr: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("flowmapsr: stopped", file=sys.stderr)
        return 130


def _upscale(options: argparse.Namespace) -> int:
    jobs = plan_jobs(options.input, options.output)
    failures = run_jobs(jobs, options)
    for failure in failures:
        print(f"flowmapsr: error: {failure}", file=sys.stderr)
    if len(jobs) > 1 and not options.quiet:
        print(f"{len(jobs) - len(failures)} of {len(jobs)} images upscaled", file=sys.stderr)
    return 2 if failures else 0


def _degrade(options: argparse.Namespace) -> int:
    if not 1 <= options.scale <= 64:
        raise UserError(f"the scale is {options.scale:g}; use a factor from 1 to 64")
    check_writable(options.output)
    if options.seed < 0:
        raise UserError(f"the seed is {options.seed}; use 0 or more")
    picture = read_picture(options.input)
    stages = degradation.preset(options.preset)
    generator = torch.Generator().manual_seed(options.seed)
    lr = degradation.degrade(picture.color, options.scale, stages, generator)
    alpha = None if picture.alpha is None else resize_alpha(picture.alpha, lr)
    write_picture(replace(picture, color=lr, alpha=alpha), options.output)
    return 0


def _merge(options: argparse.Namespace) -> int:
    if options.output.suffix != ".safetensors":
        raise UserError(f"{options.output}: a checkpoint is a .safetensors file; end the name so")
    if not options.lora:
        raise UserError("there is nothing to merge; give at least one --lora")
    loras = pair_scales(options.lora, options.lora_scale, default=1.0)
    model = load_model(options.model)
    merge_loras(model, loras)
    model.info["merged_from"] = ", ".join(
        [Path(options.model).name, *(f"{path.name} x{scale:g}" for path, scale in loras)]
    )
    try:
        save_checkpoint(model, options.output, DTYPES[options.dtype])
    except OSError as error:
        raise UserError(f"{options.output} cannot be written: {error.strerror or error}; choose another") from error
    return 0


def _inspect(options: argparse.Namespace) -> int:
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
        "--preset", choices=degradation.PRESETS, default="flowmapsr", help="what happens to the image (%(default)s)"
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
    add("--look", choices=looks.LOOKS, default="balanced",
        help="faithful: closest to the source; vivid: most detail (%(default)s)")  # fmt: skip
    add("--steps", type=int, metavar="N", help="network evaluations, 1, 2 or 4 (from the look)")
    add("--guidance", type=float, metavar="F", help="guidance scale, 1 (none) to 8 (from the look)")
    _add_model(parser, scale_default="from the look")
    add("--color", choices=color.METHODS, default="lr-residual", metavar="METHOD",
        help=f"colour correction: {', '.join(color.METHODS)} (%(default)s)")  # fmt: skip
    add("--color-strength", type=float, default=1.0, metavar="F", help="0 (off) to 1 (%(default)g)")
    add("--tile", type=int, metavar="N", help="side of a tile in output pixels, 0 for none (from the free memory)")
    add("--device", default="auto", metavar="D", help="cpu, cuda, mps (a GPU if there is one)")
    add("--dtype", choices=["auto", *DTYPES], default="auto", help="precision of the network (%(default)s)")
    add("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(command=_upscale)


def _add_model(parser: argparse.ArgumentParser, scale_default: str) -> None:
    add = parser.add_argument
    add("--model", default=BUILT_IN, metavar="NAME_OR_FILE", help="'built-in' or a checkpoint (%(default)s)")
    add("--lora", type=Path, action="append", default=[], metavar="FILE", help="LoRA to apply; may be repeated")
    add("--lora-scale", type=float, action="append", default=[], metavar="F",
        help=f"its strength, -8 to 8; the first goes with the first LoRA ({scale_default})")  # fmt: skip


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write WIDTHxHEIGHT, e.g. 1920x1280")
    return int(height), int(width)
