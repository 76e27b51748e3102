"""Versions of what ComfyUI brings: ``requirements.txt`` leaves that alone, as pip would replace a torch for a GPU."""

import re

import PIL
import torch

from ...flowmapsr_core import UserError

OLDEST = {"torch": "2.5", "pillow": "11.3"}
ADVICE = {
    "torch": "update ComfyUI and its torch",
    "pillow": f'with ComfyUI\'s Python, run: pip install "pillow>={OLDEST["pillow"]}"',
}


def check_versions() -> None:
    """Raise the :class:`UserError` that says what is too old; ComfyUI logs it as one line."""
    for name, version in (("torch", torch.__version__), ("pillow", PIL.__version__)):
        if numbers(version) < numbers(OLDEST[name]):
            raise UserError(f"FlowMapSR needs {name} {OLDEST[name]} or newer, here is {version}; {ADVICE[name]}")


def numbers(version: str) -> tuple[int, int]:
    """The first two numbers of a version."""
    major, minor = re.findall(r"\d+", version)[:2]
    return int(major), int(minor)
