"""FlowMapSR Upscale: the whole chain in one node."""

from comfy_api.latest import io
from torch import Tensor

from ..flowmapsr_core import upscale
from ..flowmapsr_core.images.alpha import fill_transparent
from ..flowmapsr_core.method.looks import LOOKS
from ..flowmapsr_core.upscaling.pipeline import MAX_SCALE, MAX_SEED, output_size, painted_size
from .comfyui.host import ComfyHost
from .comfyui.images import from_mask, join_alpha, split_alpha
from .comfyui.loading import ModelType, at_look, load_patcher
from .comfyui.managed import ManagedModel
from .comfyui.progress import progress
from .comfyui.schema import make_schema


class Upscale(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlowMapSR_Upscale",
            display_name="FlowMapSR Upscale",
            category="image/upscaling",
            essentials_category="Image Tools",
            description="Upscales photographs 1x to 8x: resize, sampling, colour correction. Every image of a batch.",
            search_aliases=["upscaler", "super resolution", "enlarge", "enhance", "restore photo"],
            inputs=[
                io.Image.Input("image", tooltip="One image or a batch. Alpha is kept."),
                io.Float.Input(
                    "factor", default=4.0, min=1.0, max=MAX_SCALE, step=0.05, tooltip="Output side / input side."
                ),
                io.Combo.Input(
                    "look",
                    options=list(LOOKS),
                    default="balanced",
                    tooltip="faithful: closest to the source, without LoRAs. vivid: most detail.",
                ),
                ModelType.Input("model", optional=True, tooltip="The built-in model if nothing is connected."),
                io.Mask.Input(
                    "realism_mask",
                    optional=True,
                    tooltip="White takes the look, black stays closest to the source. As large as image or result.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=MAX_SEED,
                    control_after_generate=True,
                    optional=True,
                    tooltip="Of the noise that some models start from. Others, as the built-in one, need none.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The upscaled images.")],
        )

    @classmethod
    def execute(
        cls, image: Tensor, factor: float, look: str, model=None, realism_mask: Tensor | None = None, seed: int = 0
    ) -> io.NodeOutput:
        patcher = at_look(model or load_patcher(), look)
        color, alpha = split_alpha(image)
        painted = painted_size(patcher.attachments["model"], color, output_size(color, factor, None))
        managed = ManagedModel(patcher, painted)
        visible = fill_transparent(color, alpha)
        result = upscale(
            managed, visible, factor, look=look, realism_mask=from_mask(realism_mask, color), seed=seed,
            host=ComfyHost(patcher.load_device), progress=progress(),
        )  # fmt: skip
        return io.NodeOutput(join_alpha(result, alpha))
