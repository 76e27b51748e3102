"""Trains what says how far an LR image can be trusted, :class:`...flowmapsr_core.images.trust.Trust`.

``python -m flowmapsr.trainer.tools.trust PHOTOS --models MODEL... --output FILE`` makes photographs small and spoils
them in the ways of :data:`SPOILED`, upscales them by the models at looks of all kinds, lets the colours of some results
drift, and learns the shares of the residual's bands that bring results nearest to the photographs.
"""

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Generator, Tensor
from tqdm import tqdm

from ...flowmapsr_core.cli.save import check_name, saving
from ...flowmapsr_core.files.checkpoint import load_model, write_safetensors
from ...flowmapsr_core.images.color import residual_bands
from ...flowmapsr_core.images.degradation import PRESETS, Degradation, degrade
from ...flowmapsr_core.images.eight_bit import eight_bit
from ...flowmapsr_core.images.resize import resize
from ...flowmapsr_core.images.trust import CERTAIN, LEAST, Trust
from ...flowmapsr_core.model import Model
from ...flowmapsr_core.upscaling.pipeline import upscale
from ..data.crops import Budget, Crop, Data, PhotoCrops, training_photos
from ..run.command import run_command

SIDE = 256  # of an HR crop
FACTORS = (4.0, 5.0, 6.0)
COST = 1 - CERTAIN  # of a band's own energy, for adding it: noise is seen before missing detail is
BATCH, RATE = 8, 4e-3
_SMALL = replace(PRESETS["bicubic"][0], modes=("area", "bilinear", "bicubic"))
# ways to make LR images, and how often each comes
SPOILED: tuple[tuple[float, tuple[Degradation, ...]], ...] = (
    (0.25, PRESETS["bicubic"]),
    (0.10, (_SMALL,)),
    (0.10, (replace(_SMALL, jpeg=1.0, jpeg_quality=(50, 100)),)),
    (0.10, (replace(_SMALL, jpeg=1.0, jpeg_quality=(30, 95)), _SMALL, _SMALL)),  # JPEG, and then made small
    (0.10, (replace(_SMALL, noise=1.0),)),
    (0.05, (replace(_SMALL, blur=1.0),)),
    (0.15, PRESETS["flowmapsr"]),
    (0.15, PRESETS["real-esrgan"]),
)


@dataclass
class Example:
    """A result (1, 3, H, W) of a photograph of that size and its LR image (1, 3, h, w), all in half precision."""

    sr: Tensor
    lr: Tensor
    hr: Tensor


def make_example(crops: PhotoCrops, models: list[Model], number: int) -> Example:
    """The ``number``-th example; the same for the same number."""
    generator = Generator().manual_seed(number)
    shape, _ = crops.draw_bucket(number)
    hr = crops[Crop(number, 0, shape)][0][None]
    kind = int(torch.multinomial(torch.tensor([share for share, _ in SPOILED]), 1, generator=generator))
    model = models[number % len(models)]
    factor = FACTORS[int(torch.randint(len(FACTORS), (1,), generator=generator))]
    lr = eight_bit(degrade(hr, factor, SPOILED[kind][1], generator))
    realism = float(torch.randint(3, (1,), generator=generator)) / 2
    sr = upscale(model, lr, size=shape, steps=1, realism=realism, color="none")
    return Example(drifted(sr, generator).half(), lr.half(), hr.half())


def drifted(sr: Tensor, generator: Generator) -> Tensor:
    """A fifth of the results with a cast that changes over the image, the others as they are."""
    cast = 0.2 * torch.rand(1, 3, 3, 3, generator=generator) - 0.1
    return sr + resize(cast, (sr.shape[-2], sr.shape[-1])) if torch.rand(1, generator=generator) < 0.2 else sr


def trust_loss(trust: Trust, example: Example) -> Tensor:
    """By how much each band changes the squared distance to the photograph, the others added, over the band's energy.

    Shares have a COST, by which they stay below those that come nearest to the photograph, up to CERTAIN.
    """
    sr, lr, hr = example.sr.float(), example.lr.float(), example.hr.float()
    size = (hr.shape[-2], hr.shape[-1])
    coarse, bands = residual_bands(sr, lr)
    shares, band = trust(lr, bands)[0, :, None], torch.cat(bands)
    added = resize(shares * band, size)
    others = (added.sum(dim=0) - added).detach()
    missing = hr - sr - resize(coarse, size) - others
    change = (added * (added - 2 * missing)).mean(dim=(1, 2, 3))
    cost = 2 * COST * (shares * band.square()).mean(dim=(1, 2, 3))
    return ((change + cost) / (band.square().mean(dim=(1, 2, 3)) + LEAST)).mean()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flowmapsr.trainer.tools.trust", description=__doc__)
    parser.add_argument("photographs", type=Path, help="folder")
    parser.add_argument("--models", nargs="+", default=["mini"], help="as --model of flowmapsr upscale (%(default)s)")
    parser.add_argument("--output", type=Path, required=True, help=".safetensors file to write")
    parser.add_argument("--examples", type=int, default=1600, help="how many are made (%(default)s)")
    parser.add_argument("--steps", type=int, default=3500, help=f"of {BATCH} examples (%(default)s)")
    options = parser.parse_args(arguments)
    return run_command(lambda: train(options), "give fewer examples (--examples)")


def train(options: argparse.Namespace) -> str:
    """Write the file; returns the mean loss before and after."""
    check_name(options.output)
    models = [load_model(name) for name in options.models]
    for model in models:
        model.flow.set_precision(torch.bfloat16)
    data = Data(photos=str(options.photographs), budgets=(Budget(side=SIDE, batch=1),), aspect=1.0, workers=0)
    crops = PhotoCrops(data, training_photos(data)[0], 1, seed=0)
    with torch.no_grad():
        examples = [make_example(crops, models, number) for number in tqdm(range(options.examples), "examples")]
    torch.manual_seed(0)
    trust = Trust(bands=2)
    optimizer = torch.optim.AdamW(trust.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, options.steps)
    generator, losses = Generator().manual_seed(0), []
    for _ in tqdm(range(options.steps), "steps"):
        chosen = torch.randint(len(examples), (BATCH,), generator=generator).tolist()
        optimizer.zero_grad()
        for index in chosen:
            loss = trust_loss(trust, examples[index]) / BATCH
            loss.backward()
            losses.append(loss.item() * BATCH)
        optimizer.step()
        schedule.step()
    with saving(options.output):
        write_safetensors({name: tensor.half() for name, tensor in trust.state_dict().items()}, options.output, {})
    tenth = max(1, len(losses) // 10)
    return f"{options.output}: loss {sum(losses[:tenth]) / tenth:.3f}, then {sum(losses[-tenth:]) / tenth:.3f}"


if __name__ == "__main__":
    sys.exit(main())
