"""FlowMapSR LoRA."""

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..flowmapsr_core.method.looks import DEFAULT_LORA_SCALE
from .comfyui.loading import ModelType, with_lora
from .comfyui.schema import make_schema


class LoadLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlowMapSR_LoadLoRA",
            display_name="FlowMapSR LoRA",
            category="image/upscaling/FlowMapSR",
            description="Adds a LoRA from models/loras to a FlowMapSR model. Chain several to add up their changes.",
            search_aliases=["lora loader", "load lora"],
            inputs=[
                ModelType.Input("model", tooltip="The model that the LoRA was trained on."),
                io.Combo.Input(
                    "lora",
                    options=folder_paths.get_filename_list("loras"),
                    tooltip="A LoRA trained with FlowMapSR. Those for networks of another shape are refused.",
                ),
                io.Float.Input(
                    "scale",
                    default=DEFAULT_LORA_SCALE,
                    min=-3.0,
                    max=3.0,
                    step=0.01,
                    tooltip="Strength: 0 is off, 1 as trained, more exaggerates, less than 0 does the opposite.",
                ),
            ],
            outputs=[
                ModelType.Output(
                    display_name="model", tooltip="The model with the LoRA. The one without stays as it was."
                )
            ],
        )

    @classmethod
    def execute(cls, model, lora: str, scale: float) -> io.NodeOutput:
        return io.NodeOutput(with_lora(model, Path(folder_paths.get_full_path_or_raise("loras", lora)), scale))
