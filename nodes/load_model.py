"""Load FlowMapSR Model."""

from comfy_api.latest import io

from ..flowmapsr_core.device import DTYPES
from .runtime import ModelType, load_patcher, model_names


class LoadModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlowMapSR_LoadModel",
            display_name="Load FlowMapSR Model",
            category="FlowMapSR",
            description="Loads the built-in model or a checkpoint from models/flowmapsr.",
            inputs=[
                io.Combo.Input("model", options=model_names(), tooltip="The built-in model needs no download."),
                io.Combo.Input(
                    "weight_dtype",
                    options=["auto", *DTYPES],
                    default="auto",
                    tooltip="Precision of the network. auto takes the fastest that the device computes natively.",
                ),
            ],
            outputs=[ModelType.Output(display_name="model")],
        )

    @classmethod
    def execute(cls, model: str, weight_dtype: str) -> io.NodeOutput:
        return io.NodeOutput(load_patcher(model, weight_dtype))
