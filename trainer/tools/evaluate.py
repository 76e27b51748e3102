"""``python -m flowmapsr.trainer.tools.evaluate FOLDER``: full-reference figures of a model beside bicubic, in one run.

The LR images are made here from the HR images of the folder, by preset and factor, rounded to 8 bits. Figures are
averages over the images: Y-channel PSNR in dB, ``factor`` pixels cropped at the border, and in parentheses the
high-frequency energy relative to the HR image's. ``blend`` is half of ``faithful`` and half of one step: what the
realism dial at 0.5 has to beat.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from ...flowmapsr_core import UserError, load_model, upscale
from ...flowmapsr_core.files.checkpoint import BUILT_IN
from ...flowmapsr_core.images.degradation import degrade, preset
from ...flowmapsr_core.images.resize import resize
from ...flowmapsr_core.method.looks import LOOKS
from ...flowmapsr_core.model import Model
from ...flowmapsr_core.upscaling.host import DTYPES, TorchHost, find_device, find_dtype
from ..data.photos import find_photos, to_tensor
from ..run.validation import blend, distinct, score

ENDS = ("faithful", "1 step, w = 1")  # of the realism dial
COLUMNS = {
    "faithful": {"look": "faithful"},
    "dial at 0.5": {"steps": 1, "guidance": 1.0, "realism": 0.5},
    **{f"{n} step{'s' * (n > 1)}, w = 1": {"steps": n, "guidance": 1.0} for n in (1, 2, 4)},
    **{look: {"look": look} for look in LOOKS if look != "faithful"},
}


def evaluate(model: Model, images: list[Tensor], name: str, factor: float) -> dict[str, tuple[float, float]]:
    """(PSNR, high-frequency ratio) of bicubic and every column, averaged over HR images (1, 3, H, W)."""
    figures: dict[str, list[tuple[float, float]]] = {}
    for seed, hr in enumerate(images):
        size = (hr.shape[-2], hr.shape[-1])
        lr = _eight_bit(degrade(hr, factor, preset(name), torch.Generator().manual_seed(seed)))
        results = {"bicubic": resize(lr, size)}
        results |= {
            name: upscale(model, lr, size=size, **settings) for name, settings in distinct(model, COLUMNS).items()
        }
        results["blend"] = blend(results, ENDS)
        for column, image in results.items():
            figures.setdefault(column, []).append(score(_eight_bit(image), hr, border=int(factor)))
    means = {column: torch.tensor(scores).mean(dim=0).tolist() for column, scores in figures.items()}
    return {column: (psnr, ratio) for column, (psnr, ratio) in means.items()}


def _eight_bit(image: Tensor) -> Tensor:
    return (image.clamp(0, 1) * 255).round() / 255


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m flowmapsr.trainer.tools.evaluate", description=__doc__)
    parser.add_argument("folder", type=Path, help="HR images")
    parser.add_argument("--model", default=BUILT_IN, help="'built-in' or a checkpoint (%(default)s)")
    parser.add_argument("--presets", nargs="+", default=["bicubic", "flowmapsr"])
    parser.add_argument("--factors", nargs="+", type=float, default=[2, 4, 8])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=["auto", *DTYPES])
    options = parser.parse_args()
    try:
        device = find_device(options.device)
        model = load_model(options.model, device, find_dtype(options.dtype, TorchHost(device)))
        images = [to_tensor(photo.decode())[None] for photo in find_photos(options.folder)[0]]
        header = ["LR", "factor", "bicubic", *distinct(model, COLUMNS), "blend"]
        print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
        for name in options.presets:
            for factor in options.factors:
                figures = evaluate(model, images, name, factor)
                cells = [f"{psnr:.2f} ({ratio:.3f})" for psnr, ratio in figures.values()]
                print(f"| {' | '.join([name, f'x{factor:g}', *cells])} |", flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
