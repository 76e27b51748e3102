"""Load FlowMapSR Model."""

from comfy_api.latest import io

from ..flowmapsr_core.upscaling.host import DTYPES
from .comfyui.loading import FP8, ModelType, load_patcher
from .comfyui.model_files import fingerprint, model_names
from .comfyui.schema import advanced, make_schema
from .comfyui.upscale_models import OwnUpscaler


class LoadModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlowMapSR_LoadModel",
            display_name="Load FlowMapSR Model",
            category="image/upscaling/FlowMapSR",
            description="Loads one of the two models that ship with the pack, or a FlowMapSR checkpoint.",
            search_aliases=["checkpoint loader", "load checkpoint", "upscale model"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=model_names(),
                    tooltip="built-in needs no download and no GPU. base ships with the pack, too: with a GPU, take "
                    "that one, which is better.",
                ),
                advanced(
                    io.Combo.Input(
                        "weight_dtype",
                        options=["auto", *DTYPES, FP8],
                        default="auto",
                        tooltip="Precision of the network. auto takes the fastest that the device computes natively.",
                    )
                ),
            ],
            outputs=[
                ModelType.Output(display_name="model", tooltip="For the other FlowMapSR nodes."),
                io.Vae.Output(display_name="vae", tooltip="Decodes the latents of the model, if it brings a VAE."),
                io.UpscaleModel.Output(
                    display_name="upscale_model",
                    tooltip="For nodes that take any upscale model: x4, with the look balanced.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, model: str | None, weight_dtype: str | None) -> str:
        return "" if model is None else fingerprint(model)  # None ahead of a run, where a node gives the name

    @classmethod
    def execute(cls, model: str, weight_dtype: str) -> io.NodeOutput:
        patcher = load_patcher(model, weight_dtype)
        return io.NodeOutput(patcher, patcher.attachments["vae"], OwnUpscaler(patcher))
