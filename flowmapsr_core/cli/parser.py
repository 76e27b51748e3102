"""What the ``flowmapsr`` command can be told.

Nothing here takes a while to import, least of all torch: help and usage errors come at once.
"""

import argparse
from pathlib import Path
from typing import NoReturn

from ..files.sources import BUILT_IN, SHIPPED
from ..method.looks import LOOKS
from ..names import CODECS, COLORS, DEGRADATIONS, DTYPES, METRICS, WRAPS


class Parser(argparse.ArgumentParser):
    """Usage errors in one line, like all others."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"flowmapsr: error: {message}; see '{self.prog} --help'\n")


def make_parser() -> argparse.ArgumentParser:
    """The parser; what it has parsed has the name of a command, and of its module, as ``command``."""
    parser = Parser(prog="flowmapsr", description="Upscale photographs 2x to 8x with flow maps.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, add_arguments, summary, description in (
        ("upscale", _add_upscale, "upscale images and clips", "Upscale images and clips."),
        ("degrade", _add_degrade, "make low-resolution images", "Shrink images and spoil them as photographs are."),
        (
            "evaluate",
            _add_evaluate,
            "compare models, settings and other upscalers",
            "Measure what models, settings and other upscalers make of the same images.",
        ),
        ("merge", _add_merge, "make a checkpoint of a model and LoRAs", "Add LoRAs to a model's weights for good."),
        (
            "convert",
            _add_convert,
            "make a checkpoint of an upscaler, an LBM or SDXL model",
            "Make a checkpoint to train from.",
        ),
        ("export", _add_export, "write a model as an ONNX file", "Write one evaluation of a model as an ONNX file."),
        (
            "inspect",
            _add_inspect,
            "say what a model is, or how a picture was made",
            "Say what a checkpoint, LoRA or upscaler is, or how FlowMapSR made a picture, and by which command again.",
        ),
    ):
        add_arguments(commands.add_parser(name, help=summary, description=description))
    return parser


def _add_upscale(parser: argparse.ArgumentParser) -> None:
    _add_files(parser, clips=True)
    add = parser.add_argument
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--scale", type=float, metavar="F", help="factor, 1 to 8 (4)")
    size.add_argument("--long-edge", type=int, metavar="N", help="length of the longer side, in pixels")
    size.add_argument("--size", type=_size, metavar="WxH", help="exact size, e.g. 1920x1280")
    add("--auto", action="store_true",
        help="shrink what is blurred or was enlarged to the size of its detail first, and multiply that")  # fmt: skip
    add("--look", choices=LOOKS, default="balanced",
        help="faithful: closest to the source; vivid: most detail (%(default)s)")  # fmt: skip
    add("--steps", type=int, metavar="N", help="network evaluations, 1, 2 or 4 (from the look)")
    add("--guidance", type=float, metavar="F", help="guidance scale, 1 (none) to 8 (from the look)")
    add("--realism", type=float, metavar="F", help="0: closest to the source, 1: most detail (from the look)")
    add("--realism-mask", type=Path, metavar="FILE",
        help="where: white takes that realism, black 0; an image of the input's size or the output's")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="of the noise that some models start from (%(default)s)")
    _add_model(parser, scale_default="1.5; of it --look faithful takes none, vivid 4/3")
    add("--prompt", metavar="TEXT", help="what to go for, in place of the model's own; needs --text-encoder")
    add("--text-encoder", type=Path, metavar="FOLDER", help="CLIP text encoder, or an SDXL folder that has it")
    add("--color", choices=COLORS, metavar="METHOD",
        help=f"colour correction: {', '.join(COLORS)} (lr-residual; of other upscalers none)")  # fmt: skip
    add("--color-strength", type=float, default=1.0, metavar="F", help="0 (off) to 1 (%(default)g)")
    add("--invention-map", type=Path, metavar="FILE",
        help="where to map what the input does not support, and NAME-heat beside it; a folder for several")  # fmt: skip
    add("--wrap", choices=WRAPS, default="",
        help="no seam where opposite edges meet: x left and right, y top and bottom, xy both")  # fmt: skip
    add("--codec", choices=CODECS, help="of clips (h264; of more than 8 bits h265, of .webm av1)")
    add("--quality", type=int, metavar="N",
        help="of clips, the codec's own: CRF of h264 (17), h265 (20), av1 (25), profile of prores (3)")  # fmt: skip
    add("--start", type=float, default=0.0, metavar="S", help="of clips: from so many seconds on (%(default)g)")
    add("--end", type=float, metavar="S", help="of clips: until before so many seconds (the end)")
    add("--every", type=int, default=1, metavar="N", help="of clips: every N-th frame (%(default)s)")
    add("--temporal", action=argparse.BooleanOptionalAction, default=True,
        help="of clips: steady each frame by those beside it, against flicker (on)")  # fmt: skip
    add("--tile", type=int, metavar="N", help="side of a tile in output pixels, 0 for none (from the free memory)")
    add("--device", default="auto", metavar="D", help="cpu, cuda, mps (a GPU if there is one)")
    add("--dtype", choices=["auto", *DTYPES], default="auto", help="precision of the network (%(default)s)")
    add("--compile", action="store_true", help="compile the network: minutes at first, then faster; for many images")
    _add_conduct(parser)
    add("--verbose", action="store_true", help="say how images are cut into tiles, and what memory it takes")


def _add_degrade(parser: argparse.ArgumentParser) -> None:
    _add_files(parser)
    add = parser.add_argument
    add("--scale", type=float, required=True, metavar="F", help="shrink by this factor, 1 to 64")
    add("--preset", choices=DEGRADATIONS, default="flowmapsr", help="what happens to the images (%(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="same image and seed, same result (%(default)s)")
    _add_conduct(parser)
    add("--verbose", action="store_true", help="say where in the program an odd image has failed")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="HR images, which are made small here unless --lr is given")
    add("--output", type=Path, required=True, metavar="DIR", help="folder for the results; goes on with what it has")
    add("--lr", type=Path, metavar="FOLDER", help="LR images of the same names, in place of presets and factors")
    add("--no-reference", action="store_true", help="FOLDER holds LR images, and nobody knows the HR ones")
    add("--presets", nargs="+", choices=DEGRADATIONS, default=["bicubic", "flowmapsr"], metavar="PRESET",
        help=f"what happens to the images: {', '.join(DEGRADATIONS)} (bicubic flowmapsr)")  # fmt: skip
    add("--factors", nargs="+", type=float, default=[2.0, 4.0, 8.0], metavar="F", help="1 to 8 (2 4 8)")
    add("--seed", type=int, default=0, metavar="N", help="of what happens to them (%(default)s)")
    add("--models", nargs="+", default=[BUILT_IN], metavar="MODEL", help="as --model of upscale (built-in)")
    add("--baseline", nargs="+", type=Path, default=[], metavar="FILE",
        help="upscalers that spandrel loads, beside bicubic and Lanczos")  # fmt: skip
    add("--looks", nargs="+", choices=LOOKS, default=[], metavar="LOOK", help=f"{', '.join(LOOKS)}")
    add("--steps", nargs="+", type=int, default=[], metavar="N", help="network evaluations")
    add("--guidance", nargs="+", type=float, default=[], metavar="F", help="guidance scales, 1 (none) to 8")
    add("--realism", nargs="+", type=float, default=[], metavar="F",
        help="0 to 1; steps, guidance and realism are multiplied, and what is left out is 1")  # fmt: skip
    add("--lora", nargs="+", type=Path, default=[], metavar="FILE", help="LoRAs to apply, all together")
    add("--lora-scales", nargs="+", type=float, default=[], metavar="F", help="their strength, -8 to 8 (1.5)")
    add("--vae", type=Path, metavar="PATH", help="VAE of latent models that have none: a .safetensors file or folder")
    add("--metrics", nargs="+", choices=METRICS, default=[], metavar="NAME",
        help=f"{', '.join(METRICS)} (all but the last five)")  # fmt: skip
    add("--download", action="store_true", help="fetch weights that lpips, dists and the last five metrics need")
    add("--tile", type=int, metavar="N", help="side of a tile in output pixels, 0 for none (from the free memory)")
    add("--device", default="auto", metavar="D", help="cpu, cuda, mps (a GPU if there is one)")
    add("--dtype", choices=["auto", *DTYPES], default="auto", help="precision of the network (%(default)s)")
    add("--quiet", action="store_true", help="no progress bar")
    add("--verbose", action="store_true", help="say where in the program an odd image has failed")


def _add_merge(parser: argparse.ArgumentParser) -> None:
    _add_model(parser, scale_default="1")
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="FILE", help=".safetensors file to write")
    add("--dtype", choices=DTYPES, default="float32", help="precision of the weights (%(default)s)")


def _add_convert(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE",
        help="Compact or ESRGAN upscaler (.safetensors, .pth); CTMSR.pth; LBM folder; SDXL in diffusers' layout or as "
        "one .safetensors file")  # fmt: skip
    add("--output", type=Path, required=True, metavar="FILE", help=".safetensors file to write")
    add("--vae", type=Path, metavar="PATH", help="VAE to put in (a .safetensors file, or a folder)")
    add("--bake-prompts", type=Path, metavar="FOLDER",
        help="CLIP text encoder for the prompts, or an SDXL folder that has it")  # fmt: skip
    add("--dtype", choices=DTYPES, help="precision of the weights (bfloat16; of an upscaler float32)")
    add("--license", metavar="TEXT", help="licence of the source, to be kept in the file")


def _add_export(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", help="as --model of upscale; one that works on pixels, such as built-in or base")
    add("--output", type=Path, required=True, metavar="FILE", help=".onnx file to write")


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE",
        help="image, .safetensors file, or what --model of upscale takes")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_files(parser: argparse.ArgumentParser, clips: bool = False) -> None:
    add = parser.add_argument
    also, formats = (", clips", ", .exr, .mp4, .mov, .mkv, .webm") if clips else ("", "")
    add("input", type=Path, nargs="+", metavar="INPUT", help=f"image files{also}, or folders of them")
    add("--output", type=Path, required=True, metavar="PATH",
        help=f"file (.png, .jpg, .webp, .tif{formats}), or a folder for several")  # fmt: skip


def _add_conduct(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--overwrite", action="store_true", help="of several images, also those whose output is there already")
    add("--quiet", action="store_true", help="no progress bar")


def _add_model(parser: argparse.ArgumentParser, scale_default: str) -> None:
    add = parser.add_argument
    add("--model", default=BUILT_IN, metavar="MODEL",
        help=f"{', '.join(SHIPPED)}, a file, a folder, hub:OWNER/NAME (%(default)s)")  # fmt: skip
    add("--vae", type=Path, metavar="PATH", help="VAE of a latent model that has none: a .safetensors file or folder")
    add("--lora", type=Path, action="append", default=[], metavar="FILE", help="LoRA to apply; may be repeated")
    add("--lora-scale", type=float, action="append", default=[], metavar="F",
        help=f"its strength, -8 to 8; the first goes with the first LoRA ({scale_default})")  # fmt: skip


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write WIDTHxHEIGHT, e.g. 1920x1280")
    return int(height), int(width)
