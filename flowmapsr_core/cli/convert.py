"""``flowmapsr convert``: a checkpoint of another program's model."""

import logging
from argparse import Namespace

from ..files.convert import convert, read_source, summary
from ..upscaling.host import DTYPES
from .save import check_name, save

log = logging.getLogger("flowmapsr")


def run(options: Namespace) -> int:
    """Convert a model, and say which weights were taken, changed, new and dropped."""
    check_name(options.output)
    source = read_source(options.source)
    model = convert(source, options.vae, options.bake_prompts, DTYPES.get(options.dtype))
    if options.license:
        model.info["license"] = options.license
    else:
        log.warning(
            f"{options.output} will not say which licence it is under: give that of {options.source} with --license "
            f"(LBM's own models are under cc-by-nc-4.0, SDXL is under openrail++, Real-ESRGAN's are under "
            f"BSD-3-Clause, CTMSR's code is under MIT)"
        )
    save(model, options.output, model.dtype)
    print(summary(source, model))
    return 0
