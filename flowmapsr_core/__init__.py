"""FlowMapSR as a plain torch library: load a model, upscale an image.

model = load_model("built-in")
image = upscale(model, image, scale=4.0, steps=2)   # (B, 3, H, W) float in [0, 1], in and out
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .errors import UserError

if TYPE_CHECKING:
    from .files.checkpoint import load_model, save_checkpoint
    from .files.lora import merge_lora, merge_loras
    from .model import FlowMap, Model
    from .upscaling.pipeline import upscale

__all__ = ["FlowMap", "Model", "UserError", "load_model", "merge_lora", "merge_loras", "save_checkpoint", "upscale"]

_HOMES = {
    "FlowMap": ".model",
    "Model": ".model",
    "load_model": ".files.checkpoint",
    "merge_lora": ".files.lora",
    "merge_loras": ".files.lora",
    "save_checkpoint": ".files.checkpoint",
    "upscale": ".upscaling.pipeline",
}


def __getattr__(name: str) -> object:
    """Import the library when something of it is asked for: ``flowmapsr --help`` does not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
