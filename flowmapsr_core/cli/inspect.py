"""``flowmapsr inspect``: what a checkpoint, LoRA or upscaler is."""

import json
from argparse import Namespace

from ..files.checkpoint import describe
from ..files.sources import find_model


def run(options: Namespace) -> int:
    """Print a description, a line for each key or as JSON."""
    description = describe(find_model(options.file))
    if options.json:
        print(json.dumps(description, indent=2))
        return 0
    for key, value in description.items():
        print(f"{key}: {json.dumps(value) if isinstance(value, (dict, list)) else value}")
    return 0
