"""ComfyUI's progress bar and its previews."""

from collections.abc import Callable

import comfy.utils
import numpy as np
import torch
from comfy.cli_args import LatentPreviewMethod, args
from PIL import Image
from torch import Tensor

from ...flowmapsr_core.upscaling.meter import Progress


def progress() -> Progress:
    """Progress bar, with a preview if the user wants any."""
    bar, wanted = None, args.preview_method != LatentPreviewMethod.NoPreviews

    def update(done: int, total: int, preview: Callable[[], Tensor]) -> None:
        nonlocal bar
        bar = bar or comfy.utils.ProgressBar(total)
        bar.update_absolute(done, total, ("JPEG", to_picture(preview()), args.preview_size) if wanted else None)

    return update


def to_picture(image: Tensor) -> Image.Image:
    """An image (1, 3, H, W) in [0, 1] as Pillow's."""
    pixels = (image[0].permute(1, 2, 0).float().cpu() * 255).round().to(torch.uint8)
    return Image.fromarray(np.asarray(pixels))


def percent() -> Callable[[int, int], None]:
    """Progress bar in whole percents, of ``update(done, total)``; it may be called thousands of times."""
    bar, shown = comfy.utils.ProgressBar(100), 0

    def update(done: int, total: int) -> None:
        nonlocal shown
        if 100 * done // total != shown:
            shown = 100 * done // total
            bar.update_absolute(shown)

    return update
