"""How close a converted upscaler comes to its original, before any training.

``pip install -e ".[upscalers]" && python benchmarks/head_start.py UPSCALER FOLDER`` takes the central 256 px of each
photograph of a folder, shrinks them by the upscaler's factor (by the preset ``bicubic``, and by ``real-esrgan``, which
spoils them), and enlarges that by the upscaler and by one evaluation of what ``flowmapsr convert`` makes of it.

A cell has the PSNR of the second picture to the first: of the whole, and of what is further than 8 LR pixels from
where the bicubic enlargement leaves [0, 1]. It is cut off there, and the original alone has seen all of LR.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from flowmapsr.flowmapsr_core import upscale
from flowmapsr.flowmapsr_core.files.convert import convert, read_source
from flowmapsr.flowmapsr_core.files.upscaler_file import load_upscaler
from flowmapsr.flowmapsr_core.images.degradation import PRESETS, degrade
from flowmapsr.flowmapsr_core.images.picture_files import READABLE, read_picture
from flowmapsr.flowmapsr_core.images.resize import resize
from flowmapsr.flowmapsr_core.model import Model
from torch import Tensor

SIDE, AWAY = 256, 8  # pixels, LR pixels
SHOWN = ("bicubic", "real-esrgan")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("upscaler", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    original, model = load_upscaler(options.upscaler), convert(read_source(options.upscaler))
    original.model.float()
    print(f"| photograph | {' | '.join(SHOWN)} |\n|{'---|' * (len(SHOWN) + 1)}")
    for path in sorted(options.folder.iterdir()):
        if path.suffix.lower() in READABLE:
            hr = central(read_picture(path).color, original.scale)
            cells = [compare(original, original.scale, model, degraded(hr, original.scale, name)) for name in SHOWN]
            print(f"| {path.name} | {' | '.join(cells)} |", flush=True)


def central(image: Tensor, factor: int) -> Tensor:
    """The middle of an image (1, 3, H, W), its sides multiples of the factor."""
    height, width = (min(SIDE, side) // factor * factor for side in image.shape[-2:])
    top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
    return image[..., top : top + height, left : left + width]


def degraded(hr: Tensor, factor: int, name: str) -> Tensor:
    return degrade(hr, factor, PRESETS[name], torch.Generator().manual_seed(0))


def compare(original: Callable[[Tensor], Tensor], factor: int, model: Model, lr: Tensor) -> str:
    """PSNR of the converted model's picture to the original's: whole / away from clipping."""
    enlarged = resize(lr, (lr.shape[2] * factor, lr.shape[3] * factor))
    clipped = (enlarged != enlarged.clamp(0, 1)).any(dim=1, keepdim=True).float()
    reach = AWAY * factor
    far = F.max_pool2d(clipped, 2 * reach + 1, stride=1, padding=reach) == 0
    error = (
        (upscale(model, lr, factor, steps=1, color="none") - original(lr).clamp(0, 1))
        .square()
        .mean(dim=1, keepdim=True)
    )
    return " / ".join(f"{-10 * torch.log10(error[where].mean()):.1f}" for where in (far | True, far))


if __name__ == "__main__":
    main()
