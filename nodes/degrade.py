"""Degrade Image."""

import torch
from comfy_api.latest import io
from torch import Tensor

from ..flowmapsr_core.images import degradation
from ..flowmapsr_core.images.alpha import fill_transparent
from ..flowmapsr_core.images.batch import batch_of
from .comfyui.images import join_alpha, singles, split_alpha
from .comfyui.schema import make_schema


class Degrade(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlowMapSR_Degrade",
            display_name="Degrade Image",
            category="image/upscaling/FlowMapSR",
            description="Shrinks an image and spoils it as photographs are: a test picture whose original is known.",
            search_aliases=["downscale", "blur", "noise", "jpeg", "low resolution", "real-esrgan"],
            inputs=[
                io.Image.Input("image", tooltip="One image or a batch. Alpha is shrunk along, not spoiled."),
                io.Float.Input(
                    "factor", default=4.0, min=1.0, max=64.0, step=0.05, tooltip="Input side / output side."
                ),
                io.Combo.Input(
                    "preset",
                    options=list(degradation.PRESETS),
                    default="flowmapsr",
                    tooltip="flowmapsr: blur, noise, JPEG. bicubic: none. real-esrgan: much. camera: often one alone.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="The same seed spoils the same way; every image of a batch is spoiled its own way.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The low-resolution images.")],
        )

    @classmethod
    def execute(cls, image: Tensor, factor: float, preset: str, seed: int) -> io.NodeOutput:
        color, alpha = split_alpha(image)
        stages, generator = degradation.preset(preset), torch.Generator().manual_seed(seed)
        # not the whole batch in one call: it would share blur and resize, and differ from its first image alone
        visible = singles(fill_transparent(color, alpha))
        spoiled = (degradation.degrade(hr, factor, stages, generator) for hr in visible)
        return io.NodeOutput(join_alpha(batch_of(len(color), spoiled), alpha))
