"""``flowmapsr merge``: a checkpoint of a model and LoRAs."""

from argparse import Namespace
from pathlib import Path

from ..errors import UserError
from ..files.checkpoint import load_model
from ..files.lora import merge_loras, pair_scales
from ..files.origin import TOGETHER, combined, derived
from ..files.safetensors_file import read_metadata
from ..upscaling.host import DTYPES
from .save import check_name, save


def run(options: Namespace) -> int:
    """Add LoRAs to a model's weights, and say in the file what it is made of."""
    check_name(options.output)
    if not options.lora:
        raise UserError("there is nothing to merge; give at least one --lora")
    loras = pair_scales(options.lora, options.lora_scale, default=1.0)
    model = load_model(options.model, vae=options.vae)
    merge_loras(model, loras)
    described = [read_metadata(path)[0] for path, _ in loras]
    parts = [{key: metadata.get(f"modelspec.{key}", "") for key in TOGETHER} for metadata in described]
    model.info |= derived(model.info) | combined([model.info, *parts])
    model.info["merged_from"] = ", ".join(
        [Path(options.model).name, *(f"{path.name} x{scale:g}" for path, scale in loras)]
    )
    save(model, options.output, DTYPES[options.dtype])
    return 0
