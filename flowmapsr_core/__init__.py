"""FlowMapSR as a plain torch library: load a model, upscale an image.

model = load_model("built-in")
image = upscale(model, image, scale=4.0, steps=2)   # (B, 3, H, W) float in [0, 1], in and out
"""

from .errors import UserError
from .files.checkpoint import load_model, save_checkpoint
from .files.lora import merge_lora, merge_loras
from .model import FlowMap
from .upscaling.pipeline import upscale

__all__ = ["FlowMap", "UserError", "load_model", "merge_lora", "merge_loras", "save_checkpoint", "upscale"]
