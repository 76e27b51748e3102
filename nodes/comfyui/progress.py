"""ComfyUI's progress bar and its previews."""

from collections.abc import Callable

import comfy.utils
from comfy.cli_args import LatentPreviewMethod, args
from torch import Tensor

from ...flowmapsr_core.images.eight_bit import to_pillow
from ...flowmapsr_core.upscaling.meter import Progress
from ...flowmapsr_core.upscaling.preview import LONGEST_SIDE


def progress() -> Progress:
    """Progress bar, with a preview if the user wants any."""
    bar, wanted = None, args.preview_method != LatentPreviewMethod.NoPreviews

    def update(done: int, total: int, preview: Callable[[], Tensor]) -> None:
        nonlocal bar
        bar = bar or comfy.utils.ProgressBar(total)
        bar.update_absolute(done, total, ("JPEG", to_pillow(preview()[0]), args.preview_size) if wanted else None)

    return update


def frames(total: int) -> Callable[[Tensor], None]:
    """Progress bar in frames of a clip, with a preview if the user wants any; it is called with each that is done."""
    update, done = progress(), 0

    def advance(frame: Tensor) -> None:
        nonlocal done
        done += 1
        every = -(-max(frame.shape[-2:]) // LONGEST_SIDE)
        update(done, total, lambda: frame[..., ::every, ::every])

    return advance


def percent() -> Callable[[int, int], None]:
    """Progress bar in whole percents, of ``update(done, total)``; it may be called thousands of times."""
    bar, shown = comfy.utils.ProgressBar(100), 0

    def update(done: int, total: int) -> None:
        nonlocal shown
        if 100 * done // total != shown:
            shown = 100 * done // total
            bar.update_absolute(shown)

    return update
