"""``flowmapsr degrade``: low-resolution pictures whose originals are known."""

from argparse import Namespace
from dataclasses import replace

import torch

from ..errors import UserError
from ..images import degradation
from ..images.alpha import fill_transparent
from ..images.picture_files import check_writable, read_picture, write_picture
from ..images.resize import resize_alpha


def run(options: Namespace) -> int:
    """Shrink and spoil an image."""
    if not 1 <= options.scale <= 64:
        raise UserError(f"the scale is {options.scale:g}; use a factor from 1 to 64")
    check_writable(options.output)
    if not 0 <= options.seed < 2**64:
        raise UserError(f"the seed is {options.seed}; use a number from 0 to {2**64 - 1}")
    picture = read_picture(options.input)
    stages = degradation.preset(options.preset)
    generator = torch.Generator().manual_seed(options.seed)
    visible = fill_transparent(picture.color, picture.alpha)
    lr = degradation.degrade(visible, options.scale, stages, generator)
    alpha = None if picture.alpha is None else resize_alpha(picture.alpha, lr)
    write_picture(replace(picture, color=lr, alpha=alpha), options.output)
    return 0
