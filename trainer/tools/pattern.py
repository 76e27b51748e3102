"""Takes out of a model the pattern that it paints into every cell of every picture.

An upscaler's network paints cells of pixels as channels, and after its weights have been averaged with others' these
may differ by an amount that is the same everywhere. ``python -m flowmapsr.trainer.tools.pattern MODEL FOLDER --output
FILE`` measures it on photographs that are made small and spoiled, at :data:`PLACES` of the dial, and changes the
weights that shift the base picture's channels by the times: of all changes that take it out at all of these places,
the least.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ...flowmapsr_core.cli.save import check_name, save
from ...flowmapsr_core.codecs import PixelCodec
from ...flowmapsr_core.errors import UserError, check
from ...flowmapsr_core.evaluation.cases import Case, images_in
from ...flowmapsr_core.files.checkpoint import load_model
from ...flowmapsr_core.images.degradation import PRESETS
from ...flowmapsr_core.images.resize import resize
from ...flowmapsr_core.method.looks import Look
from ...flowmapsr_core.model import Model
from ...flowmapsr_core.networks.upscaler import Upscaler
from ...flowmapsr_core.upscaling.host import DTYPES
from ...flowmapsr_core.upscaling.pipeline import upscale_latent
from ..run.command import run_command

PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)  # realism
FACTOR = 4
SIDE = 384  # pixels of a photograph's middle that are used
STEP = 2 / 255  # of 8 bits, in latents


def patterns(model: Model, lrs: list[Tensor]) -> Tensor:
    """Mean, over all cells of all pictures, of each channel less its colour's: (len(PLACES), channels), in latents.

    Args:
        model: of pixels, in cells of ``f`` x ``f``; it has ``3 f^2`` channels, colour by colour.
        lrs: LR images on the HR grid (1, 3, H, W) in [0, 1].
    """
    found = torch.zeros(len(PLACES), model.codec.channels, dtype=torch.float64)
    for lr in lrs:
        for place, pattern in zip(PLACES, found, strict=True):
            pattern += upscale_latent(model, lr, Look(1, 1.0, 0.0, place))[0].double().mean(dim=(1, 2)) / len(lrs)
    colors = found.unflatten(1, (3, -1))
    return (colors - colors.mean(dim=2, keepdim=True)).flatten(1)


@torch.no_grad()
def take_out(model: Model, found: Tensor) -> None:
    """Shift the channels of the picture by less ``found``, (len(PLACES), channels), in place.

    The shifts are linear in the conditioning vector and its weights' bias, so that the change is a least-norm solution.

    Raises :class:`UserError` if the network has no base picture.
    """
    network = model.network
    if not isinstance(network, Upscaler):
        raise UserError(f"a {type(network).__name__} has no base picture; give a model that has one")
    t, s = torch.ones(len(PLACES)), 1 - torch.tensor(PLACES)  # of one evaluation at each place
    prompts = model.flow.prompts["positive"].expand(len(PLACES), -1)
    conditions = network.embed(t, s, prompts, torch.ones(len(PLACES))).double()
    seen = torch.cat([conditions, torch.ones(len(PLACES), 1)], dim=1)
    change = torch.linalg.lstsq(seen, -found, driver="gelsd").solution.T  # (channels, D + 1)
    linear = network.base_modulation.linear
    linear.weight[-len(change) :] += change[:, :-1].to(linear.weight)
    linear.bias[-len(change) :] += change[:, -1].to(linear.bias)


def spoiled(files: dict[str, Path], count: int) -> Iterator[Tensor]:
    """The middles of photographs made small by all presets in turn, and enlarged by bicubic again."""
    chosen = list(files.items())[:: max(1, len(files) // count)][:count]
    for index, (place, file) in enumerate(chosen):
        pair = Case(place, list(PRESETS)[index % len(PRESETS)], FACTOR, file, None, seed=0).load()
        side = min(SIDE, *pair.size) // FACTOR
        top, left = ((length - side) // 2 for length in pair.lr.shape[-2:])
        lr = pair.lr[..., top : top + side, left : left + side]
        yield resize(lr, (side * FACTOR, side * FACTOR)).clamp(0, 1)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flowmapsr.trainer.tools.pattern", description=__doc__)
    parser.add_argument("model", help="as --model of flowmapsr upscale")
    parser.add_argument("photographs", type=Path, help="folder")
    parser.add_argument("--output", type=Path, required=True, help=".safetensors file to write")
    parser.add_argument("--count", type=int, default=36, help="how many photographs are looked at (%(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default="float16", help="precision of the weights (%(default)s)")
    options = parser.parse_args(arguments)
    return run_command(lambda: without_pattern(options), "give fewer photographs (--count)")


def without_pattern(options: argparse.Namespace) -> str:
    """Write the file; returns a table of what was taken out."""
    check_name(options.output)
    model = load_model(options.model)
    check(isinstance(model.codec, PixelCodec), f"{options.model} does not work on pixels; give a model that does")
    lrs = list(spoiled(images_in(options.photographs, options.output), options.count))
    found = patterns(model, lrs)
    take_out(model, found)
    left = patterns(model, lrs)
    save(model, options.output, DTYPES[options.dtype])
    sizes = ((x.square().mean(dim=1).sqrt() / STEP).tolist() for x in (found, left))
    rows = [f"| {place:g} | {before:.3f} | {after:.3f} |" for place, before, after in zip(PLACES, *sizes, strict=True)]
    return "\n".join(["| realism | pattern, in 8-bit steps | what is left of it |", "|---|---|---|", *rows])


if __name__ == "__main__":
    sys.exit(main())
