"""How well the true size of a picture is found: photographs spoiled by known amounts, and what is found of them.

``python benchmarks/soft.py FOLDER ...``: of each photograph the middle of at most 640 pixels a side is shrunk
(Lanczos) and enlarged again, or blurred by a Gaussian of half the factor in pixels, and saved as JPEG where that is
said. The columns say how many were taken for soft, and the tenth, fiftieth and ninetieth percentile of the factors
found of these. Photographs as they are, and with noise or JPEG alone, should not be taken for soft.
"""

import argparse
import io
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from flowmapsr.flowmapsr_core.images.detail import surplus
from flowmapsr.flowmapsr_core.images.eight_bit import to_tensor
from flowmapsr.flowmapsr_core.images.picture_files import READABLE
from PIL import Image, ImageFilter
from torch import Tensor

SIDE = 640
FACTORS = (1.5, 2.0, 3.0, 4.0, 6.0)
KERNELS = {name: Image.Resampling[name.upper()] for name in ("bicubic", "lanczos", "bilinear", "nearest")}
Spoil = Callable[[Image.Image], Image.Image]


def enlarged(factor: float, kernel: Image.Resampling, image: Image.Image) -> Image.Image:
    small = image.resize([round(side / factor) for side in image.size], Image.Resampling.LANCZOS)
    return small.resize([round(side * factor) for side in small.size], kernel)


def jpeg(quality: int, image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def noisy(step: float, image: Image.Image) -> Image.Image:
    pixels = to_tensor(image)
    pixels = pixels + step / 255 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def chain(*steps: Spoil) -> Spoil:
    def spoil(image: Image.Image) -> Image.Image:
        for step in steps:
            image = step(image)
        return image

    return spoil


def damages() -> dict[tuple[str, float], Spoil]:
    """By what is done, and the factor."""
    found: dict[tuple[str, float], Spoil] = {("as it is", 1): chain()}
    found |= {(f"JPEG {quality}", 1): partial(jpeg, quality) for quality in (90, 50, 20)}
    found |= {("noise of 4", 1): partial(noisy, 4)}
    for factor in FACTORS:
        found |= {(name, factor): partial(enlarged, factor, kernel) for name, kernel in KERNELS.items()}
        bicubic, nearest = (partial(enlarged, factor, KERNELS[name]) for name in ("bicubic", "nearest"))
        blur = ImageFilter.GaussianBlur(factor / 2)
        found |= {
            ("bicubic, JPEG 75", factor): chain(bicubic, partial(jpeg, 75)),
            ("bicubic, JPEG 40", factor): chain(bicubic, partial(jpeg, 40)),
            ("nearest, JPEG 75", factor): chain(nearest, partial(jpeg, 75)),
            ("bicubic, noise of 4", factor): chain(bicubic, partial(noisy, 4)),
            ("Gaussian blur, JPEG 90", factor): chain(lambda image, blur=blur: image.filter(blur), partial(jpeg, 90)),
        }
    return found


def middle(path: Path) -> Image.Image:
    image = Image.open(path).convert("RGB")
    width, height = (min(side, SIDE) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def row(found: Tensor) -> str:
    soft = found[found > 1]
    places = torch.tensor([0.1, 0.5, 0.9], dtype=found.dtype)
    spread = " / ".join(f"{factor:.2f}" for factor in soft.quantile(places)) if len(soft) else ""
    return f"{len(soft)} of {len(found)} | {spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="folders of sharp photographs")
    parser.add_argument("--every", type=int, default=1, help="only every so-manieth photograph of each damage")
    options = parser.parse_args()
    paths = [path for folder in options.folders for path in sorted(folder.iterdir()) if path.suffix.lower() in READABLE]
    print("| done | factor | found | factors found |\n|---|---|---|---|")
    for number, ((name, factor), spoil) in enumerate(damages().items()):
        some = paths if factor == 1 else paths[number % options.every :: options.every]
        found = torch.tensor(
            [surplus(to_tensor(spoil(middle(path)))[None]).factor for path in some], dtype=torch.float64
        )
        print(f"| {name} | {factor:g} | {row(found)} |", flush=True)
        if factor == 1:
            for path, value in zip(some, found.tolist(), strict=True):
                if value > 1:
                    print(f"{path}: {value:.2f}", file=sys.stderr)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
