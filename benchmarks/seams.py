"""Whether tiles show: seams and soft borders of tiled sampling with a network that sees its whole input.

``python benchmarks/seams.py --model FILE --photos FOLDER``: each photograph is reduced to 1024 px on its longer side,
shrunk by 4 and upscaled again in 2 steps without colour correction, in float32 on the CPU:

- untiled, which the others are compared with;
- in equal tiles whose velocities are blended at every step, as FlowMapSR does it;
- in tiles that are sampled to the end and blended as images under Gaussian windows (a standard deviation of a tenth
  of the side, as Latent Diffusion and StableSR take it); they lie a tile less the overlap apart, and the last is
  smaller.

Seams: the mean gradient of the luma across a line, over that 4 to 16 px beside it, divided by the same ratio of the
untiled picture, which is in brackets: pictures have edges of their own, and networks that fold pixels into channels
have a grid. Lines lie where tiles begin and end, and in the middle of what neighbours share. Border: energy of the
finest detail in the outermost 32 px over that of the rest, divided by the same of the untiled picture. Both are 1 for
tiles that do not show. Gradients and energies are summed over all photographs.
"""

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path

import torch
from flowmapsr.flowmapsr_core import load_model
from flowmapsr.flowmapsr_core.images.metrics import high_frequency_energy, luma
from flowmapsr.flowmapsr_core.images.picture_files import READABLE, read_picture
from flowmapsr.flowmapsr_core.images.resize import resize
from flowmapsr.flowmapsr_core.method.flow import sample
from flowmapsr.flowmapsr_core.model import Model
from flowmapsr.flowmapsr_core.upscaling.tiling import tile_starts, tiling_for
from torch import Tensor

SIDE, FACTOR, STEPS = 1024, 4, 2
NEAR, FAR, BORDER = 4, 16, 32
DEVIATION = 0.1  # of a Gaussian window, in sides of the tile
Spans = list[tuple[int, int]]
Upscale = Callable[[Model, Tensor, int, int], Tensor]


def equal_tiles(length: int, tile: int, overlap: int, align: int) -> Spans:
    return [(start, min(start + tile, length)) for start in tile_starts(length, tile, align, overlap)]


def ragged_tiles(length: int, tile: int, overlap: int, align: int) -> Spans:
    return [(start, min(start + tile, length)) for start in range(0, length - overlap, tile - overlap)]


def untiled(model: Model, image: Tensor, tile: int, overlap: int) -> Tensor:
    return model.codec.decode(sample(model.velocity(), model.codec.encode(image), STEPS))


def blended_velocities(model: Model, image: Tensor, tile: int, overlap: int) -> Tensor:
    tiling = tiling_for(model.network, tile // model.codec.factor, overlap // model.codec.factor, batch=4)
    return model.codec.decode(sample(tiling.velocity(model.velocity()), model.codec.encode(image), STEPS))


def blended_images(model: Model, image: Tensor, tile: int, overlap: int) -> Tensor:
    total, weights = torch.zeros_like(image), torch.zeros_like(image)
    spans = (ragged_tiles(length, tile, overlap, 1) for length in image.shape[-2:])
    for (top, bottom), (left, right) in itertools.product(*spans):
        part = (..., slice(top, bottom), slice(left, right))
        window = gaussian(bottom - top)[:, None] * gaussian(right - left)
        total[part] += window * untiled(model, image[part], 0, 0)
        weights[part] += window
    return total / weights


def gaussian(side: int) -> Tensor:
    place = (torch.arange(side) + 0.5) / side - 0.5
    return torch.exp(-0.5 * (place / DEVIATION).square())


METHODS: dict[str, tuple[Upscale, Callable[[int, int, int, int], Spans]]] = {
    "velocities of equal tiles": (blended_velocities, equal_tiles),
    "images of ragged tiles, Gaussian": (blended_images, ragged_tiles),
}


def begins_and_ends(spans: Spans) -> list[int]:
    return sorted({line for (_, end), (start, _) in itertools.pairwise(spans) for line in (start, end)})


def middles(spans: Spans) -> list[int]:
    return [(start + end) // 2 for (_, end), (start, _) in itertools.pairwise(spans)]


def gradients(image: Tensor, rows: list[int], columns: list[int]) -> Tensor:
    """Sums (2,) of the gradient across lines above these rows and left of these columns: at them, and beside them."""
    y = luma(image)
    sums = torch.zeros(2, dtype=torch.float64)
    for picture, lines in ((y, columns), (y.mT, rows)):
        across = picture.diff(dim=3).abs().double().mean(dim=(0, 1)).sum(dim=0)  # at x - 1: from x - 1 to x
        for line in lines:
            beside = [line + sign * distance for distance in range(NEAR, FAR + 1) for sign in (-1, 1)]
            sums += torch.stack([across[line - 1], across[[x - 1 for x in beside]].mean()])
    return sums


def energies(image: Tensor) -> Tensor:
    """Energies (2,) of the finest detail: in the outermost ``BORDER`` pixels, and in the rest."""
    inner = image[..., BORDER:-BORDER, BORDER:-BORDER]
    whole, rest = (high_frequency_energy(part).sum().double() * part[0, 0].numel() for part in (image, inner))
    return torch.stack([whole - rest, rest])


class Score:
    """Sums over photographs of a method's figures, and of the untiled picture's at the same places."""

    def __init__(self) -> None:
        self.tiles = 0
        self.sums = torch.zeros(2, 3, 2, dtype=torch.float64)  # picture; begins and ends, middles, border; the two

    def add(self, picture: Tensor, reference: Tensor, rows: Spans, columns: Spans) -> None:
        self.tiles += len(rows) * len(columns)
        for index, image in enumerate((picture, reference)):
            at_lines = (gradients(image, lines(rows), lines(columns)) for lines in (begins_and_ends, middles))
            self.sums[index] += torch.stack([*at_lines, energies(image)])

    def __str__(self) -> str:
        ratios = self.sums[..., 0] / self.sums[..., 1]
        edges, centres, border = ratios[0] / ratios[1]
        return f"{edges:.3f} ({ratios[1, 0]:.3f}) | {centres:.3f} ({ratios[1, 1]:.3f}) | {border:.3f} | {self.tiles}"


def prepare(path: Path, align: int) -> Tensor:
    """A photograph's LR image on the HR grid, whose sides are multiples of ``align``: (1, 3, H, W)."""
    hr = read_picture(path).color
    scale = SIDE / max(hr.shape[-2:])
    height, width = (round(scale * side) // align * align for side in hr.shape[-2:])
    lr = resize(hr, (height // FACTOR, width // FACTOR)).clamp(0, 1)
    return resize(lr, (height, width)).clamp(0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint of a network without a finite receptive field")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--tile", type=int, default=256, help="side of a tile in output pixels")
    parser.add_argument("--overlap", type=int, default=64, help="what neighbouring tiles share, in output pixels")
    options = parser.parse_args()
    model = load_model(options.model)
    align = model.codec.factor * model.network.stride
    if options.tile % align or options.overlap % align:
        raise SystemExit(f"with this model the tile and the overlap must be multiples of {align} px")
    paths = [path for path in sorted(options.photos.rglob("*")) if path.suffix.lower() in READABLE]
    if not paths:
        raise SystemExit(f"{options.photos} has no photographs")
    scores = {name: Score() for name in METHODS}
    for path in paths:
        image = prepare(path, align)
        reference = untiled(model, image, 0, 0)
        for name, (upscale, tiles) in METHODS.items():
            spans = (tiles(length, options.tile, options.overlap, align) for length in image.shape[-2:])
            picture = upscale(model, image, options.tile, options.overlap)
            scores[name].add(picture, reference, *spans)
    print(f"{len(paths)} photographs, tiles of {options.tile} px that share {options.overlap} px, {STEPS} steps\n")
    print("| blended | seams at ends of tiles (untiled) | seams in between (untiled) | border | tiles |")
    print(f"|{'---|' * 5}")
    for name, score in scores.items():
        print(f"| {name} | {score} |")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
