"""``flowmapsr inspect``: what a checkpoint, LoRA or upscaler is, or how a picture was made."""

import json
import shlex
from argparse import Namespace
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files.checkpoint import describe
from ..files.sources import find_model
from ..images.picture_files import PICTURES
from ..images.record import in_pixels, read_about
from ..upscaling.remake import remake_command


def run(options: Namespace) -> int:
    """Print a description, a line for each key or as JSON."""
    is_picture = options.file.suffix.lower() in PICTURES and options.file.is_file()
    description = describe_picture(options.file) if is_picture else describe(find_model(options.file))
    if options.json:
        print(json.dumps(description, indent=2))
        return 0
    for key, value in description.items():
        print(f"{key}: {json.dumps(value) if isinstance(value, (dict, list)) else value}")
    return 0


def describe_picture(path: Path) -> dict[str, Any]:
    """What a picture says of how FlowMapSR made it, as JSON data, and the command that makes it again.

    In place of that, ``no_command`` says why there is none. Raises :class:`UserError` if the file is no image.
    """
    size, record = read_about(path)
    description = {"file": str(path), "kind": "picture", "size": in_pixels(size)}
    if record is None:
        return {**description, "no_command": "the picture does not say that FlowMapSR made it"}
    try:
        return {**description, **record, "command": shlex.join(remake_command(record, path))}
    except UserError as error:
        return {**description, **record, "no_command": str(error)}
